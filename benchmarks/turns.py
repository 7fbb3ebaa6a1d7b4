"""One execution of 20 tool turns with a 0 ms model, over the same loop with the bare openai client and no durability."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from agentspan.agents import Agent, AgentRuntime, tool
from benchmarks.common import line, model_server, private_home, ratio

TURNS = 20
ROUNDS = 15


@tool
async def lookup(turn: int = 0) -> str:
    """Look something up."""
    return f"found {turn}"


async def bare_loop(client: Any, tools: list[dict[str, Any]]) -> str:
    """What people write by hand: ask, run the tools, ask again; nothing is kept."""
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Use the tool."},
        {"role": "user", "content": "go"},
    ]
    while True:
        reply = await client.chat.completions.create(model="bench", messages=messages, tools=tools)
        message = reply.choices[0].message
        messages.append(message.model_dump(exclude_none=True))
        if not message.tool_calls:
            return str(message.content)
        for call in message.tool_calls:
            result = await lookup(**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})


def main() -> None:
    from openai import AsyncOpenAI

    with model_server(TURNS) as url, private_home(), AgentRuntime() as runtime:
        agent = Agent("turns", model="openai/bench", base_url=url, instructions="Use the tool.", tools=[lookup])
        definition = lookup._tool_def
        tools = [
            {
                "type": "function",
                "function": {
                    "name": definition.name,
                    "description": definition.description,
                    "parameters": definition.input_schema,
                },
            }
        ]
        ours, bare = [], []
        loop = asyncio.new_event_loop()
        client = AsyncOpenAI(base_url=url, api_key="none")
        loop.run_until_complete(bare_loop(client, tools))
        runtime.run(agent, "go")
        for _ in range(ROUNDS):
            runtime.ready()
            time.sleep(0.3)
            started = time.perf_counter()
            loop.run_until_complete(bare_loop(client, tools))
            bare.append(time.perf_counter() - started)
            started = time.perf_counter()
            result = runtime.start(agent, "go").join(60)
            ours.append(time.perf_counter() - started)
            assert result.is_success, result
            assert len(result.tool_calls) == TURNS, result
        loop.run_until_complete(client.close())
        loop.close()
    print(line(f"durable: start() → result, {TURNS} tool turns", ours))
    print(line("bare openai loop, nothing kept", bare))
    print(ratio("durable over bare (p50)", ours, bare, "≤ 1.0 ×"))


if __name__ == "__main__":
    main()
