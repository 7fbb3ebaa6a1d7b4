"""A user's script with a graph that cannot leave its process: `<ledger port> <command> [<execution ID>]`."""

import json
import sys
import threading
from typing import Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

from agentspan import AgentRuntime
from agentspan.errors import UnshippableCodeError
from tests.support.ledger import Ledger


class State(TypedDict, total=False):
    topic: str
    log: list[str]


def make_graph(ledger: Ledger, *, has_more: bool = False) -> Any:
    """`first` → `work`, which stays at a gate → `ask` → `last`."""
    lock = threading.Lock()

    def node(name: str) -> Any:
        def run(state: State, config: RunnableConfig) -> State:
            key = f"{config['metadata']['run_id']}/{name}"
            with lock:
                ledger.enter(key, 1)
            if name == "work":
                ledger.wait(key)
            return {"log": [*state.get("log", []), name]}

        return run

    def ask(state: State, config: RunnableConfig) -> State:
        ledger.enter(f"{config['metadata']['run_id']}/ask", 1)
        return {"log": [*state["log"], interrupt("go on?")]}

    builder = StateGraph(State)
    for name in ("first", "work", "last"):
        builder.add_node(name, node(name))
    builder.add_node("ask", ask)
    builder.add_edge(START, "first")
    builder.add_edge("first", "work")
    builder.add_edge("work", "ask")
    builder.add_edge("ask", "last")
    if has_more:
        builder.add_node("more", node("more"))
        builder.add_edge("last", "more")
        builder.add_edge("more", END)
    return builder.compile(name="hosted")


def tell(value: Any) -> None:
    print(json.dumps(value), flush=True)


def main() -> None:
    port, command, *more = sys.argv[1:]
    graph = make_graph(Ledger(int(port)), has_more=command == "newer")
    with AgentRuntime() as runtime:
        match command:
            case "ship":
                try:
                    runtime.deploy(graph)
                except UnshippableCodeError as problem:
                    tell(str(problem))
            case "start":
                handle = runtime.start(graph, {"topic": "t"}, host="client")
                tell(handle.execution_id)
                tell(handle.join(60).state)
            case "leave":
                handle = runtime.start(graph, {"topic": "t"}, host="client")
                tell(handle.execution_id)
                Ledger(int(port)).wait(f"{handle.execution_id}/leave")
            case "take up" | "newer":
                runtime.deploy(graph, host="client")
                tell([event.type for event in runtime.handle(more[0]).stream() if event.type in ("waiting", "done")])
                tell(runtime.handle(more[0]).join(60).state)
            case "history":
                runtime.deploy(graph, host="client")
                handle = runtime.handle(more[0])
                fork = handle.fork(step=3, state={"log": ["changed"]})
                tell([[state.step, list(state.next)] for state in handle.history()])
                tell([fork.execution_id, fork.join(60).state])
            case "by name":
                tell(runtime.start("hosted", {"topic": "t"}).execution_id)


if __name__ == "__main__":
    main()
