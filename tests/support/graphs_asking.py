"""Graphs that wait for people, in every way LangGraph has."""

from __future__ import annotations

from typing import Any

from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send, interrupt
from pydantic import BaseModel

from tests.support.graph_runs import RUNS
from tests.support.graphs_plain import Log, Logged, line, node, sync_node


def asking(label: str, *questions: str) -> Any:
    def ask(state: Any) -> dict[str, Any]:
        RUNS.enter(label)
        return {"log": [interrupt({"question": question}) for question in questions]}

    return ask


def one(saver: Any) -> Any:
    """With work before, beside and behind it."""
    builder = StateGraph(Log)
    builder.add_node("before", node("before"))
    builder.add_node("ask", asking("ask", "sure?"))
    builder.add_node("beside", sync_node("beside"))
    builder.add_node("behind", node("behind"))
    builder.add_edge(START, "before")
    builder.add_edge("before", "ask")
    builder.add_edge("before", "beside")
    builder.add_edge(["ask", "beside"], "behind")
    return builder.compile(checkpointer=saver)


def two_in_one_node(saver: Any) -> Any:
    return line(("ask", asking("ask", "first?", "second?")), ("end", node("end")), checkpointer=saver)


def several_at_once(saver: Any) -> Any:
    builder = StateGraph(Log)
    for name in ("p", "q", "r"):
        builder.add_node(name, asking(name, f"{name}?"))
        builder.add_edge(START, name)
    builder.add_node("end", node("end"))
    builder.add_edge(["p", "q", "r"], "end")
    return builder.compile(checkpointer=saver)


def in_a_loop(saver: Any) -> Any:
    async def ask(state: Log) -> dict[str, Any]:
        n = state.get("n", 0)
        RUNS.enter(f"ask{n}")
        return {"n": n + 1, "log": [interrupt(f"round {n}?")]}

    builder = StateGraph(Log)
    builder.add_node("ask", ask)
    builder.add_edge(START, "ask")
    builder.add_conditional_edges("ask", lambda state: "ask" if state["n"] < 3 else END, ["ask", END])
    return builder.compile(checkpointer=saver)


def in_a_subgraph(saver: Any) -> Any:
    innermost = line(("i", sync_node("i")), ("ask", asking("ask", "deep?")), ("j", node("j")))
    sub = line(("x", node("x")), ("deep", innermost))
    return line(("sub", sub), ("end", node("end")), checkpointer=saver)


def in_a_called_graph(saver: Any) -> Any:
    sub = line(("x", sync_node("x")), ("ask", asking("ask", "called?")))

    async def call(state: Log) -> dict[str, Any]:
        RUNS.enter("call")
        answer = await sub.ainvoke({"topic": "inner"})
        return {"log": answer["log"]}

    return line(("call", call), ("end", node("end")), checkpointer=saver)


def in_a_fan_of_graphs(saver: Any) -> Any:
    def ask(state: Log) -> dict[str, Any]:
        RUNS.enter(f"ask{state['n']}")
        return {"log": [interrupt({"question": f"{state['topic']}?"})]}

    def tell(state: Log) -> dict[str, Any]:
        RUNS.enter(f"tell{state['n']}")
        return {"log": [f"{state['topic']} done"]}

    builder = StateGraph(Log, output_schema=Logged)
    builder.add_node("ask", ask)
    builder.add_node("tell", tell)
    builder.add_edge(START, "ask")
    builder.add_edge("ask", "tell")

    def fan(state: Log) -> list[Send]:
        return [Send("sub", {"topic": topic, "n": n}) for n, topic in enumerate("pqr")]

    outer = StateGraph(Log)
    outer.add_node("sub", builder.compile())
    outer.add_conditional_edges(START, fan, ["sub"])
    outer.add_node("end", node("end"))
    outer.add_edge("sub", "end")
    return outer.compile(checkpointer=saver)


class Verdict(BaseModel):
    approved: bool
    comment: str = ""


def with_schema(saver: Any) -> Any:
    def ask(state: Log) -> dict[str, Any]:
        RUNS.enter("ask")
        answer = interrupt({"question": "verdict?"}, response_schema=Verdict)
        found = answer if isinstance(answer, Verdict) else Verdict.model_validate(answer)
        return {"log": [found.approved, found.comment]}

    return line(("ask", ask), ("end", node("end")), checkpointer=saver)


def breakpoints(saver: Any) -> Any:
    steps = [("a", node("a")), ("b", node("b")), ("c", node("c"))]
    return line(*steps, interrupt_before=["b"], interrupt_after=["b"], checkpointer=saver)


def functional(saver: Any) -> Any:
    @task
    async def prepare(n: int) -> int:
        RUNS.enter(f"prepare{n}")
        return n + 1

    @task
    def ask_in_task(what: str) -> str:
        RUNS.enter("ask_in_task")
        return f"{what}: {interrupt({'question': what})}"

    @entrypoint(checkpointer=saver)
    async def survey(n: int) -> dict[str, Any]:
        RUNS.enter("survey")
        first = await prepare(n)
        answer = interrupt({"question": f"go on with {first}?"})
        second = await prepare(first)
        return {"answers": [answer, await ask_in_task("anything else?")], "n": second}

    return survey
