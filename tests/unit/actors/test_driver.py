"""One incarnation: what it writes and when, how it waits, and how it stops."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from agentspan.actors import driver as driver_module
from agentspan.actors.driver import Driver, Outcome
from agentspan.actors.feed import Feed
from agentspan.agents.spec import AgentSpec, ToolKind
from agentspan.engine import records as r
from agentspan.engine.admit import Signal
from agentspan.engine.apply import apply
from agentspan.engine.decide import CallModel, CallTool, CheckStop, Effect, LoadSession, RunGraph
from agentspan.engine.state import ExecutionState, to_snapshot
from agentspan.errors import CorruptRecordError, StaleEpochError, StoreUnavailableError
from agentspan.persistence.loading import load_state
from agentspan.persistence.memory import MemoryStore
from agentspan.persistence.store import Commit, NewExecution, Receipt, Store
from agentspan.persistence.threads import Report
from tests.support.situations import SPEC, plan, tool
from tests.support.virtual_time import clock, jump, until, virtual

ID = "ex-1"
Made = r.AnyRecord | BaseException


class Stage:
    """A performer whose effects end when the test says so, with what the test says."""

    def __init__(self, spec: AgentSpec = SPEC) -> None:
        self.spec = spec
        self.running: dict[Any, asyncio.Future[r.AnyRecord]] = {}
        """Effects under way, by `model` or call ID."""
        self.begun: list[Any] = []
        self.cancelled: list[Any] = []
        self.told: list[str] = []
        self.notes: dict[Effect, str] = {}

    async def _effect(self, key: str, effect: Any) -> r.AnyRecord:
        self.begun.append(effect)
        future: asyncio.Future[r.AnyRecord] = asyncio.get_running_loop().create_future()
        self.running[key] = future
        try:
            return await future
        except asyncio.CancelledError:
            self.cancelled.append(effect)
            raise
        finally:
            if self.running.get(key) is future:
                del self.running[key]

    async def perform(self, state: ExecutionState, effect: Effect, report: Report) -> r.AnyRecord:
        self.report = report
        keys: dict[type, str] = {CallModel: "model", CheckStop: "stop", LoadSession: "session", RunGraph: "graph"}
        return await self._effect(keys.get(type(effect)) or effect.call_id, effect)

    def hold(self) -> None:
        self.told.append("hold")

    async def on_start(self, state: ExecutionState) -> None:
        self.told.append("start")

    async def on_end(self, state: ExecutionState, record: r.Finished) -> None:
        self.told.append(f"end {record.status}")

    async def end(self, key: str, made: Made) -> None:
        """End the effect under way, once it is."""
        await until(lambda: key in self.running)
        future = self.running[key]
        if isinstance(made, BaseException):
            future.set_exception(made)
        else:
            future.set_result(made)

    async def say(self, text: str = "Done.", *calls: r.PlannedCall, **fields: Any) -> None:
        await self.end("model", r.ModelAnswered(at=clock(), text=text, calls=calls, **fields))

    async def give(self, call_id: str, result: Any = "ok", **fields: Any) -> None:
        await self.end(call_id, r.ToolReturned(at=clock(), call_id=call_id, name="work", result=result, **fields))


class Watched(MemoryStore):
    """A disk that keeps the commits it was sent, and can be away."""

    def __init__(self) -> None:
        super().__init__(clock=clock)
        self.commits: list[Commit] = []
        self.receipts: list[Receipt] = []
        self.away = 0
        self.reads = 0

    async def commit(self, commit: Commit) -> Receipt:
        if self.away:
            self.away -= 1
            raise StoreUnavailableError(where="disk", problem="away")
        self.commits.append(commit)
        self.receipts.append(await super().commit(commit))
        return self.receipts[-1]

    async def inbox(self, execution_id: str) -> list[Signal]:
        self.reads += 1
        return await super().inbox(execution_id)

    def kinds(self) -> list[list[str]]:
        return [[entry.kind for entry in commit.entries] for commit in self.commits]


class Scene:
    """A driver at work on a disk."""

    def __init__(self, stage: Stage | None = None, **options: Any) -> None:
        self.stage = stage or Stage()
        self.store = Watched()
        self.options = options
        self.feed = Feed(ID)
        self.task: asyncio.Task[Outcome] | None = None
        self.driver: Driver | None = None

    async def create(self, **fields: Any) -> None:
        started = r.Started(at=clock(), agent="hero", prompt="go", **fields)
        new = NewExecution(
            execution_id=ID,
            request_id="r1",
            agent="hero",
            deployment_id="d1",
            started=r.to_plain(started),
            created_at=clock(),
        )
        await self.store.create(new)

    async def begin(self, *, store: Store | None = None) -> Driver:
        taken = await self.store.take_over(ID, host={})
        self.driver = Driver(
            execution_id=ID,
            epoch=taken.epoch,
            crashed=taken.crashed,
            store=store or self.store,
            performer=self.stage,
            feed=self.feed,
            clock=clock,
            **self.options,
        )
        self.task = asyncio.create_task(self.driver.run())
        return self.driver

    async def over(self) -> Outcome:
        assert self.task is not None
        return await self.task

    async def send(self, kind: Any, **fields: Any) -> None:
        signal = Signal(signal_id=f"s{len(self.store.commits)}-{kind}", execution_id=ID, kind=kind, **fields)
        await self.store.send(signal)
        if self.driver is not None:
            self.driver.poke()

    async def state(self) -> ExecutionState:
        return load_state(await self.store.load(ID))


async def scene(stage: Stage | None = None, *, create: dict[str, Any] | None = None, **options: Any) -> Scene:
    made = Scene(stage, **options)
    await made.create(**(create or {}))
    await made.begin()
    return made


# --- what is written, and when


@virtual
async def test_what_follows_from_an_outcome_is_committed_with_it():
    play = await scene()
    await play.stage.say("Hello.")
    assert await play.over() == Outcome(ended="finished", status="COMPLETED")
    assert play.store.kinds() == [["model", "finished"]]
    assert play.stage.told == ["start", "end COMPLETED"]
    row = await play.store.row(ID)
    assert (row.status, row.resident, row.finish_reason) == ("COMPLETED", False, "stop")


@virtual
async def test_a_tool_starts_only_after_the_answer_that_asked_for_it_is_on_the_disk():
    play = await scene()
    held = asyncio.Event()

    async def slowly(commit: Commit) -> Receipt:
        await held.wait()
        return await Watched.commit(play.store, commit)

    play.store.commit = slowly  # type: ignore[method-assign]
    await play.stage.say("", plan("c1"))
    await jump(3)
    assert [type(effect) for effect in play.stage.begun] == [CallModel]
    held.set()
    await until(lambda: CallTool("", "c1", 1) in play.stage.begun)
    await play.stage.give("c1")
    await play.stage.say()
    assert (await play.over()).status == "COMPLETED"


@virtual
async def test_outcomes_that_land_together_are_one_commit():
    play = await scene()
    await play.stage.say("", plan("c1"), plan("c2"), plan("c3"))
    await until(lambda: len(play.stage.running) == 3)
    for call_id in ("c2", "c1"):
        play.stage.running[call_id].set_result(r.ToolReturned(at=clock(), call_id=call_id, name="work", result=call_id))
    await until(lambda: len(play.store.commits) == 2)
    assert play.store.kinds() == [["model"], ["tool", "tool"]]
    await play.stage.give("c3")
    await play.stage.say()
    await play.over()


@virtual
async def test_a_step_under_way_is_not_started_again_by_what_happens_beside_it():
    play = await scene()
    await play.stage.say("", plan("c1"), plan("c2"))
    await play.stage.give("c2")
    await play.send("guide", text="Be quick.")
    await until(lambda: len(play.store.commits) == 3)
    assert play.stage.begun.count(CallTool("", "c1", 1)) == 1
    await play.stage.give("c1")
    await play.stage.say()
    await play.over()
    assert len(play.stage.begun) == 4


@virtual
async def test_an_execution_that_crashed_says_so_before_it_does_anything():
    play = await scene()
    await until(lambda: play.stage.running)
    first = play.task
    await play.begin()  # The first one is still there; it does not know.
    await until(lambda: CallModel("", 1, 2) in play.stage.begun)
    assert play.store.kinds() == [["recovered"]]
    assert not play.store.commits[0].progress, "a recovery alone is no progress"
    await play.stage.say()
    assert (await play.over()).status == "COMPLETED"
    assert play.store.commits[1].progress
    assert first is not None
    first.cancel()
    await asyncio.wait([first])


@virtual
async def test_an_incarnation_that_lost_its_epoch_stops_at_its_next_write_and_drops_what_flies():
    play = await scene()
    await play.stage.say("", plan("c1"), plan("c2"))
    await until(lambda: len(play.stage.running) == 2)
    await play.store.take_over(ID, host={})
    before = await play.store.journal(ID)
    await play.stage.give("c1")
    with pytest.raises(StaleEpochError) as caught:
        await play.over()
    assert (caught.value.offered, caught.value.held) == (1, 2)
    assert await play.store.journal(ID) == before
    assert play.stage.cancelled == [CallTool("", "c2", 1)]
    assert play.feed.read(1) is None or play.feed.read(1)["closed"]  # type: ignore[index]


@virtual
async def test_a_damaged_journal_stops_it_before_it_does_anything():
    play = Scene()
    await play.create()
    entry = play.store._executions[ID].records[0]
    play.store._executions[ID].records[0] = entry._replace(body=entry.body[:-1] + b"\xff")
    await play.begin()
    with pytest.raises(CorruptRecordError, match="record 0"):
        await play.over()
    assert play.stage.begun == []


# --- a store that is away


@virtual
async def test_a_store_that_is_away_for_a_while_is_waited_for():
    play = await scene()
    play.store.away = 8
    await play.stage.say()
    assert (await play.over()).status == "COMPLETED"
    assert play.store.kinds() == [["model", "finished"]]


@virtual
async def test_a_store_that_stays_away_ends_the_incarnation(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(driver_module, "STORE_RETRY_S", 0.0)
    play = await scene()
    play.store.away = 1000
    await play.stage.say()
    with pytest.raises(StoreUnavailableError):
        await play.over()


# --- waiting


@virtual
async def test_it_hibernates_when_nothing_can_happen_without_a_person():
    play = await scene(hibernate_after_s=5.0)
    await play.stage.say("", plan("c1", "refund", "approval"))
    before = clock()
    assert await play.over() == Outcome(ended="hibernated", status="WAITING")
    assert clock() - before == pytest.approx(5.0, abs=0.1)
    row = await play.store.row(ID)
    assert (row.resident, row.pending, row.current_task) == (False, 1, "waiting:refund")


@virtual
async def test_it_does_not_hibernate_while_a_tool_runs():
    play = await scene(hibernate_after_s=1.0)
    await play.stage.say("", plan("c1"), plan("c2", "refund", "approval"))
    await jump(1000)
    assert play.task is not None
    assert not play.task.done()
    await play.stage.give("c1")
    assert (await play.over()).ended == "hibernated"


@virtual
async def test_a_short_timer_is_waited_for_and_a_long_one_is_left_to_others():
    play = await scene(hibernate_after_s=5.0)
    await play.stage.end("model", r.ModelFailed(at=clock(), error="429", retry_at=clock() + 4))
    await until(lambda: CallModel("", 1, 2) in play.stage.begun, within=5)
    due = clock() + 60
    await play.stage.end("model", r.ModelFailed(at=clock(), attempt=2, error="429", retry_at=due))
    assert await play.over() == Outcome(ended="hibernated", status="RUNNING", wake_at=due)
    assert (await play.store.row(ID)).wake_at == due
    await jump(60)
    await play.begin()
    await play.stage.say()
    assert (await play.over()).status == "COMPLETED"
    assert play.stage.begun[-1] == CallModel("", 1, 3)


@virtual
async def test_a_deadline_ends_it_while_a_tool_hangs():
    play = await scene(create={"timeout_s": 30.0})
    await play.stage.say("", plan("c1"))
    before = clock()
    assert await play.over() == Outcome(ended="finished", status="TIMED_OUT")
    assert clock() - before == pytest.approx(30, abs=1)
    assert play.stage.cancelled == [CallTool("", "c1", 1)]


@virtual
async def test_the_inbox_is_read_at_the_start_and_when_poked_and_not_otherwise():
    play = await scene()
    await play.stage.say("", plan("c1"))
    await play.stage.give("c1")
    await until(lambda: len(play.store.commits) == 2)
    assert play.store.reads == 1
    await play.send("guide", text="x")
    await until(lambda: len(play.store.commits) == 3)
    assert play.store.reads == 2
    await play.stage.say()
    await play.over()


# --- signals


@virtual
async def test_signals_that_change_nothing_any_more_are_taken_off_the_inbox_all_the_same():
    play = await scene()
    await play.stage.say("", plan("c1", "refund", "approval"))
    await until(lambda: len(play.store.commits) == 1)
    await play.send("approve", call_id="c1")
    await play.stage.give("c1")
    await until(lambda: play.stage.begun[-1] == CallModel("", 2, 1))
    assert (await play.store.row(ID)).inbox == 0
    assert [entry.kind for commit in play.store.commits for entry in commit.entries] == ["model", "decided", "tool"]
    await play.stage.say()
    await play.over()


@virtual
async def test_a_cancel_drops_what_flies_and_needs_nobody():
    play = await scene()
    await play.stage.say("", plan("c1"), plan("c2"))
    await until(lambda: len(play.stage.running) == 2)
    await play.send("cancel", text="enough")
    assert await play.over() == Outcome(ended="finished", status="TERMINATED")
    assert play.store.kinds()[-1] == ["control", "finished"]
    assert len(play.stage.cancelled) == 2
    assert (await play.state()).error == "enough"


@virtual
async def test_a_result_that_lands_while_the_cancel_is_read_is_kept():
    play = await scene()
    await play.stage.say("", plan("c1"))
    await until(lambda: "c1" in play.stage.running)

    async def slowly(execution_id: str) -> list[Signal]:
        await play.stage.give("c1", "in time")
        await jump(0.1)
        return await Watched.inbox(play.store, execution_id)

    play.store.inbox = slowly  # type: ignore[method-assign]
    await play.send("cancel")
    await play.over()
    assert play.store.kinds()[-1] == ["control", "tool", "finished"]


@virtual
async def test_a_stop_waits_for_the_model_call_that_is_paid_for_and_no_longer():
    play = await scene()
    await until(lambda: play.stage.running)
    await play.send("stop")
    await jump(10)
    assert play.store.kinds() == [["control"]]
    await play.stage.say("My last words.")
    await play.over()
    assert play.store.kinds() == [["control"], ["model", "finished"]]
    assert (await play.state()).output == "My last words."


@virtual
async def test_a_pause_lets_what_runs_finish_and_starts_nothing():
    play = await scene(hibernate_after_s=5.0)
    await play.stage.say("", plan("c1"))
    await until(lambda: "c1" in play.stage.running)
    await play.send("pause")
    await jump(100)
    await play.stage.give("c1")
    assert await play.over() == Outcome(ended="hibernated", status="PAUSED")
    assert len(play.stage.begun) == 2
    await play.send("resume")
    await play.begin()
    await play.stage.say()
    assert (await play.over()).status == "COMPLETED"


@virtual
async def test_two_decisions_on_one_call_never_both_take_effect():
    play = await scene()
    await play.stage.say("", plan("c1", "refund", "approval"))
    await until(lambda: len(play.store.commits) == 1)

    async def both(execution_id: str) -> list[Signal]:
        return [
            Signal(signal_id=f"s-{kind}", execution_id=ID, kind=kind, call_id="c1")  # type: ignore[arg-type]
            for kind in ("reject", "approve")
        ]

    play.store.inbox = both  # type: ignore[method-assign]
    assert play.driver is not None
    play.driver.poke()
    await play.stage.say()
    await play.over()
    assert [kind for kinds in play.store.kinds() for kind in kinds].count("decided") == 1


# --- letting go, and failing


@virtual
async def test_asked_to_let_go_it_finishes_what_flies_and_starts_nothing_new():
    play = await scene()
    await play.stage.say("", plan("c1"))
    await until(lambda: "c1" in play.stage.running)
    assert play.driver is not None
    play.driver.let_go()
    await jump(10)
    assert play.task is not None
    assert not play.task.done()
    await play.stage.give("c1")
    assert await play.over() == Outcome(ended="handed_over", status="RUNNING")
    assert not (await play.store.row(ID)).resident
    await play.begin()
    await play.stage.say()
    assert (await play.over()).status == "COMPLETED"
    assert play.store.kinds()[-1] == ["model", "finished"], "no recovery: it left cleanly"


@virtual
async def test_what_must_stop_the_driver_stops_it_and_leaves_the_execution_crashed():
    play = await scene()
    await play.stage.end("model", RuntimeError("a broken invariant"))
    with pytest.raises(RuntimeError, match="invariant"):
        await play.over()
    assert (await play.store.take_over(ID, host={})).crashed


@virtual
async def test_an_effect_that_is_cancelled_from_inside_is_not_waited_for_for_ever():
    play = await scene()
    await until(lambda: play.stage.running)
    play.stage.running["model"].cancel()
    with pytest.raises(RuntimeError, match="cancelled from inside"):
        await play.over()


@virtual
async def test_an_effect_that_does_not_let_itself_be_cancelled_does_not_hold_up_the_end():
    class Stubborn(Stage):
        async def perform(self, state: ExecutionState, effect: Effect, report: Report) -> r.AnyRecord:
            if not isinstance(effect, CallTool):
                return await super().perform(state, effect, report)
            self.begun.append(effect)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await jump(3600)
            raise AssertionError

    play = await scene(Stubborn())
    await play.stage.say("", plan("c1"))
    await until(lambda: len(play.stage.begun) == 2)
    before = clock()
    await play.send("cancel")
    assert (await play.over()).status == "TERMINATED"
    assert clock() - before < 10
    tasks = [task for task in asyncio.all_tasks() if "_perform" in repr(task.get_coro())]
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


# --- readers


@virtual
async def test_readers_are_told_after_the_commit_and_not_before():
    play = await scene()
    await play.stage.say("Hm.", plan("c1"))
    await until(lambda: "c1" in play.stage.running)
    page = play.feed.read(1)
    assert page is not None
    assert [event["seq"] for event in page["events"]] == [2, 3]
    play.store.away = 5
    await play.stage.give("c1")
    await jump(0.2)
    assert play.feed.read(3)["events"] == []  # type: ignore[index]
    await play.stage.say()
    await play.over()
    page = play.feed.read(0) or play.feed.read(1)
    assert page is not None
    assert page["closed"]
    assert [event["seq"] for event in page["events"]] == [2, 3, 4, 5, 6]


# --- sizes


async def turns(count: int, *, width: int = 200) -> Scene:
    spec = replace(SPEC, max_turns=10_000)
    play = await scene(Stage(spec))
    for turn in range(count):
        await play.stage.say("x" * width, plan(f"c{turn}"))
        await play.stage.give(f"c{turn}", "y" * width)
    await play.stage.say()
    await play.over()
    return play


def written(play: Scene) -> int:
    return sum(one.bytes_written + one.snapshot_bytes for one in play.store.receipts)


@virtual
async def test_a_step_costs_what_it_adds_and_not_what_came_before(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(driver_module, "SNAPSHOT_BYTES_MIN", 2_000)
    short, long = await turns(50), await turns(200)
    assert written(long) < 4 * 1.5 * written(short), "P8: bytes written grow with the length, not with its square"
    snapshots = [commit.seq for commit in long.store.commits if commit.snapshot is not None]
    assert 3 <= len(snapshots) <= 20
    loaded = await long.store.load(ID)
    assert loaded.snapshot is not None
    assert loaded.entries_bytes <= max(2_000, loaded.snapshot_bytes) + 2_000, "what is read on resume is bounded"
    entries = await long.store.journal(ID)
    state = ExecutionState(execution_id=ID)
    for entry in entries:
        apply(state, r.from_plain(entry.kind, entry.body))
    assert to_snapshot(state) == to_snapshot(load_state(loaded))


@virtual
async def test_a_small_execution_writes_no_snapshot():
    play = await turns(3)
    assert [commit for commit in play.store.commits if commit.snapshot is not None] == []


# --- messages and stop_when through the whole loop


@virtual
async def test_messages_are_delivered_in_the_commit_that_records_them():
    spec = replace(SPEC, tools={"listen": tool("listen", kind=ToolKind.MESSAGE)})
    play = await scene(Stage(spec))
    await play.stage.say("", plan("c1", "listen", "message"))
    await until(lambda: len(play.store.commits) == 1)
    await play.send("message", value={"n": 1})
    await until(lambda: len(play.store.commits) == 2)
    assert play.store.kinds()[1] == ["message", "delivered"]
    await play.stage.say()
    await play.over()
    state = await play.state()
    assert (state.root.messages[2]["content"], state.queue) == ('[{"n": 1}]', [])


@virtual
async def test_stop_when_is_asked_between_turns():
    play = await scene(Stage(replace(SPEC, has_stop_when=True)))
    await play.stage.say("So far.", plan("c1"))
    await play.stage.give("c1")
    await play.stage.end("stop", r.StopChecked(at=clock(), turn=1, stop=True))
    await play.over()
    state = await play.state()
    assert (state.status.value, state.output) == ("COMPLETED", "So far.")
