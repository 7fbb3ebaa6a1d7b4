"""The SQLite store: one file, no server, as many processes as one machine has.

Every process opens the file itself. SQLite's lock orders the writers of different processes, group commit (see
`sqlite_link`) shares one disk flush among the writes of one process, and a second connection reads without waiting for
either. Write-ahead log with `synchronous=FULL`: what was acknowledged survives a power cut.

The statements live in `sqlite_rows` (reads), `sqlite_writes` and `sqlite_upkeep`, those of threads in
`sqlite_thread_rows` and `sqlite_threads`; values are packed and checked here, on the caller's side, so that a
transaction is over as fast as SQLite can be.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

from agentspan.engine.admit import Signal
from agentspan.persistence import sqlite_rows, sqlite_thread_rows, sqlite_threads, sqlite_upkeep, sqlite_writes
from agentspan.persistence.bodies import pack_commit, pack_note, pack_signal, pack_started
from agentspan.persistence.codec import BlobMemo
from agentspan.persistence.decisions import needs_schema
from agentspan.persistence.rules import check_names, check_new
from agentspan.persistence.sqlite_link import InlineLink, SqliteLink
from agentspan.persistence.store import (
    Accepted,
    Commit,
    Created,
    DeploymentRow,
    ExecutionRow,
    JournalEntry,
    Loaded,
    NewExecution,
    PendingRow,
    Receipt,
    Sweep,
    TakenOver,
)
from agentspan.persistence.thread_bodies import PackedThread, pack_thread
from agentspan.persistence.threads import CheckpointRow, ThreadCheckpoint, ThreadWrite, WriteRow

LOCKED_MAX_S = 30.0
"""How long a write waits for other processes' transactions before the store counts as unavailable."""


class SqliteStore:
    """A `Store` in a SQLite file. Belongs to the event loop it was opened on; other loops open their own."""

    _LINK: ClassVar[type[SqliteLink]] = SqliteLink

    def __init__(self, link: SqliteLink, clock: Callable[[], float]) -> None:
        self._link = link
        self._clock = clock
        self._memo = BlobMemo()
        self._numbers: dict[str, int] = {}  # Used on the writer's thread only.

    @classmethod
    async def connect(
        cls, path: str | Path, *, locked_max_s: float = LOCKED_MAX_S, clock: Callable[[], float] = time.time
    ) -> Self:
        """Open the file, making or migrating it if need be. `close` it when done.

        Args:
            path: Where the file is or shall be; missing directories are made.
            locked_max_s: How long to wait for other processes' transactions.
            clock: UTC seconds, for instants that no caller gives.

        Raises:
            ConfigurationError: Something else lives at `path`.
            StoreVersionError: A newer AgentSpan wrote it. Nothing was changed.
            StoreUnavailableError: It cannot be opened now.
        """
        link = cls._LINK(path, locked_max_s)
        await link.open()
        return cls(link, clock)

    @classmethod
    @asynccontextmanager
    async def open(cls, path: str | Path, **options: Any) -> AsyncIterator[Self]:
        """`connect` for an `async with` block, which closes it."""
        store = await cls.connect(path, **options)
        try:
            yield store
        finally:
            await store.close()

    @property
    def path(self) -> Path:
        """The file."""
        return self._link.path

    @property
    def transactions(self) -> int:
        """Write transactions so far; group commit makes them fewer than writes."""
        return self._link.groups

    async def close(self) -> None:
        """See `Store.close`."""
        await self._link.close()

    # --- executions

    async def create(self, new: NewExecution) -> Created:
        """See `Store.create`."""
        check_new(new)
        metadata = pack_note(new.metadata)
        started = pack_started(new, None, self._memo)
        return await self._link.write(lambda db: sqlite_writes.create(db, new, started, metadata, self._memo))

    async def take_over(
        self, execution_id: str, *, host: dict[str, Any], expected_epoch: int | None = None, blame: bool = True
    ) -> TakenOver:
        """See `Store.take_over`."""
        note, now = pack_note(host), self._clock()
        return await self._link.write(
            lambda db: sqlite_writes.take_over(db, execution_id, note, expected_epoch, blame, now)
        )

    async def set_host(self, execution_id: str, *, epoch: int, host: dict[str, Any]) -> None:
        """See `Store.set_host`."""
        note = pack_note(host)
        await self._link.write(lambda db: sqlite_writes.set_host(db, execution_id, epoch, note))

    async def load(self, execution_id: str) -> Loaded:
        """See `Store.load`."""
        return await self._link.read(lambda db: sqlite_rows.load(db, execution_id, self._memo))

    async def commit(self, commit: Commit) -> Receipt:
        """See `Store.commit`."""
        packed = pack_commit(commit, self._memo)
        return await self._link.write(lambda db: sqlite_writes.commit(db, packed, self._numbers, self._memo))

    async def quarantine(self, execution_id: str, *, error: str) -> None:
        """See `Store.quarantine`."""
        now = self._clock()
        await self._link.write(lambda db: sqlite_writes.quarantine(db, execution_id, error, now))

    async def release(self, execution_id: str) -> bool:
        """See `Store.release`."""
        now = self._clock()
        return await self._link.write(lambda db: sqlite_writes.release(db, execution_id, now))

    async def row(self, execution_id: str) -> ExecutionRow:
        """See `Store.row`."""
        return await self._link.read(lambda db: sqlite_rows.row(db, execution_id))

    async def find(self, prefix: str) -> str:
        """See `Store.find`."""
        return await self._link.read(lambda db: sqlite_rows.find(db, prefix))

    async def rows(
        self,
        *,
        statuses: Sequence[str] | None = None,
        agent: str | None = None,
        session_id: str | None = None,
        limit: int = 100,
        before: float | None = None,
    ) -> list[ExecutionRow]:
        """See `Store.rows`."""
        return await self._link.read(
            lambda db: sqlite_rows.rows(
                db, statuses=statuses, agent=agent, session_id=session_id, limit=limit, before=before
            )
        )

    async def unfinished(self) -> list[ExecutionRow]:
        """See `Store.unfinished`."""
        return await self._link.read(sqlite_rows.unfinished)

    async def journal(self, execution_id: str, *, after_seq: int = -1, limit: int = 1000) -> list[JournalEntry]:
        """See `Store.journal`."""
        return await self._link.read(lambda db: sqlite_rows.journal(db, execution_id, after_seq, limit))

    async def journal_after_event(self, execution_id: str, *, event: int, limit: int = 1000) -> list[JournalEntry]:
        """See `Store.journal_after_event`."""
        return await self._link.read(lambda db: sqlite_rows.journal_after_event(db, execution_id, event, limit))

    # --- signals

    async def send(self, signal: Signal) -> Accepted:
        """See `Store.send`."""
        pack_signal(signal, self._memo)  # What cannot be stored is refused here, and large values are hashed.
        if needs_schema(signal):
            await self._link.off_loop(_import_jsonschema)
        return await self._link.write(lambda db: sqlite_writes.send(db, signal, self._memo))

    async def inbox(self, execution_id: str) -> list[Signal]:
        """See `Store.inbox`."""
        return await self._link.read(lambda db: sqlite_rows.inbox(db, execution_id))

    async def pending(self, execution_id: str | None = None, *, limit: int = 100) -> list[PendingRow]:
        """See `Store.pending`."""
        return await self._link.read(lambda db: sqlite_rows.pending(db, execution_id, limit))

    # --- deployments

    async def save_deployment(self, deployment: DeploymentRow) -> bool:
        """See `Store.save_deployment`."""
        check_names(deployment_id=deployment.deployment_id, agent=deployment.agent, reference=deployment.reference)
        return await self._link.write(lambda db: sqlite_writes.save_deployment(db, deployment))

    async def deployment(self, deployment_id: str) -> DeploymentRow | None:
        """See `Store.deployment`."""
        return await self._link.read(lambda db: sqlite_rows.deployment(db, deployment_id))

    async def current_deployment(self, agent: str) -> DeploymentRow | None:
        """See `Store.current_deployment`."""
        return await self._link.read(lambda db: sqlite_rows.current_deployment(db, agent))

    async def deployments(self) -> list[DeploymentRow]:
        """See `Store.deployments`."""
        return await self._link.read(sqlite_rows.deployments)

    # --- threads

    async def write_thread(self, thread_id: str, write: ThreadWrite) -> int:
        """See `ThreadStore.write_thread`."""
        packed = pack_thread(thread_id, write, self._memo)
        return await self._link.write(lambda db: sqlite_threads.write_thread(db, packed, self._memo))

    async def checkpoint(
        self, thread_id: str, ns: str = "", checkpoint_id: str | None = None
    ) -> ThreadCheckpoint | None:
        """See `ThreadStore.checkpoint`."""
        return await self._link.read(
            lambda db: sqlite_thread_rows.checkpoint(db, thread_id, ns, checkpoint_id, self._memo)
        )

    async def checkpoints(self, thread_id: str, ns: str, checkpoint_ids: Sequence[str]) -> list[CheckpointRow]:
        """See `ThreadStore.checkpoints`."""
        return await self._link.read(
            lambda db: sqlite_thread_rows.checkpoints(db, thread_id, ns, checkpoint_ids, self._memo)
        )

    async def list_checkpoints(
        self,
        thread_id: str | None = None,
        *,
        ns: str | None = None,
        before: str | None = None,
        skip: int = 0,
        limit: int = 100,
    ) -> list[ThreadCheckpoint]:
        """See `ThreadStore.list_checkpoints`."""
        return await self._link.read(
            lambda db: sqlite_thread_rows.listing(db, thread_id, ns, before, skip, limit, self._memo)
        )

    async def places(self, thread_id: str, checkpoint_id: str) -> list[tuple[str, str]]:
        """See `ThreadStore.places`."""
        return await self._link.read(lambda db: sqlite_thread_rows.places(db, thread_id, checkpoint_id))

    async def checkpoint_writes(self, thread_id: str, ns: str, checkpoint_id: str) -> list[WriteRow]:
        """See `ThreadStore.checkpoint_writes`."""
        return await self._link.read(lambda db: sqlite_thread_rows.writes(db, thread_id, ns, checkpoint_id, self._memo))

    async def delete_checkpoints(self, thread_id: str, checkpoint_ids: Sequence[tuple[str, str]]) -> None:
        """See `ThreadStore.delete_checkpoints`."""
        await self._link.write(lambda db: sqlite_threads.delete_checkpoints(db, thread_id, checkpoint_ids))

    async def delete_thread(self, thread_id: str) -> None:
        """See `ThreadStore.delete_thread`. Freed pages are used again; the file does not shrink."""
        await self._link.write(lambda db: sqlite_threads.delete_thread(db, thread_id))

    async def copy_thread(self, source: str, target: str) -> None:
        """See `ThreadStore.copy_thread`."""
        check_names(target=target)
        await self._link.write(lambda db: sqlite_threads.copy_thread(db, source, target))

    # --- upkeep

    async def gc(self, *, finished_before: float, dry_run: bool = True, limit: int = 10_000) -> Sweep:
        """See `Store.gc`. Freed pages are used again; the file does not shrink."""
        doomed = await self._link.read(lambda db: sqlite_upkeep.expired(db, finished_before, limit))
        removed = sqlite_upkeep.Removed()
        if dry_run:
            removed = await self._link.read(lambda db: sqlite_upkeep.weigh(db, doomed))
        else:
            for start in range(0, len(doomed), sqlite_upkeep.GC_BATCH):
                batch = doomed[start : start + sqlite_upkeep.GC_BATCH]
                removed.add(await self._link.write(partial(_remove, batch, finished_before)))
        return Sweep(
            executions=len(removed.execution_ids),
            records=removed.records,
            blobs=removed.blobs,
            bytes=removed.bytes,
            dry_run=dry_run,
            execution_ids=removed.execution_ids,
        )

    async def info(self) -> dict[str, Any]:
        """See `Store.info`."""
        facts = await self._link.read(sqlite_upkeep.info)
        return {"kind": "sqlite", "where": str(self.path), **facts}


class InlineSqliteStore(SqliteStore):
    """A `SqliteStore` that writes on the thread of its loop, for a loop that serves nothing else: that thread waits for
    the disk, and for other processes' transactions."""

    _LINK = InlineLink

    def write_threads(self, writes: Sequence[tuple[str, ThreadWrite]]) -> list[BaseException | None]:
        """See `InlineThreadStore.write_threads`."""
        works: list[Callable[[sqlite3.Connection], int]] = []
        problems: list[BaseException | None] = []
        for thread_id, write in writes:
            try:
                packed = pack_thread(thread_id, write, self._memo)
            except Exception as problem:
                problems.append(problem)
            else:
                problems.append(None)
                works.append(partial(_write_thread, packed, self._memo))
        assert isinstance(self._link, InlineLink)
        outcomes = iter(self._link.write_now(works))
        return [next(outcomes)[1] if problem is None else problem for problem in problems]


def _write_thread(packed: PackedThread, memo: BlobMemo, db: sqlite3.Connection) -> int:
    return sqlite_threads.write_thread(db, packed, memo)


def _remove(batch: Sequence[tuple[int, str]], finished_before: float, db: sqlite3.Connection) -> sqlite_upkeep.Removed:
    return sqlite_upkeep.remove(db, batch, finished_before)


def _import_jsonschema() -> None:
    # A tenth of a second, once; better not inside a transaction that every other process waits for.
    import jsonschema
    import referencing.exceptions

    del jsonschema, referencing
