"""One execution as the memory store keeps it: what the SQLite store has as rows under one number."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from agentspan.engine.admit import DECISIONS, Signal
from agentspan.errors import ExecutionFinishedError, StaleEpochError
from agentspan.persistence import rules
from agentspan.persistence.bodies import (
    PackedCommit,
    check_tail,
    pack_signal,
    read_entry,
    read_note,
    read_pending,
    read_signal,
    read_snapshot,
)
from agentspan.persistence.codec import BlobMemo, Large
from agentspan.persistence.decisions import judge
from agentspan.persistence.memory_blobs import Blobs
from agentspan.persistence.memory_threads import MemoryThreads
from agentspan.persistence.store import (
    Accepted,
    ExecutionRow,
    JournalEntry,
    Loaded,
    NewExecution,
    PendingRow,
    Receipt,
    TakenOver,
)


@dataclass(slots=True)
class PendingCall:
    """A pending call."""

    asked_at: float
    body: bytes
    decided_by: str | None = None


@dataclass(slots=True)
class KeptSignal:
    """A signal; consumed ones stay, for those who decide late."""

    signal_id: str
    body: bytes
    decides: str | None
    consumed: bool = False


@dataclass(slots=True)
class StoredExecution:
    """All that is kept of one execution."""

    row: ExecutionRow
    """Without what is kept packed or counted; `full_row` adds it."""
    request_id: str
    metadata: bytes
    session_from: str | None
    shared_blobs: Blobs
    host: bytes = b""
    records: list[rules.StoredEntry] = field(default_factory=list)
    snapshot: tuple[int, bytes] | None = None
    calls: dict[str, PendingCall] = field(default_factory=dict)
    signals: dict[str, KeptSignal] = field(default_factory=dict)
    blobs: set[bytes] = field(default_factory=set)

    @property
    def execution_id(self) -> str:
        """Whose all this is."""
        return self.row.execution_id

    def full_row(self) -> ExecutionRow:
        """The row as callers see it."""
        return replace(
            self.row,
            host=read_note(self.host),
            metadata=read_note(self.metadata),
            inbox=sum(not kept.consumed for kept in self.signals.values()),
            pending=sum(call.decided_by is None for call in self.calls.values()),
        )

    def keep_blobs(self, blobs: dict[bytes, Large]) -> int:
        """Keep large values for this execution; returns the bytes that are new."""
        self.blobs.update(blobs)
        return sum(self.shared_blobs.add(content_hash, value) for content_hash, value in blobs.items())

    # --- holding and writing

    def take_over(self, host: bytes, expected_epoch: int | None, blame: bool, now: float) -> TakenOver:
        """Raise the epoch and mark the execution resident."""
        row = self.row
        if row.status in rules.SETTLED:
            raise ExecutionFinishedError(execution_id=row.execution_id, status=row.status, signal="a take-over")
        if expected_epoch is not None and expected_epoch != row.epoch:
            raise StaleEpochError(execution_id=row.execution_id, offered=expected_epoch, held=row.epoch)
        crashed = row.resident and row.epoch > 0
        self.host = host
        self.row = replace(
            row,
            epoch=row.epoch + 1,
            resident=True,
            status=rules.RUNNING if row.status == rules.QUEUED else row.status,
            updated_at=now,
            crashes=row.crashes + (crashed and blame),
            recoveries=row.recoveries + crashed,
        )
        return TakenOver(epoch=self.row.epoch, crashed=crashed, crashes=self.row.crashes)

    def quarantine(self, error: str, now: float) -> None:
        """Set it aside, unless it has ended."""
        if self.row.status in rules.SETTLED:
            return
        self.host = b""
        self.row = replace(
            self.row,
            status=rules.QUARANTINED,
            error=rules.legible(error),
            epoch=self.row.epoch + 1,
            resident=False,
            wake_at=None,
            current_task="",
            updated_at=now,
        )

    def release(self, now: float) -> bool:
        """Take it out of quarantine."""
        if self.row.status != rules.QUARANTINED:
            return False
        self.row = replace(self.row, status=rules.RUNNING, error=None, resident=True, crashes=0, updated_at=now)
        return True

    def commit(self, packed: PackedCommit, threads: MemoryThreads) -> Receipt:
        """One step."""
        row = self.row
        is_new = rules.is_new(
            packed.commit,
            packed.entries,
            status=row.status,
            epoch=row.epoch,
            seq=row.seq,
            stored=lambda first, last: self.records[first : last + 1],
        )
        bytes_written = sum(len(entry.body) for entry in packed.entries)
        snapshot_bytes = 0 if packed.snapshot is None else len(packed.snapshot.data)
        thread_bytes = 0 if packed.thread is None else packed.thread.bytes
        if is_new:
            if packed.thread is not None:
                thread_bytes = threads.store(packed.thread)  # First, because it may fail.
            self.records += packed.entries
            bytes_written += self.keep_blobs(packed.blobs)
            if packed.snapshot is not None:
                self.snapshot = (packed.commit.seq, packed.snapshot.data)
            ends = packed.commit.change.status in rules.FINISHED
            self._change_waiting(packed, ends)
            self._change_row(packed, ends)
        return Receipt(bytes_written=bytes_written, snapshot_bytes=snapshot_bytes, thread_bytes=thread_bytes)

    def _change_waiting(self, packed: PackedCommit, ends: bool) -> None:
        for signal_id in packed.commit.consumed:
            if signal_id in self.signals:
                self.signals[signal_id].consumed = True
        for call_id in packed.commit.closes:
            self.calls.pop(call_id, None)
        if ends:
            self.calls.clear()
            return
        for opened, body in packed.opens:
            # The same question again (a commit sent twice) keeps its decision; another under the same ID starts anew.
            known = self.calls.get(opened.call_id)
            if known is None or known.body != body.data:
                self.calls[opened.call_id] = PendingCall(opened.asked_at, body.data)

    def _change_row(self, packed: PackedCommit, ends: bool) -> None:
        commit, change = packed.commit, packed.commit.change
        resident = change.resident and not ends
        if not resident:
            self.host = b""
        self.row = replace(
            self.row,
            seq=commit.seq,
            events=packed.entries[-1].events_to if packed.entries else self.row.events,
            status=change.status,
            updated_at=change.updated_at,
            wake_at=None if ends else change.wake_at,
            resident=resident,
            current_task=rules.legible(change.current_task),
            finish_reason=change.finish_reason,
            error=None if change.error is None else rules.legible(change.error),
            crashes=0 if commit.progress else self.row.crashes,
        )

    # --- reading

    def load(self) -> Loaded:
        """The latest snapshot and the records after it."""
        snapshot, snapshot_seq, snapshot_bytes = None, -1, 0
        if self.snapshot is not None:
            snapshot_seq, body = self.snapshot
            snapshot_bytes = len(body)
            shared = self.shared_blobs
            snapshot = read_snapshot(self.execution_id, snapshot_seq, body, shared.get, shared.memo)
        stored = self.records[snapshot_seq + 1 :]
        check_tail(self.execution_id, [entry.seq for entry in stored], after=snapshot_seq, tail=self.row.seq)
        return Loaded(
            row=self.full_row(),
            snapshot=snapshot,
            snapshot_seq=snapshot_seq,
            entries=self.read(stored, self.shared_blobs.memo),
            snapshot_bytes=snapshot_bytes,
            entries_bytes=sum(len(entry.body) for entry in stored),
        )

    def telling(self, event: int) -> list[rules.StoredEntry]:
        """Records that tell any event after number `event`."""
        ends = [entry.events_to for entry in self.records]
        first = bisect_right(ends, event)
        # A record that tells nothing ends at the same event as the one before it.
        return [entry for entry in self.records[first:] if entry.seq == 0 or entry.events_to > ends[entry.seq - 1]]

    def read(self, stored: Iterable[rules.StoredEntry], memo: BlobMemo | None = None) -> list[JournalEntry]:
        """Records from their stored form."""
        return [read_entry(self.execution_id, entry, self.shared_blobs.get, memo) for entry in stored]

    # --- signals

    def send(self, signal: Signal) -> Accepted:
        """Keep a signal, or find the one that counts."""
        known = self.signals.get(signal.signal_id)
        if known is not None:
            return Accepted(signal=self._read_signal(known), is_new=True)
        calls = self.open_calls() if signal.kind in DECISIONS else []
        answer = judge(signal, status=self.row.status, calls=calls, first_decision=self._first_decision)
        if not answer.is_new:
            return answer
        body = pack_signal(answer.signal, self.shared_blobs.memo)
        self.keep_blobs(body.blobs)
        decides = answer.signal.call_id if signal.kind in DECISIONS else None
        self.signals[signal.signal_id] = KeptSignal(signal.signal_id, body.data, decides)
        if decides is not None:
            self.calls[decides].decided_by = signal.signal_id
        return answer

    def _first_decision(self, call_id: str) -> Signal | None:
        decided = [kept for kept in self.signals.values() if kept.decides == call_id]
        return self._read_signal(decided[-1]) if decided else None

    def inbox(self) -> list[Signal]:
        """Signals not consumed yet."""
        return [self._read_signal(kept) for kept in self.signals.values() if not kept.consumed]

    def open_calls(self) -> list[PendingRow]:
        """Open calls, decided or not, oldest first."""
        ordered = sorted(self.calls.items(), key=lambda item: item[1].asked_at)
        return [
            read_pending(self.execution_id, call_id, call.decided_by, call.body, self.shared_blobs.get)
            for call_id, call in ordered
        ]

    def _read_signal(self, kept: KeptSignal) -> Signal:
        return read_signal(self.execution_id, kept.signal_id, kept.body, self.shared_blobs.get)


def new_row(new: NewExecution) -> ExecutionRow:
    """The row of an execution that was just accepted."""
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
        wake_at=new.wake_at,
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
