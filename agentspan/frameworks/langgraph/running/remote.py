"""A graph's thread read from a client: LangGraph itself makes states of it, over our saver, over the server's verbs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Future
from datetime import datetime
from typing import Any, TypeVar

from agentspan.agents.results import HistoryState
from agentspan.errors import ConfigurationError
from agentspan.frameworks.langgraph.app.graph import Graph
from agentspan.frameworks.langgraph.app.graphtypes import serde_of
from agentspan.frameworks.langgraph.running.origins import check_fit, find_step
from agentspan.frameworks.langgraph.saving.saver import AgentSpanSaver
from agentspan.persistence.threads import CheckpointRow, ThreadCheckpoint, ThreadStore, ThreadWrite, WriteRow

T = TypeVar("T")
Ask = Callable[[str, dict[str, Any]], Awaitable[Any]]
"""(method of `ThreadStore`, arguments) → its answer as plain data."""


async def history(graph: Graph, execution_id: str, ask: Ask, *, limit: int | None) -> AsyncIterator[HistoryState]:
    """The states of an execution's thread, newest first."""
    app = graph.prepared(AgentSpanSaver(_RemotePort(ask), serde=serde_of(graph)))
    config: Any = {"configurable": {"thread_id": execution_id}}
    async for snapshot in app.aget_state_history(config, limit=limit):
        metadata = snapshot.metadata or {}
        yield HistoryState(
            step=int(metadata.get("step", -1)),
            at=datetime.fromisoformat(snapshot.created_at) if snapshot.created_at else None,
            source=str(metadata.get("source", "")),
            next=tuple(snapshot.next),
            values=snapshot.values,
            checkpoint_id=snapshot.config["configurable"]["checkpoint_id"],
        )


async def check_fork(graph: Graph | None, execution_id: str, ask: Ask, *, step: int | None) -> None:
    """Refuse to fork from a step that there is not, or from a state that does not fit `graph` (None: it is not looked at).

    Raises:
        ConfigurationError, UnknownStateTypeError: Say why.
    """
    store: ThreadStore = _RemoteThreads(ask)  # type: ignore[assignment]
    place = {"thread_id": execution_id, "checkpoint_ns": ""}
    if step is not None:
        place["checkpoint_id"] = await find_step(store, execution_id, step)
    if graph is not None:
        found = await AgentSpanSaver(_RemotePort(ask), serde=serde_of(graph)).aget_tuple({"configurable": place})
        if found is not None:
            check_fit(graph.app, execution_id, found.checkpoint["channel_values"])


class _RemotePort:
    """A `ThreadPort` that only reads."""

    def __init__(self, ask: Ask) -> None:
        self._store: ThreadStore = _RemoteThreads(ask)  # type: ignore[assignment]
        self._loop = asyncio.get_running_loop()

    def push(self, thread_id: str, write: ThreadWrite) -> Future[None]:
        raise ConfigurationError(
            problem="A thread of an execution is only read here; use `handle.fork(...)` to change it."
        )

    def close(self) -> None:
        """Nothing to do: the connection is the client's."""

    def read(self, call: Callable[[ThreadStore], Awaitable[T]]) -> Future[T]:
        async def reading() -> T:
            return await call(self._store)

        return asyncio.run_coroutine_threadsafe(reading(), self._loop)


class _RemoteThreads:
    """The reading methods of a `ThreadStore`, asked of the server."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    async def checkpoint(self, thread_id: str, ns: str = "", checkpoint_id: str | None = None) -> Any:
        found = await self._ask("checkpoint", {"thread_id": thread_id, "ns": ns, "checkpoint_id": checkpoint_id})
        return None if found is None else _listed(found)

    async def checkpoints(self, thread_id: str, ns: str, checkpoint_ids: Sequence[str]) -> list[CheckpointRow]:
        args = {"thread_id": thread_id, "ns": ns, "checkpoint_ids": list(checkpoint_ids)}
        return [CheckpointRow(**row) for row in await self._ask("checkpoints", args)]

    async def list_checkpoints(
        self,
        thread_id: str | None = None,
        *,
        ns: str | None = None,
        before: str | None = None,
        skip: int = 0,
        limit: int = 100,
    ) -> list[ThreadCheckpoint]:
        args = {"thread_id": thread_id, "ns": ns, "before": before, "skip": skip, "limit": limit}
        return [_listed(found) for found in await self._ask("list_checkpoints", args)]

    async def checkpoint_writes(self, thread_id: str, ns: str, checkpoint_id: str) -> list[WriteRow]:
        args = {"thread_id": thread_id, "ns": ns, "checkpoint_id": checkpoint_id}
        return [WriteRow(**row) for row in await self._ask("checkpoint_writes", args)]


def _listed(plain: dict[str, Any]) -> ThreadCheckpoint:
    return ThreadCheckpoint(
        thread_id=plain["thread_id"],
        row=CheckpointRow(**plain["row"]),
        writes=[WriteRow(**row) for row in plain["writes"]],
    )
