"""Savers for tests, on every store; and a look at what they stored."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.base.id import uuid6

from agentspan.frameworks.langgraph.saving.ports import StoreThreads
from agentspan.frameworks.langgraph.saving.saver import AgentSpanSaver
from agentspan.persistence.codec import pack
from agentspan.persistence.memory import MemoryStore
from agentspan.persistence.threads import ThreadCheckpoint

STORES = ("memory", "sqlite")


class Disk:
    """A store that outlives the savers on it."""

    def __init__(self, kind: str, folder: Path) -> None:
        self._kind = kind
        self._path = folder / "threads.db"
        self._memory = MemoryStore()

    def port(self) -> StoreThreads:
        """A port of its own, as another process would have."""
        if self._kind == "sqlite":
            return StoreThreads(self._path)

        async def opening() -> MemoryStore:
            return self._memory

        return StoreThreads(opening)

    @contextlib.asynccontextmanager
    async def saver(self, **options: Any) -> AsyncIterator[AgentSpanSaver]:
        """A saver with an empty memory."""
        port = self.port()
        try:
            yield AgentSpanSaver(port, **options)
        finally:
            await port.aclose()


def config(thread_id: str = "t", checkpoint_id: str | None = None, ns: str = "", **more: Any) -> Any:
    """A config that names a place."""
    at = {} if checkpoint_id is None else {"checkpoint_id": checkpoint_id}
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": ns, **at, **more}, "recursion_limit": 10_000}


def checkpoint(values: dict[str, Any], versions: dict[str, Any] | None = None, **more: Any) -> Any:
    """A checkpoint as LangGraph makes it."""
    return {
        "v": 4,
        "id": str(uuid6(clock_seq=-1)),
        "ts": "2026-01-02T03:04:05.678901+00:00",
        "channel_values": values,
        "channel_versions": dict.fromkeys(values, 1) if versions is None else versions,
        "versions_seen": {},
        "updated_channels": None,
        **more,
    }


class Line:
    """Checkpoints of one thread put one after the other, with the versions LangGraph would give."""

    def __init__(self, saver: AgentSpanSaver, thread_id: str = "t") -> None:
        self.saver = saver
        self.at: Any = config(thread_id)
        self._versions: dict[str, Any] = {}

    async def put(self, *changed: str, **values: Any) -> Any:
        """Store a checkpoint in which these channels (or, without any, all) have changed. Returns its config."""
        newest = max(self._versions.values(), default=None)
        version = self.saver.get_next_version(newest)
        new = {channel: version for channel in values if not changed or channel in changed}
        self._versions = {**self._versions, **new}
        made = checkpoint(values, {channel: self._versions[channel] for channel in values})
        self.at = await self.saver.aput(self.at, made, {"source": "loop", "step": 0, "parents": {}}, new)
        return self.at

    async def read(self, at: Any = None) -> dict[str, Any]:
        """The values of a checkpoint; without one of the last."""
        found = await self.saver.aget_tuple(self.at if at is None else at)
        assert found is not None
        return found.checkpoint["channel_values"]


async def rows(saver: AgentSpanSaver, thread_id: str | None = "t", ns: str | None = "") -> Sequence[ThreadCheckpoint]:
    """What is stored, the last first."""
    return await asyncio.wrap_future(
        saver._port.read(lambda store: store.list_checkpoints(thread_id, ns=ns, limit=100_000))
    )


async def body_bytes(saver: AgentSpanSaver, thread_id: str = "t") -> list[int]:
    """The size of each checkpoint's body, the first stored first."""
    return [len(pack(found.row.body, inline=True).data) for found in reversed(await rows(saver, thread_id))]


async def listed(saver: AgentSpanSaver, at: Any, **how: Any) -> list[CheckpointTuple]:
    """`alist` as a list."""
    return [found async for found in saver.alist(at, **how)]
