"""The task that every system does: ask the model through the real openai client, run the tool, ask again, until it is done."""

from __future__ import annotations

import json
from typing import Any

from openai import AsyncOpenAI

INSTRUCTIONS, PROMPT, RESULT = "Use the tool.", "go", "done"
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": INSTRUCTIONS},
    {"role": "user", "content": PROMPT},
]
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "lookup",
            "description": "Look something up.",
            "parameters": {"type": "object", "properties": {"turn": {"type": "integer"}}, "required": ["turn"]},
        },
    }
]


async def lookup(turn: int = 0) -> str:
    """Look something up."""
    return f"found {turn}"


def new_client(url: str) -> AsyncOpenAI:
    """The real client. It waits for as long as the model takes."""
    return AsyncOpenAI(base_url=url, api_key="none", timeout=900.0, max_retries=0)


async def ask(client: AsyncOpenAI, model: str, messages: list[Any]) -> dict[str, Any]:
    """The model's next message, as data."""
    tools: Any = TOOLS
    reply = await client.chat.completions.create(model=model, messages=messages, tools=tools)
    return reply.choices[0].message.model_dump(exclude_none=True)


async def call_tool(call: dict[str, Any]) -> dict[str, Any]:
    """The message with the result of one tool call."""
    result = await lookup(**json.loads(call["function"]["arguments"]))
    return {"role": "tool", "tool_call_id": call["id"], "content": result}
