"""What user code does, good or bad, becomes a record; none of it reaches the driver."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel

from agentspan.actors.driver import Driver
from agentspan.actors.feed import Feed
from agentspan.actors.performer import AgentPerformer, PerformerSettings
from agentspan.actors.toolcall import ERROR_CHARS_MAX
from agentspan.agents import Agent, CallbackHandler, InstructionsContext, TerminalToolError, ToolContext, tool
from agentspan.engine import records as r
from agentspan.engine.apply import apply
from agentspan.engine.decide import CallModel, CallTool, CheckStop, LoadSession
from agentspan.engine.state import ExecutionState
from agentspan.models.base import ModelReply, ModelRequest, OnToken
from agentspan.persistence.memory import MemoryStore
from agentspan.persistence.store import NewExecution
from agentspan.testing import ScriptedModel, call, calls, fail, raw_call, say
from tests.support.situations import T0, answered, control, plan, started, state_of
from tests.support.virtual_time import virtual

AMBIENT: ContextVar[str] = ContextVar("AMBIENT", default="")


def performer_of(agent: Agent, model: Any = None, **options: Any) -> AgentPerformer:
    model = model or ScriptedModel([say("Hello.")])
    options.setdefault("store", MemoryStore())
    return AgentPerformer(agent, model=lambda name, url: model, clock=lambda: T0, **options)


def report(*records: Any, **more: Any) -> Future[None]:
    """Nobody listens."""
    return Future()


def hero(*tools: Any, **options: Any) -> Agent:
    return Agent("hero", model="scripted/hero", tools=list(tools), **options)


async def perform(function: Any, *, attempt: int = 1, state: ExecutionState | None = None, **options: Any) -> Any:
    """Run one attempt of a tool with x=1."""
    name = getattr(function, "__name__", "tool")
    if state is None:
        state = state_of([started(), answered(plan("c1", name))])
        state.root.calls[0].failures = attempt - 1
    return await performer_of(hero(function), **options).perform(state, CallTool("", "c1", attempt), report)


# --- tools: where they run


async def test_a_plain_function_runs_in_a_thread_and_an_async_one_on_the_loop():
    @tool
    def blocking(x: int) -> str:
        return threading.current_thread().name + AMBIENT.get()

    @tool
    async def waiting(x: int) -> str:
        return threading.current_thread().name

    AMBIENT.set("!")
    with ThreadPoolExecutor(1, thread_name_prefix="tool") as executor:
        record = await perform(blocking, executor=executor)
        assert record.result == "tool_0!", "what was set around the call is seen in the thread"
    assert (await perform(waiting)).result == threading.current_thread().name


async def test_a_plain_function_may_hand_back_something_to_await():
    async def later() -> int:
        return 42

    @tool
    def lazy(x: int) -> Any:
        return later()

    assert (await perform(lazy)).result == 42


async def test_the_context_says_which_call_this_is():
    seen: list[ToolContext] = []

    @tool
    async def curious(context: ToolContext, x: int) -> None:
        seen.append(context)

    record = await perform(curious, attempt=3)
    assert record.attempt == 3
    (context,) = seen
    assert (context.attempt, context.call_id, context.tool_name) == (3, "c1", "curious")
    assert (context.execution_id, context.agent_name) == ("ex-1", "hero")
    await perform(curious, attempt=4)
    assert {one.idempotency_key for one in seen} == {"ex-1::c1"}


# --- tools: what they return


@dataclass
class Point:
    x: int


class Model(BaseModel):
    y: list[int]


@pytest.mark.parametrize(
    ("value", "recorded"),
    [
        (None, None),
        ("text", "text"),
        ({"a": (1, 2)}, {"a": [1, 2]}),
        (Point(3), {"x": 3}),
        (Model(y=[1]), {"y": [1]}),
        ({1: "one"}, {"1": "one"}),
        (2**80, 2**80),
    ],
)
async def test_data_is_recorded_as_json_data(value: Any, recorded: Any):
    @tool
    async def give(x: int) -> Any:
        return value

    record = await perform(give)
    assert isinstance(record, r.ToolReturned)
    assert record.result == recorded


async def test_a_result_that_is_no_data_is_not_tried_again_because_the_tool_has_done_its_work():
    @tool(retry_count=5)
    async def give(x: int) -> Any:
        return object()

    record = await perform(give)
    assert isinstance(record, r.ToolFailed)
    assert record.retry_at is None
    assert "ran, but what it returned (object) cannot be recorded" in record.error


# --- tools: how they fail


@pytest.mark.parametrize("blocking", [True, False], ids=["plain", "async"])
@pytest.mark.parametrize(
    ("problem", "says"),
    [
        (RuntimeError("boom"), "RuntimeError: boom"),
        (KeyError("x"), "KeyError: 'x'"),
        (SystemExit(3), "SystemExit: 3"),
        (StopIteration(), "raised StopIteration"),
        (asyncio.CancelledError(), "CancelledError"),
        (ValueError(""), "ValueError: ValueError('')"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
async def test_whatever_a_tool_raises_is_a_failure_that_is_tried_again(
    problem: BaseException, says: str, blocking: bool
):
    def fails(x: int) -> str:
        raise problem

    async def fails_async(x: int) -> str:
        raise problem

    async with asyncio.timeout(10):
        record = await perform(tool(fails if blocking else fails_async, retry_count=2, retry_delay_seconds=3))
    assert isinstance(record, r.ToolFailed)
    assert says in record.error
    assert record.retry_at == T0 + 3


async def test_retries_end_and_grow_as_the_policy_says():
    @tool(retry_count=2, retry_delay_seconds=3, retry_policy="exponential_backoff")
    async def fails(x: int) -> str:
        raise RuntimeError("boom")

    assert [(await perform(fails, attempt=attempt)).retry_at for attempt in (1, 2, 3)] == [T0 + 3, T0 + 6, None]


async def test_a_terminal_error_is_not_tried_again_and_the_model_reads_its_text():
    @tool(retry_count=5)
    async def fails(x: int) -> str:
        raise TerminalToolError("No such order.")

    record = await perform(fails)
    assert (record.error, record.retry_at) == ("No such order.", None)


async def test_a_long_error_is_cut():
    @tool
    async def fails(x: int) -> str:
        raise RuntimeError("x" * 100_000)

    record = await perform(fails)
    assert len(record.error) < ERROR_CHARS_MAX + 100
    assert "100000 characters" in record.error


@virtual
async def test_a_tool_that_takes_too_long_is_ended():
    ended: list[str] = []

    @tool(timeout_seconds=3, retry_count=0)
    async def slow(x: int) -> str:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return "late"

    record = await perform(slow)
    assert (record.error, record.retry_at) == ("The tool 'slow' did not finish within 3 s.", None)
    assert ended == ["cancelled"]


async def test_a_blocking_tool_that_takes_too_long_is_left_behind():
    release = threading.Event()

    @tool(timeout_seconds=0.05, retry_count=0)
    def slow(x: int) -> str:
        release.wait(10)
        return "late"

    record = await perform(slow)
    release.set()
    assert "did not finish within 0.05 s" in record.error


@virtual
async def test_a_tool_that_is_dropped_by_the_driver_makes_no_record():
    @tool
    async def slow(x: int) -> str:
        await asyncio.sleep(3600)
        return "late"

    task = asyncio.create_task(perform(slow))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_edited_arguments_that_do_not_fit_are_a_failure_that_is_not_tried_again():
    @tool
    async def work(x: int) -> str:
        return "ok"

    state = state_of([started(), answered(plan("c1", "work", arguments={"x": "many"}))])
    record = await perform(work, state=state)
    assert isinstance(record, r.ToolFailed)
    assert record.retry_at is None
    assert "x" in record.error


async def test_a_tool_that_the_agent_no_longer_has_is_a_failure():
    state = state_of([started(), answered(plan("c1", "gone"))])
    record = await performer_of(hero()).perform(state, CallTool("", "c1", 1), report)
    assert "no longer part of this agent" in record.error  # type: ignore[union-attr]


# --- tools: shared state


async def test_a_change_of_the_state_is_recorded_by_key_and_kept_only_when_the_tool_returns():
    @tool
    async def work(context: ToolContext, x: int) -> str:
        context.state["list"].append(4)
        context.state["new"] = {"n": 1}
        del context.state["old"]
        if x == 2:
            raise RuntimeError("boom")
        return "ok"

    before = {"list": [1], "old": 1, "same": {"a": [1]}}
    for x, expected in ((1, {"list": [1, 4], "same": {"a": [1]}, "new": {"n": 1}}), (2, before)):
        state = state_of([started(), answered(plan("c1", "work", arguments={"x": x}))])
        state.shared.update(list=[1], old=1, same={"a": [1]})
        record = await perform(work, state=state)
        assert state.shared == before, "the tool works on a copy"
        apply(state, record)
        assert state.shared == expected
        if x == 1:
            assert (record.state_set, record.state_del) == ({"list": [1, 4], "new": {"n": 1}}, ("old",))


async def test_a_state_that_is_no_data_is_refused_and_not_tried_again():
    @tool
    async def work(context: ToolContext, x: int) -> str:
        context.state["socket"] = object()
        return "ok"

    record = await perform(work)
    assert isinstance(record, r.ToolFailed)
    assert record.retry_at is None


# --- models


class Spy:
    """A model that keeps what it was asked."""

    def __init__(self, reply: ModelReply | BaseException) -> None:
        self.reply = reply
        self.requests: list[ModelRequest] = []

    async def complete(self, request: ModelRequest, *, on_token: OnToken | None = None) -> ModelReply:
        self.requests.append(request)
        if on_token is not None:
            on_token("Hel")
        if isinstance(self.reply, BaseException):
            raise self.reply
        return self.reply

    async def aclose(self) -> None:
        pass


async def ask(
    agent: Agent, model: Any, records: Sequence[r.AnyRecord] = (), *, attempt: int = 1, **options: Any
) -> Any:
    state = state_of([started(), *records])
    state.root.model_failures = attempt - 1
    return await performer_of(agent, model, **options).call_model(
        state, CallModel("", state.root.turn + 1, attempt), report
    )


async def test_a_model_is_asked_with_the_whole_conversation_and_a_key_of_its_step():
    @tool
    def work(x: int) -> int:
        """Do some work."""
        return x

    spy = Spy(ModelReply(text="Hello."))
    agent = hero(work, instructions="Be good.", temperature=0.5, max_tokens=9)
    for attempt in (1, 2):
        await ask(agent, spy, [control("guide", text="Be brief.")], attempt=attempt)
    first, second = spy.requests
    assert [message["content"] for message in first.messages] == ["Be good.", "go", "[SIGNALS]\nBe brief."]
    assert [one["function"]["name"] for one in first.tools] == ["work"]
    assert (first.temperature, first.max_tokens, first.response_format) == (0.5, 9, None)
    assert first.idempotency_key == second.idempotency_key == "ex-1::1"
    assert (first.attempt, second.attempt) == (1, 2)


async def test_calls_are_checked_before_they_are_recorded():
    @tool
    def add(a: int, b: int = 2) -> int:
        return a + b

    @tool(approval_required=True)
    def refund(order: str) -> str:
        return order

    script = calls(call("add", a=1), call("refund", order="1"), raw_call("add", '{"a": "x"}'), call("nothing"))
    record = await ask(hero(add, refund), ScriptedModel([script]))
    first, second, third, fourth = record.calls
    assert (first.arguments, first.ask, first.error) == ({"a": 1, "b": 2}, None, None)
    assert (second.ask, bool(second.arguments_hash), bool(second.parameters)) == ("approval", True, True)
    assert third.arguments is None
    assert "'add'" in third.error
    assert "There is no tool 'nothing'" in fourth.error


async def test_a_passing_failure_is_tried_again_after_what_the_provider_asked_for():
    model = ScriptedModel([fail(429, times=9, retry_after_s=30), say("Hello.")])
    record = await ask(hero(), model, settings=PerformerSettings(model_retries_max=2))
    assert record.retry_at == T0 + 30
    record = await ask(hero(), model, attempt=3, settings=PerformerSettings(model_retries_max=2))
    assert record.retry_at is None
    assert "gave up after 3 failed attempts" in record.error


async def test_backoff_grows_with_the_attempts_and_is_bounded():
    delays = []
    for attempt in (1, 3, 30):
        model = ScriptedModel([fail(503, times=None)])
        settings = PerformerSettings(model_retries_max=100)
        delays.append((await ask(hero(), model, attempt=attempt, settings=settings)).retry_at - T0)
    assert 0.25 <= delays[0] <= 0.5
    assert 1.0 <= delays[1] <= 2.0
    assert 15.0 <= delays[2] <= 30.0


@pytest.mark.parametrize(
    ("problem", "says"),
    [(RuntimeError("boom"), "RuntimeError: boom"), (asyncio.CancelledError(), "CancelledError")],
)
async def test_a_model_that_breaks_fails_for_good(problem: BaseException, says: str, caplog: pytest.LogCaptureFixture):
    record = await ask(hero(), Spy(problem))
    assert record.retry_at is None
    assert says in record.error
    assert "model.failed" in caplog.text


async def test_a_refusal_of_the_provider_is_for_good():
    record = await ask(hero(), ScriptedModel([fail(401, times=None)]))
    assert (record.retry_at, record.error_type) == (None, "ModelAuthError")


async def test_tokens_go_to_the_feed_if_somebody_listens():
    feed = Feed("ex-1")
    feed.open(0)
    await ask(hero(), Spy(ModelReply(text="Hello.")), feed=feed)
    assert feed.read(0)["tokens"] == []  # type: ignore[index]
    feed.wants_tokens = True
    await ask(hero(), Spy(ModelReply(text="Hello.")), feed=feed)
    assert feed.read(0)["tokens"] == ["Hel"]  # type: ignore[index]


class Verdict(BaseModel):
    good: bool


async def test_typed_output_is_read_or_asked_for_again():
    agent = hero(output_type=Verdict)
    record = await ask(agent, Spy(ModelReply(text='{"good": true}')))
    assert (record.output, record.output_error) == ({"good": True}, None)
    record = await ask(agent, Spy(ModelReply(text="certainly")))
    assert record.output is None
    assert "Verdict" in record.output_error


async def test_instructions_may_be_written_anew_for_each_call():
    seen: list[InstructionsContext] = []

    async def write(context: InstructionsContext) -> str:
        seen.append(context)
        return f"You have counted to {context.state.get('n', 0)}."

    spy = Spy(ModelReply(text="Hello."))
    state = state_of([started()])
    state.shared["n"] = 7
    await performer_of(hero(instructions=write), spy).call_model(state, CallModel("", 1, 1), report)
    assert spy.requests[0].messages[0] == {"role": "system", "content": "You have counted to 7."}
    assert seen[0].execution_id == "ex-1"


async def test_instructions_that_raise_fail_the_execution_with_their_error():
    def write() -> str:
        raise LookupError("no such page")

    record = await ask(hero(instructions=write), Spy(ModelReply(text="Hello.")))
    assert (record.error, record.retry_at) == ("LookupError: no such page", None)


# --- the agent's own callables


async def test_stop_when_sees_the_turn_and_its_failure_is_on_record():
    seen: list[Any] = []

    def stop(context: Any) -> bool:
        seen.append((context.turn, context.result))
        return context.turn >= 1

    state = state_of([started(), answered(plan("c1"), text="So far.")])
    record = await performer_of(hero(stop_when=stop)).check_stop(state, CheckStop("", 1))
    assert (record.stop, record.error) == (True, None)  # type: ignore[union-attr]
    assert seen == [(1, "So far.")]

    async def broken(context: Any) -> bool:
        raise asyncio.CancelledError

    record = await performer_of(hero(stop_when=broken)).check_stop(state, CheckStop("", 1))
    assert "stop_when raised CancelledError" in str(record.error)  # type: ignore[union-attr]


class Noise(CallbackHandler):
    """Hears everything and breaks every time."""

    def __init__(self, heard: list[tuple[str, dict[str, Any]]], problem: BaseException) -> None:
        self.heard = heard
        self.problem = problem

    def _hear(self, hook: str, facts: dict[str, Any]) -> None:
        self.heard.append((hook, facts))
        raise self.problem

    def on_agent_start(self, **facts: Any) -> None:
        self._hear("on_agent_start", facts)

    async def on_agent_end(self, **facts: Any) -> None:
        self._hear("on_agent_end", facts)

    async def on_model_start(self, **facts: Any) -> None:
        self._hear("on_model_start", facts)

    def on_model_end(self, **facts: Any) -> None:
        self._hear("on_model_end", facts)

    def on_tool_start(self, **facts: Any) -> None:
        self._hear("on_tool_start", facts)

    async def on_tool_end(self, **facts: Any) -> None:
        self._hear("on_tool_end", facts)


@pytest.mark.parametrize("problem", [RuntimeError("noise"), asyncio.CancelledError()], ids=["error", "cancelled"])
async def test_callbacks_hear_of_everything_and_their_failures_are_logged_and_harmless(
    problem: BaseException, caplog: pytest.LogCaptureFixture
):
    heard: list[tuple[str, dict[str, Any]]] = []

    @tool
    async def work(x: int) -> str:
        return "ok"

    caplog.set_level(logging.ERROR)
    agent = hero(work, callbacks=[Noise(heard, problem), Noise(heard, problem)])
    performer = performer_of(agent, ScriptedModel([call("work", x=1)]))
    state = state_of([started()])
    await performer.on_start(state)
    apply(state, await performer.call_model(state, CallModel("", 1, 1), report))
    record = await performer.perform(state, CallTool("", "call_0_0", 1), report)
    assert isinstance(record, r.ToolReturned)
    apply(state, record)
    await performer.on_end(state, r.Finished(at=T0, status="COMPLETED", finish_reason="stop", output="Done."))
    hooks = [hook for hook, _ in heard]
    assert (
        hooks[::2]
        == hooks[1::2]
        == [
            "on_agent_start",
            "on_model_start",
            "on_model_end",
            "on_tool_start",
            "on_tool_end",
            "on_agent_end",
        ]
    )
    facts = dict(heard)
    assert facts["on_model_end"]["tool_calls"] == [{"name": "work", "arguments": {"x": 1}}]
    assert (facts["on_tool_end"]["result"], facts["on_tool_end"]["error"]) == ("ok", None)
    assert facts["on_agent_end"]["status"] == "COMPLETED"
    assert all(told["execution_id"] == "ex-1" for _, told in heard)
    assert caplog.text.count("callback.failed") == 12


# --- sessions


async def session() -> tuple[AgentPerformer, ExecutionState]:
    store = MemoryStore()
    new = NewExecution(
        execution_id="ex-0",
        request_id="r0",
        agent="hero",
        deployment_id="d1",
        started=r.to_plain(started()),
        created_at=T0,
    )
    await store.create(new)
    taken = await store.take_over("ex-0", host={})

    @tool(approval_required=True)
    async def refund(x: int) -> str:
        return "ok"

    agent = hero(refund)
    performer = performer_of(agent, ScriptedModel([call("refund", x=1)]), store=store)
    driver = Driver(
        execution_id="ex-0",
        epoch=taken.epoch,
        crashed=False,
        store=store,
        performer=performer,
        hibernate_after_s=0.01,
    )
    await driver.run()
    return performer, state_of([started(session_id="chat", session_from="ex-0")])


async def test_a_conversation_that_ended_with_an_open_call_is_continued_without_it():
    """P7: a run that was stopped while a person was asked is COMPLETED, so the session goes on from it."""
    performer, state = await session()
    record = await performer.load_session(state, LoadSession("ex-0"))
    assert isinstance(record, r.SessionLoaded)
    assert [message["role"] for message in record.messages] == ["user", "assistant", "tool"]
    assert "not finished" in record.messages[-1]["content"]


async def test_a_conversation_that_is_lost_does_not_lose_the_new_prompt(caplog: pytest.LogCaptureFixture):
    record = await performer_of(hero()).load_session(state_of([started()]), LoadSession("ex-99"))
    assert record.messages == []  # type: ignore[union-attr]
    assert "session.lost" in caplog.text


async def test_an_attempt_lost_in_a_crash_takes_no_retry_away():
    @tool(retry_count=1, retry_delay_seconds=3, retry_policy="fixed")
    async def fails(x: int) -> str:
        raise ValueError("no")

    state = state_of([started(), answered(plan("c1", "fails"))])
    performer = performer_of(hero(fails))
    assert (await performer.perform(state, CallTool("", "c1", 5), report)).retry_at == T0 + 3
    state.root.calls[0].failures = 1
    assert (await performer.perform(state, CallTool("", "c1", 6), report)).retry_at is None


async def test_a_result_too_deep_to_store_is_told_to_the_model_and_not_tried_again():
    @tool
    async def deep(x: int) -> list[Any]:
        value: list[Any] = []
        for _ in range(240):
            value = [value]
        return value

    record = await perform(deep)
    assert record.retry_at is None
    assert "cannot be recorded" in record.error


async def test_stop_when_may_take_its_facts_apart():
    seen: list[Any] = []

    def enough(result: str, iteration: int, messages: list[Any]) -> bool:
        seen.append((iteration, len(messages)))
        return True

    @tool
    async def work(x: int) -> int:
        return x

    agent = hero(work, stop_when=enough)
    state = state_of([started(), answered(plan("c1", "work"))])
    state.root.calls = []
    record = await performer_of(agent).check_stop(state, CheckStop("", 1))
    assert (record.stop, record.error) == (True, None)
    assert seen == [(1, len(state.root.messages))]
