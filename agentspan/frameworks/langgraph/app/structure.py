"""What a graph is made of, as plain data that is the same in every process: nodes, channels, edges, schemas."""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

FINGERPRINT_BYTES = 16
SHORT_BYTES = 3


def user_nodes(app: Any) -> list[str]:
    """The names of the nodes, in the order they were added, without LangGraph's own (`__start__`)."""
    return [name for name in app.nodes if not name.startswith("__")]


def channel_names(app: Any) -> list[str]:
    """The names of the state's fields: channels that are not LangGraph's own."""
    return sorted(name for name in app.channels if not name.startswith(("__", "branch:", "join:")))


def fingerprint(app: Any) -> str:
    """A hash of nodes, channels, edges and the fields of schemas: says whether stored states fit this graph."""
    return _digest(_structure(app), FINGERPRINT_BYTES)


def origin_digest(app: Any) -> str:
    """A few characters that differ between graphs with other nodes or edges, or with nodes from other functions."""
    functions = [f"{name}={function.__qualname__}" for name, function in node_functions(app)]
    return _digest([_structure(app), sorted(functions)], SHORT_BYTES)


def _digest(data: Any, size: int) -> str:
    return blake2b(json.dumps(data, sort_keys=True).encode(), digest_size=size).hexdigest()


def _structure(app: Any) -> dict[str, Any]:
    builder = getattr(app, "builder", None)
    return {
        "nodes": {name: [_listed(node.triggers), _listed(node.channels)] for name, node in app.nodes.items()},
        "channels": sorted(app.channels),
        "edges": static_edges(app),
        "schemas": [] if builder is None else sorted(sorted(map(str, fields)) for fields in builder.schemas.values()),
        "input": _listed(app.input_channels),
        "output": _listed(app.output_channels),
    }


def _listed(names: Any) -> list[str]:
    return [names] if isinstance(names, str) else sorted(map(str, names))


def static_edges(app: Any) -> list[list[str]]:
    """Every `[from, to]` that the author declared. Where a router may go is known only if it says so."""
    builder = getattr(app, "builder", None)
    if builder is None:
        return []
    edges = [(source, target) for source, target in builder.edges]
    edges += [(source, target) for sources, target in builder.waiting_edges for source in sources]
    for source, branches in builder.branches.items():
        edges += [(source, str(end)) for branch in branches.values() for end in (branch.ends or {}).values()]
    edges += [(name, str(end)) for name, spec in builder.nodes.items() for end in spec.ends or ()]
    return sorted([source, target] for source, target in set(edges))


def subgraphs(app: Any) -> Iterator[tuple[str, Any]]:
    """The graphs inside this one that LangGraph can see, all levels, as `node|inner node` and graph."""
    yield from app.get_subgraphs(recurse=True)


def node_functions(app: Any) -> Iterator[tuple[str, Any]]:
    """The functions behind the nodes, as node name and function. A node of several steps brings several."""
    for name, node in app.nodes.items():
        if not name.startswith("__"):
            yield from ((name, function) for function in _functions(node.bound))


def _functions(runnable: Any) -> Iterator[Any]:
    for step in getattr(runnable, "steps", None) or (runnable,):
        if step is not runnable and hasattr(step, "steps"):
            yield from _functions(step)
            continue
        for function in (getattr(step, "func", None), getattr(step, "afunc", None)):
            inner = getattr(function, "func", function)  # LangGraph makes partials of sync functions.
            if hasattr(inner, "__qualname__"):
                yield inner
