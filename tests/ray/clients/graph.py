"""A user's script with a graph and the classes of its state: `<ledger port>`. Starts it, prints its ID, and is gone."""

import json
import operator
import sys
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from pydantic import BaseModel

from agentspan.agents import AgentRuntime
from tests.support.ledger import Ledger

ledger = Ledger(int(sys.argv[1]) if len(sys.argv) > 1 else 0)


class Part(BaseModel):
    name: str


@dataclass
class Plan:
    parts: tuple[str, ...]


class State(TypedDict, total=False):
    plan: Plan
    done: Annotated[list[Part], operator.add]
    answer: str


def enter(config: RunnableConfig, label: str) -> str:
    execution_id = config["configurable"]["thread_id"]
    ledger.enter(f"{execution_id}:{label}", 1)
    return f"{execution_id}/{label}"


def plan(state: State, config: RunnableConfig) -> dict[str, Any]:
    enter(config, "plan")
    return {"plan": Plan(parts=("quick", "slow"))}


async def quick(state: State, config: RunnableConfig) -> dict[str, Any]:
    enter(config, "quick")
    return {"done": [Part(name=state["plan"].parts[0])]}


def slow(state: State, config: RunnableConfig) -> dict[str, Any]:
    ledger.wait(enter(config, "slow"))
    return {"done": [Part(name=state["plan"].parts[1])]}


def tell(state: State, config: RunnableConfig) -> dict[str, Any]:
    enter(config, "tell")
    return {"answer": " and ".join(part.name for part in state["done"])}


builder = StateGraph(State)
for node in (plan, quick, slow, tell):
    builder.add_node(node.__name__, node)
builder.add_edge(START, "plan")
builder.add_edge("plan", "quick")
builder.add_edge("plan", "slow")
builder.add_edge(["quick", "slow"], "tell")

if __name__ == "__main__":
    with AgentRuntime() as runtime:
        print(json.dumps(runtime.start(builder.compile(name="scripted"), {}).execution_id))
