"""One small graph run for nobody, so that the first real one of a process is not the slow one.

LangGraph, LangChain's model clients and our saver build tables and import parts of themselves when they are first used:
about a tenth of a second. A standby has the time for that before anybody waits. Nothing leaves the machine: the store is
in memory, and the model is a socket of this process on the loopback interface.
"""

from __future__ import annotations

import asyncio
import logging
import operator
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from typing import Annotated, Any, TypedDict

from agentspan.engine import records as r
from agentspan.engine.apply import apply
from agentspan.engine.decide import RunGraph
from agentspan.engine.state import ROOT, ExecutionState
from agentspan.frameworks.langgraph.app.graph import Graph
from agentspan.frameworks.langgraph.app.graphtypes import serde_of
from agentspan.frameworks.langgraph.running.graphloop import GraphLoop
from agentspan.frameworks.langgraph.running.running import GraphPerformer
from agentspan.frameworks.langgraph.running.starting import start_options
from agentspan.models.rehearsal import ANSWER, answering
from agentspan.persistence.memory import MemoryStore
from agentspan.persistence.threads import ThreadWrite

log = logging.getLogger("agentspan.langgraph")

TIMEOUT_S = 10.0
TURNS = 8
"""So many times through the same code have the interpreter (3.11 and later) put in its specialised instructions."""
TOOL_CALL = ANSWER.replace(
    b'"content":"ok"',
    b'"content":null,"tool_calls":[{"id":"c","type":"function","function":{"name":"rehearse","arguments":"{}"}}]',
)


async def rehearse(loop: GraphLoop, graphs: Iterable[Graph] = ()) -> None:
    """Run a graph of the kind that is loaded in this process. Never fails: what cannot be rehearsed is only slower.

    Args:
        loop: What graphs run on here.
        graphs: Those that are loaded. They are not run, only looked at.
    """
    try:
        async with asyncio.timeout(TIMEOUT_S), answering([TOOL_CALL] * TURNS + [ANSWER]) as url:
            app, given = _app(url)
            await _run(Graph.of(app, name="rehearsal"), given, loop)
            for graph in graphs:
                serde_of(graph)
    except Exception:
        log.exception("rehearsal.failed")


def _app(url: str) -> tuple[Any, Any]:
    if "langchain.agents" in sys.modules and "langchain_openai" in sys.modules:
        from langchain.agents import create_agent
        from langchain_openai import ChatOpenAI

        def rehearse() -> str:
            """Do nothing."""
            return "ok"

        model: Any = ChatOpenAI(model="rehearsal", base_url=url, api_key="none", max_retries=0)  # type: ignore[arg-type]
        return create_agent(model, [rehearse]), {"messages": [("user", "ok?")]}
    from langgraph.graph import START, StateGraph

    builder: Any = StateGraph(_State)
    builder.add_node("one", lambda state: {"said": ["one"]})
    builder.add_node("two", lambda state: {"said": ["two"]})
    builder.add_edge(START, "one")
    builder.add_edge("one", "two")
    return builder.compile(), {"said": ["ok?"]}


class _State(TypedDict):
    said: Annotated[list[Any], operator.add]


async def _run(graph: Graph, given: Any, loop: GraphLoop) -> None:
    store = MemoryStore()
    performer = GraphPerformer(graph, store=store, loop=loop)
    state = ExecutionState(execution_id="rehearsal")
    options = start_options("rehearsal", given, serde_of(graph))
    apply(state, r.Started(at=0.0, agent="rehearsal", prompt="", graph=options.to_plain()))
    driver_loop = asyncio.get_running_loop()

    def report(
        records: Sequence[r.AnyRecord] = (), thread: ThreadWrite | None = None, *, within_s: float = 0.0
    ) -> Future[None]:
        async def write() -> None:
            if thread is not None:
                await store.write_thread("rehearsal", thread)

        return asyncio.run_coroutine_threadsafe(write(), driver_loop)

    ended = await performer.perform(state, RunGraph(ROOT, 1, 1), report)
    assert isinstance(ended, r.GraphEnded), ended
