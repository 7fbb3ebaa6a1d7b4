"""From a state to what is sent to the model."""

from __future__ import annotations

from typing import Any

from agentspan.agents.spec import AgentSpec
from agentspan.engine.state import ExecutionState, Frame, tool_message


def conversation(state: ExecutionState, frame: Frame, instructions: str) -> list[dict[str, Any]]:
    """The messages of a model call: the instructions, the frame's conversation, and the operator's note if there is one."""
    messages: list[dict[str, Any]] = []
    if instructions:
        messages.append({"role": "system", "content": instructions})
    messages.extend(frame.messages)
    if state.guidance:
        messages.append({"role": "system", "content": f"[SIGNALS]\n{state.guidance}"})
    return messages


def ended_conversation(frame: Frame) -> list[dict[str, Any]]:
    """The conversation of a frame that ended, to be continued: calls that were still open get a result, too (P7).

    Empty for a graph, whose conversation is in its thread: an agent that comes after it under its name begins anew.
    """
    if frame.graph is not None:
        return []
    return [*frame.messages, *(tool_message(call) for call in frame.calls)]


def tool_definitions(spec: AgentSpec) -> list[dict[str, Any]]:
    """The agent's tools in the form models are offered them."""
    return [
        {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description, "parameters": tool.parameters},
        }
        for tool in spec.tools.values()
    ]


def response_format(spec: AgentSpec) -> dict[str, Any] | None:
    """The structured output the model is held to, or None for text."""
    if spec.output_schema is None:
        return None
    return {
        "type": "json_schema",
        "json_schema": {"name": spec.output_name or "output", "schema": spec.output_schema},
    }
