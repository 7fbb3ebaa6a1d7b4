"""What of a user's graph keeps its data in memory, or elsewhere, and what that means once the graph is durable."""

from __future__ import annotations

from typing import Any

from agentspan.frameworks.langgraph.app.structure import subgraphs


def losses(app: Any, name: str) -> list[str]:
    """Sentences for the user, each about one thing that will be lost or left alone; empty for most graphs."""
    from langgraph.checkpoint.base import BaseCheckpointSaver
    from langgraph.checkpoint.memory import InMemorySaver

    graphs = [app, *(graph for _, graph in subgraphs(app))]
    savers = [
        saver for graph in graphs if isinstance(saver := getattr(graph, "checkpointer", None), BaseCheckpointSaver)
    ]
    said = []
    for saver in savers:
        cls = type(saver).__name__
        if not isinstance(saver, InMemorySaver):
            said.append(
                f"Graph {name!r} keeps its states in AgentSpan's store. The threads that its own {cls} holds are neither "
                "read nor written; pass session_id= to go on with a conversation from here on."
            )
        elif saver.storage:
            said.append(
                f"Graph {name!r} keeps its states in AgentSpan's store. The threads that its {cls} holds now are not "
                "carried over; pass session_id= to go on with a conversation from here on."
            )
    for graph in graphs:
        said += _volatile(graph, name)
    return list(dict.fromkeys(said))


def _volatile(graph: Any, name: str) -> list[str]:
    from langgraph.store.memory import InMemoryStore

    said = []
    if isinstance(getattr(graph, "store", None), InMemoryStore):
        said.append(
            f"What graph {name!r} puts into its InMemoryStore is gone when the process that runs it ends (a crash, a long "
            "wait). Each process begins with what the store held at deployment. Use a store on disk (SqliteStore, "
            "PostgresStore) for what must last."
        )
    cache = getattr(graph, "cache", None)
    if cache is not None and type(cache).__name__ == "InMemoryCache":
        said.append(
            f"What graph {name!r} keeps in its InMemoryCache is gone when the process that runs it ends; the nodes run "
            "again then. Use a cache on disk (SqliteCache) or RedisCache to keep it."
        )
    return said
