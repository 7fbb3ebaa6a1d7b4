"""What runs in a soak: agents and graphs whose tools and nodes tell the ledger. Their code is shipped, as a user's would be."""

import operator
import os
import time
from typing import Annotated, Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

from agentspan.agents import Agent, ToolContext, tool
from tests.support.ledger import Ledger

KINDS = {"worker": 8, "careful": 3, "talker": 3, "graph": 3, "asker": 2}
"""Each kind with its share of the executions."""
TALK_TURNS = 3
"""Executions of one session."""
OUTPUTS = {"worker": "all done", "careful": "refunded", "talker": "heard you", "graph": None, "asker": None}
"""What each kind answers at its end; a graph's is in its last record."""
TOOLS = {"worker": 6, "careful": 2, "talker": 1}
"""How many calls of tools each kind makes."""
NODES = {"graph": ("plan", "left", "middle", "right", "tell"), "asker": ("plan", "ask", "tell")}


class Log(TypedDict, total=False):
    topic: str
    log: Annotated[list, operator.add]


def agents(ledger: Ledger, url: str) -> list[Any]:
    """One of each kind."""

    @tool
    def work(n: int, ctx: ToolContext) -> str:
        """Does one piece of work, in a thread."""
        ledger.enter(ctx.idempotency_key, ctx.attempt, pid=os.getpid())
        time.sleep(0.01 * (n % 5))
        return f"did {n}"

    @tool(approval_required=True)
    def refund(ctx: ToolContext) -> str:
        """Gives money back."""
        ledger.enter(ctx.idempotency_key, ctx.attempt, pid=os.getpid())
        return "refunded"

    native = [
        Agent(name, model=f"openai/{name}", base_url=url, tools=[work, refund])
        for name in ("worker", "careful", "talker")
    ]
    return [*native, _graph(ledger), _asker(ledger)]


def _node(ledger: Ledger, name: str) -> Any:
    def run(state: Log, config: RunnableConfig) -> dict[str, Any]:
        ledger.enter(f"{config['configurable']['thread_id']}:{name}", 1, pid=os.getpid())
        return {"log": [interrupt({"question": "Go on?"}) if name == "ask" else name]}

    return run


def _graph(ledger: Ledger) -> Any:
    builder = StateGraph(Log)
    for name in NODES["graph"]:
        builder.add_node(name, _node(ledger, name))
    builder.add_edge(START, "plan")
    for side in ("left", "middle", "right"):
        builder.add_edge("plan", side)
    builder.add_edge(["left", "middle", "right"], "tell")
    builder.add_edge("tell", END)
    return builder.compile(name="graph")


def _asker(ledger: Ledger) -> Any:
    builder = StateGraph(Log)
    for name in NODES["asker"]:
        builder.add_node(name, _node(ledger, name))
    for before, after in (START, "plan"), ("plan", "ask"), ("ask", "tell"), ("tell", END):
        builder.add_edge(before, after)
    return builder.compile(name="asker")
