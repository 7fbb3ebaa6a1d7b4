"""Threads as the memory store keeps them: packed, as on a real disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from agentspan.errors import CorruptRecordError
from agentspan.persistence.memory_blobs import Blobs
from agentspan.persistence.thread_bodies import (
    KeptCheckpoint,
    PackedThread,
    Slot,
    copied,
    in_order,
    large_values_of,
    merged,
    not_empty,
    pack_writes,
    read_checkpoint,
    read_writes,
    without,
)
from agentspan.persistence.threads import CheckpointRow, ThreadCheckpoint, WriteRow


class Row(NamedTuple):
    """What is kept under one slot."""

    number: int
    """Later ones are greater, over all threads."""
    parent_id: str | None
    body: bytes


@dataclass(slots=True)
class Thread:
    """All that is kept of one thread."""

    rows: dict[Slot, Row] = field(default_factory=dict)
    blobs: set[bytes] = field(default_factory=set)


class MemoryThreads:
    """The threads of a memory store. Who owns them, and when large values go, is the store's business."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._threads: dict[str, Thread] = {}
        self._last = 0

    def __len__(self) -> int:
        return len(self._threads)

    # --- writing

    def store(self, packed: PackedThread) -> int:
        """Store what is not there yet; returns the bytes of bodies and of new large values."""
        thread_id = packed.thread_id
        thread = self._threads.get(thread_id) or Thread()
        staged: dict[Slot, Row | None] = {}  # What is damaged fails below, before anything is changed.

        def stage(slot: Slot, parent_id: str | None, body: bytes) -> None:
            known = staged[slot] if slot in staged else thread.rows.get(slot)
            if known is None:
                self._last += 1
            staged[slot] = Row(self._last if known is None else known.number, parent_id, body)

        def stored(slot: Slot) -> tuple[WriteRow, ...]:
            known = staged[slot] if slot in staged else thread.rows.get(slot)
            return () if known is None else tuple(self._read_writes(thread_id, slot, known.body))

        for slot, forget in packed.forget.items():
            left = without(stored(slot), forget)
            if left:
                stage(slot, None, pack_writes(thread_id, slot, left, self._blobs.memo).data)
            else:
                staged[slot] = None
        for slot, writes, body in packed.tasks:
            before = stored(slot)
            after = merged(before, writes)
            if after != before:
                stage(slot, None, pack_writes(thread_id, slot, after, self._blobs.memo).data if before else body)
        for slot, parent_id, body in packed.checkpoints:
            stage(slot, parent_id, body)

        for slot, row in staged.items():
            if row is None:
                thread.rows.pop(slot, None)
            else:
                self._threads[thread_id] = thread
                thread.rows[slot] = row
        thread.blobs.update(packed.blobs)
        return packed.bytes + sum(self._blobs.add(content_hash, value) for content_hash, value in packed.blobs.items())

    def delete_checkpoints(self, thread_id: str, places: Sequence[tuple[str, str]]) -> None:
        """Remove checkpoints with their writes, and forget the large values that nothing left refers to."""
        thread = self._threads.get(thread_id)
        if thread is None:
            return
        doomed = set(places)
        thread.rows = {slot: row for slot, row in thread.rows.items() if (slot.ns, slot.checkpoint_id) not in doomed}
        try:
            needed = set[bytes]().union(
                *(large_values_of(thread_id, slot, row.parent_id, row.body) for slot, row in thread.rows.items())
            )
        except CorruptRecordError:
            return  # Nobody can say what that row needs: everything stays until the thread goes.
        thread.blobs &= needed

    def remove(self, thread_ids: Iterable[str]) -> None:
        """Remove threads."""
        for thread_id in thread_ids:
            self._threads.pop(thread_id, None)

    def copy(self, source: str, target: str) -> None:
        """Copy a thread to an empty one, or to one that is its copy already."""
        if source == target:
            return
        old, new = self._threads.get(source) or Thread(), self._threads.get(target) or Thread()
        wanted = [
            (slot, row.parent_id, copied(source, target, slot, row.parent_id, row.body)) for slot, row in _in_order(old)
        ]
        there = [(slot, row.parent_id, row.body) for slot, row in _in_order(new)]
        if there and there != wanted:
            raise not_empty(source, target)
        if there or not wanted:
            return
        for slot, parent_id, body in wanted:
            self._last += 1
            new.rows[slot] = Row(self._last, parent_id, body)
        new.blobs = set(old.blobs)
        self._threads[target] = new

    # --- reading

    def blobs_of(self, thread_ids: Iterable[str]) -> set[bytes]:
        """The large values that some threads refer to."""
        return set[bytes]().union(*(self._threads[one].blobs for one in thread_ids if one in self._threads))

    def bytes_of(self, thread_ids: Iterable[str]) -> int:
        """The size of the bodies of some threads."""
        return sum(
            len(row.body) for one in thread_ids if one in self._threads for row in self._threads[one].rows.values()
        )

    def names(self) -> set[str]:
        """The threads there are."""
        return set(self._threads)

    def checkpoint(self, thread_id: str, ns: str, checkpoint_id: str | None) -> ThreadCheckpoint | None:
        """One checkpoint with its writes; without an ID the one stored last."""
        if checkpoint_id is None:
            last = next(self._newest_first(thread_id, ns), None)
            if last is None:
                return None
            checkpoint_id = last[1].checkpoint_id
        for row in self.checkpoints(thread_id, ns, [checkpoint_id]):
            return ThreadCheckpoint(thread_id=thread_id, row=row, writes=self.writes(thread_id, ns, checkpoint_id))
        return None

    def checkpoints(self, thread_id: str, ns: str, checkpoint_ids: Sequence[str]) -> list[CheckpointRow]:
        """Several checkpoints by ID, in the order asked for."""
        slots = [Slot(ns, checkpoint_id) for checkpoint_id in checkpoint_ids]
        thread = self._threads.get(thread_id) or Thread()
        return [self._read(thread_id, slot, thread.rows[slot]) for slot in slots if slot in thread.rows]

    def writes(self, thread_id: str, ns: str, checkpoint_id: str) -> list[WriteRow]:
        """The writes on one checkpoint, in order."""
        thread = self._threads.get(thread_id) or Thread()
        return in_order(
            write
            for slot, row in thread.rows.items()
            if slot.task_id is not None and (slot.ns, slot.checkpoint_id) == (ns, checkpoint_id)
            for write in self._read_writes(thread_id, slot, row.body)
        )

    def listing(
        self, thread_id: str | None, ns: str | None, before: str | None, skip: int, limit: int
    ) -> list[ThreadCheckpoint]:
        """Checkpoints, the last stored first."""
        found = self._newest_first(thread_id, ns)
        if before is not None:
            found = (one for one in found if self._is_before(*one, before))
        listed = []
        for owner, slot, row in islice(found, skip, skip + limit):
            try:
                listed.append(ThreadCheckpoint(thread_id=owner, row=self._read(owner, slot, row)))
            except CorruptRecordError:
                if thread_id is not None:
                    raise  # Else its own listing says so; it must not hide everybody else's.
        return listed

    def places(self, thread_id: str, checkpoint_id: str) -> list[tuple[str, str]]:
        """Where the other namespaces stood when a checkpoint of the root was stored."""
        bound = (self._threads.get(thread_id) or Thread()).rows.get(Slot("", checkpoint_id))
        if bound is None:
            return []
        found: dict[str, str] = {}
        for _, slot, row in self._newest_first(thread_id, None):
            if slot.ns and row.number < bound.number:
                found.setdefault(slot.ns, slot.checkpoint_id)
        return sorted(found.items())

    def _is_before(self, thread_id: str, slot: Slot, row: Row, before: str) -> bool:
        bound = self._threads[thread_id].rows.get(Slot(slot.ns, before))
        return slot.checkpoint_id < before if bound is None else row.number < bound.number

    def _newest_first(self, thread_id: str | None, ns: str | None) -> Iterator[tuple[str, Slot, Row]]:
        found = [
            (owner, slot, row)
            for owner, thread in self._threads.items()
            if thread_id in (None, owner)
            for slot, row in thread.rows.items()
            if slot.task_id is None and ns in (None, slot.ns)
        ]
        yield from sorted(found, key=lambda one: one[2].number, reverse=True)

    def _read(self, thread_id: str, slot: Slot, row: Row) -> CheckpointRow:
        kept = KeptCheckpoint(slot, row.parent_id, row.body)
        return read_checkpoint(thread_id, kept, self._blobs.get, self._blobs.memo)

    def _read_writes(self, thread_id: str, slot: Slot, body: bytes) -> list[WriteRow]:
        return read_writes(thread_id, slot, body, self._blobs.get, self._blobs.memo)


def _in_order(thread: Thread) -> list[tuple[Slot, Row]]:
    return sorted(thread.rows.items(), key=lambda item: item[1].number)
