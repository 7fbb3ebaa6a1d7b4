"""The Postgres store: one server for many processes on many machines.

Each process holds at most `max_connections` connections (two unless the URL says otherwise) and closes those it does not
use. Group commit (see `postgres_link`) shares one transaction among the steps that one process commits at the same
time; locks on rows order the writers of different processes. Nothing is kept in the server's session, so a proxy that
pools transactions may stand between.

The statements live in `postgres_rows` (reads), `postgres_commits`, `postgres_writes` and `postgres_upkeep`, those of
threads in `postgres_thread_rows` and `postgres_threads`; values are packed and checked here, on the caller's side.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from agentspan.engine.admit import Signal
from agentspan.errors import StoreUnavailableError
from agentspan.persistence import (
    postgres_commits,
    postgres_rows,
    postgres_thread_rows,
    postgres_threads,
    postgres_upkeep,
    postgres_writes,
)
from agentspan.persistence.bodies import pack_commit, pack_note, pack_signal, pack_started
from agentspan.persistence.codec import BlobMemo
from agentspan.persistence.decisions import needs_schema
from agentspan.persistence.postgres_blobs import ADDING, REMOVING
from agentspan.persistence.postgres_link import PostgresLink
from agentspan.persistence.postgres_schema import prepare
from agentspan.persistence.postgres_url import PostgresTarget, read_url
from agentspan.persistence.rules import check_names, check_new
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
from agentspan.persistence.thread_bodies import pack_thread
from agentspan.persistence.threads import CheckpointRow, ThreadCheckpoint, ThreadWrite, WriteRow

_COMMIT_TRIES = 5
"""How often a step is tried while its execution changes between two looks."""


class PostgresStore:
    """A `Store` in a Postgres database. Belongs to the event loop it was opened on; other loops open their own."""

    def __init__(self, link: PostgresLink, clock: Callable[[], float]) -> None:
        self._link = link
        self._clock = clock
        self._memo = BlobMemo()

    @classmethod
    async def connect(cls, url: str | PostgresTarget, *, clock: Callable[[], float] = time.time) -> PostgresStore:
        """Open the database, making or migrating its tables if need be. `close` it when done.

        Args:
            url: `postgresql://user:password@host:5432/database`. Everything libpq understands may follow as
                parameters, and ours: `schema`, `max_connections`, `timeout` and `idle` (seconds), `prepare`.
            clock: UTC seconds, for instants that no caller gives.

        Raises:
            ConfigurationError: The URL, the user or the schema cannot be used.
            StoreVersionError: A newer AgentSpan made the tables. Nothing was changed.
            StoreUnavailableError: The server cannot be reached now.
        """
        target = url if isinstance(url, PostgresTarget) else read_url(url)
        await asyncio.to_thread(prepare, target)
        return cls(PostgresLink(target), clock)

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str | PostgresTarget, **options: Any) -> AsyncIterator[PostgresStore]:
        """`connect` for an `async with` block, which closes it."""
        store = await cls.connect(url, **options)
        try:
            yield store
        finally:
            await store.close()

    @property
    def where(self) -> str:
        """The server and database, without the password."""
        return self._link.target.where

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
        return await self._link.write(
            lambda: postgres_writes.create(new, started, metadata, self._memo),
            *postgres_writes.keys_of(new),
            first=(ADDING,) if started.blobs else (),
        )

    async def take_over(
        self, execution_id: str, *, host: dict[str, Any], expected_epoch: int | None = None, blame: bool = True
    ) -> TakenOver:
        """See `Store.take_over`."""
        note, now = pack_note(host), self._clock()
        return await self._link.write(
            lambda: postgres_writes.take_over(execution_id, note, expected_epoch, blame, now), execution_id
        )

    async def set_host(self, execution_id: str, *, epoch: int, host: dict[str, Any]) -> None:
        """See `Store.set_host`."""
        note = pack_note(host)
        await self._link.write(lambda: postgres_writes.set_host(execution_id, epoch, note), execution_id)

    async def load(self, execution_id: str) -> Loaded:
        """See `Store.load`."""
        return await self._link.read(lambda: postgres_rows.load(execution_id, self._memo))

    async def commit(self, commit: Commit) -> Receipt:
        """See `Store.commit`."""
        packed = pack_commit(commit, self._memo)
        has_blobs = packed.blobs or (packed.thread is not None and packed.thread.blobs)
        first = (ADDING,) if has_blobs else ()
        for _ in range(_COMMIT_TRIES):
            receipt = await self._link.write(
                lambda: postgres_commits.commit(packed, self._memo), commit.execution_id, first=first
            )
            if receipt is not None:
                return receipt
            # Nothing was changed: find out why, and say so.
            if await self._link.read(lambda: postgres_commits.is_kept(packed)):
                return postgres_commits.receipt(packed)
        problem = f"execution {commit.execution_id!r} changes all the time"
        raise StoreUnavailableError(where=self.where, problem=problem)

    async def quarantine(self, execution_id: str, *, error: str) -> None:
        """See `Store.quarantine`."""
        now = self._clock()
        await self._link.write(lambda: postgres_writes.quarantine(execution_id, error, now), execution_id)

    async def release(self, execution_id: str) -> bool:
        """See `Store.release`."""
        now = self._clock()
        return await self._link.write(lambda: postgres_writes.release(execution_id, now), execution_id)

    async def row(self, execution_id: str) -> ExecutionRow:
        """See `Store.row`."""
        return await self._link.read(lambda: postgres_rows.row(execution_id))

    async def find(self, prefix: str) -> str:
        """See `Store.find`."""
        return await self._link.read(lambda: postgres_rows.find(prefix))

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
            lambda: postgres_rows.rows(
                statuses=statuses, agent=agent, session_id=session_id, limit=limit, before=before
            )
        )

    async def unfinished(self) -> list[ExecutionRow]:
        """See `Store.unfinished`."""
        return await self._link.read(postgres_rows.unfinished)

    async def journal(self, execution_id: str, *, after_seq: int = -1, limit: int = 1000) -> list[JournalEntry]:
        """See `Store.journal`."""
        return await self._link.read(lambda: postgres_rows.journal(execution_id, after_seq, limit))

    async def journal_after_event(self, execution_id: str, *, event: int, limit: int = 1000) -> list[JournalEntry]:
        """See `Store.journal_after_event`."""
        return await self._link.read(lambda: postgres_rows.journal_after_event(execution_id, event, limit))

    # --- signals

    async def send(self, signal: Signal) -> Accepted:
        """See `Store.send`."""
        packed = pack_signal(signal, self._memo)  # What cannot be stored is refused here, and large values are hashed.
        if needs_schema(signal):
            await self._link.off_loop(_import_jsonschema)
        return await self._link.write(
            lambda: postgres_writes.send(signal, self._memo),
            signal.execution_id,
            first=(ADDING,) if packed.blobs else (),
        )

    async def inbox(self, execution_id: str) -> list[Signal]:
        """See `Store.inbox`."""
        return await self._link.read(lambda: postgres_rows.inbox(execution_id))

    async def pending(self, execution_id: str | None = None, *, limit: int = 100) -> list[PendingRow]:
        """See `Store.pending`."""
        return await self._link.read(lambda: postgres_rows.pending(execution_id, limit))

    # --- deployments

    async def save_deployment(self, deployment: DeploymentRow) -> bool:
        """See `Store.save_deployment`."""
        check_names(deployment_id=deployment.deployment_id, agent=deployment.agent, reference=deployment.reference)
        return await self._link.write(
            lambda: postgres_writes.save_deployment(deployment), f"deployments of {deployment.agent}"
        )

    async def deployment(self, deployment_id: str) -> DeploymentRow | None:
        """See `Store.deployment`."""
        return await self._link.read(lambda: postgres_rows.deployment(deployment_id))

    async def current_deployment(self, agent: str) -> DeploymentRow | None:
        """See `Store.current_deployment`."""
        return await self._link.read(lambda: postgres_rows.current_deployment(agent))

    async def deployments(self) -> list[DeploymentRow]:
        """See `Store.deployments`."""
        return await self._link.read(postgres_rows.deployments)

    # --- threads

    async def write_thread(self, thread_id: str, write: ThreadWrite) -> int:
        """See `ThreadStore.write_thread`."""
        packed = pack_thread(thread_id, write, self._memo)
        return await self._link.write(
            lambda: postgres_threads.write_thread(packed, self._memo),
            thread_id,
            first=(ADDING,) if packed.blobs else (),
        )

    async def checkpoint(
        self, thread_id: str, ns: str = "", checkpoint_id: str | None = None
    ) -> ThreadCheckpoint | None:
        """See `ThreadStore.checkpoint`."""
        return await self._link.read(lambda: postgres_thread_rows.checkpoint(thread_id, ns, checkpoint_id, self._memo))

    async def checkpoints(self, thread_id: str, ns: str, checkpoint_ids: Sequence[str]) -> list[CheckpointRow]:
        """See `ThreadStore.checkpoints`."""
        return await self._link.read(
            lambda: postgres_thread_rows.checkpoints(thread_id, ns, checkpoint_ids, self._memo)
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
            lambda: postgres_thread_rows.listing(thread_id, ns, before, skip, limit, self._memo)
        )

    async def places(self, thread_id: str, checkpoint_id: str) -> list[tuple[str, str]]:
        """See `ThreadStore.places`."""
        return await self._link.read(lambda: postgres_thread_rows.places(thread_id, checkpoint_id))

    async def checkpoint_writes(self, thread_id: str, ns: str, checkpoint_id: str) -> list[WriteRow]:
        """See `ThreadStore.checkpoint_writes`."""
        return await self._link.read(lambda: postgres_thread_rows.writes(thread_id, ns, checkpoint_id, self._memo))

    async def delete_checkpoints(self, thread_id: str, checkpoint_ids: Sequence[tuple[str, str]]) -> None:
        """See `ThreadStore.delete_checkpoints`."""
        await self._link.write(
            lambda: postgres_threads.delete_checkpoints(thread_id, checkpoint_ids), first=(REMOVING,), is_alone=True
        )

    async def delete_thread(self, thread_id: str) -> None:
        """See `ThreadStore.delete_thread`."""
        await self._link.write(lambda: postgres_threads.delete_thread(thread_id), first=(REMOVING,), is_alone=True)

    async def copy_thread(self, source: str, target: str) -> None:
        """See `ThreadStore.copy_thread`."""
        check_names(target=target)
        # Alone with large values, so that none of the source goes meanwhile.
        await self._link.write(lambda: postgres_threads.copy_thread(source, target), first=(REMOVING,), is_alone=True)

    # --- upkeep

    async def gc(self, *, finished_before: float, dry_run: bool = True, limit: int = 10_000) -> Sweep:
        """See `Store.gc`. Freed space is used again once the server has vacuumed."""
        doomed = await self._link.read(lambda: postgres_upkeep.expired(finished_before, limit))
        if dry_run:
            return await self._link.read(lambda: postgres_upkeep.weigh(doomed))
        sweeps = []
        for start in range(0, len(doomed), postgres_upkeep.GC_BATCH):
            batch = doomed[start : start + postgres_upkeep.GC_BATCH]
            sweeps.append(await self._remove(batch, finished_before))
        return Sweep(
            executions=sum(one.executions for one in sweeps),
            records=sum(one.records for one in sweeps),
            blobs=sum(one.blobs for one in sweeps),
            bytes=sum(one.bytes for one in sweeps),
            dry_run=False,
            execution_ids=[execution_id for one in sweeps for execution_id in one.execution_ids],
        )

    async def _remove(self, batch: list[tuple[int, str]], finished_before: float) -> Sweep:
        return await self._link.write(
            lambda: postgres_upkeep.remove(batch, finished_before), first=(REMOVING,), is_alone=True
        )

    async def info(self) -> dict[str, Any]:
        """See `Store.info`."""
        facts = await self._link.read(postgres_upkeep.info)
        return {"kind": "postgres", "where": self.where, **facts}


def _import_jsonschema() -> None:
    # A tenth of a second, once; better not inside a transaction that holds locks.
    import jsonschema
    import referencing.exceptions

    del jsonschema, referencing
