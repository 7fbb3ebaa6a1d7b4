"""The gate before model calls, over a permit desk that dies and comes back, in virtual time."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agentspan.actors.driver import Driver, Outcome
from agentspan.actors.gate import TELL_AFTER_S, ModelGate, Permit
from agentspan.actors.performer import AgentPerformer
from agentspan.actors.permitdesk import PermitDesk
from agentspan.agents import Agent
from agentspan.engine import records as r
from agentspan.engine.admit import Signal
from agentspan.errors import ModelRetryableError
from agentspan.limits import parse_limits
from agentspan.models.permits import LEASE_S, Permits
from agentspan.persistence.memory import MemoryStore
from agentspan.persistence.store import NewExecution
from agentspan.testing import ScriptedModel, say
from tests.support.virtual_time import clock, jump, until, virtual

LATENCY_S = 0.002


class Town:
    """One permit desk, and the gates of several processes. Calls to the desk take time, and may be lost."""

    def __init__(self, limits: str) -> None:
        self.limits = parse_limits(limits)
        self.boots = itertools.count(1)
        self.said: list[dict[str, Any]] = []
        self.lose_answers = 0
        self.is_up = True
        self.gates: dict[str, ModelGate] = {}
        self.desk = self.new_desk()

    def new_desk(self, *, is_successor: bool = False) -> PermitDesk:
        now = asyncio.get_running_loop().time()
        return PermitDesk(Permits(self.limits, now=now, is_successor=is_successor), boot=f"boot-{next(self.boots)}")

    def die_and_return(self) -> None:
        """The supervisor is killed and Ray starts it again."""
        self.desk = self.new_desk(is_successor=True)

    async def ask(self, said: Mapping[str, Any]) -> dict[str, Any]:
        self.said.append(dict(said))
        desk = self.desk
        await asyncio.sleep(LATENCY_S)
        if not self.is_up:
            raise ConnectionResetError("no desk")
        answer = await desk.exchange(**said)
        await asyncio.sleep(LATENCY_S)
        if self.lose_answers > 0:
            self.lose_answers -= 1
            raise ConnectionResetError("the answer got lost")
        if desk is not self.desk:
            raise ConnectionResetError("it died")
        return answer

    def gate(self, client: str) -> ModelGate:
        if client not in self.gates:
            self.gates[client] = ModelGate(self.limits, self.ask, client=client)
        return self.gates[client]


@asynccontextmanager
async def town(limits: str) -> AsyncIterator[Town]:
    made = Town(limits)
    try:
        yield made
    finally:
        for gate in made.gates.values():
            await gate.close()


class Calls:
    """Model calls that are made when they may be and end when told to."""

    def __init__(self, gate: ModelGate, model: str = "m/x") -> None:
        self.gate = gate
        self.model = model
        self.tasks: list[asyncio.Task[None]] = []
        self.permits: list[Permit] = []
        self.notes: list[str] = []

    def want(self, count: int = 1) -> None:
        for _ in range(count):
            self.tasks.append(asyncio.create_task(self._call()))

    async def _call(self) -> None:
        permit = await self.gate.enter(self.model, 10, self.notes.append)
        self.permits.append(permit)

    def end(self, count: int = 1) -> None:
        for _ in range(count):
            self.gate.leave(self.permits.pop(0), cost=10)


@virtual
async def test_nobody_is_asked_about_models_without_limits():
    async with town("m rpm=60") as here:
        assert not here.gate("a").limits("other/x")
        assert here.gate("a").limits("m/x")
        assert here.said == []


@virtual
async def test_processes_share_what_may_be_in_flight():
    async with town("m in_flight=3") as here:
        one, two = Calls(here.gate("a")), Calls(here.gate("b"))
        one.want(4)
        await until(lambda: len(one.permits) == 3)
        two.want(2)
        await jump(5)
        assert (len(one.permits), len(two.permits)) == (3, 0)
        one.end(2)
        await until(lambda: len(one.permits) == 2)
        await until(lambda: len(two.permits) == 1)
        await jump(5)
        assert here.desk.permits.describe()[0]["in_flight"] == 3
        one.end(2)
        two.end()
        await until(lambda: len(two.permits) == 1)
        two.end()
        await until(lambda: here.desk.permits.describe()[0]["in_flight"] == 0)


@virtual
async def test_what_comes_up_while_a_message_is_under_way_goes_with_the_next():
    async with town("m in_flight=1000") as here:
        calls = Calls(here.gate("a"))
        for _ in range(10):
            calls.want(30)
            await asyncio.sleep(LATENCY_S)
        await until(lambda: len(calls.permits) == 300)
        assert len(here.said) <= 8
        calls.end(300)
        await until(lambda: here.desk.permits.describe()[0]["in_flight"] == 0)
        assert len(here.said) <= 10


@virtual
async def test_a_busy_process_finds_most_permits_at_home():
    async with town("m rpm=60000") as here:
        calls = Calls(here.gate("a"))
        for _ in range(400):
            calls.want()
            await jump(0.01)
        assert len(calls.permits) == 400
        assert len(here.said) < 60
        calls.end(400)
        await jump(10)
        before = len(here.said)
        await jump(100)
        assert len(here.said) == before, "an idle process is silent"


@virtual
async def test_a_long_wait_says_what_it_waits_for_and_when_it_is_over():
    async with town("m in_flight=1") as here:
        calls = Calls(here.gate("a"))
        calls.want(2)
        await until(lambda: len(calls.permits) == 1)
        await jump(TELL_AFTER_S / 2)
        assert calls.notes == []
        await jump(TELL_AFTER_S)
        assert calls.notes == ["waits for a permit (m: 1 calls in flight)"]
        calls.end()
        await until(lambda: len(calls.permits) == 1)
        assert calls.notes[-1] == ""


@virtual
async def test_a_wait_that_is_given_up_keeps_nothing():
    async with town("m in_flight=1") as here:
        calls, others = Calls(here.gate("a")), Calls(here.gate("b"))
        calls.want(3)
        await until(lambda: len(calls.permits) == 1)
        for task in calls.tasks[1:]:
            task.cancel()
        others.want()
        await jump(1)
        calls.end()
        await until(lambda: len(others.permits) == 1)
        others.end()
        await until(lambda: here.desk.permits.describe()[0] | {"waiting": 0} == here.desk.permits.describe()[0])
        await until(lambda: here.desk.permits.describe()[0]["in_flight"] == 0)


@pytest.mark.parametrize("after", [n * LATENCY_S / 2 for n in range(8)])
@virtual
async def test_a_wait_given_up_at_any_moment_loses_no_permit(after: float):
    async with town("m in_flight=1") as here:
        calls = Calls(here.gate("a"))
        calls.want()
        await asyncio.sleep(after)
        calls.tasks[0].cancel()
        await jump(1)
        if calls.permits:
            calls.end()
        calls.want()
        await until(lambda: len(calls.permits) == 1, within=5)


@virtual
async def test_a_process_that_dies_gives_back_what_it_had_after_a_lease():
    async with town("m in_flight=2") as here:
        dead, alive = Calls(here.gate("dead")), Calls(here.gate("alive"))
        dead.want(2)
        await until(lambda: len(dead.permits) == 2)
        alive.want(2)
        await here.gate("dead").close()
        start = asyncio.get_running_loop().time()
        await until(lambda: len(alive.permits) == 2)
        assert asyncio.get_running_loop().time() - start < LEASE_S + 1
        await jump(3 * LEASE_S)
        late = Calls(here.gate("late"))
        late.want()
        await jump(3 * LEASE_S)
        assert late.permits == [], "who lives keeps its permits, however long a call takes"
        for task in late.tasks:
            task.cancel()


@pytest.mark.parametrize("down_s", [0.0, 3.0, 60.0])
@virtual
async def test_when_the_desk_dies_nobody_loses_a_permit_and_no_more_are_out(down_s: float):
    async with town("m in_flight=3") as here:
        one, two = Calls(here.gate("a")), Calls(here.gate("b"))
        one.want(2)
        two.want(4)
        await until(lambda: len(one.permits) + len(two.permits) == 3)
        await jump(20)
        here.is_up = down_s == 0.0
        here.die_and_return()
        await jump(down_s)
        one.want()
        here.is_up = True
        here.die_and_return()
        await jump(30)
        assert len(one.permits) + len(two.permits) == 3
        for calls in (one, two, one, two, one, two):
            if calls.permits:
                calls.end()
            await jump(1)
            assert len(one.permits) + len(two.permits) <= 3
        for _ in range(8):
            for calls in (one, two):
                calls.end(len(calls.permits))
            await jump(5)
        assert all(task.done() for calls in (one, two) for task in calls.tasks)


@virtual
async def test_a_lost_answer_is_no_lost_permit():
    async with town("m in_flight=2") as here:
        calls = Calls(here.gate("a"))
        here.lose_answers = 2
        calls.want(2)
        await until(lambda: len(calls.permits) == 2, within=10)
        here.lose_answers = 1
        calls.end(2)
        calls.want(2)
        await until(lambda: len(calls.permits) == 2, within=10)


@virtual
async def test_a_429_stops_the_calls_of_all_processes():
    async with town("m rpm=6000; n rpm=6000") as here:
        one, two = Calls(here.gate("a")), Calls(here.gate("b"))
        one.want()
        await until(lambda: one.permits)
        here.gate("a").throttled("m/x", 30.0)
        await jump(1)
        two.want(3)
        other = Calls(here.gate("b"), "n/x")
        other.want()
        await jump(20)
        assert (len(two.permits), len(other.permits)) == (0, 1)
        assert two.notes
        await jump(15)
        assert len(two.permits) == 3


# --- executions at the gate


class Waiter:
    """An execution whose model call has to wait, since somebody else has the only permit."""

    def __init__(self, here: Town, *steps: Any) -> None:
        self.store = MemoryStore(clock=clock)
        self.other = Calls(here.gate("other"), "scripted/hero")
        agent = Agent("hero", model="scripted/hero")
        self.model = ScriptedModel(list(steps or [say("Hello.")]))
        performer = AgentPerformer(
            agent, model=lambda name, url: self.model, store=self.store, gate=here.gate("mine"), clock=clock
        )
        self.driver = Driver(
            execution_id="ex-1", epoch=1, crashed=False, store=self.store, performer=performer, clock=clock
        )

    async def begin(self) -> asyncio.Task[Outcome]:
        self.other.want()
        await until(lambda: self.other.permits)
        started = r.Started(at=clock(), agent="hero", prompt="go")
        await self.store.create(
            NewExecution(
                execution_id="ex-1",
                request_id="req-1",
                agent="hero",
                deployment_id="d1",
                started=r.to_plain(started),
                created_at=clock(),
            )
        )
        await self.store.take_over("ex-1", host={})
        return asyncio.create_task(self.driver.run())

    async def doing(self) -> str:
        return (await self.store.row("ex-1")).current_task

    async def waits(self) -> None:
        await jump(TELL_AFTER_S + 1)
        assert await self.doing() == "model:turn-1 (waits for a permit (scripted: 1 calls in flight))"


@virtual
async def test_an_execution_shows_that_it_waits_for_a_permit_and_records_nothing_of_it():
    async with town("scripted in_flight=1") as here:
        waiter = Waiter(here)
        run = await waiter.begin()
        await waiter.waits()
        assert (await waiter.store.row("ex-1")).seq == 0
        waiter.other.end()
        assert (await run).status == "COMPLETED"
        assert [entry.kind for entry in await waiter.store.journal("ex-1")] == ["started", "model", "finished"]
        await until(lambda: here.desk.permits.describe()[0]["in_flight"] == 0)


@virtual
async def test_an_execution_that_waits_for_a_permit_can_be_cancelled():
    async with town("scripted in_flight=1") as here:
        waiter = Waiter(here)
        run = await waiter.begin()
        await waiter.waits()
        await waiter.store.send(Signal(signal_id="s1", execution_id="ex-1", kind="cancel", at=clock()))
        waiter.driver.poke()
        assert (await run).status == "TERMINATED"
        await until(lambda: here.desk.permits.describe()[0]["waiting"] == 0)


@virtual
async def test_a_call_that_fails_gives_its_permit_back_and_a_429_is_passed_on():
    async with town("scripted in_flight=1") as here:
        waiter = Waiter(here, say("Hello."))

        async def refuse(request: Any, *, on_token: Any = None) -> Any:
            raise ModelRetryableError(model="scripted/hero", problem="too many", status=429, retry_after_s=20.0)

        waiter.model.complete = refuse  # type: ignore[method-assign]
        run = await waiter.begin()
        waiter.other.end()
        await until(lambda: here.desk.permits._paused)
        other = Calls(here.gate("other"), "scripted/hero")
        other.want()
        await jump(10)
        assert other.permits == []
        await until(lambda: other.permits)
        other.end()
        assert (await run).ended == "hibernated", "it comes back when the provider said"
