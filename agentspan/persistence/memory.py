"""A store in memory: the disk of tests.

Values go through the same packing, and writes through the same rules, as on a real disk, so a test on it fails where
production would. The object outlives whoever uses it: a test kills one driver and hands the same store to the next. It
belongs to one process; nothing in it waits, so each method is one atomic step.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence, Set
from dataclasses import replace
from typing import Any

from agentspan.engine.admit import Signal
from agentspan.errors import (
    AmbiguousExecutionError,
    CorruptRecordError,
    SequenceConflictError,
    ThreadOwnedError,
    UnknownExecutionError,
)
from agentspan.persistence import rules
from agentspan.persistence.bodies import pack_commit, pack_note, pack_signal, pack_started, read_note
from agentspan.persistence.memory_blobs import Blobs
from agentspan.persistence.memory_execution import StoredExecution, new_row
from agentspan.persistence.memory_threads import MemoryThreads
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


class MemoryStore:
    """A `Store` that lives as long as the object."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._executions: dict[str, StoredExecution] = {}
        self._blobs = Blobs()
        self._threads = MemoryThreads(self._blobs)
        self._deployments: dict[str, tuple[DeploymentRow, bytes]] = {}
        self._current: dict[str, str] = {}

    async def close(self) -> None:
        """See `Store.close`. The contents stay: they are the disk."""

    # --- executions

    async def create(self, new: NewExecution) -> Created:
        """See `Store.create`."""
        rules.check_new(new)
        metadata = pack_note(new.metadata)
        started = pack_started(new, None, self._blobs.memo)
        first = self._first_of(new)
        if first is not None:
            return Created(execution_id=first, is_new=False)
        if new.execution_id in self._executions:
            raise SequenceConflictError(execution_id=new.execution_id, seq=0, held=0)
        session_from = self._session_before(new)
        if session_from is not None:
            started = pack_started(new, session_from, self._blobs.memo)
        made = StoredExecution(new_row(new), new.request_id, metadata, session_from, self._blobs)
        made.records.append(rules.StoredEntry(0, "started", 0, rules.STARTED_EVENTS, started.data))
        made.keep_blobs(started.blobs)
        self._executions[new.execution_id] = made
        return Created(execution_id=new.execution_id, is_new=True)

    def _first_of(self, new: NewExecution) -> str | None:
        """The execution that the request or the key made before."""
        made = self._executions.values()
        by_request = [one.execution_id for one in made if one.request_id == new.request_id]
        by_key = [
            one.execution_id
            for one in made
            if new.idempotency_key is not None
            and (one.row.agent, one.row.idempotency_key) == (new.agent, new.idempotency_key)
        ]
        return next(iter(by_request + by_key), None)

    def _session_before(self, new: NewExecution) -> str | None:
        here = (new.agent, new.session_id, rules.COMPLETED)
        done = [row for row in self._newest_first() if (row.agent, row.session_id, row.status) == here]
        return done[0].execution_id if new.session_id and done else None

    async def take_over(
        self, execution_id: str, *, host: dict[str, Any], expected_epoch: int | None = None, blame: bool = True
    ) -> TakenOver:
        """See `Store.take_over`."""
        note = pack_note(host)
        return self._held(execution_id).take_over(note, expected_epoch, blame, self._clock())

    async def set_host(self, execution_id: str, *, epoch: int, host: dict[str, Any]) -> None:
        """See `Store.set_host`."""
        note = pack_note(host)
        held = self._held(execution_id)
        if held.row.epoch == epoch and held.row.resident:
            held.host = note

    async def load(self, execution_id: str) -> Loaded:
        """See `Store.load`."""
        return self._held(execution_id).load()

    async def commit(self, commit: Commit) -> Receipt:
        """See `Store.commit`."""
        packed = pack_commit(commit, self._blobs.memo)
        return self._held(commit.execution_id).commit(packed, self._threads)

    async def quarantine(self, execution_id: str, *, error: str) -> None:
        """See `Store.quarantine`."""
        self._held(execution_id).quarantine(error, self._clock())

    async def release(self, execution_id: str) -> bool:
        """See `Store.release`."""
        return self._held(execution_id).release(self._clock())

    async def row(self, execution_id: str) -> ExecutionRow:
        """See `Store.row`."""
        return self._held(execution_id).full_row()

    async def find(self, prefix: str) -> str:
        """See `Store.find`."""
        fitting = sorted(one for one in self._executions if prefix and one.startswith(prefix))
        if prefix in self._executions or len(fitting) == 1:
            return fitting[0]
        if fitting:
            raise AmbiguousExecutionError(execution_id=prefix, candidates=rules.name_candidates(fitting))
        raise UnknownExecutionError(execution_id=prefix)

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
        return [
            row
            for row in self._newest_first()
            if (statuses is None or row.status in statuses)
            and (agent is None or row.agent == agent)
            and (session_id is None or row.session_id == session_id)
            and (before is None or row.created_at < before)
        ][:limit]

    async def unfinished(self) -> list[ExecutionRow]:
        """See `Store.unfinished`."""
        return [row for row in reversed(self._newest_first()) if row.status not in rules.SETTLED]

    def _newest_first(self) -> list[ExecutionRow]:
        made = [held.full_row() for held in reversed(self._executions.values())]
        return sorted(made, key=lambda row: row.created_at, reverse=True)

    async def journal(self, execution_id: str, *, after_seq: int = -1, limit: int = 1000) -> list[JournalEntry]:
        """See `Store.journal`."""
        held = self._held(execution_id)
        return held.read(held.records[after_seq + 1 :][:limit])

    async def journal_after_event(self, execution_id: str, *, event: int, limit: int = 1000) -> list[JournalEntry]:
        """See `Store.journal_after_event`."""
        held = self._held(execution_id)
        return held.read(held.telling(event)[:limit])

    def _held(self, execution_id: str) -> StoredExecution:
        held = self._executions.get(execution_id)
        if held is None:
            raise UnknownExecutionError(execution_id=execution_id)
        return held

    # --- signals

    async def send(self, signal: Signal) -> Accepted:
        """See `Store.send`."""
        pack_signal(signal, self._blobs.memo)
        return self._held(signal.execution_id).send(signal)

    async def inbox(self, execution_id: str) -> list[Signal]:
        """See `Store.inbox`."""
        return self._held(execution_id).inbox()

    async def pending(self, execution_id: str | None = None, *, limit: int = 100) -> list[PendingRow]:
        """See `Store.pending`."""
        calls: list[PendingRow] = []
        if execution_id is not None:
            calls = self._held(execution_id).open_calls()
        else:
            for held in self._executions.values():
                try:
                    calls += held.open_calls()
                except CorruptRecordError:
                    continue  # Its own `pending` says so; it must not hide everybody else's.
            calls.sort(key=lambda call: call.asked_at)
        return [call for call in calls if call.decided_by_signal is None][:limit]

    # --- deployments

    async def save_deployment(self, deployment: DeploymentRow) -> bool:
        """See `Store.save_deployment`."""
        rules.check_names(
            deployment_id=deployment.deployment_id, agent=deployment.agent, reference=deployment.reference
        )
        added = deployment.deployment_id not in self._deployments
        if added:
            self._deployments[deployment.deployment_id] = (replace(deployment, spec={}), pack_note(deployment.spec))
        self._current[deployment.agent] = deployment.deployment_id
        return added

    async def deployment(self, deployment_id: str) -> DeploymentRow | None:
        """See `Store.deployment`."""
        kept = self._deployments.get(deployment_id)
        return None if kept is None else replace(kept[0], spec=read_note(kept[1]))

    async def current_deployment(self, agent: str) -> DeploymentRow | None:
        """See `Store.current_deployment`."""
        current = self._current.get(agent)
        return None if current is None else await self.deployment(current)

    async def deployments(self) -> list[DeploymentRow]:
        """See `Store.deployments`."""
        kept = sorted((self._deployments[one] for one in self._current.values()), key=lambda one: one[0].agent)
        return [replace(row, spec=read_note(spec), code=None) for row, spec in kept]

    # --- threads

    async def write_thread(self, thread_id: str, write: ThreadWrite) -> int:
        """See `ThreadStore.write_thread`."""
        packed = pack_thread(thread_id, write, self._blobs.memo)
        self._refuse_owned(thread_id)
        return self._threads.store(packed)

    async def checkpoint(
        self, thread_id: str, ns: str = "", checkpoint_id: str | None = None
    ) -> ThreadCheckpoint | None:
        """See `ThreadStore.checkpoint`."""
        return self._threads.checkpoint(thread_id, ns, checkpoint_id)

    async def checkpoints(self, thread_id: str, ns: str, checkpoint_ids: Sequence[str]) -> list[CheckpointRow]:
        """See `ThreadStore.checkpoints`."""
        return self._threads.checkpoints(thread_id, ns, checkpoint_ids)

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
        return self._threads.listing(thread_id, ns, before, skip, limit)

    async def places(self, thread_id: str, checkpoint_id: str) -> list[tuple[str, str]]:
        """See `ThreadStore.places`."""
        return self._threads.places(thread_id, checkpoint_id)

    async def checkpoint_writes(self, thread_id: str, ns: str, checkpoint_id: str) -> list[WriteRow]:
        """See `ThreadStore.checkpoint_writes`."""
        return self._threads.writes(thread_id, ns, checkpoint_id)

    async def delete_checkpoints(self, thread_id: str, checkpoint_ids: Sequence[tuple[str, str]]) -> None:
        """See `ThreadStore.delete_checkpoints`."""
        self._refuse_owned(thread_id)
        held = self._threads.blobs_of([thread_id])
        self._threads.delete_checkpoints(thread_id, checkpoint_ids)
        self._blobs.drop(held - self._needed())

    async def delete_thread(self, thread_id: str) -> None:
        """See `ThreadStore.delete_thread`."""
        self._refuse_owned(thread_id)
        held = self._threads.blobs_of([thread_id])
        self._threads.remove([thread_id])
        self._blobs.drop(held - self._needed())

    async def copy_thread(self, source: str, target: str) -> None:
        """See `ThreadStore.copy_thread`."""
        rules.check_names(target=target)
        self._refuse_owned(target)
        self._threads.copy(source, target)

    def _refuse_owned(self, thread_id: str) -> None:
        if thread_id in self._executions:
            raise ThreadOwnedError(thread_id=thread_id)

    def _needed(self, *, without: Set[str] = frozenset()) -> set[bytes]:
        """The large values that executions and threads refer to, without some of them."""
        kept = [one.blobs for name, one in self._executions.items() if name not in without]
        return self._threads.blobs_of(self._threads.names() - without).union(*kept)

    # --- upkeep

    async def gc(self, *, finished_before: float, dry_run: bool = True, limit: int = 10_000) -> Sweep:
        """See `Store.gc`."""
        doomed = self._expired(finished_before)[:limit]
        names = {one.execution_id for one in doomed}
        orphans = self._threads.blobs_of(names).union(*(one.blobs for one in doomed)) - self._needed(without=names)
        sweep = Sweep(
            executions=len(doomed),
            records=sum(len(one.records) for one in doomed),
            blobs=len(orphans),
            bytes=sum(len(entry.body) for one in doomed for entry in one.records)
            + sum(len(one.snapshot[1]) for one in doomed if one.snapshot is not None)
            + self._threads.bytes_of(names)
            + sum(len(self._blobs.kept[orphan]) for orphan in orphans),
            dry_run=dry_run,
            execution_ids=[one.execution_id for one in doomed],
        )
        if not dry_run:
            for name in names:
                del self._executions[name]
            self._threads.remove(names)
            self._blobs.drop(orphans)
        return sweep

    def _expired(self, finished_before: float) -> list[StoredExecution]:
        made = self._executions.values()
        # What an unfinished execution continues is kept until it ends: its conversation may not be copied yet.
        continued = {one.session_from for one in made if one.row.status not in rules.SETTLED}
        to_begin = {
            (one.row.agent, one.row.session_id)
            for one in made
            if one.row.session_id and one.row.epoch == 0 and one.row.status not in rules.SETTLED
        }
        old = [
            one
            for one in made
            if one.row.status in rules.FINISHED
            and one.row.updated_at < finished_before
            and one.execution_id not in continued
            and (one.row.agent, one.row.session_id) not in to_begin
        ]
        return sorted(old, key=lambda one: one.row.updated_at)

    async def info(self) -> dict[str, Any]:
        """See `Store.info`."""
        made = self._executions.values()
        bodies = sum(len(entry.body) for one in made for entry in one.records)
        return {
            "kind": "memory",
            "where": "this process",
            "schema_version": 0,
            "bytes": bodies + self._threads.bytes_of(self._threads.names()) + sum(map(len, self._blobs.kept.values())),
            "statuses": dict(sorted(Counter(one.row.status for one in made).items())),
            "threads": len(self._threads),
        }
