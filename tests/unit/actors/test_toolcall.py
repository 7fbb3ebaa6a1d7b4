"""Where a tool call runs, and what is made of it when that is somewhere else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from agentspan.actors.driver import Driver
from agentspan.actors.performer import AgentPerformer
from agentspan.actors.toolcall import ToolOutcome, attempt_alone
from agentspan.agents import Agent, TerminalToolError, ToolContext, get_tool_def, tool
from agentspan.agents.tool_def import ToolDef
from agentspan.engine import records as r
from agentspan.engine.admit import Signal
from agentspan.persistence.memory import MemoryStore
from agentspan.persistence.store import NewExecution
from agentspan.testing import ScriptedModel, call, say
from tests.support.virtual_time import clock, jump, until, virtual

ID = "ex-1"


def alone(function: Any, context: ToolContext | None = None, **arguments: Any) -> ToolOutcome:
    return attempt_alone(get_tool_def(function), arguments, context or ToolContext())


# --- alone in a process


def test_alone_a_plain_function_may_run_a_loop_of_its_own_and_an_async_one_gets_one():
    async def add(x: int) -> int:
        await asyncio.sleep(0)
        return x + 1

    @tool
    def plain(x: int) -> int:
        return asyncio.run(add(x))

    assert alone(plain, x=1).result == 2
    assert alone(tool(add), x=1).result == 2


def test_alone_as_here_arguments_are_checked_state_is_kept_and_errors_are_data():
    @tool
    def work(x: int, ctx: ToolContext, how: str = "") -> Any:
        ctx.state["seen"] = x
        del ctx.state["old"]
        if how == "final":
            raise TerminalToolError("never")
        if how:
            raise {"stop": StopIteration, "exit": SystemExit, "cancel": asyncio.CancelledError}[how]("gone")
        return {"x": x}

    def of(how: str) -> tuple[str | None, bool]:
        outcome = alone(work, ToolContext(state={"old": 1}), x=1, how=how)
        return outcome.error, outcome.is_final

    good = alone(work, ToolContext(state={"old": 1}), x=1)
    assert (good.result, good.state_set, good.state_del) == ({"x": 1}, {"seen": 1}, ("old",))
    assert of("final") == ("never", True)
    assert of("stop") == ("StopIteration: gone", False)
    assert of("exit") == ("SystemExit: gone", False)
    assert of("cancel") == ("CancelledError: gone", False)
    assert alone(work, x="one").error_type == "ToolArgumentsError"


def test_alone_what_cannot_be_stored_is_known_before_it_travels():
    @tool
    def give() -> Any:
        return object()

    assert (alone(give).is_final, alone(give).error_type) == (True, "UnrecordableResultError")


# --- somewhere else


class There:
    """Stands in for the processes that tools with needs run in."""

    def __init__(self, *outcomes: ToolOutcome) -> None:
        self.outcomes = list(outcomes)
        self.asked: list[tuple[str, dict[str, Any], int, str]] = []
        self.waiting: asyncio.Event | None = None
        self.ended = 0

    async def __call__(
        self, tool: ToolDef, arguments: dict[str, Any], context: ToolContext, *, note: Callable[[str], None]
    ) -> ToolOutcome:
        self.asked.append((tool.name, arguments, context.attempt, context.idempotency_key))
        if self.waiting is not None:
            try:
                note("waits for 1 GPU")
                note("waits for 1 GPU")
                await self.waiting.wait()
            except asyncio.CancelledError:
                self.ended += 1
                raise
            note("")
            await jump(1)
        return self.outcomes.pop(0)


class Life:
    """One driver of an agent with one tool that runs elsewhere and one that runs here."""

    def __init__(self, there: There | None, **options: Any) -> None:
        self.store = MemoryStore(clock=clock)
        self.there = there
        self.here: list[int] = []

        @tool(num_gpus=1, retry_delay_seconds=1, **options)
        async def train(x: int) -> str:
            """Train."""
            self.here.append(x)
            return "here"

        @tool
        async def look(x: int) -> str:
            """Look."""
            return "looked"

        self.agent = Agent("hero", model="scripted/hero", tools=[train, look])

    async def begin(self, *script: Any) -> asyncio.Task[Any]:
        started = r.Started(at=clock(), agent="hero", prompt="go")
        await self.store.create(
            NewExecution(
                execution_id=ID,
                request_id="r1",
                agent="hero",
                deployment_id="d1",
                started=r.to_plain(started),
                created_at=clock(),
            )
        )
        model = ScriptedModel([*script, say("done")])
        performer = AgentPerformer(
            self.agent, model=lambda name, url: model, store=self.store, clock=clock, elsewhere=self.there
        )
        taken = await self.store.take_over(ID, host={})
        self.driver = Driver(
            execution_id=ID, epoch=taken.epoch, crashed=False, store=self.store, performer=performer, clock=clock
        )
        return asyncio.create_task(self.driver.run())

    async def records(self) -> list[r.AnyRecord]:
        return [r.from_plain(row.kind, row.body) for row in await self.store.journal(ID)]


LOST = ToolOutcome(error="The process died.", error_type="ToolLostError", is_lost=True)


@virtual
async def test_only_tools_with_needs_go_elsewhere_and_nothing_does_when_there_is_nowhere():
    there = There(ToolOutcome(result="there", state_set={"k": 1}))
    life = Life(there)
    assert (await (await life.begin(call("train", x=1), call("look", x=2)))).status == "COMPLETED"
    assert there.asked == [("train", {"x": 1}, 1, f"{ID}::call_0_0")]
    returned = [record for record in await life.records() if isinstance(record, r.ToolReturned)]
    assert [(record.result, record.state_set) for record in returned] == [("there", {"k": 1}), ("looked", {})]
    life = Life(None)
    await (await life.begin(call("train", x=3)))
    assert life.here == [3]


@virtual
async def test_a_lost_process_is_an_attempt_that_failed_and_the_next_has_the_same_key():
    there = There(LOST, ToolOutcome(result="second"))
    assert (await (await Life(there).begin(call("train", x=1)))).status == "COMPLETED"
    assert [(attempt, key) for _, _, attempt, key in there.asked] == [
        (1, f"{ID}::call_0_0"),
        (2, f"{ID}::call_0_0"),
    ]


@virtual
async def test_a_process_that_is_lost_again_and_again_is_given_up_after_the_retries():
    there = There(LOST, LOST)
    life = Life(there, retry_count=1)
    assert (await (await life.begin(call("train", x=1)))).status == "COMPLETED"
    failures = [record for record in await life.records() if isinstance(record, r.ToolFailed)]
    assert [(failure.attempt, failure.retry_at is None) for failure in failures] == [(1, False), (2, True)]


@pytest.mark.parametrize("on_crash", ["ask", "fail"])
@virtual
async def test_a_lost_call_that_must_not_be_repeated_is_not(on_crash: str):
    there = There(LOST)
    life = Life(there, on_crash=on_crash)
    running = await life.begin(call("train", x=1))
    assert (await running).status == ("WAITING" if on_crash == "ask" else "COMPLETED")
    assert len(there.asked) == 1
    [asked] = [p for p in await life.store.pending(ID) if p.ask == "crash"] if on_crash == "ask" else [None]
    assert asked is None or asked.arguments == {"x": 1}


@virtual
async def test_what_a_call_waits_for_is_in_the_row_while_it_does_and_is_no_record():
    there = There(ToolOutcome(result="at last"))
    there.waiting = asyncio.Event()
    life = Life(there)
    running = await life.begin(call("train", x=1))

    async def doing() -> str:
        return (await life.store.row(ID)).current_task

    await until(lambda: there.asked)
    await jump(1)
    assert await doing() == "tool:train (waits for 1 GPU)"
    there.waiting.set()
    await jump(0.5)
    assert await doing() == "tool:train"
    await running
    assert [record.KIND for record in await life.records()] == ["started", "model", "tool", "model", "finished"]


@virtual
async def test_a_cancelled_execution_ends_what_runs_elsewhere():
    there = There()
    there.waiting = asyncio.Event()
    life = Life(there)
    running = await life.begin(call("train", x=1))
    await until(lambda: there.asked)
    await life.store.send(Signal(signal_id="s1", execution_id=ID, kind="cancel"))
    life.driver.poke()
    assert (await running).status == "TERMINATED"
    assert there.ended == 1
