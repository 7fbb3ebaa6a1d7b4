"""A fork that goes on with another version of its graph: what fits, what does not, and how the step is found."""

from __future__ import annotations

import operator
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from pydantic import BaseModel

from agentspan.errors import ConfigurationError
from agentspan.frameworks.langgraph.app.graph import Graph
from agentspan.frameworks.langgraph.running.fitting import misfit
from agentspan.frameworks.langgraph.running.origins import find_step
from agentspan.persistence.memory import MemoryStore
from tests.support.graph_lives import GraphLife, graph_loop, started


class State(TypedDict, total=False):
    topic: str
    log: Annotated[list, operator.add]


class Wider(State, total=False):
    extra: str


def line(*nodes: Any, schema: Any = State) -> Any:
    return StateGraph(schema).add_sequence(list(nodes)).add_edge(START, nodes[0].__name__).compile()


def a(state: State) -> State:
    return {"log": ["a"]}


def b(state: State) -> State:
    raise ValueError("a mistake")


def renamed(state: State) -> State:
    return {"log": ["renamed"]}


@pytest.fixture
async def loop():
    async with graph_loop() as loop:
        yield loop


async def fork_of(life: GraphLife, app: Any, loop: Any, step: int | None = None) -> GraphLife:
    graph = Graph.of(app, name="fork")
    forked = {"forked_from": life.execution_id, "forked_step": step}
    fork = await started(graph, {}, life.store, loop, forked=forked)
    await fork.live()
    return fork


async def test_a_graph_put_right_goes_on_where_the_mistake_was(loop):
    broken = line(a, b)
    life = await started(broken, {"topic": "x"}, MemoryStore(), loop)
    await life.live()
    assert (await life.state()).error == "ValueError: a mistake"

    def put_right(state: Wider) -> Wider:
        return {"log": ["b"], "extra": "new"}

    fixed = StateGraph(Wider).add_node(a).add_node("b", put_right).add_node(renamed)
    fixed = fixed.add_edge(START, "a").add_edge("a", "b").add_edge("b", "renamed")
    fork = await fork_of(life, fixed.compile(), loop)
    assert await fork.result() == {"topic": "x", "log": ["a", "b", "renamed"], "extra": "new"}
    assert (await life.state()).status.value == "FAILED", "the origin is not touched"


async def test_what_does_not_fit_ends_the_fork_with_the_reason(loop):
    life = await started(line(a, b), {"topic": "x"}, MemoryStore(), loop)
    await life.live()
    fork = await fork_of(life, line(a, renamed), loop)
    state = await fork.state()
    assert state.status.value == "FAILED"
    assert "the state waits for b, which this version of the graph does not have" in str(state.error)
    assert "Fork a step before" in str(state.error)


class Item(BaseModel):
    name: str


class Typed(TypedDict, total=False):
    items: list[Item]


class Untyped(TypedDict, total=False):
    items: list


async def test_a_class_that_the_new_version_does_not_declare_ends_the_fork(loop):
    def make(state: Typed) -> Typed:
        return {"items": [Item(name="pen")]}

    def fail(state: Typed) -> Typed:
        raise ValueError("a mistake")

    def go_on(state: Untyped) -> Untyped:
        return {}

    life = await started(line(make, fail, schema=Typed), {}, MemoryStore(), loop)
    await life.live()
    builder = StateGraph(Untyped).add_node("make", go_on).add_node("fail", go_on)
    fork = await fork_of(life, builder.add_edge(START, "make").add_edge("make", "fail").compile(), loop)
    state = await fork.state()
    assert state.status.value == "FAILED"
    assert str(state.error).startswith("UnknownStateTypeError: ")
    assert "Item" in str(state.error)


def test_a_field_that_is_gone_does_not_fit():
    app = line(a)
    assert misfit(app, {"topic": "x", "log": [], "branch:to:a": None, "__start__": {}}) is None
    told = misfit(app, {"topic": "x", "price": 3})
    assert told == "the state has price, which this version of the graph does not have"


def test_a_send_to_a_node_that_is_gone_does_not_fit():
    assert "waits for away" in str(misfit(line(a), {"__pregel_tasks": [Send("a", {}), Send("away", {})]}))


def test_branches_that_do_not_meet_any_more_do_not_fit():
    def join(*halves: str) -> Any:
        builder = StateGraph(State).add_node(a).add_node(renamed).add_node("last", a)
        builder.add_edge(START, "a").add_edge(START, "renamed").add_edge(list(halves), "last")
        return builder.add_edge("last", END).compile()

    values = {"join:a+renamed:last": {"a"}, "topic": "x"}
    assert misfit(join("a", "renamed"), values) is None
    assert "meet at a+renamed:last" in str(misfit(join("a"), values))
    assert misfit(join("a"), {"join:a+renamed:last": set()}) is None


class _Counting:
    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.rows = 0

    async def list_checkpoints(self, *args: Any, **query: Any) -> Any:
        found = await self._store.list_checkpoints(*args, **query)
        self.rows += len(found)
        return found


async def test_a_step_is_found_without_reading_the_history(loop):
    def count(state: State) -> State:
        return {"log": ["x"]}

    def again(state: State) -> str:
        return "count" if len(state["log"]) < 300 else END

    builder = StateGraph(State).add_node(count).add_edge(START, "count").add_conditional_edges("count", again)
    life = await started(builder.compile(), {"log": []}, MemoryStore(), loop, config={"recursion_limit": 1000})
    await life.live()
    store = _Counting(life.store)  # type: ignore[arg-type]
    step = await find_step(store, life.execution_id, 7)  # type: ignore[arg-type]
    assert store.rows == 2
    found = await life.store.checkpoint(life.execution_id, "", step)
    assert found is not None
    assert found.row.body["m"]["step"] == 7
    with pytest.raises(ConfigurationError, match="no step 999; its steps are -1 to 300"):
        await find_step(life.store, life.execution_id, 999)
    with pytest.raises(ConfigurationError, match="no step 1; it has no state yet"):
        await find_step(life.store, "nobody", 1)
    fork = await fork_of(life, builder.compile(), loop, step=298)
    assert len((await fork.result())["log"]) == 300
