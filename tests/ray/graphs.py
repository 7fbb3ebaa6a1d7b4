"""Graphs that tests run for real. They live in a module that no server can import, so their code is shipped."""

import operator
import os
from typing import Annotated, Any, TypedDict

from langchain.agents import create_agent
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import MemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import interrupt

from tests.support.ledger import Ledger


class Log(TypedDict, total=False):
    topic: str
    log: Annotated[list, operator.add]


def note(ledger: Ledger, config: RunnableConfig, label: str) -> str:
    """Tell the ledger that a node runs; returns the execution's ID."""
    execution_id = str(config["metadata"]["run_id"])
    ledger.enter(f"{execution_id}:{label}", 1, pid=os.getpid())
    return execution_id


def line(ledger: Ledger, *names: str, **compiled: Any) -> Any:
    """A line of nodes; one that is called `ask` asks."""

    def node(name: str) -> Any:
        def run(state: Log, config: RunnableConfig) -> dict[str, Any]:
            note(ledger, config, name)
            return {"log": [interrupt({"question": f"{state['topic']}?"}) if name == "ask" else name]}

        return run

    builder = StateGraph(Log)
    for name in names:
        builder.add_node(name, node(name))
    for before, after in zip((START, *names), (*names, END), strict=True):
        builder.add_edge(before, after)
    return builder.compile(**compiled)


def talker() -> Any:
    """A conversation kept by a saver in memory."""

    def answer(state: MessagesState) -> dict[str, Any]:
        said = [message.content for message in state["messages"] if message.type == "human"]
        return {"messages": [("ai", f"heard {' and '.join(said)}")]}

    builder = StateGraph(MessagesState)
    builder.add_node("answer", answer)
    builder.add_edge(START, "answer")
    return builder.compile(checkpointer=MemorySaver(), name="talker")


def assistant(ledger: Ledger, url: str) -> Any:
    """An agent of langchain's with tools, one of which stays in its middle at the gate `<execution>/slow`."""

    @tool
    def quick(n: int, config: RunnableConfig) -> str:
        """Is done at once."""
        note(ledger, config, f"quick {n}")
        return f"quick {n}"

    @tool
    def slow(n: int, config: RunnableConfig) -> str:
        """Takes its time."""
        ledger.wait(f"{note(ledger, config, f'slow {n}')}/slow")
        return f"slow {n}"

    model = ChatOpenAI(model="gpt-4o", base_url=url, api_key="sk-test", max_retries=0)  # type: ignore[arg-type]
    return create_agent(model, [quick, slow], name="assistant")
