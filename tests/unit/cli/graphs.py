"""Graphs for the tests of the command line."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, TypedDict

from langgraph.graph import START, StateGraph
from langgraph.types import StreamWriter, interrupt

from agentspan.frameworks.langgraph.app.graph import Graph


class State(TypedDict, total=False):
    topic: str
    log: Annotated[list[str], operator.add]


def draft(state: State, writer: StreamWriter) -> dict[str, Any]:
    writer({"progress": "half way"})
    return {"log": [f"draft of {state['topic']}"]}


def review(state: State) -> dict[str, Any]:
    return {"log": [interrupt({"question": "Is it good?", "draft": state["log"][-1]})]}


def budget(state: State) -> dict[str, Any]:
    return {"log": [interrupt("How much?")]}


def ship(state: State) -> dict[str, Any]:
    return {"log": ["shipped"]}


def fail(state: State) -> dict[str, Any]:
    raise ValueError("no paper")


def pay(state: State) -> dict[str, Any]:
    """Asks as langchain's middleware does."""
    call = {"name": "pay", "args": {"cents": 7}}
    config = {"action_name": "pay", "allowed_decisions": ["approve", "reject"]}
    return {"log": [str(interrupt({"action_requests": [call], "review_configs": [config]}))]}


def line(*nodes: Callable[..., Any], **compiled: Any) -> Any:
    """Nodes one after the other."""
    builder = StateGraph(State)
    before = START
    for node in nodes:
        builder.add_node(node.__name__, node)
        builder.add_edge(before, node.__name__)
        before = node.__name__
    return builder.compile(**compiled)


def wide() -> Any:
    """Two questions side by side, one of them in a graph inside, and a tool call."""
    builder = StateGraph(State)
    inner = StateGraph(State)
    inner.add_node("review", review)
    inner.add_edge(START, "review")
    builder.add_node("draft", draft)
    builder.add_node("desk", inner.compile())
    builder.add_node("pay", pay)
    builder.add_node("ship", ship)
    builder.add_edge(START, "draft")
    for name in ("desk", "pay"):
        builder.add_edge("draft", name)
    builder.add_edge(["desk", "pay"], "ship")
    return builder.compile()


@cache
def graph(name: str) -> Graph:
    """By name."""
    made: dict[str, Callable[[], Any]] = {
        "plain": lambda: line(draft, ship),
        "asking": lambda: line(draft, review, ship),
        "stopping": lambda: line(draft, ship, interrupt_before=["ship"]),
        "failing": lambda: line(draft, fail),
        "paying": lambda: line(draft, pay),
        "wide": wide,
    }
    return Graph.of(made[name](), name=name)
