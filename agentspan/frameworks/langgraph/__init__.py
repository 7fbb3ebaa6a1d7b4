"""LangGraph apps, durable. For users there is `AgentSpanSaver`: the checkpointer alone, for programs that want only that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentspan.frameworks.langgraph.saver import AgentSpanSaver

__all__ = ["AgentSpanSaver"]


def __getattr__(name: str) -> Any:
    if name != "AgentSpanSaver":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Only now: it imports LangGraph, and this package is imported by whoever asks whether something is a graph.
    from agentspan.frameworks.langgraph.saver import AgentSpanSaver

    return AgentSpanSaver
