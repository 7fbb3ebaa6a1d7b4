"""The classes that the state of a graph may hold: those its schemas declare and those its author named."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from agentspan.frameworks.langgraph.app.graph import Graph
from agentspan.frameworks.langgraph.state.serde import StateSerde
from agentspan.frameworks.langgraph.state.statetypes import graph_types

# Walking the schemas takes milliseconds. By the app, because each start has another `Graph` around it.
_serdes: WeakKeyDictionary[Any, dict[tuple[type, ...], StateSerde]] = WeakKeyDictionary()


def serde_of(graph: Graph) -> StateSerde:
    """The serializer for a graph's state, made once."""
    serdes = _serdes.setdefault(graph.app, {})
    serde = serdes.get(graph.types)
    if serde is None:
        declared = dict.fromkeys((*graph_types(graph.app), *graph.types))
        serde = serdes[graph.types] = StateSerde(declared)
    return serde
