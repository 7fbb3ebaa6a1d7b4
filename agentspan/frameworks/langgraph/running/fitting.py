"""Whether a graph can go on from a state that another version of it left: LangGraph drops what it does not know, silently."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_TO, _JOIN = "branch:to:", "join:"


def waiting_nodes(values: Mapping[str, Any]) -> list[str]:
    """The nodes that a checkpoint's values say come next."""
    nodes = [name.removeprefix(_TO) for name in values if name.startswith(_TO)]
    sends: Iterable[Any] = values.get("__pregel_tasks", ())
    nodes += [send.node for send in sends if hasattr(send, "node")]
    return [name for name in nodes if not name.startswith("__")]


def missing_nodes(app: Any, values: Mapping[str, Any]) -> list[str]:
    """The nodes that come next and that the graph does not have: to LangGraph it looks as if nothing did."""
    return sorted({name for name in waiting_nodes(values) if name not in app.nodes})


def misfit(app: Any, values: Mapping[str, Any]) -> str | None:
    """What of a checkpoint's values the graph would lose, in words; None if nothing."""
    nodes = missing_nodes(app, values)
    if nodes:
        return f"the state waits for {', '.join(nodes)}, which this version of the graph does not have"
    gone = sorted(name for name in values if name not in app.channels and not name.startswith((_TO, "__")))
    joins = [name for name in gone if name.startswith(_JOIN) and values[name]]
    if joins:
        halves = ", ".join(name.removeprefix(_JOIN) for name in joins)
        return (
            f"some of the branches that meet at {halves} have ended, and in this version of the graph they do not meet"
        )
    fields = [name for name in gone if not name.startswith(_JOIN)]
    if fields:
        return f"the state has {', '.join(fields)}, which this version of the graph does not have"
    return None
