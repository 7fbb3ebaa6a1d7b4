"""Every way to run a LangGraph app that its users have, on a real server: they change one call and nothing else."""

from __future__ import annotations

import enum
import operator
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import MemorySaver
from langgraph.config import get_stream_writer
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.runtime import Runtime
from langgraph.store.memory import InMemoryStore
from langgraph.types import CachePolicy, Command, RetryPolicy, Send, interrupt
from pydantic import BaseModel

from agentspan.agents import AgentHandle, AgentRuntime
from agentspan.errors import AgentNotFoundError, ConfigurationError, InvalidPromptError, UnheardSignalError


class State(TypedDict, total=False):
    topic: str
    log: Annotated[list, operator.add]
    n: int


class Region(TypedDict, total=False):
    name: str


def line(*nodes: Callable[..., Any], schema: Any = State, context: Any = None, **compiled: Any) -> Any:
    builder = StateGraph(schema, context_schema=context)
    names = [node.__name__ for node in nodes]
    for node in nodes:
        builder.add_node(node.__name__, node)
    for before, after in zip((START, *names), (*names, END), strict=True):
        builder.add_edge(before, after)
    return builder.compile(**compiled)


def first(state: State) -> dict[str, Any]:
    return {"log": ["first"]}


def second(state: State) -> dict[str, Any]:
    return {"log": [f"second: {state['topic']}"]}


app = line(first, second)
GIVEN = {"topic": "t"}


@task
def double(number: int) -> int:
    return 2 * number


@entrypoint()
def flow(count: int) -> int:
    return sum(future.result() for future in [double(number) for number in range(count)])


@entrypoint(checkpointer=MemorySaver())
def counting(number: int, *, previous: int | None = None) -> Any:
    return entrypoint.final(value=number + (previous or 0), save=number + (previous or 0))


def waiting(handle: AgentHandle) -> list[Any]:
    """What it asks, once it does."""
    next(event for event in handle.stream() if event.type == "waiting")
    return list(handle.get_status().pending)


# --- what is run, and what with


@pytest.mark.parametrize("given", [GIVEN, "t", {"topic": "t", "log": ["before"]}], ids=["dict", "text", "both"])
def test_run_returns_what_invoke_returns(runtime: AgentRuntime, given: Any) -> None:
    result = runtime.run(app, given)
    assert result.state == app.invoke(GIVEN if given == "t" else given)
    assert result.output == result.state


def test_a_command_says_where_to_begin(runtime: AgentRuntime) -> None:
    command: Command[Any] = Command(update={"topic": "u"}, goto="second")
    assert "second: u" in runtime.run(app, command).state["log"]


def test_an_entrypoint_takes_its_argument_and_returns_its_value(runtime: AgentRuntime) -> None:
    result = runtime.run(flow, 4)
    assert (result.state, result.output) == (flow.invoke(4), 12)
    with pytest.raises(InvalidPromptError, match="an int"):
        runtime.run(flow, "four")


def test_what_fits_nothing_names_the_fields_and_starts_nothing(runtime: AgentRuntime) -> None:
    runtime.run(app, GIVEN)
    before = len(runtime.executions(agent="app"))
    for wrong, words in [
        ({"topik": 1}, r"did you mean 'topic'"),
        (5, r"topic \(str\), log \(list\), n \(int\)"),
        (None, "topic"),
    ]:
        with pytest.raises(InvalidPromptError, match=words):
            runtime.run(app, wrong)
    assert len(runtime.executions(agent="app")) == before


def test_bindings_keep_what_is_bound(runtime: AgentRuntime) -> None:
    def where(state: State, runtime: Runtime[Region]) -> dict[str, Any]:
        return {"log": [dict(runtime.context)]}

    bare = line(where, context=Region)
    bound = bare.bind(context={"name": "bound"})
    assert runtime.run(bound, "t").state == bound.invoke(GIVEN)
    assert runtime.run(bound, "t", context={"name": "run"}).state["log"] == [{"name": "run"}]
    assert runtime.run(bare.with_types(), "t", context={"name": "run"}).state["log"] == [{"name": "run"}]


def test_two_unnamed_graphs_do_not_collide(runtime: AgentRuntime) -> None:
    graphs = [line(node) for node in (first, lambda_named("first", "other"))]
    names = [deployed.registered_name for deployed in runtime.deploy(*graphs)]
    assert len(set(names)) == 2
    assert [runtime.run(graph, "t").state["log"] for graph in graphs] == [["first"], ["other"]]
    assert [runtime.run(name, "t").state["log"] for name in names] == [["first"], ["other"]]


def lambda_named(name: str, logged: str) -> Any:
    def node(state: State) -> dict[str, Any]:
        return {"log": [logged]}

    node.__name__ = name
    return node


class Caller(GenericFakeChatModel):
    """Calls the tool once, and repeats what it said."""

    def bind_tools(self, tools: Any, **more: Any) -> Any:
        return self

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **more: Any) -> Any:
        from langchain_core.outputs import ChatGeneration, ChatResult

        said = next((message.content for message in messages if isinstance(message, ToolMessage)), None)
        call = {"name": "weather", "args": {"city": "Oslo"}, "id": "c1"}
        answer = AIMessage(f"It is {said}") if said else AIMessage("", tool_calls=[call])
        return ChatResult(generations=[ChatGeneration(message=answer)])


def weather(city: str) -> str:
    """Tell the weather."""
    return f"sunny in {city}"


def agents() -> list[Any]:
    from langchain.agents import create_agent
    from langgraph.prebuilt import create_react_agent

    model = Caller(messages=iter(()))
    return [create_agent(model, [weather]), create_react_agent(model, [weather])]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("which", [0, 1], ids=["create_agent", "create_react_agent"])
def test_agents_answer_and_tell_their_calls_once(runtime: AgentRuntime, which: int) -> None:
    agent = agents()[which]
    stream = runtime.stream(agent, "weather?")
    told = [(str(event.type), event.tool_name or event.content) for event in stream]
    told = [(kind, what) for kind, what in told if kind in ("tool_call", "tool_result", "message")]
    assert told == [("tool_call", "weather"), ("tool_result", "weather"), ("message", "It is sunny in Oslo")]
    result = stream.result
    assert result.output == "It is sunny in Oslo"
    assert [message["role"] for message in result.messages] == ["user", "assistant", "tool", "assistant"]
    bare = agent.invoke({"messages": [HumanMessage("weather?")]})
    assert [message.content for message in result.state["messages"]] == [m.content for m in bare["messages"]]


async def test_the_async_twins(server: Any) -> None:
    async with AgentRuntime(home=server.home) as runtime:
        (deployed,) = await runtime.deploy_async(app)
        assert deployed.registered_name == "app"
        await runtime.serve_async(app, blocking=False)
        assert (await runtime.run_async(app, GIVEN)).state == app.invoke(GIVEN)
        assert (await (await runtime.start_async(app, "t"))).state == app.invoke(GIVEN)
        events = [str(event.type) async for event in await runtime.stream_async(app, "t")]
        assert (events[0], events[-1], events.count("node_end")) == ("started", "done", 2)


# --- the user's own policies


def test_config_reaches_the_nodes(runtime: AgentRuntime) -> None:
    def see(state: State, config: RunnableConfig) -> dict[str, Any]:
        seen = {name: config["metadata"].get(name) for name in ("author", "bound")}
        return {"log": [config["tags"], seen, config["configurable"]["colour"], config["configurable"]["thread_id"]]}

    given: Any = {"tags": ["mine"], "metadata": {"author": "kim"}, "configurable": {"colour": "red"}}
    graph = line(see).with_config(metadata={"bound": 1})
    result = runtime.run(graph, "t", config=given)
    assert result.state["log"] == [["mine"], {"author": "kim", "bound": 1}, "red", result.execution_id]
    assert runtime.run(graph, "t", config=given, session_id="talk").state["log"][-1] == "talk"
    for wrong in (
        {"recursion_limit": 0},
        {"callbacks": [print]},
        {"configurable": {"checkpoint_id": "x"}},
        {"colour": 1},
    ):
        with pytest.raises(ConfigurationError):
            runtime.run(graph, "t", config=wrong)


def test_the_recursion_limit_fails_with_langgraphs_words(runtime: AgentRuntime) -> None:
    builder = StateGraph(State)
    builder.add_node("again", first)
    builder.add_edge(START, "again")
    builder.add_conditional_edges("again", lambda _: "again", ["again", END])
    result = runtime.run(builder.compile(), "t", config={"recursion_limit": 5})
    assert result.status.value == "FAILED"
    assert "GraphRecursionError: Recursion limit of 5" in str(result.error)


def test_retry_and_cache_policies_are_the_graphs(runtime: AgentRuntime) -> None:
    tries: list[int] = []
    worked: list[str] = []

    def flaky(state: State) -> dict[str, Any]:
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionError("not yet")
        return {"log": [len(tries)]}

    def work(state: Any) -> dict[str, Any]:
        worked.append(state["topic"])
        return {"log": [len(worked)]}

    class In(TypedDict):
        topic: str

    builder = StateGraph(State)
    builder.add_node("flaky", flaky, retry_policy=RetryPolicy(max_attempts=3, initial_interval=0.01, jitter=False))
    builder.add_node("work", work, input_schema=In, cache_policy=CachePolicy())
    builder.add_node("count", lambda state: {"n": state.get("n", 0) + 1})
    builder.add_edge(START, "flaky")
    builder.add_edge("flaky", "work")
    builder.add_edge("work", "count")
    builder.add_conditional_edges("count", lambda state: "work" if state["n"] < 3 else END, ["work", END])
    with pytest.warns(UserWarning, match="InMemoryCache"):
        result = runtime.run(builder.compile(cache=InMemoryCache()), "t")
    assert result.is_success, result.error
    assert result.state["log"] == [3, 1, 1, 1], "tried three times, and worked once for three visits"


def test_a_store_in_memory_works_and_its_limits_are_said_once(runtime: AgentRuntime) -> None:
    def put(state: State, runtime: Runtime[Any]) -> dict[str, Any]:
        assert runtime.store is not None
        runtime.store.put(("notes",), "topic", {"is": state["topic"]})
        return {}

    def get(state: State, runtime: Runtime[Any]) -> dict[str, Any]:
        assert runtime.store is not None
        found = runtime.store.get(("notes",), "topic")
        return {"log": [found.value if found else None]}

    graph = line(put, get, store=InMemoryStore())
    with pytest.warns(UserWarning, match="InMemoryStore"):
        assert runtime.run(graph, "t").state["log"] == [{"is": "t"}]
    assert runtime.run(graph, "u").state["log"] == [{"is": "u"}]  # A second warning would be an error.


def test_sessions_go_on_also_with_a_saver_in_memory(runtime: AgentRuntime) -> None:
    model = GenericFakeChatModel(messages=iter([AIMessage("hello")] * 9))

    def chat(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"])]}

    graph = line(chat, schema=MessagesState, checkpointer=MemorySaver())
    assert len(runtime.run(graph, "one", session_id="s").state["messages"]) == 2
    second = runtime.run(graph, "two", config={"configurable": {"thread_id": "s"}})
    assert [message["content"] for message in second.messages] == ["one", "hello", "two", "hello"]
    assert [runtime.run(counting, number, session_id="sum").state for number in (1, 2, 3)] == [1, 3, 6]


# --- questions, streams, types, time travel


def test_several_questions_are_answered_one_by_one(runtime: AgentRuntime) -> None:
    def ask(state: State) -> dict[str, Any]:
        return {"log": [(state["topic"], interrupt(f"{state['topic']}?"))]}

    builder = StateGraph(State)
    builder.add_node("ask", ask)
    builder.add_conditional_edges(START, lambda _: [Send("ask", {"topic": topic}) for topic in "pqr"], ["ask"])
    handle = runtime.start(builder.compile(), "t")
    asked = waiting(handle)
    assert sorted(pending.question for pending in asked) == ["p?", "q?", "r?"]
    for pending in asked:
        handle.respond(pending.question.upper(), pending.call_id)
    assert handle.join(30).state["log"] == [("p", "P?"), ("q", "Q?"), ("r", "R?")]


class Mute(GenericFakeChatModel):
    """Cannot stream."""

    def _stream(self, *args: Any, **more: Any) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("kind", "wanted", "tokens"),
    [(GenericFakeChatModel, True, ["two", " ", "words"]), (GenericFakeChatModel, False, []), (Mute, True, [])],
)
def test_tokens_are_for_those_who_ask_and_can(
    runtime: AgentRuntime, kind: Any, wanted: bool, tokens: list[str], tmp_path: Path
) -> None:
    model = kind(messages=iter([AIMessage("two words")] * 9))
    heard = tmp_path / "heard"

    def chat(state: MessagesState) -> dict[str, Any]:
        answer = model.invoke(state["messages"])
        while not heard.exists():  # Once the answer is on record, it takes the place of its tokens.
            time.sleep(0.01)
        return {"messages": [answer]}

    if not tokens:
        heard.touch()
    got: list[str] = []
    stream = runtime.stream(line(chat, schema=MessagesState), "hi", tokens=wanted)
    for event in stream:
        if event.type == "token":
            got.append(event.content)
            if got == tokens:
                heard.touch()
    assert got == tokens
    assert stream.result.output == "two words"


def test_what_a_node_writes_to_the_stream_comes_through(runtime: AgentRuntime) -> None:
    def talk(state: State) -> dict[str, Any]:
        writer = get_stream_writer()
        writer({"percent": 50})
        writer("half")
        return {}

    told = [event.data["value"] for event in runtime.stream(line(talk), "t") if event.type == "custom"]
    assert told == [{"percent": 50}, "half"]


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Point:
    x: int


class Item(BaseModel):
    name: str
    colour: Colour
    at: Point


class Typed(TypedDict, total=False):
    topic: str
    item: Item
    log: Annotated[list, operator.add]


def test_classes_in_the_state_survive_a_wait(runtime: AgentRuntime) -> None:
    def make(state: Typed) -> dict[str, Any]:
        return {"item": Item(name=state["topic"], colour=Colour.RED, at=Point(1))}

    def ask(state: Typed) -> dict[str, Any]:
        answer = interrupt("fine?")
        item = state["item"]
        return {"log": [answer, isinstance(item, Item), item.colour is Colour.RED, isinstance(item.at, Point)]}

    handle = runtime.start(line(make, ask, schema=Typed), "t")
    waiting(handle)
    handle.respond("yes")
    state = handle.join(30).state
    assert state == {
        "topic": "t",
        "item": Item(name="t", colour=Colour.RED, at=Point(1)),
        "log": ["yes", True, True, True],
    }
    assert handle.history()[0].values["item"] == state["item"]


class Session:
    """No data."""


def test_what_cannot_be_stored_fails_at_once_and_names_its_place(runtime: AgentRuntime) -> None:
    def keep(state: MessagesState) -> dict[str, Any]:
        message = ToolMessage("done", tool_call_id="c1", artifact=Session())
        return {"messages": [AIMessage("one"), AIMessage("two"), message]}

    began = time.monotonic()
    result = runtime.run(line(keep, schema=MessagesState), "hi")
    assert time.monotonic() - began < 10
    assert result.status.value == "FAILED"
    assert "$.messages[3].artifact is a " in str(result.error)
    assert "Session" in str(result.error)
    assert runtime.show(result.execution_id)["recoveries"] == 0


def test_a_fork_begins_at_any_state_and_leaves_the_original(runtime: AgentRuntime) -> None:
    handle = runtime.start(app, GIVEN)
    result = handle.join(30)
    history = handle.history()
    assert [(state.step, state.next) for state in history] == [
        (2, ()),
        (1, ("second",)),
        (0, ("first",)),
        (-1, ("__start__",)),
    ]
    assert history[0].values == result.state
    assert handle.fork(step=1, state={"topic": "u"}).join(30).state == {"topic": "u", "log": ["first", "second: u"]}
    for step in (None, 0, -1):
        assert handle.fork(step=step).join(30).state == result.state
    with pytest.raises(ConfigurationError, match="no step 99"):
        handle.fork(step=99)
    assert handle.history() == history


def test_a_graph_put_right_goes_on_where_the_mistake_was(runtime: AgentRuntime) -> None:
    def fails(state: State) -> dict[str, Any]:
        raise ValueError("a mistake")

    def made(node: Callable[..., Any], name: str = "second") -> Any:
        builder = StateGraph(State).add_node(first).add_node(name, node)
        return builder.add_edge(START, "first").add_edge("first", name).compile(name="mended")

    handle = runtime.start(made(fails), GIVEN)
    assert handle.join(30).error == "ValueError: a mistake"
    whole = {"topic": "t", "log": ["first", "second: t"]}
    fork = handle.fork(agent=made(second))
    assert fork.join(30).state == whole
    assert handle.fork(step=0, agent="mended").join(30).state == whole, "by its name, as it is deployed now"
    started = len(runtime.executions(agent="mended"))
    with pytest.raises(ConfigurationError, match="the state waits for second, which this version"):
        handle.fork(agent=made(second, "renamed"))
    with pytest.raises(AgentNotFoundError):
        handle.fork(agent="nobody")
    assert len(runtime.executions(agent="mended")) == started


def test_a_graph_that_is_stopped_leaves_its_last_state_and_hears_no_messages(runtime: AgentRuntime) -> None:
    def asks(state: State) -> dict[str, Any]:
        return {"log": [interrupt("go on?")]}

    stream = runtime.stream(line(first, asks), GIVEN)
    next(event for event in stream if event.type == "waiting")
    for say in (stream.handle.send, stream.handle.signal):
        with pytest.raises(UnheardSignalError):
            say("hello")
    stream.handle.stop()
    result = stream.handle.join(30)
    assert (result.finish_reason, result.state) == ("stopped", {"topic": "t", "log": ["first"]})
