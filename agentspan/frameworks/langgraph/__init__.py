"""LangGraph apps, durable. For users there is `AgentSpanSaver`: the checkpointer alone, for programs that want only that.

Four rooms, from the user's graph inwards:

* `app`: the graph before it runs (start at `app/graph.py`);
* `running`: the graph at work (start at `running/running.py`);
* `saving`: the checkpointer (start at `saving/saver.py`);
* `state`: its state as bytes (start at `state/serde.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentspan.frameworks.langgraph.saving.saver import AgentSpanSaver

__all__ = ["AgentSpanSaver"]


def __getattr__(name: str) -> Any:
    if name != "AgentSpanSaver":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Only now: it imports LangGraph, and this package is imported by whoever asks whether something is a graph.
    from agentspan.frameworks.langgraph.saving.saver import AgentSpanSaver

    return AgentSpanSaver
