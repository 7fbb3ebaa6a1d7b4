"""The classes that the state of a graph may hold: those its schemas declare and those its author named."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from agentspan.frameworks.langgraph.app.graph import Graph
from agentspan.frameworks.langgraph.state.serde import StateSerde
from agentspan.frameworks.langgraph.state.statetypes import graph_types

_serdes: WeakKeyDictionary[Graph, StateSerde] = WeakKeyDictionary()  # Walking the schemas takes milliseconds.


def serde_of(graph: Graph) -> StateSerde:
    """The serializer for a graph's state, made once."""
    serde = _serdes.get(graph)
    if serde is None:
        declared = dict.fromkeys((*graph_types(graph.app), *graph.types))
        serde = _serdes[graph] = StateSerde(declared)
    return serde
