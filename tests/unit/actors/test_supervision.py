"""Supervision over a fleet of actors that die, hang, and come back, all in virtual time."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from agentspan.actors.fleet import ActorGone
from agentspan.actors.shelf import Shelf
from agentspan.actors.stay import SupervisionSettings
from agentspan.actors.supervision import Supervision
from agentspan.agents import Agent, ToolContext, tool
from agentspan.engine import records as r
from agentspan.engine.admit import Signal
from agentspan.errors import AgentNotFoundError, ExecutionFinishedError, StoreUnavailableError, UnstorableValueError
from agentspan.persistence.memory import MemoryStore
from agentspan.persistence.reading import read_result
from agentspan.persistence.store import Commit, NewExecution, Receipt
from agentspan.testing import ScriptedModel, call, fail, say
from tests.support.fake_fleet import CREATE_S, FakeActor, FakeFleet
from tests.support.lives import records_of
from tests.support.virtual_time import clock, jump, until, virtual

SETTINGS = SupervisionSettings(standby=0, recoveries_max=3, recovery_backoff_s=0.5, scan_interval_s=2.0)


class House:
    """One disk, one fleet, and supervisors that come and go."""

    def __init__(self, *steps: Any, hibernate_after_s: float = 5.0, settings: SupervisionSettings = SETTINGS) -> None:
        self.settings = settings
        self.store = Disk(clock=clock)
        self.tries: list[tuple[str, int]] = []
        """Idempotency keys and attempts of `work`, in the order they began."""
        self.gate = asyncio.Event()
        self.on_work: Callable[[ToolContext], Any] = lambda context: None

        @tool(retry_count=0)
        async def work(context: ToolContext) -> str:
            self.tries.append((context.idempotency_key, context.attempt))
            self.on_work(context)
            await self.gate.wait()
            return f"worked at attempt {context.attempt}"

        @tool(approval_required=True)
        async def refund(order: str) -> str:
            return f"refunded {order}"

        @tool(retry_delay_seconds=60, retry_count=3)
        async def patient(context: ToolContext) -> str:
            if context.attempt == 1:
                raise RuntimeError("later")
            return "at last"

        self.agent = Agent("hero", model="scripted/hero", tools=[work, refund, patient])
        model = ScriptedModel(list(steps or [call("work"), say("Done.")]))
        self.fleet = FakeFleet(self.store, self.agent, model, hibernate_after_s=hibernate_after_s)
        self.ids = map("ex-{}".format, itertools.count(1))
        self.supervision = self.supervisor()

    def supervisor(self) -> Supervision:
        return Supervision(self.store, self.fleet, settings=self.settings, mint=lambda: next(self.ids), clock=clock)

    async def replace_supervisor(self) -> None:
        """Its process dies and another one takes its place; the actors do not notice."""
        await self.supervision.stop()
        self.supervision = self.supervisor()
        await self.supervision.start()

    async def submit(self, request_id: str = "req-1", **fields: Any) -> str:
        new = {"request_id": request_id, "agent": "hero", "prompt": "go", "deployment_id": "d1", **fields}
        return str((await self.supervision.submit(new))["execution_id"])

    async def create_unseen(self, execution_id: str = "ex-9") -> str:
        """A row whose supervisor died right after writing it."""
        started = r.Started(at=clock(), agent="hero", prompt="go")
        await self.store.create(
            NewExecution(
                execution_id=execution_id,
                request_id=f"req-{execution_id}",
                agent="hero",
                deployment_id="d1",
                started=r.to_plain(started),
                created_at=clock(),
            )
        )
        return execution_id

    def signal(self, execution_id: str, kind: Any = "approve", **fields: Any) -> Signal:
        return Signal(signal_id=f"s-{kind}", execution_id=execution_id, kind=kind, at=clock(), **fields)

    async def end(self, execution_id: str, within: float = 600.0) -> str:
        assert await self.supervision.wait_settled(execution_id, within), f"{execution_id} is not over"
        return (await self.store.row(execution_id)).status

    async def at_work(self, count: int = 1) -> None:
        await until(lambda: len(self.tries) >= count)


class Disk(MemoryStore):
    """A memory store that tells tests of commits and can be out of order."""

    before_commit: Callable[[Commit], Awaitable[Any]] | None = None
    after_commit: Callable[[Commit], Awaitable[Any]] | None = None
    unavailable = 0
    lose_next_create = False

    async def commit(self, commit: Commit) -> Receipt:
        if self.before_commit is not None:
            await self.before_commit(commit)
        receipt = await super().commit(commit)
        if self.after_commit is not None:
            await self.after_commit(commit)
        return receipt

    async def create(self, new: NewExecution) -> Any:
        created = await super().create(new)
        if self.lose_next_create:
            self.lose_next_create = False
            raise StoreUnavailableError(where="disk", problem="the answer got lost")
        return created

    async def unfinished(self) -> Any:
        if self.unavailable > 0:
            self.unavailable -= 1
            raise StoreUnavailableError(where="disk", problem="away")
        return await super().unfinished()


@asynccontextmanager
async def house(*steps: Any, start: bool = True, **options: Any) -> AsyncIterator[House]:
    made = House(*steps, **options)
    if start:
        await made.supervision.start()
    try:
        yield made
    finally:
        await made.supervision.stop()
        for actor in made.fleet.actors:
            actor.die()
        await jump(2.0)


# --- a life


@virtual
async def test_a_submitted_execution_runs_to_its_end_and_leaves_no_actor():
    async with house(say("Hello.")) as home:
        execution_id = await home.submit()
        assert await home.end(execution_id) == "COMPLETED"
        await until(lambda: not home.supervision.residents())
        assert await home.fleet.names() == []
        assert (await read_result(home.store, execution_id)).output == "Hello."
        assert home.fleet.runs == [(execution_id, 1, False)]


@virtual
async def test_an_agent_that_nobody_deployed_is_refused_before_anything_is_stored():
    async with house() as home:
        with pytest.raises(AgentNotFoundError, match="hero"):
            await home.supervision.submit({"request_id": "r", "agent": "hero", "prompt": "go"})
        assert await home.store.rows() == []


@virtual
async def test_a_submit_that_is_delivered_twice_starts_one_execution():
    async with house() as home:
        first, second = await asyncio.gather(home.submit("same"), home.submit("same"))
        home.gate.set()
        assert first == second
        assert await home.end(first) == "COMPLETED"
        assert [row.execution_id for row in await home.store.rows()] == [first]
        assert len(home.tries) == 1
        assert await home.submit("same") == first


@virtual
async def test_an_actor_that_dies_in_a_tool_is_created_again_under_its_name_with_the_next_epoch():
    async with house() as home:
        execution_id = await home.submit()
        await home.at_work()
        home.fleet.living(execution_id).die()
        await home.at_work(2)
        home.gate.set()
        assert await home.end(execution_id) == "COMPLETED"
        assert home.fleet.created == [(execution_id, 1), (execution_id, 2)], "the epoch is raised before the creation"
        assert home.fleet.runs == [(execution_id, 1, False), (execution_id, 2, True)]
        (key, first), (same, second) = home.tries
        assert (key, first, second) == (same, 1, 2)


@virtual
async def test_an_actor_that_does_not_come_up_is_created_again():
    async with house() as home:
        home.fleet.failures = 2
        home.gate.set()
        assert await home.end(await home.submit()) == "COMPLETED"


@virtual
async def test_a_driver_that_raises_is_started_again_in_a_new_actor(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.CRITICAL)
    async with house() as home:
        home.gate.set()

        def stumble(context: ToolContext) -> None:
            if context.attempt == 1:
                asyncio.current_task().cancel()  # type: ignore[union-attr]

        home.on_work = stumble
        execution_id = await home.submit()
        assert await home.end(execution_id) == "COMPLETED"
        assert len({actor for actor in home.fleet.actors if actor.name == execution_id}) == 2


# --- supervisors come and go


@virtual
async def test_a_new_supervisor_attaches_to_the_run_that_goes_on():
    async with house() as home:
        execution_id = await home.submit()
        await home.at_work()
        await home.replace_supervisor()
        await until(lambda: home.supervision.residents() == [execution_id])
        home.gate.set()
        assert await home.end(execution_id) == "COMPLETED"
        assert home.fleet.runs == [(execution_id, 1, False)], "one run, one epoch"
        assert len(home.tries) == 1
        await until(lambda: not home.supervision.residents())
        assert await home.fleet.names() == []


@virtual
async def test_a_run_that_ends_while_nobody_supervises_is_over():
    async with house() as home:
        execution_id = await home.submit()
        await home.at_work()
        await home.supervision.stop()
        home.gate.set()
        await jump(10)
        home.supervision = home.supervisor()
        await home.supervision.start()
        assert await home.end(execution_id) == "COMPLETED"
        assert await home.fleet.names() == [], "its idle actor is sent home"


@virtual
async def test_supervisor_and_actor_may_die_together():
    async with house() as home:
        execution_id = await home.submit()
        await home.at_work()
        await home.supervision.stop()
        home.fleet.living(execution_id).die()
        home.supervision = home.supervisor()
        await home.supervision.start()
        await home.at_work(2)
        home.gate.set()
        assert await home.end(execution_id) == "COMPLETED"
        assert home.fleet.runs[-1] == (execution_id, 2, True)


@virtual
async def test_an_execution_whose_supervisor_died_right_after_storing_it_is_started():
    async with house(start=False) as home:
        home.gate.set()
        execution_id = await home.create_unseen()
        await home.supervision.start()
        assert await home.end(execution_id) == "COMPLETED"
        assert home.fleet.runs == [(execution_id, 1, False)]


@virtual
async def test_an_execution_that_was_taken_over_and_never_run_is_recovered():
    async with house(start=False) as home:
        home.gate.set()
        execution_id = await home.create_unseen()
        await home.store.take_over(execution_id, host={})
        await home.supervision.start()
        assert await home.end(execution_id) == "COMPLETED"
        assert home.fleet.runs == [(execution_id, 2, True)]


@virtual
async def test_a_supervisor_that_dies_while_the_actor_comes_up_is_succeeded():
    async with house() as home:
        execution_id = await home.submit()
        await jump(CREATE_S / 2)
        assert (await home.store.row(execution_id)).epoch == 1
        await home.replace_supervisor()
        home.gate.set()
        assert await home.end(execution_id) == "COMPLETED"
        assert home.fleet.runs == [(execution_id, 2, True)]


@virtual
async def test_an_execution_that_appears_in_the_store_is_found_by_the_scan():
    async with house() as home:
        home.gate.set()
        execution_id = await home.create_unseen()
        assert await home.end(execution_id) == "COMPLETED"


@virtual
async def test_a_store_that_is_away_does_not_end_the_scan(caplog: pytest.LogCaptureFixture):
    async with house() as home:
        home.gate.set()
        home.store.unavailable = 3
        execution_id = await home.create_unseen()
        assert await home.end(execution_id) == "COMPLETED"
        assert "scan.failed" in caplog.text


@pytest.mark.parametrize("placement", ["dedicated", "packed"])
def test_a_store_that_is_away_is_held_against_nobody(placement: str, monkeypatch: pytest.MonkeyPatch):
    left = 3 * SETTINGS.recoveries_max
    runs = FakeActor.run

    async def run(self: FakeActor, execution_id: str, epoch: int, crashed: bool, tokens: bool) -> dict[str, Any]:
        nonlocal left
        if left > 0:
            left -= 1
            raise StoreUnavailableError(where="disk", problem="too many connections")
        return await runs(self, execution_id, epoch, crashed, tokens)

    monkeypatch.setattr(FakeActor, "run", run)

    @virtual
    async def story():
        async with house(say("Hello.")) as home:
            eid = await home.submit(placement=placement)
            assert await home.end(eid) == "COMPLETED"
            row = await home.store.row(eid)
            assert (row.crashes, row.recoveries) == (0, 3 * SETTINGS.recoveries_max)

    story()


@virtual
async def test_actors_that_nobody_waits_for_are_sent_home_at_the_start():
    async with house(start=False) as home:
        await home.fleet.create("ex-77")
        await home.supervision.start()
        assert home.fleet.killed == ["ex-77"]


# --- sleep and waking


@virtual
async def test_an_execution_that_waits_gives_up_its_actor_and_a_decision_wakes_it():
    async with house(call("refund", order="1"), say("Done.")) as home:
        execution_id = await home.submit()
        await until(lambda: home.fleet.runs and not home.supervision.residents())
        row = await home.store.row(execution_id)
        assert (row.status, row.resident, row.pending) == ("WAITING", False, 1)
        assert await home.fleet.names() == []
        await jump(3600)
        assert len(home.fleet.runs) == 1, "nobody wakes it for nothing"
        await home.supervision.send(home.signal(execution_id))
        assert await home.end(execution_id) == "COMPLETED"
        assert home.fleet.runs == [(execution_id, 1, False), (execution_id, 2, False)]


@virtual
async def test_a_decision_that_comes_while_it_is_awake_does_not_wait_for_a_scan():
    async with house(call("refund", order="1"), say("Done."), settings=replace(SETTINGS, scan_interval_s=1e6)) as home:
        execution_id = await home.submit()
        await until(lambda: _waits(home, execution_id))
        await home.supervision.send(home.signal(execution_id))
        assert await home.end(execution_id, within=1.0) == "COMPLETED"
        assert len(home.fleet.runs) == 1


def _waits(home: House, execution_id: str) -> bool:
    held = home.store._executions.get(execution_id)
    return held is not None and held.row.status == "WAITING"


@pytest.mark.parametrize("when", ["before the row says so", "after the row says so", "as the actor goes"])
@pytest.mark.parametrize("how", ["through the supervisor", "into the store"])
@virtual
async def test_a_signal_that_races_with_falling_asleep_is_not_lost(when: str, how: str):
    steps = [call("refund", order="1"), say("Done.")]
    scans = 1e6 if how == "through the supervisor" else 2.0
    async with house(*steps, settings=replace(SETTINGS, scan_interval_s=scans)) as home:
        sent: list[str] = []

        async def send(commit: Commit) -> None:
            if commit.change.resident or commit.change.status != "WAITING" or sent:
                return
            sent.append(commit.execution_id)
            if how == "into the store":
                await home.store.send(home.signal(commit.execution_id))
            elif when == "as the actor goes":
                loop = asyncio.get_running_loop()
                signal = home.signal(commit.execution_id)
                loop.call_soon(lambda: tasks.append(loop.create_task(home.supervision.send(signal))))
            else:
                await home.supervision.send(home.signal(commit.execution_id))

        tasks: list[Any] = []
        if when == "before the row says so":
            home.store.before_commit = send
        else:
            home.store.after_commit = send
        execution_id = await home.submit()
        assert await home.end(execution_id, within=60) == "COMPLETED"
        assert sent == [execution_id]
        decided = [one for one in await records_of(home.store, execution_id) if isinstance(one, r.Decided)]
        assert len(decided) == 1


@virtual
async def test_a_timer_wakes_it_when_it_is_due_and_no_earlier():
    async with house(call("patient"), say("Done."), settings=replace(SETTINGS, scan_interval_s=1e6)) as home:
        execution_id = await home.submit()
        await until(lambda: home.fleet.runs and not home.supervision.residents())
        due = (await home.store.row(execution_id)).wake_at
        assert due is not None
        await jump(due - clock() - 1)
        assert len(home.fleet.runs) == 1
        assert await home.end(execution_id, within=5) == "COMPLETED"
        assert home.fleet.runs[-1] == (execution_id, 2, False)


@virtual
async def test_timers_outlive_the_supervisor():
    async with house(call("patient"), say("Done.")) as home:
        execution_id = await home.submit()
        await until(lambda: home.fleet.runs and not home.supervision.residents())
        await home.replace_supervisor()
        await jump(10)
        assert len(home.fleet.runs) == 1
        assert await home.end(execution_id, within=90) == "COMPLETED"


@virtual
async def test_a_supervisor_that_was_stopped_can_be_started_again():
    async with house(call("patient"), say("Done.")) as home:
        execution_id = await home.submit()
        await until(lambda: home.fleet.runs and not home.supervision.residents())
        await home.supervision.stop()
        await home.supervision.start()
        assert await home.end(execution_id, within=90) == "COMPLETED"
        await until(lambda: not home.supervision.residents())
        assert await home.fleet.names() == []


@virtual
async def test_an_ended_execution_takes_no_signal():
    async with house(say("Hello.")) as home:
        execution_id = await home.submit()
        await home.end(execution_id)
        with pytest.raises(ExecutionFinishedError):
            await home.supervision.send(home.signal(execution_id, "pause"))


# --- crash loops, hangs, damage


@virtual
async def test_a_step_that_keeps_killing_its_process_is_given_up_by_name():
    async with house() as home:
        home.on_work = lambda context: home.fleet.living(context.execution_id).die()
        execution_id = await home.submit()
        before = clock()
        assert await home.end(execution_id) == "FAILED"
        assert [attempt for _, attempt in home.tries] == [1, 2, 3, 4], "recoveries_max is 3"
        error = (await home.store.row(execution_id)).error
        assert error is not None
        assert "tool:work" in error
        assert "4 crashes" in error
        assert clock() - before > 0.5 + 1.0, "it backs off"
        assert (await read_result(home.store, execution_id)).error == error
        assert home.supervision.residents() == []


@virtual
async def test_progress_forgives_earlier_crashes():
    async with house(*[call("work")] * 6, say("Done.")) as home:
        home.gate.set()
        dead: set[str] = set()

        def die_once_per_call(context: ToolContext) -> None:
            if context.call_id not in dead:
                dead.add(context.call_id)
                home.fleet.living(context.execution_id).die()

        home.on_work = die_once_per_call
        execution_id = await home.submit()
        assert await home.end(execution_id) == "COMPLETED"
        assert (await home.store.row(execution_id)).recoveries == 6


@virtual
async def test_an_actor_that_hangs_is_killed_and_replaced_and_cannot_write_when_it_comes_back():
    async with house(settings=replace(SETTINGS, ping_timeout_s=15.0)) as home:
        execution_id = await home.submit()
        await home.at_work()
        hung = home.fleet.living(execution_id)
        hung.hang()
        await home.at_work(2)
        assert not hung.alive
        assert execution_id in home.fleet.killed
        home.gate.set()
        assert await home.end(execution_id) == "COMPLETED"
        assert home.fleet.runs == [(execution_id, 1, False), (execution_id, 2, True)]
        assert {entry.epoch for entry in await home.store.journal(execution_id)} == {0, 1, 2}


@virtual
async def test_an_actor_that_was_replaced_but_lives_writes_nothing_more():
    async with house() as home:
        execution_id = await home.submit()
        await home.at_work()
        old = home.fleet.living(execution_id)
        await home.supervision.stop()
        old.name = "out of sight"  # As behind a network partition.
        home.supervision = home.supervisor()
        await home.supervision.start()
        await home.at_work(2)
        home.gate.set()
        assert await home.end(execution_id) == "COMPLETED"
        await jump(60)
        assert old.tenants == {}, "its driver has stopped by itself"
        epochs = [entry.epoch for entry in await home.store.journal(execution_id)]
        assert epochs == sorted(epochs)
        returned = [one for one in await records_of(home.store, execution_id) if isinstance(one, r.ToolReturned)]
        assert [one.attempt for one in returned] == [2]


@virtual
async def test_a_damaged_execution_is_set_aside_and_the_others_go_on():
    async with house(start=False) as home:
        home.gate.set()
        broken, sound = await home.create_unseen("ex-8"), await home.create_unseen("ex-9")
        held = home.store._executions[broken]
        body = bytearray(held.records[0].body)
        body[-1] ^= 1
        held.records[0] = held.records[0]._replace(body=bytes(body))
        await home.supervision.start()
        assert await home.end(broken) == "QUARANTINED"
        assert await home.end(sound) == "COMPLETED"
        assert "record 0" in str((await home.store.row(broken)).error)
        await jump(60)
        assert [run for run in home.fleet.runs if run[0] == broken] == [(broken, 1, False)]


# --- readers


@virtual
async def test_readers_are_served_live_while_an_actor_lives_and_sent_to_the_store_otherwise():
    async with house() as home:
        assert await home.supervision.poll("ex-1", 0, 0, 1.0, False) is None
        execution_id = await home.submit()
        await home.at_work()
        page = await home.supervision.poll(execution_id, 1, 0, 1.0, False)
        assert page is not None
        assert [event["type"] for event in page["events"]] == ["tool_call"]
        reader = asyncio.create_task(home.supervision.poll(execution_id, page["next"], 0, 30.0, False))
        await jump(0.1)
        home.fleet.living(execution_id).die()
        assert await reader is None
        home.gate.set()
        assert await home.end(execution_id) == "COMPLETED"


@virtual
async def test_waiting_for_the_end_gives_up_when_its_time_is_over():
    async with house() as home:
        execution_id = await home.submit()
        assert not await home.supervision.wait_settled(execution_id, 30)
        home.gate.set()
        assert await home.supervision.wait_settled(execution_id, 30)


# --- the shelf


SHELF = replace(SETTINGS, standby=2)


@virtual
async def test_a_standby_makes_a_start_instant_and_the_shelf_fills_again():
    async with house(say("Hello."), settings=SHELF) as home:
        await home.supervision.shelf.wait_filled()
        assert home.supervision.shelf.count == 2
        before = clock()
        execution_id = await home.submit()
        assert execution_id == home.fleet.created[0][0], "it has the name its actor was given before"
        assert await home.end(execution_id) == "COMPLETED"
        assert clock() - before < CREATE_S
        await until(lambda: home.supervision.shelf.count == 2)
        names = await home.fleet.names()
        assert execution_id not in names
        assert len(names) == 2


@virtual
async def test_standbys_are_warmed_with_what_was_run_last():
    async with house(say("Hello."), settings=SHELF) as home:
        await home.supervision.shelf.wait_filled()
        await home.end(await home.submit(deployment_id="d7"))
        await until(lambda: home.supervision.shelf.count == 2)
        assert home.fleet.actors[-1].warmed == ["d7"]
        await home.supervision.shelf.warm("d8")
        assert [actor.warmed[-1] for actor in home.fleet.actors if actor.alive] == ["d8", "d8"]


@virtual
async def test_a_standby_that_was_not_needed_goes_back():
    async with house(say("Hello."), settings=SHELF) as home:
        await home.supervision.shelf.wait_filled()
        first = await home.submit("same")
        await home.end(first)
        await until(lambda: home.supervision.shelf.count == 2)
        created = len(home.fleet.created)
        assert await home.submit("same") == first
        with pytest.raises(UnstorableValueError):
            await home.submit("other", prompt=[{"content": object()}])
        assert home.supervision.shelf.count == 2
        await jump(5)
        assert len(home.fleet.created) == created


@virtual
async def test_a_standby_whose_name_may_be_taken_is_not_offered_again():
    async with house(say("Hello."), settings=SHELF) as home:
        await home.supervision.shelf.wait_filled()
        home.store.lose_next_create = True
        with pytest.raises(StoreUnavailableError):
            await home.submit("lost")
        again = await home.submit("lost")
        others = [await home.submit(f"other-{number}") for number in range(4)]
        for execution_id in [again, *others]:
            assert await home.end(execution_id) == "COMPLETED"
        assert len({again, *others}) == 5


@virtual
async def test_a_standby_that_died_on_the_shelf_is_replaced_when_it_is_taken():
    async with house(say("Hello."), settings=SHELF) as home:
        await home.supervision.shelf.wait_filled()
        for actor in home.fleet.actors:
            actor.die()
        execution_id = await home.submit()
        assert await home.end(execution_id) == "COMPLETED"
        # Its rescuer came off the same shelf and was dead as well; the third life got an actor made for it.
        assert home.fleet.runs == [(execution_id, epoch, epoch > 1) for epoch in (1, 2, 3)]


# --- recovering on a standby, and going home


async def rescued(home: House) -> tuple[str, Any]:
    """An execution whose actor died in the middle of a tool, at work again on a standby."""
    await home.supervision.shelf.wait_filled()
    execution_id = await home.submit()
    await home.at_work()
    await home.supervision.shelf.wait_filled()
    home.fleet.living(execution_id).die()
    await home.at_work(2)
    row = await home.store.row(execution_id)
    return execution_id, home.fleet.living(row.host["actor"])


@virtual
async def test_a_recovery_goes_on_at_once_on_a_standby_and_then_moves_to_an_actor_of_its_own_name():
    async with house(call("work"), call("work"), say("Done."), settings=SHELF) as home:
        began = clock()
        execution_id, rescuer = await rescued(home)
        assert rescuer.name != execution_id
        assert clock() - began < 4 * CREATE_S, "no process had to start between the death and the next step"
        await until(lambda: execution_id in [name for name, _ in home.fleet.created[3:]])
        home.gate.set()
        assert await home.end(execution_id) == "COMPLETED"
        assert home.fleet.runs == [(execution_id, 1, False), (execution_id, 2, True), (execution_id, 3, False)]
        assert not rescuer.alive
        keys = [key for key, _ in home.tries]
        assert [attempt for _, attempt in home.tries] == [1, 2, 1], "moving home lost no attempt"
        assert len(set(keys)) == 2


@virtual
async def test_a_new_supervisor_finds_an_execution_on_the_standby_that_rescued_it():
    async with house(settings=SHELF) as home:
        execution_id, rescuer = await rescued(home)
        await home.replace_supervisor()
        home.gate.set()
        assert await home.end(execution_id) == "COMPLETED"
        assert [attempt for _, attempt in home.tries] == [1, 2], "the run was joined, not begun again"
        assert not rescuer.alive


@virtual
async def test_a_rescuer_that_dies_as_well_leaves_the_work_to_the_actor_made_ready_meanwhile():
    async with house(settings=SHELF) as home:
        execution_id, rescuer = await rescued(home)
        rescuer.die()
        home.gate.set()
        assert await home.end(execution_id) == "COMPLETED"
        assert [attempt for _, attempt in home.tries] == [1, 2, 3]
        assert [name for name, _ in home.fleet.created].count(execution_id) == 2


@virtual
async def test_an_execution_that_ends_before_it_can_go_home_leaves_no_actor_behind():
    async with house(settings=SHELF) as home:
        execution_id, _ = await rescued(home)
        home.gate.set()
        assert await home.end(execution_id) == "COMPLETED"
        await home.supervision.shelf.wait_filled()
        await jump(5)
        assert sum(actor.alive for actor in home.fleet.actors) == SHELF.standby


@virtual
async def test_an_execution_stays_where_it_was_rescued_when_no_other_actor_can_be_had():
    async with house(settings=SHELF) as home:
        await home.supervision.shelf.wait_filled()
        execution_id = await home.submit()
        await home.at_work()
        await home.supervision.shelf.wait_filled()
        home.fleet.failures = 10
        home.fleet.living(execution_id).die()
        await home.at_work(2)
        await jump(3)
        home.gate.set()
        assert await home.end(execution_id) == "COMPLETED"
        assert home.fleet.runs == [(execution_id, 1, False), (execution_id, 2, True)]


@virtual
async def test_a_dead_standby_is_taken_off_when_it_is_to_be_warmed():
    async with house(settings=SHELF) as home:
        shelf = home.supervision.shelf
        await shelf.wait_filled()
        home.fleet.actors[0].die()
        await shelf.warm("d1")
        assert shelf.count == 1
        await until(lambda: shelf.count == 2)
        assert all(actor.alive for actor in home.fleet.actors[1:])


@virtual
async def test_a_shelf_that_cannot_create_actors_keeps_trying_and_starts_go_on_without_it(
    caplog: pytest.LogCaptureFixture,
):
    async with house(say("Hello."), settings=SHELF) as home:
        home.fleet.failures = 3
        execution_id = await home.submit()
        assert await home.end(execution_id) == "COMPLETED"
        await until(lambda: home.supervision.shelf.count == 2)
        assert "standby.failed" in caplog.text


@virtual
async def test_a_stopped_shelf_sends_its_standbys_home():
    async with house(settings=SHELF) as home:
        await home.supervision.shelf.wait_filled()
        await home.supervision.stop()
        assert await home.fleet.names() == []
        assert home.supervision.shelf.take() is None


@virtual
async def test_an_empty_shelf_of_size_nought_is_full():
    async def nobody(name: str) -> Any:
        raise ActorGone(name)

    class Nobody:
        create = staticmethod(nobody)

    shelf = Shelf(Nobody(), size=0, mint=lambda: "ex-1", slots=asyncio.Semaphore(1))  # type: ignore[arg-type]
    shelf.start()
    await shelf.wait_filled()
    await shelf.stop()


# --- start and stop


@virtual
async def test_starting_and_stopping_from_many_tasks_at_once_leaves_one_supervisor_or_none():
    async with house(start=False, settings=SHELF) as home:
        supervision = home.supervision
        for _ in range(5):
            await asyncio.gather(*(supervision.start() for _ in range(10)))
            scanners = [task for task in asyncio.all_tasks() if "_scan" in repr(task.get_coro())]
            assert len(scanners) == 1
            await asyncio.gather(*(supervision.stop() for _ in range(10)))
            await jump(5)
            left = {repr(task.get_coro()) for task in asyncio.all_tasks()}
            assert not [one for one in left if "Supervision" in one or "Shelf" in one], left
        mixed = [supervision.start() if number % 2 else supervision.stop() for number in range(20)]
        await asyncio.gather(*mixed)
        await supervision.start()
        home.gate.set()
        assert await home.end(await home.submit()) == "COMPLETED"
        await supervision.stop()
        await supervision.stop()


@virtual
async def test_a_model_that_fails_for_a_while_sleeps_between_its_tries():
    async with house(fail(429, times=2, retry_after_s=60), say("Hello.")) as home:
        execution_id = await home.submit()
        assert await home.end(execution_id) == "COMPLETED"
        assert len(home.fleet.runs) == 3, "it holds no process while it waits"
