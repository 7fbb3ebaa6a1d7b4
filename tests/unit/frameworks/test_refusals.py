"""What is refused before a graph starts, what is said once, and what a failing node tells its author."""

from __future__ import annotations

import operator
import warnings
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.graph import START, StateGraph
from langgraph.store.memory import InMemoryStore

from agentspan.errors import ConfigurationError
from agentspan.frameworks.langgraph.app.graph import Graph
from agentspan.persistence.memory import MemoryStore
from agentspan.submission import StartCall, check_change, deployable, graph_request, warn_of_losses
from tests.support.graph_lives import graph_loop, started


class State(TypedDict, total=False):
    topic: str
    log: Annotated[list, operator.add]


def draft(state: State) -> dict[str, Any]:
    return {"log": ["draft"]}


def publish(state: State) -> dict[str, Any]:
    return {"log": ["publish"]}


def press(**compiled: Any) -> Any:
    builder = StateGraph(State)
    builder.add_node(draft)
    builder.add_node(publish)
    builder.add_edge(START, "draft")
    builder.add_edge("draft", "publish")
    return builder.compile(name="press", **compiled)


def request(**call: Any) -> dict[str, Any]:
    graph = Graph.of(press())
    return graph_request(graph.name, graph.spec(), graph, StartCall(prompt={}, **call))


def test_a_graph_can_be_given_by_its_place() -> None:
    assert deployable(f"{__name__}:press").spec() == Graph.of(press()).spec()
    with pytest.raises(ConfigurationError, match="names no graph"):
        deployable(f"{__name__}:nothing")


@pytest.mark.parametrize("argument", ["interrupt_before", "interrupt_after"])
def test_a_breakpoint_at_no_node_is_refused(argument: str) -> None:
    with pytest.raises(ConfigurationError, match=r"'publsh'.*Did you mean 'publish'\? Its nodes: draft, publish"):
        request(**{argument: ["draft", "publsh"]})
    with pytest.raises(ConfigurationError, match="give a list of nodes"):
        request(**{argument: "publish"})
    assert request(**{argument: ["publish"]})["graph"][argument] == ["publish"]
    assert request(**{argument: "*"})["graph"][argument] == "*"


@pytest.mark.parametrize("name", ["recursion_limit", "max_concurrency"])
@pytest.mark.parametrize("value", ["10", 0, True, 2.5])
def test_a_limit_that_is_no_number_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"'{name}'.*give a number from 1"):
        request(config={name: value})
    assert request(config={name: 10})["graph"]["config"] == {name: 10}


def test_a_change_that_langgraph_would_leave_out_is_refused() -> None:
    spec = Graph.of(press()).spec()
    with pytest.raises(
        ConfigurationError, match=r"'topik' is no field .*Did you mean 'topic'\? Its fields: log, topic"
    ):
        check_change("x1", spec, {"topik": 1}, None)
    with pytest.raises(ConfigurationError, match=r"'printer' is no node .* Its nodes: draft, publish"):
        check_change("x1", spec, {"topic": "x"}, "printer")
    check_change("x1", spec, {"topic": "x"}, "draft")
    check_change("x1", spec, None, None)


async def test_an_empty_list_takes_no_breakpoint_away() -> None:
    async with graph_loop() as loop:
        life = await started(press(interrupt_before=["publish"]), {}, MemoryStore(), loop, interrupt_before=[])
        assert (await life.live()).status == "WAITING"
        assert (await life.answer("approve", call_id=(await life.pending())[0].call_id)).status == "COMPLETED"
        assert (await life.result())["log"] == ["draft", "publish"]


def test_a_loss_is_said_once() -> None:
    app = press(store=InMemoryStore())
    with pytest.warns(UserWarning, match="InMemoryStore is gone when"):
        warn_of_losses(Graph.of(app))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        warn_of_losses(Graph.of(app))
    assert said == []


async def test_a_failing_node_tells_its_traceback_from_the_node_on() -> None:
    def look_up(order: str) -> Any:
        return {}[order]

    def fail(state: State) -> dict[str, Any]:
        return {"log": [look_up("8821")]}

    builder = StateGraph(State)
    builder.add_node(fail)
    builder.add_edge(START, "fail")
    async with graph_loop() as loop:
        life = await started(builder.compile(), {}, MemoryStore(), loop)
        assert (await life.live()).status == "FAILED"
    ended = [event.data for event in await life.events() if event.data.get("node") == "fail" and "error" in event.data]
    assert [data["error"] for data in ended] == ["KeyError: '8821'"]
    lines = ended[0]["traceback"].splitlines()
    assert "in fail" in lines[0]
    assert "in look_up" in ended[0]["traceback"]
    assert "pregel" not in ended[0]["traceback"]
