"""The stored forms of threads, and the place each belongs to; stores read and write threads only through this file.

A checkpoint is one body. The writes of one task on one checkpoint are one body too: they come together and are read
together, and one row costs less than two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from typing import Any, NamedTuple

from agentspan.errors import ConfigurationError, CorruptRecordError, UnstorableValueError
from agentspan.persistence.codec import BlobMemo, BodyError, Large, Packed, large_values, move, pack, unpack
from agentspan.persistence.rules import check_names
from agentspan.persistence.threads import CheckpointRow, ThreadWrite, WriteRow
from agentspan.wording import a

GetBlob = Callable[[bytes], bytes | None]

SPARE_DEPTH = 32
"""What a task wrote ends up some levels deeper in the next checkpoint."""
SHARED_BYTES_MIN = 8 * 1024
"""Half of what counts as large elsewhere: what a task wrote is stored again in the next checkpoint, if not more often."""
_FIELDS = 4
"""Parts of one write in the body of a task."""


class Slot(NamedTuple):
    """Where a body is kept within its thread: a checkpoint, or the writes of one task on it."""

    ns: str
    checkpoint_id: str
    task_id: str | None = None


class KeptCheckpoint(NamedTuple):
    """A checkpoint in stored form."""

    slot: Slot
    parent_id: str | None
    body: bytes


class KeptTask(NamedTuple):
    """The writes of one task in stored form, and as they were given (`body` is of these)."""

    slot: Slot
    writes: tuple[WriteRow, ...]
    body: bytes


class PackedThread(NamedTuple):
    """A `ThreadWrite` with its bytes packed: what is left to do is rows."""

    thread_id: str
    checkpoints: list[KeptCheckpoint]
    tasks: list[KeptTask]
    forget: dict[Slot, set[int]]
    blobs: dict[bytes, Large]
    """The large values of all of them."""
    bytes: int
    """Of all bodies, without the large values."""


def pack_thread(thread_id: str, write: ThreadWrite, memo: BlobMemo) -> PackedThread:
    """Pack everything a write to a thread carries.

    Raises:
        UnstorableValueError: Names the first value that is not plain data, from its row's body down.
    """
    check_names(thread_id=thread_id)
    blobs: dict[bytes, Large] = {}
    checkpoints: list[KeptCheckpoint] = []
    for row in write.checkpoints:
        check_names(ns=row.ns, checkpoint_id=row.checkpoint_id, parent_id=row.parent_id)
        slot = Slot(row.ns, row.checkpoint_id)
        packed = _pack(row.body, memo, place(thread_id, slot, row.parent_id))
        blobs.update(packed.blobs)
        checkpoints.append(KeptCheckpoint(slot, row.parent_id, packed.data))
    by_task: dict[Slot, list[WriteRow]] = {}
    for given in write.writes:
        by_task.setdefault(Slot(given.ns, given.checkpoint_id, given.task_id), []).append(given)
    tasks: list[KeptTask] = []
    for slot, rows in by_task.items():
        check_names(ns=slot.ns, checkpoint_id=slot.checkpoint_id, task_id=slot.task_id)
        writes = merged((), rows)
        packed = pack_writes(thread_id, slot, writes, memo)
        blobs.update(packed.blobs)
        tasks.append(KeptTask(slot, writes, packed.data))
    forget: dict[Slot, set[int]] = {}
    for ns, checkpoint_id, task_id, idx in write.forget:
        check_names(ns=ns, checkpoint_id=checkpoint_id, task_id=task_id)
        forget.setdefault(Slot(ns, checkpoint_id, task_id), set()).add(idx)
    size = sum([len(one.body) for one in checkpoints]) + sum([len(one.body) for one in tasks])
    return PackedThread(thread_id, checkpoints, tasks, forget, blobs, size)


def merged(stored: Iterable[WriteRow], given: Iterable[WriteRow]) -> tuple[WriteRow, ...]:
    """The writes of one task after more were given: a negative `idx` replaces, any other keeps what was first."""
    by_idx = {row.idx: row for row in stored}
    for row in given:
        if row.idx < 0 or row.idx not in by_idx:
            by_idx[row.idx] = row
    return tuple(by_idx.values())


def without(stored: Iterable[WriteRow], forget: Set[int]) -> tuple[WriteRow, ...]:
    """The writes of one task after some were forgotten."""
    return tuple(row for row in stored if row.idx not in forget)


def pack_writes(thread_id: str, slot: Slot, writes: Sequence[WriteRow], memo: BlobMemo) -> Packed:
    """The writes of one task as one body. Raises as `pack_thread` does."""
    parts: list[Any] = []
    path = None
    for row in writes:
        # Mostly the same for all of a task: said once.
        parts += (row.idx, None if row.task_path == path else row.task_path, row.channel, row.body)
        path = row.task_path
    try:
        return _pack(parts, memo, place(thread_id, slot))
    except UnstorableValueError:
        for row in writes:
            pack(row.body, memo, spare_depth=SPARE_DEPTH)  # Names the path as the caller knows it.
        raise


def _pack(value: Any, memo: BlobMemo, context: bytes) -> Packed:
    return pack(value, memo, context=context, spare_depth=SPARE_DEPTH, blob_bytes_min=SHARED_BYTES_MIN)


def read_checkpoint(thread_id: str, kept: KeptCheckpoint, get_blob: GetBlob, memo: BlobMemo) -> CheckpointRow:
    """A checkpoint from its stored form.

    Raises:
        CorruptRecordError: The row fails its check.
    """
    slot, parent_id, data = kept
    body = _read(thread_id, slot, parent_id, data, get_blob, memo)
    if not isinstance(body, dict):
        raise _corrupt(thread_id, slot, f"it is {a(type(body).__name__)}")
    return CheckpointRow(ns=slot.ns, checkpoint_id=slot.checkpoint_id, parent_id=parent_id, body=body)


def read_writes(thread_id: str, slot: Slot, data: bytes, get_blob: GetBlob, memo: BlobMemo) -> list[WriteRow]:
    """The writes of one task from their stored form. Raises as `read_checkpoint` does."""
    parts = _read(thread_id, slot, None, data, get_blob, memo)
    if not isinstance(parts, list) or len(parts) % _FIELDS or slot.task_id is None:
        raise _corrupt(thread_id, slot, f"it is {a(type(parts).__name__)} that is no list of writes")
    rows: list[WriteRow] = []
    path = ""
    for first in range(0, len(parts), _FIELDS):
        idx, said, channel, body = parts[first : first + _FIELDS]
        path = path if said is None else said
        rows.append(
            WriteRow(
                ns=slot.ns,
                checkpoint_id=slot.checkpoint_id,
                task_id=slot.task_id,
                idx=idx,
                task_path=path,
                channel=channel,
                body=body,
            )
        )
    return rows


def in_order(rows: Iterable[WriteRow]) -> list[WriteRow]:
    """Writes as callers get them."""
    return sorted(rows, key=lambda row: (row.task_path, row.task_id, row.idx))


def copied(source: str, target: str, slot: Slot, parent_id: str | None, data: bytes) -> bytes:
    """A body of one thread for another, unopened. Raises CorruptRecordError of the source."""
    try:
        return move(data, context=place(source, slot, parent_id), to=place(target, slot, parent_id))
    except BodyError as problem:
        raise _corrupt(source, slot, str(problem)) from None


def not_empty(source: str, target: str) -> ConfigurationError:
    """The error for a copy to a thread that holds something else."""
    return ConfigurationError(
        problem=f"Thread {target!r} is not empty, so {source!r} was not copied to it. Delete it first, or choose "
        "another thread_id."
    )


def large_values_of(thread_id: str, slot: Slot, parent_id: str | None, data: bytes) -> set[bytes]:
    """The hashes of the large values that a body refers to. Raises CorruptRecordError."""
    try:
        return large_values(data, context=place(thread_id, slot, parent_id))
    except ValueError as problem:
        raise _corrupt(thread_id, slot, str(problem)) from None


def place(thread_id: str, slot: Slot, parent_id: str | None = None) -> bytes:
    """Where a body belongs. Its columns are part of it, so that altering one is noticed as well."""
    ns, checkpoint_id, task_id = slot
    # repr, because names may contain anything, the separator too.
    return f"thread {thread_id!r} {ns!r} {checkpoint_id!r} {task_id!r} {parent_id!r}".encode()


def _read(thread_id: str, slot: Slot, parent_id: str | None, data: bytes, get_blob: GetBlob, memo: BlobMemo) -> Any:
    try:
        return unpack(data, get_blob, context=place(thread_id, slot, parent_id), memo=memo)
    except BodyError as problem:
        raise _corrupt(thread_id, slot, str(problem)) from None


def _corrupt(thread_id: str, slot: Slot, problem: str) -> CorruptRecordError:
    what = f"checkpoint {slot.checkpoint_id}"
    if slot.ns:
        what += f" of {slot.ns}"
    if slot.task_id is not None:
        what = f"the writes of task {slot.task_id} on {what}"
    return CorruptRecordError(execution_id=thread_id, what=what, problem=problem)
