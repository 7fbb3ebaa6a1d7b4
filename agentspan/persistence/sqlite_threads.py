"""Writing threads to the SQLite store. Every function runs on the writer's thread, in a shared transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence

from agentspan.errors import CorruptRecordError, ThreadOwnedError
from agentspan.persistence.codec import BlobMemo, Large
from agentspan.persistence.sqlite_blobs import drop_owners, keep_blobs, keep_only, refers
from agentspan.persistence.sqlite_rows import blob_getter
from agentspan.persistence.sqlite_thread_rows import AT, TASK_AT, at, long, short, task_at
from agentspan.persistence.thread_bodies import (
    KeptCheckpoint,
    KeptTask,
    PackedThread,
    Slot,
    copied,
    large_values_of,
    merged,
    not_empty,
    pack_writes,
    read_writes,
    without,
)
from agentspan.persistence.threads import WriteRow

_INSERT = "INSERT INTO thread_rows (space, checkpoint_id, task_id, parent_id, body) VALUES (?, ?, ?, ?, ?)"

# One statement for three look-ups: the execution whose thread it is, the thread, and one of its spaces.
_FIND = (
    "SELECT (SELECT id FROM executions WHERE execution_id = ?1), t.id, s.id FROM (SELECT 1) "
    "LEFT JOIN threads t ON t.thread_id = ?1 LEFT JOIN thread_spaces s ON s.thread = t.id AND s.ns = ?2"
)


def write_thread(db: sqlite3.Connection, packed: PackedThread, memo: BlobMemo) -> int:
    """`store` for a thread of its own."""
    return _store(_Thread(db, packed, memo, owned=False), packed)


def store(db: sqlite3.Connection, packed: PackedThread, memo: BlobMemo) -> int:
    """Store what is not there yet; returns the bytes of bodies and of new large values."""
    return _store(_Thread(db, packed, memo, owned=True), packed)


def _store(thread: _Thread, packed: PackedThread) -> int:
    if packed.forget and thread.is_there:
        for slot, forget in packed.forget.items():
            thread.forget(slot, forget)
    bytes_written = packed.bytes
    if packed.blobs:
        bytes_written += thread.keep(packed.blobs)
    for checkpoint in packed.checkpoints:
        thread.put_checkpoint(checkpoint)
    for task in packed.tasks:
        thread.put_task(task)
    return bytes_written


class _Thread:
    """One thread during one write."""

    def __init__(self, db: sqlite3.Connection, packed: PackedThread, memo: BlobMemo, *, owned: bool) -> None:
        self._db = db
        self._thread_id = packed.thread_id
        self._memo = memo
        kept = packed.checkpoints or packed.tasks
        ns = kept[0].slot.ns if kept else ""
        found: tuple[int | None, int | None, int | None] = db.execute(_FIND, (packed.thread_id, ns)).fetchone()
        execution, self._number, space = found
        if execution is not None and not owned:
            raise ThreadOwnedError(thread_id=packed.thread_id)
        self._spaces: dict[str, int] = {} if space is None else {ns: space}

    @property
    def is_there(self) -> bool:
        """It was made already."""
        return self._number is not None

    def keep(self, blobs: Mapping[bytes, Large]) -> int:
        """Store large values it refers to; returns the bytes of the new ones."""
        return keep_blobs(self._db, -self._made(), blobs)

    def _made(self) -> int:
        """Its number; it is made if need be."""
        if self._number is None:
            self._number = self._db.execute("INSERT INTO threads (thread_id) VALUES (?)", (self._thread_id,)).lastrowid
            assert self._number is not None
        return self._number

    def _space(self, ns: str) -> int:
        space = self._spaces.get(ns)
        if space is None:
            where = (self._made(), ns)
            found = self._db.execute("SELECT id FROM thread_spaces WHERE thread = ? AND ns = ?", where).fetchone()
            if found is None:
                space = self._db.execute("INSERT INTO thread_spaces (thread, ns) VALUES (?, ?)", where).lastrowid
                assert space is not None
            else:
                space = int(found[0])
            self._spaces[ns] = space
        return space

    def put_checkpoint(self, kept: KeptCheckpoint) -> None:
        """Store a checkpoint, or replace it in its place."""
        space, name = self._space(kept.slot.ns), short(kept.slot.checkpoint_id)
        parent = None if kept.parent_id is None else short(kept.parent_id)
        # Mostly it is new and its ID the greatest: then one look at the end of the index says both.
        ahead = self._db.execute(
            f"SELECT 1 FROM thread_rows WHERE space = ? AND {AT} >= ? AND checkpoint_id >= ? LIMIT 1",
            (space, at(name), name),
        ).fetchone()
        if ahead is not None:
            found = self._db.execute(
                f"SELECT id FROM thread_rows WHERE space = ? AND {AT} = ? AND checkpoint_id = ? AND task_id IS NULL",
                (space, at(name), name),
            ).fetchone()
            if found is not None:
                self._db.execute(
                    "UPDATE thread_rows SET parent_id = ?2, body = ?3 "
                    "WHERE id = ?1 AND (parent_id IS NOT ?2 OR body <> ?3)",
                    (found[0], parent, kept.body),
                )
                return
            self._db.execute(
                "UPDATE thread_spaces SET shuffled = 1 WHERE id = ?1 AND EXISTS "
                f"(SELECT 1 FROM thread_rows WHERE space = ?1 AND {AT} >= ?2 AND checkpoint_id > ?3 AND task_id IS NULL)",
                (space, at(name), name),
            )
        self._db.execute(_INSERT, (space, name, None, parent, kept.body))

    def put_task(self, kept: KeptTask) -> None:
        """Store the writes of a task, or those that are new beside what is there."""
        found = self._task(kept.slot)
        if found is None:
            space, name, task = self._keys(kept.slot)
            self._db.execute(_INSERT, (space, name, task, None, kept.body))
        else:
            row, stored = found
            self._put_again(row, kept.slot, stored, merged(stored, kept.writes))

    def forget(self, slot: Slot, forget: set[int]) -> None:
        """Remove some writes of a task."""
        found = self._task(slot)
        if found is not None:
            row, stored = found
            self._put_again(row, slot, stored, without(stored, forget))

    def _task(self, slot: Slot) -> tuple[int, tuple[WriteRow, ...]] | None:
        space, name, task = self._keys(slot)
        found = self._db.execute(
            f"SELECT id, body FROM thread_rows WHERE space = ? AND {AT} = ? AND {TASK_AT} = ? "
            "AND checkpoint_id = ? AND task_id = ?",
            (space, at(name), task_at(task), name, task),
        ).fetchone()
        if found is None:
            return None
        return found[0], tuple(read_writes(self._thread_id, slot, found[1], blob_getter(self._db), self._memo))

    def _put_again(self, row: int, slot: Slot, stored: tuple[WriteRow, ...], writes: tuple[WriteRow, ...]) -> None:
        if not writes:
            self._db.execute("DELETE FROM thread_rows WHERE id = ?", (row,))
        elif writes != stored:
            # The large values in it are there: those that were stored, and those of this write.
            body = pack_writes(self._thread_id, slot, writes, self._memo).data
            self._db.execute("UPDATE thread_rows SET body = ? WHERE id = ?", (body, row))

    def _keys(self, slot: Slot) -> tuple[int, str | bytes, str | bytes]:
        assert slot.task_id is not None
        return self._space(slot.ns), short(slot.checkpoint_id), short(slot.task_id)


def delete_checkpoints(db: sqlite3.Connection, thread_id: str, places: Sequence[tuple[str, str]]) -> None:
    """Remove checkpoints with their writes, and the large values that nothing of the thread refers to any more."""
    _refuse_owned(db, thread_id)
    thread = _number(db, thread_id)
    if thread is None:
        return
    removed = 0
    for ns, checkpoint_id in places:
        removed += db.execute(
            "DELETE FROM thread_rows WHERE space = (SELECT id FROM thread_spaces WHERE thread = ? AND ns = ?) "
            f"AND {AT} = ? AND checkpoint_id = ?",
            (thread, ns, at(short(checkpoint_id)), short(checkpoint_id)),
        ).rowcount
    if removed and refers(db, -thread):
        _let_go(db, thread_id, thread)


def _let_go(db: sqlite3.Connection, thread_id: str, thread: int) -> None:
    """Drop the large values that no row of the thread refers to."""
    needed: set[bytes] = set()
    try:
        for slot, parent_id, body in _rows_of(db, thread):
            needed |= large_values_of(thread_id, slot, parent_id, body)
    except CorruptRecordError:
        return  # Nobody can say what that row needs: everything stays until the thread goes.
    keep_only(db, -thread, needed)


def delete_thread(db: sqlite3.Connection, thread_id: str) -> None:
    """Remove a thread of its own with all that only it refers to."""
    _refuse_owned(db, thread_id)
    thread = _number(db, thread_id)
    if thread is not None:
        drop_owners(db, [-thread])
        remove(db, [thread])


def remove(db: sqlite3.Connection, threads: Sequence[int]) -> None:
    """Remove the rows of threads; their large values are the caller's business."""
    for thread in threads:
        db.execute("DELETE FROM thread_rows WHERE space IN (SELECT id FROM thread_spaces WHERE thread = ?)", (thread,))
        db.execute("DELETE FROM thread_spaces WHERE thread = ?", (thread,))
        db.execute("DELETE FROM threads WHERE id = ?", (thread,))


def threads_of(db: sqlite3.Connection, execution_ids: Sequence[str]) -> list[int]:
    """The numbers of the threads that executions have."""
    wanted = json.dumps(list(execution_ids))
    found = db.execute("SELECT id FROM threads WHERE thread_id IN (SELECT value FROM json_each(?))", (wanted,))
    return [int(number) for (number,) in found]


def bytes_of(db: sqlite3.Connection, thread: int) -> int:
    """The size of the bodies of a thread."""
    (size,) = db.execute(
        "SELECT total(length(body)) FROM thread_rows WHERE space IN (SELECT id FROM thread_spaces WHERE thread = ?)",
        (thread,),
    ).fetchone()
    return int(size)


def copy_thread(db: sqlite3.Connection, source: str, target: str) -> None:
    """Copy a thread. Large values are not copied but referred to once more."""
    _refuse_owned(db, target)
    if source == target:
        return
    old, new = _number(db, source), _number(db, target)
    rows = [] if old is None else list(_rows_of(db, old))
    wanted = [(slot, parent_id, copied(source, target, slot, parent_id, body)) for slot, parent_id, body in rows]
    there = [] if new is None else list(_rows_of(db, new))
    if there and there != wanted:
        raise not_empty(source, target)
    if there or not wanted:
        return
    if new is None:
        new = db.execute("INSERT INTO threads (thread_id) VALUES (?)", (target,)).lastrowid
    db.execute("DELETE FROM thread_spaces WHERE thread = ?", (new,))
    db.execute(
        "INSERT INTO thread_spaces (thread, ns, shuffled) SELECT ?, ns, shuffled FROM thread_spaces WHERE thread = ?",
        (new, old),
    )
    spaces = dict(db.execute("SELECT ns, id FROM thread_spaces WHERE thread = ?", (new,)).fetchall())
    for (ns, checkpoint_id, task_id), parent_id, body in wanted:
        task, parent = (None if name is None else short(name) for name in (task_id, parent_id))
        db.execute(_INSERT, (spaces[ns], short(checkpoint_id), task, parent, body))
    assert new is not None
    assert old is not None
    db.execute("INSERT OR IGNORE INTO blob_refs SELECT ?, blob FROM blob_refs WHERE execution = ?", (-new, -old))


def _rows_of(db: sqlite3.Connection, thread: int) -> list[tuple[Slot, str | None, bytes]]:
    """All rows of a thread, in the order they were stored."""
    found = db.execute(
        "SELECT s.ns, r.checkpoint_id, r.task_id, r.parent_id, r.body "
        "FROM thread_spaces s JOIN thread_rows r ON r.space = s.id WHERE s.thread = ? ORDER BY r.id",
        (thread,),
    )
    return [
        (
            Slot(ns, long(checkpoint_id), None if task_id is None else long(task_id)),
            None if parent_id is None else long(parent_id),
            bytes(body),
        )
        for ns, checkpoint_id, task_id, parent_id, body in found
    ]


def _number(db: sqlite3.Connection, thread_id: str) -> int | None:
    found = db.execute("SELECT id FROM threads WHERE thread_id = ?", (thread_id,)).fetchone()
    return None if found is None else int(found[0])


def _refuse_owned(db: sqlite3.Connection, thread_id: str) -> None:
    if db.execute("SELECT 1 FROM executions WHERE execution_id = ?", (thread_id,)).fetchone() is not None:
        raise ThreadOwnedError(thread_id=thread_id)
