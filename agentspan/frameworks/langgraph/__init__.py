"""LangGraph apps, durable. For users there is `AgentSpanSaver`: the checkpointer alone, for programs that want only that.

Where what is:

* A user's graph before it runs: `graph` (start here), `unwrapping`, `naming`, `structure`, `drawing`, `losses`; what it
  takes and gives: `inputs`, `schemas`, `outputs`; how its code travels: `pickling`.
* A graph at work: `running` (start here), on `graphloop` and `threads`; `execution` is its way to the driver's commits,
  `telling` its events; `interrupts`, `decisions` and `breakpoints` are what people are asked; `starting` is what a start
  carries, `origins` where sessions and forks begin, `remote` reads a thread from a client, `rehearsal` warms a process.
* The checkpointer: `saver` (start here), `ports` and `desk` below it; `checkpoints`, `channels`, `channel_reading` and
  `marks` are what is stored, in O(delta); `reads`, `shelf`, `upkeep`, `failures`, `redacting`, `steps`, `patches`.
* State as bytes: `serde` (start here), `wire`, `forms*`, `builtin_types`, `blame`; which classes: `statetypes`, `graphtypes`.
"""

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
