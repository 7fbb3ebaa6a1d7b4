"""The stored forms of records, snapshots, signals and pending calls, and the place each belongs to.

Both stores write and read bodies only through this file, so they refuse the same values and notice the same damage.
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any, NamedTuple

from agentspan.engine.admit import Signal
from agentspan.errors import CorruptRecordError
from agentspan.persistence.codec import BlobMemo, BodyError, Packed, pack, unpack
from agentspan.persistence.rules import STARTED_EVENTS, StoredEntry, check_names
from agentspan.persistence.store import Commit, JournalEntry, NewExecution, PendingRow
from agentspan.persistence.thread_bodies import GetBlob, PackedThread, pack_thread
from agentspan.wording import a

# What a record says ends up some levels deeper in a snapshot, and a signal in a record: what could be stored once must
# be storable there too, or the execution would be stuck.
RECORD_SPARE_DEPTH = 32
SIGNAL_SPARE_DEPTH = 64


class PackedCommit(NamedTuple):
    """A commit with its bodies packed: what is left to do is rows."""

    commit: Commit
    entries: list[StoredEntry]
    opens: list[tuple[PendingRow, Packed]]
    snapshot: Packed | None
    blobs: dict[bytes, str | bytes]
    """The large values of all of them."""
    thread: PackedThread | None = None
    """With large values of its own."""


def pack_commit(commit: Commit, memo: BlobMemo) -> PackedCommit:
    """Pack everything a commit carries.

    Raises:
        UnstorableValueError: Names the first value that is not plain data.
    """
    execution_id, epoch = commit.execution_id, commit.epoch
    blobs: dict[bytes, str | bytes] = {}
    entries: list[StoredEntry] = []
    for entry in commit.entries:
        place = record_place(execution_id, entry.seq, entry.kind, epoch, entry.events_to)
        packed = pack(entry.body, memo, context=place, spare_depth=RECORD_SPARE_DEPTH)
        if packed.blobs:
            blobs.update(packed.blobs)
        entries.append(StoredEntry(entry.seq, entry.kind, epoch, entry.events_to, packed.data))
    opens = [(row, pack_pending(row, memo)) for row in commit.opens]
    for _, packed in opens:
        blobs.update(packed.blobs)
    snapshot = None
    if commit.snapshot is not None:
        snapshot = pack(commit.snapshot, memo, context=snapshot_place(execution_id, commit.seq), large=True)
        blobs.update(snapshot.blobs)
    thread = None if commit.thread is None else pack_thread(execution_id, commit.thread, memo)
    return PackedCommit(commit, entries, opens, snapshot, blobs, thread)


def pack_started(new: NewExecution, session_from: str | None, memo: BlobMemo) -> Packed:
    """Record 0 of a new execution."""
    body = new.started
    if session_from is not None and "session_from" not in body:  # Else it is to be looked up when it begins.
        body = {**body, "session_from": session_from}
    place = record_place(new.execution_id, 0, "started", 0, STARTED_EVENTS)
    return pack(body, memo, context=place, spare_depth=RECORD_SPARE_DEPTH)


def read_entry(execution_id: str, stored: StoredEntry, get_blob: GetBlob, memo: BlobMemo | None = None) -> JournalEntry:
    """A record from its row.

    Raises:
        CorruptRecordError: The row fails its check.
    """
    seq, kind, epoch, events_to, data = stored
    place = record_place(execution_id, seq, kind, epoch, events_to)
    body = _read(execution_id, f"record {seq}", data, get_blob, place, memo)
    return JournalEntry(seq=seq, kind=kind, body=body, events_to=events_to, epoch=epoch)


def read_snapshot(
    execution_id: str, seq: int, data: bytes, get_blob: GetBlob, memo: BlobMemo | None = None
) -> dict[str, Any]:
    """A snapshot from its row. Raises as `read_entry` does."""
    plain: dict[str, Any] = _read(execution_id, "snapshot", data, get_blob, snapshot_place(execution_id, seq), memo)
    return plain


def check_tail(execution_id: str, seqs: list[int], *, after: int, tail: int) -> None:
    """Refuse a journal with a gap.

    Raises:
        CorruptRecordError: Names the first record that is missing.
    """
    for index, seq in enumerate([*seqs, tail + 1]):
        expected = after + 1 + index
        if seq != expected:
            problem = f"it is {'missing' if seq > expected else 'too much'}: the journal ends at {tail}"
            raise CorruptRecordError(execution_id=execution_id, what=f"record {min(seq, expected)}", problem=problem)


def pack_signal(signal: Signal, memo: BlobMemo) -> Packed:
    """A signal's row body."""
    check_names(signal_id=signal.signal_id, call_id=signal.call_id)
    plain = _fields_set(signal, skip=("signal_id", "execution_id"))
    place = _signal_place(signal.execution_id, signal.signal_id)
    return pack(plain, memo, context=place, spare_depth=SIGNAL_SPARE_DEPTH)


def read_signal(execution_id: str, signal_id: str, data: bytes, get_blob: GetBlob) -> Signal:
    """A signal from its row. Raises as `read_entry` does."""
    what = f"signal {signal_id}"
    plain = _read(execution_id, what, data, get_blob, _signal_place(execution_id, signal_id))
    try:
        return Signal(signal_id=signal_id, execution_id=execution_id, **plain)
    except TypeError as problem:
        raise CorruptRecordError(execution_id=execution_id, what=what, problem=str(problem)) from None


def pack_pending(row: PendingRow, memo: BlobMemo) -> Packed:
    """A pending call's row body; who decided it is a column of its own."""
    check_names(call_id=row.call_id)
    plain = _fields_set(row, skip=("execution_id", "call_id", "decided_by_signal"))
    return pack(plain, memo, context=_pending_place(row.execution_id, row.call_id), spare_depth=RECORD_SPARE_DEPTH)


def read_pending(execution_id: str, call_id: str, decided_by: str | None, data: bytes, get_blob: GetBlob) -> PendingRow:
    """A pending call from its row. Raises as `read_entry` does."""
    what = f"pending call {call_id}"
    plain = _read(execution_id, what, data, get_blob, _pending_place(execution_id, call_id))
    try:
        return PendingRow(execution_id=execution_id, call_id=call_id, decided_by_signal=decided_by, **plain)
    except TypeError as problem:
        raise CorruptRecordError(execution_id=execution_id, what=what, problem=str(problem)) from None


def pack_note(value: dict[str, Any]) -> bytes:
    """Small data kept in a row (metadata, host, spec): large values stay inside, listings must not look elsewhere."""
    return pack(value, inline=True).data if value else b""


def read_note(data: bytes | None) -> dict[str, Any]:
    """The data of `pack_note`. Damage shows as one key, because a listing must not fail for one row of it."""
    if not data:
        return {}
    try:
        plain: dict[str, Any] = unpack(data)
        return plain
    except BodyError as problem:
        return {"damaged": str(problem)}


def record_place(execution_id: str, seq: int, kind: str, epoch: int, events_to: int) -> bytes:
    """Where a record belongs. Its columns are part of it, so that altering one is noticed as well."""
    return f"record {execution_id} {seq} {kind} {epoch} {events_to}".encode()


def snapshot_place(execution_id: str, seq: int) -> bytes:
    """Where a snapshot belongs."""
    return f"snapshot {execution_id} {seq}".encode()


def _signal_place(execution_id: str, signal_id: str) -> bytes:
    return f"signal {execution_id} {signal_id}".encode()


def _pending_place(execution_id: str, call_id: str) -> bytes:
    return f"pending {execution_id} {call_id}".encode()


def _read(
    execution_id: str, what: str, data: bytes, get_blob: GetBlob, place: bytes, memo: BlobMemo | None = None
) -> Any:
    try:
        plain = unpack(data, get_blob, context=place, memo=memo)
        if not isinstance(plain, dict):
            raise BodyError(f"it is {a(type(plain).__name__)}")
    except BodyError as problem:
        raise CorruptRecordError(execution_id=execution_id, what=what, problem=str(problem)) from None
    return plain


def _fields_set(value: Any, *, skip: tuple[str, ...]) -> dict[str, Any]:
    plain = {}
    for spec in fields(value):
        given = getattr(value, spec.name)
        if spec.name not in skip and (spec.default is MISSING or given != spec.default):
            plain[spec.name] = given
    return plain
