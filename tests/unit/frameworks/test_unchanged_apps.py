"""What works with `app.invoke(x)` works with `runtime.run(app, x)`: apps as their users have them, through the real driver."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import wrap_model_call, wrap_tool_call
from langchain_core.messages import ToolMessage
from langchain_core.tools import tool
from langgraph.types import interrupt

from agentspan.persistence.memory import MemoryStore
from tests.support.graph_lives import graph_loop, started
from tests.support.graphs_agents import ScriptedChat, call, calls, says


@pytest.fixture
async def loop():
    async with graph_loop() as loop:
        yield loop


@tool
def risky(x: int) -> str:
    """Fails for odd numbers, asks about even ones."""
    if x % 2:
        raise ValueError(f"{x} is odd")
    return f"a person said {interrupt(f'Really {x}?')}"


async def test_middleware_with_only_a_sync_form_works_as_under_invoke(loop):
    heard: list[str] = []

    @wrap_model_call
    def noting(request: Any, handler: Any) -> Any:
        heard.append(f"model after {len(request.messages)}")
        return handler(request)

    @wrap_tool_call
    def guarded(request: Any, handler: Any) -> Any:
        heard.append(f"tool {request.tool_call['args']['x']}")
        try:
            return handler(request)
        except ValueError as problem:
            return ToolMessage(f"failed: {problem}", tool_call_id=request.tool_call["id"])

    model = ScriptedChat(replies=[calls(call("risky", 1, x=3), call("risky", 2, x=4)), says("done")])
    app = create_agent(model, [risky], middleware=[noting, guarded])
    life = await started(app, "go", MemoryStore(), loop)
    assert (await life.live()).status == "WAITING"
    assert [waits.question for waits in await life.pending()] == ["Really 4?"]
    await life.answer("respond", value="yes")
    told = [message.content for message in (await life.result())["messages"]]
    assert told == ["go", "", "failed: 3 is odd", "a person said yes", "done"]
    assert sorted(heard) == ["model after 1", "model after 4", "tool 3", "tool 4", "tool 4"]
