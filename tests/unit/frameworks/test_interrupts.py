"""What people do with a graph that asks: through the handle, on the real driver, performer, saver and store."""

from __future__ import annotations

import asyncio
import inspect
import operator
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from pydantic import BaseModel, field_validator

from agentspan.actors.offline import StoreConnection
from agentspan.agents.frameworks.langgraph import human_task
from agentspan.config import Settings
from agentspan.errors import (
    AmbiguousDecisionError,
    DecisionMismatchError,
    ExecutionFinishedError,
    InvalidDecisionError,
    UnknownCallError,
)
from agentspan.handle import AgentHandle
from agentspan.persistence.memory import MemoryStore
from agentspan.persistence.store import Store
from agentspan.runtime import AgentRuntime
from tests.support.graph_lives import GraphLife, graph_loop, started

with_schemas = pytest.mark.skipif(
    "response_schema" not in inspect.signature(interrupt).parameters, reason="this langgraph asks without a schema"
)
HAS_MODES = "interrupt_mode" in inspect.signature(HumanInTheLoopMiddleware).parameters


class State(TypedDict, total=False):
    topic: str
    log: Annotated[list[Any], operator.add]


class Play:
    """An execution of a graph, and the handle of somebody who steers it."""

    def __init__(self, life: GraphLife, home: Path) -> None:
        self.life = life

        async def opening(url: str) -> Store:
            return life.store

        runtime = AgentRuntime.offline(Settings(home=home))
        runtime._connection = StoreConnection(runtime.settings, opening=opening)
        self.handle = AgentHandle(life.execution_id, runtime)

    async def waits(self) -> list[Any]:
        """Live on until it waits; what for."""
        outcome = await self.life.live()
        assert outcome.status == "WAITING", (outcome, (await self.life.state()).error)
        return (await self.handle.get_status_async()).pending

    async def ends(self) -> Any:
        """Live on until it ends; what `invoke` would have returned."""
        outcome = await self.life.live()
        assert outcome.ended == "finished", outcome
        return await self.life.result()

    async def refuses(self, says: str, answer: Any, error: type[Exception] = InvalidDecisionError) -> None:
        """The answer is refused, and nothing of it is stored."""
        before = [waits.call_id for waits in (await self.handle.get_status_async()).pending]
        with pytest.raises(error, match=says):
            await answer
        assert [waits.call_id for waits in (await self.handle.get_status_async()).pending] == before
        assert await self.life.store.inbox(self.life.execution_id) == []


async def until(found: Callable[[], Awaitable[Any]], wanted: Any) -> None:
    """Wait until a question to the store has this answer."""
    while await found() != wanted:  # noqa: ASYNC110 - the store tells nobody.
        await asyncio.sleep(0)


Plays = Callable[..., Any]


@pytest.fixture
async def play(tmp_path: Path) -> AsyncIterator[Plays]:
    """Accepts an execution of an app."""
    async with graph_loop() as loop:

        async def accept(app: Any, given: Any = None, **call: Any) -> Play:
            return Play(await started(app, given or {"topic": "x"}, MemoryStore(), loop, **call), tmp_path)

        yield accept


def graph(*nodes: Any, then: Sequence[Any] = (), schema: Any = State, **compiled: Any) -> Any:
    """Nodes side by side, and one after another what comes `then`."""
    builder = StateGraph(schema)
    for node in (*nodes, *then):
        builder.add_node(node.__name__, node)
    for node in nodes:
        builder.add_edge(START, node.__name__)
    before: Any = [node.__name__ for node in nodes]
    for node in then:
        builder.add_edge(before, node.__name__)
        before = node.__name__
    return builder.compile(**compiled)


def asking(name: str, question: Any, **options: Any) -> Any:
    def node(state: State) -> dict[str, Any]:
        return {"log": [(name, interrupt(question, **options))]}

    node.__name__ = name
    return node


# --- plain interrupts


@pytest.mark.parametrize("value", [None, False, 0, "", {}, [], "yes", {"approved": True}, {"a": [1, 2.5]}])
async def test_an_answer_is_what_interrupt_returns_also_an_empty_one(play: Plays, value: Any):
    one = await play(graph(asking("ask", "Well?")))
    (waits,) = await one.waits()
    assert (waits.kind, waits.tool_name, waits.question) == ("interrupt", "ask", "Well?")
    assert waits.verdicts == ("respond", "approve", "reject")
    await one.handle.respond_async(value)
    ((_, answer),) = (await one.ends())["log"]
    assert answer == value
    assert type(answer) is type(value)


@pytest.mark.parametrize(
    ("verdict", "answer"),
    [
        (lambda handle: handle.approve_async(), True),
        (lambda handle: handle.reject_async("no"), False),
        (lambda handle: handle.approve_async(arguments={"draft": "b"}), {"draft": "b"}),
    ],
)
async def test_a_verdict_on_a_plain_question_is_yes_no_or_the_edited_value(play: Plays, verdict: Any, answer: Any):
    one = await play(graph(asking("ask", {"question": "Send it?", "draft": "a"})))
    (waits,) = await one.waits()
    assert (waits.question, waits.arguments) == ("Send it?", {"question": "Send it?", "draft": "a"})
    await verdict(one.handle)
    assert (await one.ends())["log"] == [("ask", answer)]


async def test_several_questions_are_answered_one_by_one_and_the_last_answer_lets_it_go_on(play: Plays):
    names = ["one", "two", "three"]
    one = await play(graph(*(asking(name, f"{name}?") for name in names)))
    waits = {waits.tool_name: waits.call_id for waits in await one.waits()}
    assert sorted(waits) == sorted(names)
    await one.refuses("3 calls .* wait", one.life.send("respond", value="which?"), AmbiguousDecisionError)
    await one.handle.respond_async("second", waits["two"])
    assert {left.tool_name for left in await one.waits()} == {"one", "three"}
    await one.handle.respond_async("again", waits["two"])  # The first answer stands.
    await one.handle.respond_async("first", waits["one"])
    await one.handle.respond_async("third", waits["three"])
    assert sorted((await one.ends())["log"]) == [("one", "first"), ("three", "third"), ("two", "second")]
    kinds = [record.KIND for record in await one.life.records()]
    assert kinds.count("graph_waits") == 1


async def test_without_naming_it_an_answer_goes_to_the_call_that_was_shown_first(play: Plays):
    one = await play(graph(asking("one", "1?"), asking("two", "2?")))
    shown = [waits.tool_name for waits in await one.waits()]
    await one.handle.respond_async("a")
    await one.handle.respond_async("b")
    assert dict((await one.ends())["log"]) == dict(zip(shown, "ab", strict=True))


async def test_answers_nobody_asked_for_are_refused(play: Plays):
    one = await play(graph(asking("ask", "Well?")))
    (waits,) = await one.waits()
    await one.refuses("no-such-call", one.handle.respond_async("x", "no-such-call"), UnknownCallError)
    stale = one.life.send("respond", value="x", call_id=waits.call_id, arguments_hash="stale")
    await one.refuses("stale", stale, DecisionMismatchError)
    await one.handle.respond_async("x")
    await one.ends()
    with pytest.raises(ExecutionFinishedError):
        await AgentHandle(one.life.execution_id, one.handle.runtime).respond_async("late", "no-such-call")


async def test_a_node_that_asks_twice_asks_one_after_the_other(play: Plays):
    async def ask(state: State) -> dict[str, Any]:
        return {"log": [interrupt("First?"), interrupt("Second?")]}

    one = await play(graph(ask))
    (first,) = await one.waits()
    await one.handle.respond_async(1)
    (second,) = await one.waits()
    assert (first.question, second.question) == ("First?", "Second?")
    await one.handle.respond_async(2)
    assert (await one.ends())["log"] == [1, 2]


# --- schemas


class Score(BaseModel):
    score: int
    why: str = ""

    @field_validator("score")
    @classmethod
    def even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("an odd score")
        return value


@with_schemas
async def test_an_answer_that_does_not_fit_the_schema_is_refused_before_it_is_stored(play: Plays):
    schema = {"type": "object", "properties": {"color": {"enum": ["red", "blue"]}}, "required": ["color"]}
    one = await play(graph(asking("ask", "Which?", response_schema=schema)))
    (waits,) = await one.waits()
    assert waits.response_schema == schema
    await one.refuses(r"at \$.color: 'green' is not one of", one.handle.respond_async({"color": "green"}))
    await one.refuses("'red' is not of type 'object'", one.handle.respond_async("red"))
    await one.refuses("Its node wants another kind of answer: use respond", one.handle.approve_async())
    await one.handle.respond_async({"color": "red"})
    assert (await one.ends())["log"] == [("ask", {"color": "red"})]


@with_schemas
async def test_a_verdict_fits_a_schema_that_asks_for_approval(play: Plays):
    class Verdict(BaseModel):
        approved: bool
        reason: str = ""

    one = await play(graph(asking("ask", "Ship?", response_schema=Verdict)), types=[Verdict])
    (waits,) = await one.waits()
    assert waits.verdicts == ("approve", "reject", "respond")
    await one.handle.reject_async("not yet")
    assert (await one.ends())["log"] == [("ask", Verdict(approved=False, reason="not yet"))]


@with_schemas
async def test_an_answer_that_only_the_graph_can_refuse_is_asked_for_again(play: Plays):
    one = await play(graph(asking("ask", "Score?", response_schema=Score)), types=[Score])
    (first,) = await one.waits()
    await one.refuses("'two' is not of type 'integer'", one.handle.respond_async({"score": "two"}))
    await one.handle.respond_async({"score": 3})
    (again,) = await one.waits()
    assert (again.call_id, again.tool_name) == (first.call_id, "ask")
    assert again.question.startswith("Score?\nThe last answer was refused: 1 validation error for Score")
    assert "an odd score" in again.question
    assert "https:" not in again.question
    await one.handle.respond_async({"score": 4})
    assert (await one.ends())["log"] == [("ask", Score(score=4))]


@with_schemas
async def test_a_refused_answer_does_not_take_the_other_ones_away(play: Plays):
    nodes = [asking(name, f"{name}?", response_schema=Score) for name in ("one", "two")]
    one = await play(graph(*nodes), types=[Score])
    waits = {waits.tool_name: waits.call_id for waits in await one.waits()}
    await one.handle.respond_async({"score": 2}, waits["one"])
    await one.handle.respond_async({"score": 3}, waits["two"])
    left = {waits.tool_name: waits.call_id for waits in await one.waits()}
    assert "two" in left
    for call_id in left.values():
        await one.handle.respond_async({"score": 8}, call_id)
    answers = dict((await one.ends())["log"])
    assert answers["two"] == Score(score=8)
    assert answers["one"] == Score(score=8 if "one" in left else 2)


# --- sub-graphs


class Log(TypedDict, total=False):
    log: Annotated[list[Any], operator.add]


def nested(**compiled: Any) -> Any:
    return graph(asking("inner", "Inside?"), schema=Log, **compiled)


async def test_a_question_of_a_subgraph_names_the_node_that_asks(play: Plays):
    middle = StateGraph(Log)
    middle.add_node("deep", nested())
    middle.add_edge(START, "deep")
    kept, called = nested(checkpointer=True), nested()

    def call(state: State) -> Any:
        return called.invoke({"log": []})

    builder = StateGraph(State)
    for name, node in {"outer": middle.compile(), "kept": kept, "call": call, "plain": asking("p", "Here?")}.items():
        builder.add_node(name, node)
        builder.add_edge(START, name)
    one = await play(builder.compile())
    waits = await one.waits()
    assert sorted(waits.tool_name for waits in waits) == ["inner", "inner", "inner", "plain"]
    for number, each in enumerate(waits):
        await one.handle.respond_async(number, each.call_id)
    assert sorted(number for _, number in (await one.ends())["log"]) == [0, 1, 2, 3]


# --- human_task


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (lambda handle: handle.approve_async(), {"approved": True}),
        (lambda handle: handle.reject_async(), {"approved": False}),
        (lambda handle: handle.respond_async({"approved": True, "verdict": "good"}), {"approved": True, "verdict": "good"}),
        (lambda handle: handle.respond_async("good"), {"response": "good"}),
    ],
)  # fmt: skip
async def test_a_human_task_is_done_by_a_persons_answer(play: Plays, answer: Any, state: Any):
    class Review(TypedDict, total=False):
        topic: str
        verdict: str
        approved: bool
        response: str

    @human_task(prompt="Review the draft.")
    def review(state: Review) -> None:
        """By hand."""

    one = await play(graph(review, schema=Review))
    (waits,) = await one.waits()
    assert (waits.tool_name, waits.question) == ("review", "Review the draft.")
    await answer(one.handle)
    assert await one.ends() == {"topic": "x", **state}


# --- breakpoints


@pytest.mark.parametrize("approval", [lambda h: h.approve_async(), lambda h: h.respond_async({"approved": True})])
async def test_a_breakpoint_is_approved_and_nothing_else(play: Plays, approval: Any):
    one = await play(graph(asking("ask", "Well?"), interrupt_before=["ask"]))
    (waits,) = await one.waits()
    assert (waits.kind, waits.verdicts) == ("breakpoint", ("approve",))
    assert waits.question == "The graph stopped before ask. Approve to go on."
    for wrong in (
        one.handle.reject_async("no"),
        one.handle.respond_async("go"),
        one.handle.respond_async({"approved": False}),
        one.handle.approve_async(arguments={"before": []}),
    ):
        await one.refuses("it is a breakpoint: approve it to go on, or cancel the execution", wrong)
    await approval(one.handle)
    (asked,) = await one.waits()
    assert asked.kind == "interrupt"
    await one.handle.respond_async("fine")
    assert (await one.ends())["log"] == [("ask", "fine")]


# --- tool calls of langchain's agents


class Chat(BaseChatModel):
    """Asks for calls first, then says how they went."""

    wanted: list[dict[str, Any]]

    @property
    def _llm_type(self) -> str:
        return "chat"

    def bind_tools(self, tools: Sequence[Any], **options: Any) -> Any:
        return self

    def _generate(self, messages: list[BaseMessage], *args: Any, **options: Any) -> ChatResult:
        results = [message for message in messages if isinstance(message, ToolMessage)]
        answer = AIMessage("", tool_calls=self.wanted)
        if results:
            answer = AIMessage(f"{len(results)} done")
        return ChatResult(generations=[ChatGeneration(message=answer)])


def wants(name: str, number: int = 1, **arguments: Any) -> dict[str, Any]:
    return {"name": name, "args": arguments, "id": f"call_{number}", "type": "tool_call"}


paid: list[int] = []


@tool
def pay(cents: int, to: str = "ada") -> str:
    """Pay somebody."""
    paid.append(cents)
    return f"paid {cents} to {to}"


@tool
def ask_user(question: str) -> str:
    """Ask the user."""
    raise AssertionError("a person answers in its stead")


def agent(*wanted: dict[str, Any], mode: Any, **interrupt_on: Any) -> Any:
    paid.clear()
    on: dict[str, Any] = {"pay": True, "ask_user": {"allowed_decisions": ["respond"]}, **interrupt_on}
    return create_agent(
        Chat(wanted=list(wanted)),
        [pay, ask_user],
        middleware=[HumanInTheLoopMiddleware(interrupt_on=on, **({"interrupt_mode": mode} if HAS_MODES else {}))],
    )


def results(state: dict[str, Any]) -> list[str]:
    return [message.content for message in state["messages"] if isinstance(message, ToolMessage)]


with_modes = pytest.mark.skipif(not HAS_MODES, reason="this langchain asks about all calls at once")
MODES = pytest.mark.parametrize("mode", ["batched", pytest.param("per_call", marks=with_modes)])


@MODES
@pytest.mark.parametrize(
    ("answer", "found", "paid_then"),
    [
        (lambda h: h.approve_async(), "paid 7 to ada", [7]),
        (lambda h: h.respond_async({"approved": True}), "paid 7 to ada", [7]),
        (lambda h: h.approve_async(arguments={"cents": 5}), "paid 5 to ada", [5]),
        (lambda h: h.respond_async({"type": "approve"}), "paid 7 to ada", [7]),
        (lambda h: h.reject_async("too much"), "too much", []),
        (lambda h: h.reject_async(), "rejected", []),
        (lambda h: h.respond_async({"approved": False, "reason": "too much"}), "too much", []),
        (lambda h: h.respond_async("paid in cash"), "paid in cash", []),
        (lambda h: h.respond_async({"receipt": 3}), '{"receipt": 3}', []),
    ],
)
async def test_a_person_decides_on_one_tool_call(play: Plays, mode: Any, answer: Any, found: str, paid_then: Any):
    one = await play(agent(wants("pay", cents=7), mode=mode), "Pay.")
    (waits,) = await one.waits()
    assert (waits.kind, waits.tool_name, waits.arguments) == ("interrupt", "pay", {"cents": 7})
    assert waits.verdicts == ("approve", "reject", "respond")
    assert waits.question == ""
    assert paid == []
    await answer(one.handle)
    state = await one.ends()
    assert found in results(state)[0]
    assert state["messages"][-1].content == "1 done"
    assert paid == paid_then


@MODES
async def test_decisions_a_tool_does_not_allow_and_edits_it_cannot_take_are_refused(play: Plays, mode: Any):
    app = agent(wants("pay", cents=7), mode=mode, pay={"allowed_decisions": ["approve", "edit"], "description": "Pay?"})
    one = await play(app, "Pay.")
    (waits,) = await one.waits()
    assert (waits.question, waits.verdicts) == ("Pay?", ("approve",))
    await one.refuses("'reject' is not allowed for 'pay'; allowed: approve, edit", one.handle.reject_async("no"))
    await one.refuses("'respond' is not allowed for 'pay'", one.handle.respond_async("done"))
    await one.refuses("'maybe' is not allowed", one.handle.respond_async({"type": "maybe"}))
    await one.refuses("an edit needs 'edited_action'", one.handle.respond_async({"type": "edit"}))
    if mode == "per_call":  # Only there the middleware says what the tool takes.
        wrong = one.handle.approve_async(arguments={"cents": "five"})
        await one.refuses(r"the arguments at \$.cents: 'five' is not of type 'integer'", wrong)
        other = {"type": "edit", "edited_action": {"name": "ask_user", "args": {}}}
        await one.refuses("the answer", one.handle.respond_async(other))
    await one.handle.approve_async()
    assert results(await one.ends()) == ["paid 7 to ada"]


async def test_several_calls_in_one_question_are_decided_together(play: Plays):
    wanted = (wants("pay", 1, cents=1), wants("pay", 2, cents=2), wants("ask_user", 3, question="Who?"))
    one = await play(agent(*wanted, mode="batched"), "Pay.")
    (waits,) = await one.waits()
    assert waits.question == "3 calls wait: pay, pay, ask_user"
    assert waits.verdicts == ("respond",)
    assert [request["args"] for request in waits.arguments["action_requests"]] == [call["args"] for call in wanted]
    await one.refuses(r"decision 2 \(ask_user\): 'approve' is not allowed", one.handle.approve_async())
    await one.refuses("3 calls at once", one.handle.approve_async(arguments={"cents": 3}))
    approve, reject = {"type": "approve"}, {"type": "reject", "message": "no"}
    await one.refuses("3 decisions", one.handle.respond_async({"decisions": [approve, reject]}))
    answer = {"type": "respond", "message": "Ada."}
    await one.handle.respond_async({"decisions": [approve, reject, answer]})
    state = await one.ends()
    assert {"paid 1 to ada", "Ada."} < set(results(state))
    assert paid == [1]


async def test_all_of_several_calls_can_be_approved_at_once(play: Plays):
    one = await play(agent(wants("pay", 1, cents=1), wants("pay", 2, cents=2), mode="batched"), "Pay.")
    (waits,) = await one.waits()
    assert waits.verdicts == ("approve", "reject", "respond")
    await one.handle.approve_async()
    assert sorted(results(await one.ends())) == ["paid 1 to ada", "paid 2 to ada"]


@with_modes
async def test_calls_that_are_asked_about_one_by_one_wait_for_each_other(play: Plays):
    one = await play(agent(wants("pay", 1, cents=1), wants("ask_user", 2, question="Who?"), mode="per_call"), "Pay.")
    waits = {waits.tool_name: waits for waits in await one.waits()}
    assert {name: waits.arguments for name, waits in waits.items()} == {
        "pay": {"cents": 1},
        "ask_user": {"question": "Who?"},
    }
    await one.handle.respond_async("Ada.", waits["ask_user"].call_id)
    assert [left.tool_name for left in await one.waits()] == ["pay"]
    assert paid == []
    await one.handle.approve_async(waits["pay"].call_id)
    assert sorted(results(await one.ends())) == ["Ada.", "paid 1 to ada"]


# --- crashes and sleep


async def test_what_is_asked_survives_hibernation_and_crashes(play: Plays):
    one = await play(graph(asking("ask", "Well?"), asking("other", "And?")))
    before = await one.waits()
    await one.handle.respond_async("well", next(waits.call_id for waits in before if waits.tool_name == "ask"))
    one.life.begin(hibernate_after_s=60)
    await until(lambda: one.life.store.inbox(one.life.execution_id), [])
    await one.life.die()
    (left,) = await one.waits()
    assert [left] == [waits for waits in before if waits.tool_name == "other"]
    await one.handle.respond_async("and")
    assert sorted((await one.ends())["log"]) == [("ask", "well"), ("other", "and")]


class DiesAsking(MemoryStore):
    """The process dies when it is about to record that the graph waits."""

    armed = True

    async def commit(self, commit: Any) -> Any:
        if self.armed and any(entry.kind == "graph_waits" for entry in commit.entries):
            type(self).armed = False
            raise asyncio.CancelledError
        return await super().commit(commit)


async def test_a_crash_between_the_interrupt_and_its_record_asks_without_running_the_node_again(tmp_path: Path):
    runs = []

    def ask(state: State) -> dict[str, Any]:
        runs.append("ask")
        return {"log": [interrupt("Well?")]}

    async with graph_loop() as loop:
        one = Play(await started(graph(ask), {"topic": "x"}, DiesAsking(), loop), tmp_path)
        with pytest.raises(asyncio.CancelledError):
            await one.life.live()
        assert (await one.handle.get_status_async()).pending == []
        (waits,) = await one.waits()
        assert (waits.tool_name, runs) == ("ask", ["ask"])
        await one.handle.respond_async("well")
        assert (await one.ends())["log"] == ["well"]
        assert runs == ["ask", "ask"]


async def test_a_crash_after_the_answer_goes_on_with_the_answer(play: Plays):
    entered, hold = asyncio.Event(), True
    main = asyncio.get_running_loop()

    async def ask(state: State) -> dict[str, Any]:
        answer = interrupt("Well?")
        if hold:
            main.call_soon_threadsafe(entered.set)
            await asyncio.Event().wait()
        return {"log": [answer]}

    one = await play(graph(ask))
    await one.waits()
    await one.handle.respond_async("")
    one.life.begin()
    await entered.wait()
    await one.life.die()
    hold = False
    assert (await one.ends())["log"] == [""]


# --- holds


async def test_pause_and_resume_in_one_life_go_on_with_the_same_run(play: Plays):
    gate, entered = threading.Event(), asyncio.Event()
    main = asyncio.get_running_loop()

    def held(state: State) -> dict[str, Any]:
        main.call_soon_threadsafe(entered.set)
        assert gate.wait(10)
        return {"log": ["held"]}

    async def after(state: State) -> dict[str, Any]:
        return {"log": ["after"]}

    one = await play(graph(held, then=[after]))
    run = one.life.begin(hibernate_after_s=60)
    await entered.wait()
    await one.life.send("pause")
    await until(lambda: is_paused(one.life), True)
    gate.set()
    await until(lambda: helds(one.life), 1)
    await one.life.send("resume")
    assert (await run).ended == "finished"
    assert (await one.life.result())["log"] == ["held", "after"]
    assert await helds(one.life) == 1


async def is_paused(life: GraphLife) -> bool:
    return (await life.state()).paused


async def helds(life: GraphLife) -> int:
    return [record.KIND for record in await life.records()].count("graph_held")
