"""Graphs of every shape that ask nobody anything. Each function makes one anew, with the checkpointer it is given."""

from __future__ import annotations

import asyncio
import operator
import threading
from typing import Annotated, Any, Literal, TypedDict

from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import MemorySaver
from langgraph.config import get_stream_writer
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.types import CachePolicy, Command, RetryPolicy, Send

from tests.support.graph_runs import RUNS


class Log(TypedDict, total=False):
    topic: str
    log: Annotated[list, operator.add]
    totals: Annotated[dict, lambda old, new: {**old, **new}]
    n: int


class In(TypedDict):
    topic: str


class Logged(TypedDict, total=False):
    log: Annotated[list, operator.add]


def node(label: str, **update: Any) -> Any:
    async def run(state: Any) -> dict[str, Any]:
        RUNS.enter(label)
        return {"log": [label], **update}

    return run


def sync_node(label: str, **update: Any) -> Any:
    def run(state: Any) -> dict[str, Any]:
        RUNS.enter(label)
        return {"log": [label], **update}

    return run


def line(*steps: tuple[str, Any], schema: Any = Log, **compiled: Any) -> Any:
    """A graph of nodes one after the other."""
    builder = StateGraph(schema)
    for name, action in steps:
        builder.add_node(name, action)
    names = [name for name, _ in steps]
    for before, after in zip((START, *names), (*names, END), strict=True):
        builder.add_edge(before, after)
    return builder.compile(**compiled)


def sequence(saver: Any) -> Any:
    return line(("a", node("a")), ("b", sync_node("b")), ("c", node("c")), checkpointer=saver)


def map_reduce(saver: Any) -> Any:
    def split(state: Log) -> dict[str, Any]:
        RUNS.enter("split")
        return {"n": 4}

    def fan(state: Log) -> list[Send]:
        return [Send("work", {"topic": f"{state['topic']}{i}", "n": i}) for i in range(state["n"])]

    async def work(state: Log) -> dict[str, Any]:
        RUNS.enter(f"work{state['n']}")
        return {"log": [state["topic"]], "totals": {state["topic"]: state["n"] ** 2}}

    def add_up(state: Log) -> dict[str, Any]:
        RUNS.enter("add_up")
        return {"n": sum(state["totals"].values())}

    builder = StateGraph(Log)
    builder.add_node("split", split)
    builder.add_node("work", work)
    builder.add_node("add_up", add_up)
    builder.add_edge(START, "split")
    builder.add_conditional_edges("split", fan, ["work"])
    builder.add_edge("work", "add_up")
    return builder.compile(checkpointer=saver)


def blocking(saver: Any) -> Any:
    """Sync nodes side by side, each of which keeps its thread."""

    def block(label: str) -> Any:
        def run(state: Log) -> dict[str, Any]:
            RUNS.enter(label)
            threading.Event().wait(0.002)
            return {"log": [label]}

        return run

    builder = StateGraph(Log)
    for name in ("left", "right"):
        builder.add_node(name, block(name))
        builder.add_edge(START, name)
    builder.add_node("end", block("end"))
    builder.add_edge(["left", "right"], "end")
    return builder.compile(checkpointer=saver)


def called(saver: Any, *, sync: bool = False, inner: Any = None) -> Any:
    """A node whose function calls a graph, twice."""
    sub = line(("x", sync_node("x")), ("y", sync_node("y")), checkpointer=inner)

    async def call(state: Log) -> dict[str, Any]:
        RUNS.enter("call")
        found: list[str] = []
        for topic in ("one", "two"):
            answer = sub.invoke({"topic": topic}) if sync else await sub.ainvoke({"topic": topic})
            found += [answer["topic"], *answer["log"]]
        return {"log": found}

    return line(("call", call), ("end", node("end")), checkpointer=saver)


def nested(saver: Any, *, inner: Any = None) -> Any:
    """A graph in a graph in a graph, as nodes. With `inner` True it is entered twice and remembers."""
    innermost = line(("i", sync_node("i")), ("j", node("j")))
    sub = line(("x", node("x")), ("deep", innermost), checkpointer=inner)
    builder = StateGraph(Log)
    builder.add_node("sub", sub)
    builder.add_node("count", lambda state: {"n": state.get("n", 0) + 1})
    builder.add_edge(START, "sub")
    builder.add_edge("sub", "count")
    builder.add_conditional_edges("count", lambda state: "sub" if state["n"] < 2 else END, ["sub", END])
    return builder.compile(checkpointer=saver)


def fan_of_graphs(saver: Any) -> Any:
    def name_of(state: Log) -> dict[str, Any]:
        RUNS.enter(f"x{state['n']}")
        return {"log": [state["topic"]]}

    def fan(state: Log) -> list[Send]:
        return [Send("sub", {"topic": topic, "n": n}) for n, topic in enumerate("pqr")]

    inner = StateGraph(Log, output_schema=Logged)
    inner.add_node("x", name_of)
    inner.add_node("y", sync_node("y"))
    inner.add_edge(START, "x")
    inner.add_edge("x", "y")
    builder = StateGraph(Log)
    builder.add_node("sub", inner.compile())
    builder.add_conditional_edges(START, fan, ["sub"])
    builder.add_edge("sub", END)
    return builder.compile(checkpointer=saver)


def stream_writer(saver: Any) -> Any:
    async def talk(state: Log) -> dict[str, Any]:
        RUNS.enter("talk")
        writer = get_stream_writer()
        for percent in (50, 100):
            writer({"percent": percent})
        return {"log": ["talked"]}

    sub = line(("talk", talk))
    return line(("talk", talk), ("sub", sub), checkpointer=saver)


def retry_policy(saver: Any) -> Any:
    def flaky(state: Log) -> dict[str, Any]:
        if RUNS.enter("flaky") < 3:
            raise ConnectionError("not yet")
        return {"log": ["flaky"]}

    builder = StateGraph(Log)
    builder.add_node("first", node("first"))
    builder.add_node("flaky", flaky, retry_policy=RetryPolicy(max_attempts=9, initial_interval=0.001, jitter=False))
    builder.add_node("last", node("last"))
    builder.add_edge(START, "first")
    builder.add_edge("first", "flaky")
    builder.add_edge("flaky", "last")
    return builder.compile(checkpointer=saver)


def cache_policy(saver: Any) -> Any:
    def slow(state: Log) -> dict[str, Any]:
        RUNS.enter("slow")
        return {"log": [f"slow {state['topic']}"]}

    builder = StateGraph(Log)
    builder.add_node("slow", slow, input_schema=In, cache_policy=CachePolicy())
    builder.add_node("count", lambda state: {"n": state.get("n", 0) + 1})
    builder.add_edge(START, "slow")
    builder.add_edge("slow", "count")
    builder.add_conditional_edges("count", lambda state: "slow" if state["n"] < 3 else END, ["slow", END])
    return builder.compile(checkpointer=saver, cache=InMemoryCache())


def error_handler(saver: Any) -> Any:
    async def fails(state: Log) -> dict[str, Any]:
        RUNS.enter("fails")
        raise ValueError("no such city")

    async def handles(state: Log) -> dict[str, Any]:
        RUNS.enter("handles")
        return {"log": ["handled"]}

    builder = StateGraph(Log)
    builder.add_node("fails", fails, error_handler=handles)
    builder.add_node("beside", node("beside"))
    builder.add_node("end", node("end"))
    builder.add_edge(START, "fails")
    builder.add_edge(START, "beside")
    builder.add_edge("beside", "end")
    return builder.compile(checkpointer=saver)


def loop_of(steps: int) -> Any:
    def build(saver: Any) -> Any:
        async def step(state: Log) -> dict[str, Any]:
            RUNS.enter("step")
            n = state.get("n", 0)
            return {"n": n + 1, "log": [n]}

        builder = StateGraph(Log)
        builder.add_node("step", step)
        builder.add_edge(START, "step")
        builder.add_conditional_edges("step", lambda state: "step" if state["n"] < steps else END, ["step", END])
        return builder.compile(checkpointer=saver)

    return build


def goto(saver: Any) -> Any:
    """`Command(goto)`, with an update, and one that leaves a sub-graph for its parent."""

    def leave(state: Log) -> Command[Any]:
        RUNS.enter("leave")
        return Command(graph=Command.PARENT, goto="end", update={"log": ["left"]})

    async def jump(state: Log) -> Command[Literal["sub"]]:
        RUNS.enter("jump")
        return Command(goto="sub", update={"log": ["jumped"], "n": 1})

    builder = StateGraph(Log)
    builder.add_node("jump", jump)
    builder.add_node("skipped", node("skipped"))
    builder.add_node("sub", line(("x", node("x")), ("leave", leave)), destinations=("end",))
    builder.add_node("end", node("end"))
    builder.add_edge(START, "jump")
    return builder.compile(checkpointer=saver)


def joins(saver: Any) -> Any:
    """Branches of different lengths, a join of two, and a deferred node that waits for all."""
    builder = StateGraph(Log)
    for name in ("short", "long1", "long2", "joined"):
        builder.add_node(name, node(name))
    builder.add_node("last", sync_node("last"), defer=True)
    builder.add_edge(START, "short")
    builder.add_edge(START, "long1")
    builder.add_edge("long1", "long2")
    builder.add_edge(["short", "long2"], "joined")
    builder.add_edge("short", "last")
    builder.add_edge("joined", "last")
    return builder.compile(checkpointer=saver)


def functional(saver: Any) -> Any:
    @task
    async def square(n: int) -> int:
        RUNS.enter(f"square{n}")
        return n * n

    @task
    def add(a: int, b: int) -> int:
        RUNS.enter("add")
        return a + b

    @entrypoint(checkpointer=saver)
    async def squares(numbers: list[int]) -> dict[str, Any]:
        RUNS.enter("squares")
        found = await asyncio.gather(*(square(n) for n in numbers))
        total = 0
        for one in found:
            total = await add(total, one)
        return {"squares": list(found), "total": total}

    return squares


def previous(saver: Any) -> Any:
    """A functional graph that returns one thing and keeps another for the next turn of its session."""

    @entrypoint(checkpointer=saver or MemorySaver())
    async def add_up(n: int, *, previous: int | None = None) -> Any:
        RUNS.enter("add_up")
        return entrypoint.final(value=f"{previous} and {n}", save=(previous or 0) + n)

    return add_up


def session(saver: Any) -> Any:
    return line(("a", node("a")), ("b", node("b")), checkpointer=saver or MemorySaver())
