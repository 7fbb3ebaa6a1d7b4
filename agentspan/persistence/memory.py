"""A store in memory: the disk of tests.

Values go through the same packing, and writes through the same rules, as on a real disk, so a test on it fails where
production would. The object outlives whoever uses it: a test kills one driver and hands the same store to the next. It
belongs to one process; nothing in it waits, so each method is one atomic step.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from agentspan.engine.admit import DECISIONS, Signal
from agentspan.errors import (
    AmbiguousExecutionError,
    CorruptRecordError,
    ExecutionFinishedError,
    SequenceConflictError,
    StaleEpochError,
    UnknownExecutionError,
)
from agentspan.persistence import rules
from agentspan.persistence.bodies import (
    PackedCommit,
    check_tail,
    pack_commit,
    pack_note,
    pack_signal,
    pack_started,
    read_entry,
    read_note,
    read_pending,
    read_signal,
    read_snapshot,
)
from agentspan.persistence.codec import BlobMemo, Packed, blob_bytes
from agentspan.persistence.decisions import judge
from agentspan.persistence.naming import candidates_of
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


@dataclass(slots=True)
class _Call:
    """A pending call."""

    asked_at: float
    body: bytes
    decided_by: str | None = None


@dataclass(slots=True)
class _Kept:
    """A signal."""

    signal_id: str
    body: bytes
    decides: str | None
    consumed: bool = False


@dataclass(slots=True)
class _Execution:
    """All that is kept of one execution."""

    row: ExecutionRow
    request_id: str
    metadata: bytes
    host: bytes = b""
    session_from: str | None = None
    records: list[rules.StoredEntry] = field(default_factory=list)
    snapshot: tuple[int, bytes] | None = None
    calls: dict[str, _Call] = field(default_factory=dict)
    inbox: dict[str, _Kept] = field(default_factory=dict)
    blobs: set[bytes] = field(default_factory=set)


class MemoryStore:
    """A `Store` that lives as long as the object."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._memo = BlobMemo()
        self._executions: dict[str, _Execution] = {}
        self._blobs: dict[bytes, bytes] = {}
        self._deployments: dict[str, tuple[DeploymentRow, bytes]] = {}
        self._current: dict[str, str] = {}

    async def close(self) -> None:
        """See `Store.close`. The contents stay: they are the disk."""

    # --- executions

    async def create(self, new: NewExecution) -> Created:
        """See `Store.create`."""
        rules.check_new(new)
        metadata = pack_note(new.metadata)
        started = pack_started(new, None, self._memo)
        for first in self._first_of(new):
            return Created(execution_id=first, is_new=False)
        if new.execution_id in self._executions:
            raise SequenceConflictError(execution_id=new.execution_id, seq=0, held=0)
        session_from = self._session_before(new)
        if session_from is not None:
            started = pack_started(new, session_from, self._memo)
        entry = rules.StoredEntry(0, "started", 0, rules.STARTED_EVENTS, started.data)
        made = _Execution(_new_row(new), new.request_id, metadata, session_from=session_from, records=[entry])
        self._keep_blobs(made, started)
        self._executions[new.execution_id] = made
        return Created(execution_id=new.execution_id, is_new=True)

    def _first_of(self, new: NewExecution) -> list[str]:
        made = self._executions.values()
        by_request = [one.row.execution_id for one in made if one.request_id == new.request_id]
        by_key = [
            one.row.execution_id
            for one in made
            if new.idempotency_key is not None
            and (one.row.agent, one.row.idempotency_key) == (new.agent, new.idempotency_key)
        ]
        return (by_request + by_key)[:1]

    def _session_before(self, new: NewExecution) -> str | None:
        done = [
            row
            for row in self._newest_first()
            if (row.agent, row.session_id, row.status) == (new.agent, new.session_id, rules.COMPLETED)
        ]
        return done[0].execution_id if new.session_id and done else None

    async def take_over(self, execution_id: str, *, host: dict[str, Any], expected_epoch: int | None = None) -> TakenOver:
        """See `Store.take_over`."""
        note = pack_note(host)
        held = self._held(execution_id)
        row = held.row
        if row.status in rules.SETTLED:
            raise ExecutionFinishedError(execution_id=execution_id, status=row.status, signal="a take-over")
        if expected_epoch is not None and expected_epoch != row.epoch:
            raise StaleEpochError(execution_id=execution_id, offered=expected_epoch, held=row.epoch)
        crashed = row.resident and row.epoch > 0
        held.host = note
        held.row = replace(
            row,
            epoch=row.epoch + 1,
            resident=True,
            status=rules.RUNNING if row.status == rules.QUEUED else row.status,
            updated_at=self._clock(),
            crashes=row.crashes + crashed,
            recoveries=row.recoveries + crashed,
        )
        return TakenOver(epoch=held.row.epoch, crashed=crashed, crashes=held.row.crashes)

    async def set_host(self, execution_id: str, *, epoch: int, host: dict[str, Any]) -> None:
        """See `Store.set_host`."""
        note = pack_note(host)
        held = self._held(execution_id)
        if held.row.epoch == epoch and held.row.resident:
            held.host = note

    async def load(self, execution_id: str) -> Loaded:
        """See `Store.load`."""
        held = self._held(execution_id)
        snapshot, snapshot_seq, snapshot_bytes = None, -1, 0
        if held.snapshot is not None:
            snapshot_seq, body = held.snapshot
            snapshot_bytes = len(body)
            snapshot = read_snapshot(execution_id, snapshot_seq, body, self._blobs.get, self._memo)
        stored = held.records[snapshot_seq + 1 :]
        check_tail(execution_id, [entry.seq for entry in stored], after=snapshot_seq, tail=held.row.seq)
        return Loaded(
            row=self._full(held),
            snapshot=snapshot,
            snapshot_seq=snapshot_seq,
            entries=self._read(execution_id, stored, self._memo),
            snapshot_bytes=snapshot_bytes,
            entries_bytes=sum(len(entry.body) for entry in stored),
        )

    async def commit(self, commit: Commit) -> Receipt:
        """See `Store.commit`."""
        packed = pack_commit(commit, self._memo)
        held = self._held(commit.execution_id)
        row = held.row
        is_new = rules.is_new(
            commit,
            packed.entries,
            status=row.status,
            epoch=row.epoch,
            seq=row.seq,
            stored=lambda first, last: held.records[first : last + 1],
        )
        bytes_written = sum(len(entry.body) for entry in packed.entries)
        snapshot_bytes = 0 if packed.snapshot is None else len(packed.snapshot.data)
        if is_new:
            bytes_written += self._write(held, packed)
        return Receipt(bytes_written=bytes_written, snapshot_bytes=snapshot_bytes)

    def _write(self, held: _Execution, packed: PackedCommit) -> int:
        commit, change = packed.commit, packed.commit.change
        held.records += packed.entries
        written = self._keep_blobs(held, packed)
        if packed.snapshot is not None:
            held.snapshot = (commit.seq, packed.snapshot.data)
        for signal_id in commit.consumed:
            if signal_id in held.inbox:
                held.inbox[signal_id].consumed = True
        for call_id in commit.closes:
            held.calls.pop(call_id, None)
        for opened, body in packed.opens:
            # The same question again (a commit sent twice) keeps its decision; another one under the same ID starts anew.
            known = held.calls.get(opened.call_id)
            if known is None or known.body != body.data:
                held.calls[opened.call_id] = _Call(opened.asked_at, body.data)
        ends = change.status in rules.FINISHED
        if ends:
            held.calls.clear()
        resident = change.resident and not ends
        if not resident:
            held.host = b""
        held.row = replace(
            held.row,
            seq=commit.seq,
            events=packed.entries[-1].events_to if packed.entries else held.row.events,
            status=change.status,
            updated_at=change.updated_at,
            wake_at=None if ends else change.wake_at,
            resident=resident,
            current_task=rules.legible(change.current_task),
            finish_reason=change.finish_reason,
            error=None if change.error is None else rules.legible(change.error),
            crashes=0 if commit.progress else held.row.crashes,
        )
        return written

    def _keep_blobs(self, held: _Execution, packed: Packed | PackedCommit) -> int:
        written = 0
        for content_hash, value in packed.blobs.items():
            held.blobs.add(content_hash)
            if content_hash not in self._blobs:
                self._blobs[content_hash] = blob_bytes(value)
                written += len(self._blobs[content_hash])
        return written

    async def quarantine(self, execution_id: str, *, error: str) -> None:
        """See `Store.quarantine`."""
        held = self._held(execution_id)
        if held.row.status in rules.SETTLED:
            return
        held.host = b""
        held.row = replace(
            held.row,
            status=rules.QUARANTINED,
            error=rules.legible(error),
            epoch=held.row.epoch + 1,
            resident=False,
            wake_at=None,
            current_task="",
            updated_at=self._clock(),
        )

    async def row(self, execution_id: str) -> ExecutionRow:
        """See `Store.row`."""
        return self._full(self._held(execution_id))

    async def find(self, prefix: str) -> str:
        """See `Store.find`."""
        fitting = sorted(one for one in self._executions if prefix and one.startswith(prefix))
        if prefix in self._executions or len(fitting) == 1:
            return fitting[0]
        if fitting:
            raise AmbiguousExecutionError(execution_id=prefix, candidates=candidates_of(fitting))
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
        made = [self._full(held) for held in self._executions.values()]
        return sorted(reversed(made), key=lambda row: row.created_at, reverse=True)

    async def journal(self, execution_id: str, *, after_seq: int = -1, limit: int = 1000) -> list[JournalEntry]:
        """See `Store.journal`."""
        return self._read(execution_id, self._held(execution_id).records[after_seq + 1 :][:limit])

    async def journal_after_event(self, execution_id: str, *, event: int, limit: int = 1000) -> list[JournalEntry]:
        """See `Store.journal_after_event`."""
        records = self._held(execution_id).records
        ends = [0, *(entry.events_to for entry in records)]
        first = bisect_left(ends, event + 1, lo=1) - 1
        telling = [entry for entry in records[first:] if entry.events_to > ends[entry.seq]]
        return self._read(execution_id, telling[:limit])

    def _read(
        self, execution_id: str, stored: Iterable[rules.StoredEntry], memo: BlobMemo | None = None
    ) -> list[JournalEntry]:
        return [read_entry(execution_id, entry, self._blobs.get, memo) for entry in stored]

    def _held(self, execution_id: str) -> _Execution:
        held = self._executions.get(execution_id)
        if held is None:
            raise UnknownExecutionError(execution_id=execution_id)
        return held

    def _full(self, held: _Execution) -> ExecutionRow:
        return replace(
            held.row,
            host=read_note(held.host),
            metadata=read_note(held.metadata),
            inbox=sum(not kept.consumed for kept in held.inbox.values()),
            pending=sum(call.decided_by is None for call in held.calls.values()),
        )

    # --- signals

    async def send(self, signal: Signal) -> Accepted:
        """See `Store.send`."""
        pack_signal(signal, self._memo)
        held = self._held(signal.execution_id)
        known = held.inbox.get(signal.signal_id)
        if known is not None:
            return Accepted(signal=self._signal(signal.execution_id, known), is_new=True)

        def first_decision(call_id: str) -> Signal | None:
            decided = [kept for kept in held.inbox.values() if kept.decides == call_id]
            return self._signal(signal.execution_id, decided[-1]) if decided else None

        calls = self._calls(held) if signal.kind in DECISIONS else []
        answer = judge(signal, status=held.row.status, calls=calls, first_decision=first_decision)
        if not answer.is_new:
            return answer
        body = pack_signal(answer.signal, self._memo)
        self._keep_blobs(held, body)
        decides = answer.signal.call_id if signal.kind in DECISIONS else None
        held.inbox[signal.signal_id] = _Kept(signal.signal_id, body.data, decides)
        if decides is not None:
            held.calls[decides].decided_by = signal.signal_id
        return answer

    async def inbox(self, execution_id: str) -> list[Signal]:
        """See `Store.inbox`."""
        return [self._signal(execution_id, kept) for kept in self._held(execution_id).inbox.values() if not kept.consumed]

    def _signal(self, execution_id: str, kept: _Kept) -> Signal:
        return read_signal(execution_id, kept.signal_id, kept.body, self._blobs.get)

    def _calls(self, held: _Execution) -> list[PendingRow]:
        execution_id = held.row.execution_id
        ordered = sorted(held.calls.items(), key=lambda item: item[1].asked_at)
        return [
            read_pending(execution_id, call_id, call.decided_by, call.body, self._blobs.get) for call_id, call in ordered
        ]

    async def pending(self, execution_id: str | None = None, *, limit: int = 100) -> list[PendingRow]:
        """See `Store.pending`."""
        if execution_id is not None:
            calls = self._calls(self._held(execution_id))
        else:
            calls = []
            for held in self._executions.values():
                try:
                    calls += self._calls(held)
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

    # --- upkeep

    async def gc(self, *, finished_before: float, dry_run: bool = True, limit: int = 10_000) -> Sweep:
        """See `Store.gc`."""
        needed = {one.session_from for one in self._executions.values() if one.row.status not in rules.SETTLED}
        old = [
            one
            for one in self._executions.values()
            if one.row.status in rules.FINISHED
            and one.row.updated_at < finished_before
            and one.row.execution_id not in needed
        ]
        old = sorted(old, key=lambda one: one.row.updated_at)[:limit]
        doomed = {one.row.execution_id for one in old}
        kept = set[bytes]().union(*(one.blobs for name, one in self._executions.items() if name not in doomed))
        orphans = set[bytes]().union(*(one.blobs for one in old)) - kept
        sweep = Sweep(
            executions=len(old),
            records=sum(len(one.records) for one in old),
            blobs=len(orphans),
            bytes=sum(len(entry.body) for one in old for entry in one.records)
            + sum(len(one.snapshot[1]) for one in old if one.snapshot is not None)
            + sum(len(self._blobs[orphan]) for orphan in orphans),
            dry_run=dry_run,
            execution_ids=[one.row.execution_id for one in old],
        )
        if not dry_run:
            for name in doomed:
                del self._executions[name]
            for orphan in orphans:
                del self._blobs[orphan]
        return sweep

    async def info(self) -> dict[str, Any]:
        """See `Store.info`."""
        statuses: dict[str, int] = {}
        for held in self._executions.values():
            statuses[held.row.status] = statuses.get(held.row.status, 0) + 1
        bodies = sum(len(entry.body) for held in self._executions.values() for entry in held.records)
        return {
            "kind": "memory",
            "where": "this process",
            "schema_version": 0,
            "bytes": bodies + sum(map(len, self._blobs.values())),
            "statuses": dict(sorted(statuses.items())),
        }


def _new_row(new: NewExecution) -> ExecutionRow:
    return ExecutionRow(
        execution_id=new.execution_id,
        agent=new.agent,
        deployment_id=new.deployment_id,
        status=rules.QUEUED,
        epoch=0,
        seq=0,
        events=rules.STARTED_EVENTS,
        session_id=new.session_id,
        idempotency_key=new.idempotency_key,
        created_at=new.created_at,
        updated_at=new.created_at,
        wake_at=None,
        resident=False,
        crashes=0,
        recoveries=0,
        host={},
        current_task="",
        finish_reason=None,
        error=None,
        metadata={},
        inbox=0,
        pending=0,
    )
