"""Reading checkpoints: what the store is asked for, in as few round trips as the rows allow, and what becomes of it.

Rows are collected on the port's loop; values are made on the caller's thread, because making them runs constructors of
the user's types.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple, DeltaChannelHistory, PendingWrite, get_checkpoint_id

from agentspan.frameworks.langgraph.saving.channel_reading import unpack_run
from agentspan.frameworks.langgraph.saving.channels import Serde
from agentspan.frameworks.langgraph.saving.failures import Failures
from agentspan.frameworks.langgraph.saving.ports import ThreadPort
from agentspan.frameworks.langgraph.saving.shelf import Memory, Shelf
from agentspan.frameworks.langgraph.saving.steps import Steps
from agentspan.persistence.threads import CheckpointRow, ThreadCheckpoint, ThreadStore, WriteRow

PAGE_ROWS = 50
"""Checkpoints read at a time for a listing."""


class Reads:
    """Reads of one thread (or, without one, of all)."""

    def __init__(
        self,
        port: ThreadPort,
        serde: Serde,
        memory: Memory,
        failures: Failures,
        *,
        thread_id: str | None,
        shown_as: str | None,
        ns: str,
    ) -> None:
        self._port = port
        self._serde = serde
        self._memory = memory
        self._failures = failures
        self._thread_id = thread_id
        self._shown_as = shown_as
        self._ns = ns

    def tuple(self, checkpoint_id: str | None) -> Steps[CheckpointTuple | None]:
        """One checkpoint; None is the latest."""
        thread_id, ns = self._need_thread(), self._ns

        async def fetch(store: ThreadStore) -> tuple[ThreadCheckpoint, Shelf] | None:
            found = await store.checkpoint(thread_id, ns, checkpoint_id)
            if found is None:
                return None
            shelf = Shelf(thread_id, ns)
            shelf.add([found.row])
            await shelf.fetch(store, [(found.row.checkpoint_id, None)])
            return found, shelf

        fetched = yield self._port.read(fetch)
        if fetched is None:
            return None
        found, shelf = fetched
        own_id = found.row.checkpoint_id
        opened = shelf.open(own_id, self._serde)
        # Now, before anybody can change the values: a run that goes on from here stores only what it changes.
        self._memory.keep(thread_id, ns, own_id, opened.known(shelf.row(own_id)))
        self._failures.settle((thread_id, ns, own_id), {write.task_id for write in found.writes})
        return self._shown(thread_id, found.row, found.writes, opened.checkpoint, opened.metadata)

    def pages(
        self,
        config: RunnableConfig | None,
        filter: Mapping[str, Any] | None,
        before: RunnableConfig | None,
        limit: int | None,
    ) -> Pages:
        """A listing, page by page."""
        given = {} if config is None else config["configurable"]
        return Pages(
            self,
            ns=given.get("checkpoint_ns"),
            only=None if config is None else get_checkpoint_id(config) or None,
            filter=filter or {},
            before=None if before is None else get_checkpoint_id(before),
            limit=limit,
        )

    def delta_history(
        self, checkpoint_id: str | None, channels: Sequence[str]
    ) -> Steps[Mapping[str, DeltaChannelHistory]]:
        """For each channel the writes since the nearest ancestor that has its value, and that value."""
        if not channels:
            return {}
        thread_id, ns = self._need_thread(), self._ns

        async def fetch(store: ThreadStore) -> tuple[Shelf, list[WriteRow], dict[str, str]]:
            shelf, writes, seeds = Shelf(thread_id, ns), list[list[WriteRow]](), dict[str, str]()
            at = await store.checkpoint(thread_id, ns, checkpoint_id)
            while at is not None and len(seeds) < len(channels):
                parent_id = at.row.parent_id
                at = None if parent_id is None else await store.checkpoint(thread_id, ns, parent_id)
                if at is not None:
                    open_channels = {channel for channel in channels if channel not in seeds}
                    writes.append([write for write in at.writes if write.channel in open_channels])
                    shelf.add([at.row])
                    await shelf.fetch(store, [(at.row.checkpoint_id, channel) for channel in open_channels])
                    row = shelf.row(at.row.checkpoint_id)
                    seeds.update(dict.fromkeys(open_channels & row.has(), at.row.checkpoint_id))
            return shelf, [write for of in reversed(writes) for write in of], seeds

        shelf, writes, seeds = yield self._port.read(fetch)
        pending = [(write.channel, self._write(write)) for write in writes]
        histories: dict[str, DeltaChannelHistory] = {}
        for channel in channels:
            histories[channel] = {"writes": [write for at, write in pending if at == channel]}
            if channel in seeds:
                histories[channel]["seed"] = shelf.value(seeds[channel], channel, self._serde)
        return histories

    # --- what callers see

    def shown(self, shelf: Shelf, found: ThreadCheckpoint) -> CheckpointTuple:
        """A checkpoint of a listing."""
        opened = shelf.open(found.row.checkpoint_id, self._serde)
        return self._shown(found.thread_id, found.row, found.writes, opened.checkpoint, opened.metadata)

    def fits(self, shelf: Shelf, row: CheckpointRow, filter: Mapping[str, Any]) -> bool:
        """Whether the metadata says what was asked for."""
        metadata = shelf.row(row.checkpoint_id).metadata(self._serde) if filter else {}
        return all(metadata.get(key) == value for key, value in filter.items())

    def _shown(
        self, thread_id: str, row: CheckpointRow, writes: Sequence[WriteRow], checkpoint: Any, metadata: Any
    ) -> CheckpointTuple:
        def config(checkpoint_id: str) -> RunnableConfig:
            shown_as = thread_id if self._shown_as is None else self._shown_as
            return {"configurable": {"thread_id": shown_as, "checkpoint_ns": row.ns, "checkpoint_id": checkpoint_id}}

        return CheckpointTuple(
            config(row.checkpoint_id),
            checkpoint,
            metadata,
            None if row.parent_id is None else config(row.parent_id),
            [self._write(write) for write in writes],
        )

    def _write(self, write: WriteRow) -> PendingWrite:
        encoded, path = write.body["v"], f"$.{write.channel}"
        value = unpack_run(encoded[1], self._serde, path) if type(encoded) is list else self._serde.loads(encoded, path)
        return (write.task_id, write.channel, value)

    def _need_thread(self) -> str:
        if self._thread_id is None:
            raise ValueError("A checkpointer needs to know the thread: pass {'configurable': {'thread_id': …}}.")
        return self._thread_id

    @property
    def port(self) -> ThreadPort:
        return self._port

    @property
    def thread_id(self) -> str | None:
        return self._thread_id


class Pages:
    """A listing in progress."""

    def __init__(
        self,
        reads: Reads,
        *,
        ns: str | None,
        only: str | None,
        filter: Mapping[str, Any],
        before: str | None,
        limit: int | None,
    ) -> None:
        self._reads = reads
        self._ns = ns
        self._only = only
        self._filter = filter
        self._before = before
        self._left = limit
        self._rows = RowPages(reads.thread_id, ns, before)

    def next(self) -> Steps[list[CheckpointTuple] | None]:
        """The next page, which may be empty; None after the last."""
        if self._rows.is_done or (self._left is not None and self._left <= 0):
            return None
        fetched = yield self._reads.port.read(self._fetch)
        shelves, page = fetched
        return [self._reads.shown(shelves[found.thread_id, found.row.ns], found) for found in page]

    async def _fetch(self, store: ThreadStore) -> tuple[dict[tuple[str, str], Shelf], list[ThreadCheckpoint]]:
        if self._only is not None and self._ns is not None and self._reads.thread_id is not None:
            # A config that names a checkpoint lists that one.
            self._rows.is_done = True
            one = await store.checkpoint(self._reads.thread_id, self._ns, self._only)
            rows = [] if one is None or not await self._is_before(store, one) else [one]
        else:
            rows = await self._rows.next(store)
        shelves: dict[tuple[str, str], Shelf] = {}
        page: list[ThreadCheckpoint] = []
        for found in rows:
            row = found.row
            shelf = shelves.setdefault((found.thread_id, row.ns), Shelf(found.thread_id, row.ns))
            shelf.add([row])
            if self._only not in (None, row.checkpoint_id) or not self._reads.fits(shelf, row, self._filter):
                continue
            if self._left is not None:
                if self._left <= 0:
                    break
                self._left -= 1
            writes = await store.checkpoint_writes(found.thread_id, row.ns, row.checkpoint_id)
            page.append(ThreadCheckpoint(thread_id=found.thread_id, row=row, writes=writes))
        for (thread_id, ns), shelf in shelves.items():
            wanted = [(one.row.checkpoint_id, None) for one in page if (one.thread_id, one.row.ns) == (thread_id, ns)]
            await shelf.fetch(store, wanted)
        return shelves, page

    async def _is_before(self, store: ThreadStore, one: ThreadCheckpoint) -> bool:
        if self._before is None:
            return True
        rows = await store.list_checkpoints(one.thread_id, ns=one.row.ns, before=self._before, limit=2**31)
        return any(found.row.checkpoint_id == one.row.checkpoint_id for found in rows)


class RowPages:
    """Rows of a listing, without holding anything between pages."""

    def __init__(self, thread_id: str | None, ns: str | None, before: str | None = None) -> None:
        self._thread_id = thread_id
        self._ns = ns
        self._before = before
        self._limit = PAGE_ROWS
        self._seen: set[tuple[str, str, str]] = set()
        self.is_done = False

    async def next(self, store: ThreadStore) -> list[ThreadCheckpoint]:
        """The next page."""
        rows = await store.list_checkpoints(self._thread_id, ns=self._ns, before=self._before, limit=self._limit)
        self.is_done = len(rows) < self._limit
        if self._thread_id is not None and self._ns is not None:
            if rows:
                self._before = rows[-1].row.checkpoint_id
            return rows
        # Over several namespaces there is no checkpoint to go on after: ask for twice as many, and leave out the first.
        fresh = [row for row in rows if (row.thread_id, row.row.ns, row.row.checkpoint_id) not in self._seen]
        self._seen.update([(row.thread_id, row.row.ns, row.row.checkpoint_id) for row in fresh])
        self._limit *= 2
        return fresh
