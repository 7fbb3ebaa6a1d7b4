"""Graphs with every kind of state: declared in every way, merged in every way, with what is not state beside it."""

from __future__ import annotations

import asyncio
import operator
from dataclasses import dataclass, field
from typing import Annotated, Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.channels import DeltaChannel
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from pydantic import BaseModel

from tests.support.graph_runs import RUNS
from tests.support.graphs_plain import In, Log, line


class Item(BaseModel):
    name: str
    weight: float = 1.0


class Basket(BaseModel):
    owner: str
    items: Annotated[list[Item], operator.add] = []
    heaviest: Item | None = None


def pydantic_state(saver: Any) -> Any:
    async def pick(state: Basket) -> dict[str, Any]:
        RUNS.enter("pick")
        return {"items": [Item(name="apple", weight=2.0), Item(name="pear")]}

    def weigh(state: Basket) -> dict[str, Any]:
        RUNS.enter("weigh")
        return {"heaviest": max(state.items, key=lambda item: item.weight)}

    return line(("pick", pick), ("weigh", weigh), schema=Basket, checkpointer=saver)


@dataclass
class Tour:
    city: str
    visited: Annotated[list, operator.add] = field(default_factory=list)
    kilometres: int = 0


def dataclass_state(saver: Any) -> Any:
    async def go(state: Tour) -> dict[str, Any]:
        RUNS.enter("go")
        return {"visited": [state.city], "kilometres": state.kilometres + 7, "city": "Oslo"}

    def rest(state: Tour) -> Tour:
        RUNS.enter("rest")
        return Tour(city=state.city, visited=[state.city], kilometres=state.kilometres)

    return line(("go", go), ("rest", rest), schema=Tour, checkpointer=saver)


class Where(TypedDict):
    region: str


def context(saver: Any) -> Any:
    def look(state: Log, runtime: Runtime[Where], config: RunnableConfig) -> dict[str, Any]:
        RUNS.enter("look")
        assert runtime.context is not None
        return {"log": [runtime.context["region"], config["configurable"]["colour"], sorted(config["tags"])]}

    builder = StateGraph(Log, context_schema=Where)
    builder.add_node("first", look)
    builder.add_node("second", look)
    builder.add_edge(START, "first")
    builder.add_edge("first", "second")
    return builder.compile(checkpointer=saver)


def _extend(old: list[Any], news: Any) -> list[Any]:
    return [*(old or []), *(item for new in news for item in new)]


class Deltas(TypedDict, total=False):
    log: Annotated[list, DeltaChannel(_extend, snapshot_frequency=3)]
    n: int


def delta_channel(saver: Any) -> Any:
    async def step(state: Deltas) -> dict[str, Any]:
        RUNS.enter("step")
        n = state.get("n", 0)
        return {"n": n + 1, "log": [f"{n}:{len(state.get('log') or [])}"]}

    builder = StateGraph(Deltas)
    builder.add_node("step", step)
    builder.add_edge(START, "step")
    builder.add_conditional_edges("step", lambda state: "step" if state["n"] < 7 else END, ["step", END])
    return builder.compile(checkpointer=saver)


def _grow(old: list[Any], new: list[Any]) -> list[Any]:
    old.extend(new)
    return old


class Rows(TypedDict, total=False):
    rows: Annotated[list, _grow]
    items: list
    document: dict


def in_place(saver: Any) -> Any:
    """Nodes that return what they were given, changed inside; and such a reducer."""

    async def change(state: Rows) -> dict[str, Any]:
        number = len(state["document"]["tags"])
        RUNS.enter(f"change{number}")
        state["document"]["tags"].append({"number": number, "tags": []})
        state["document"]["tags"][0]["tags"].append(number)
        for item in state["items"]:
            item["v"] += 1
        return {"document": state["document"], "items": state["items"], "rows": [{"v": number}]}

    steps = [(f"c{number}", change) for number in range(4)]
    return line(*steps, schema=Rows, checkpointer=saver)


class Out(TypedDict):
    answer: str


class All(In, Out):
    private: int


def schemas(saver: Any) -> Any:
    """What goes in, what comes out and what is between are three things."""

    async def think(state: In) -> dict[str, Any]:
        RUNS.enter("think")
        return {"private": len(state["topic"])}

    async def say(state: All) -> dict[str, Any]:
        RUNS.enter("say")
        return {"answer": f"{state['topic']} has {state['private']} letters"}

    builder = StateGraph(All, input_schema=In, output_schema=Out)
    builder.add_node("think", think)
    builder.add_node("say", say)
    builder.add_edge(START, "think")
    builder.add_edge("think", "say")
    return builder.compile(checkpointer=saver)


def slow_sibling(saver: Any) -> Any:
    """Two side by side, one of which has long ended, and been merged in place, while the other works."""

    async def quick(state: Rows) -> dict[str, Any]:
        RUNS.enter("quick")
        return {"rows": [{"v": 1}]}

    async def slow(state: Rows) -> dict[str, Any]:
        RUNS.enter("slow")
        await asyncio.sleep(0.01)  # It is slow; nobody waits for it.
        RUNS.enter("slow, later")
        return {"rows": [{"v": 2}]}

    async def end(state: Rows) -> dict[str, Any]:
        RUNS.enter("end")
        return {"rows": [{"v": len(state["rows"])}]}

    builder = StateGraph(Rows)
    for action in (quick, slow, end):
        builder.add_node(action.__name__, action)
    builder.add_edge(START, "quick")
    builder.add_edge(START, "slow")
    builder.add_edge(["quick", "slow"], "end")
    return builder.compile(checkpointer=saver)
