"""`create_agent` with 10 tool turns and a 0 ms model: run durably, over the same app with bare `ainvoke` and no saver."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from agentspan.agents import AgentRuntime
from benchmarks.common import line, model_server, private_home, ratio

TURNS = 10
ROUNDS = 15


def lookup(turn: int = 0) -> str:
    """Look something up."""
    return f"found {turn}"


def make_app(url: str) -> Any:
    """The agent, with the real client."""
    from langchain.agents import create_agent
    from langchain_openai import ChatOpenAI

    return create_agent(ChatOpenAI(model="bench", base_url=url, api_key="none"), [lookup], name="graph_turns")  # type: ignore[arg-type]


def main() -> None:
    with model_server(TURNS) as url, private_home(), AgentRuntime() as runtime:
        app = make_app(url)
        given = {"messages": [("user", "go")]}
        ours, bare = [], []
        loop = asyncio.new_event_loop()
        expected = loop.run_until_complete(app.ainvoke(given))
        runtime.run(app, given)
        for _ in range(ROUNDS):
            runtime.ready()
            time.sleep(0.3)
            started = time.perf_counter()
            loop.run_until_complete(app.ainvoke(given))
            bare.append(time.perf_counter() - started)
            started = time.perf_counter()
            result = runtime.start(app, given).join(60)
            ours.append(time.perf_counter() - started)
            assert result.is_success, result
            assert len(result.state["messages"]) == len(expected["messages"]), result
        loop.close()
    print(line(f"durable: start() → result, create_agent with {TURNS} tool turns", ours))
    print(line("bare ainvoke, no checkpointer", bare))
    print(ratio("durable over bare (p50)", ours, bare, "≤ 1.5 ×"))


if __name__ == "__main__":
    main()
