"""Reading threads of the SQLite store. Every function runs on a store's thread, inside a transaction."""

from __future__ import annotations

import logging
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import NamedTuple

from agentspan.errors import CorruptRecordError
from agentspan.persistence.codec import BlobMemo
from agentspan.persistence.sqlite_rows import blob_getter
from agentspan.persistence.thread_bodies import KeptCheckpoint, Slot, in_order, read_checkpoint, read_writes
from agentspan.persistence.threads import CheckpointRow, ThreadCheckpoint, WriteRow

log = logging.getLogger("agentspan.store")

_UUID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

_CHECKPOINT = "SELECT id, checkpoint_id, parent_id, body FROM thread_rows "
_Found = tuple[int, str | bytes, str | bytes | None, bytes]


class Space(NamedTuple):
    """One namespace of one thread."""

    number: int
    thread_id: str
    ns: str
    shuffled: int
    """Its greatest checkpoint ID may not be the one stored last."""


def short(name: str) -> str | bytes:
    """An ID as it is kept: a UUID as its 16 bytes, anything else as it is."""
    return bytes.fromhex(name.replace("-", "")) if _UUID.fullmatch(name) else name


def long(kept: str | bytes) -> str:
    """The ID that `short` was given."""
    if isinstance(kept, str):
        return kept
    digits = kept.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


AT = "CASE typeof(checkpoint_id) WHEN 'blob' THEN substr(checkpoint_id, 1, 8) ELSE checkpoint_id END"
TASK_AT = "CASE typeof(task_id) WHEN 'blob' THEN substr(task_id, 1, 4) ELSE task_id END"
"""What the index has of an ID, word for word as there: a look-up names that and then the whole. See `at`."""
NEWEST = f"{AT} DESC, checkpoint_id DESC"
"""The order of checkpoints by ID, the greatest first, as the index gives it."""


def at(kept: str | bytes) -> str | bytes:
    """What the index has of a checkpoint's ID."""
    return kept[:8] if isinstance(kept, bytes) else kept


def task_at(kept: str | bytes) -> str | bytes:
    """What the index has of a task's ID."""
    return kept[:4] if isinstance(kept, bytes) else kept


_SPACE = "SELECT s.id, t.thread_id, s.ns, s.shuffled FROM threads t JOIN thread_spaces s ON s.thread = t.id "


def spaces(db: sqlite3.Connection, thread_id: str | None, ns: str | None) -> list[Space]:
    """The namespaces of one thread or all, by name or all."""
    wanted = {"t.thread_id = ?": thread_id, "s.ns = ?": ns}
    terms = {term: value for term, value in wanted.items() if value is not None}
    where = f"WHERE {' AND '.join(terms)}" if terms else ""
    return [Space(*columns) for columns in db.execute(_SPACE + where, tuple(terms.values()))]


def checkpoint(
    db: sqlite3.Connection, thread_id: str, ns: str, checkpoint_id: str | None, memo: BlobMemo
) -> ThreadCheckpoint | None:
    """One checkpoint with its writes; without an ID the one stored last."""
    for space in spaces(db, thread_id, ns):
        found = _latest(db, space) if checkpoint_id is None else _named(db, space, checkpoint_id)
        if found is not None:
            row = _read(db, space, found, memo)
            return ThreadCheckpoint(thread_id=thread_id, row=row, writes=_writes(db, space, row.checkpoint_id, memo))
    return None


def checkpoints(
    db: sqlite3.Connection, thread_id: str, ns: str, checkpoint_ids: Sequence[str], memo: BlobMemo
) -> list[CheckpointRow]:
    """Several checkpoints by ID, in the order asked for."""
    return [
        _read(db, space, found, memo)
        for space in spaces(db, thread_id, ns)
        for checkpoint_id in checkpoint_ids
        if (found := _named(db, space, checkpoint_id)) is not None
    ]


def writes(db: sqlite3.Connection, thread_id: str, ns: str, checkpoint_id: str, memo: BlobMemo) -> list[WriteRow]:
    """The writes on one checkpoint, in order."""
    return [row for space in spaces(db, thread_id, ns) for row in _writes(db, space, checkpoint_id, memo)]


def places(db: sqlite3.Connection, thread_id: str, checkpoint_id: str) -> list[tuple[str, str]]:
    """Where the other namespaces stood when a checkpoint of the root was stored. The index answers for each."""
    (root,) = spaces(db, thread_id, "") or (None,)
    bound = None if root is None else _named(db, root, checkpoint_id)
    if bound is None:
        return []
    found = db.execute(
        "SELECT s.ns, r.checkpoint_id FROM threads t JOIN thread_spaces s ON s.thread = t.id JOIN thread_rows r ON r.id = "
        "(SELECT max(id) FROM thread_rows WHERE space = s.id AND task_id IS NULL AND id < ?2) "
        "WHERE t.thread_id = ?1 AND s.ns <> '' ORDER BY s.ns",
        (thread_id, bound[0]),
    )
    return [(ns, long(name)) for ns, name in found.fetchall()]


def listing(
    db: sqlite3.Connection,
    thread_id: str | None,
    ns: str | None,
    before: str | None,
    skip: int,
    limit: int,
    memo: BlobMemo,
) -> list[ThreadCheckpoint]:
    """Checkpoints, the last stored first."""
    here = _Here(db, thread_id, ns)
    with closing(db.cursor()) as cursor:  # Left open it would keep the read transaction, and later reads in the past.
        found = here.newest_first(cursor)
        if before is not None:
            found = here.before(before, found)
        chosen = list(islice(found, skip, skip + limit))
    listed = []
    for number, space_number, _ in chosen:
        columns: _Found = db.execute(_CHECKPOINT + "WHERE id = ?", (number,)).fetchone()
        space = here.space(space_number)
        try:
            listed.append(ThreadCheckpoint(thread_id=space.thread_id, row=_read(db, space, columns, memo)))
        except CorruptRecordError as problem:
            if thread_id is not None:
                raise
            log.error("store.thread_damaged", extra={"thread_id": space.thread_id, "problem": str(problem)})
    return listed


_Place = tuple[int, int, str | bytes]
"""Rowid, space, checkpoint ID."""
_PLACE = "SELECT id, space, checkpoint_id FROM thread_rows WHERE task_id IS NULL "


class _Here:
    """Where the checkpoints of a listing are. Looks at no bodies, and at few rows beyond those that are asked for."""

    def __init__(self, db: sqlite3.Connection, thread_id: str | None, ns: str | None) -> None:
        self._db = db
        self._is_all = thread_id is None and ns is None  # Then spaces are looked up one by one: there may be many.
        self._spaces = {} if self._is_all else {space.number: space for space in spaces(db, thread_id, ns)}

    def space(self, number: int) -> Space:
        """A space by its number."""
        if number not in self._spaces:
            self._spaces[number] = Space(*self._db.execute(_SPACE + "WHERE s.id = ?", (number,)).fetchone())
        return self._spaces[number]

    def newest_first(self, cursor: sqlite3.Cursor) -> Iterator[_Place]:
        """All of them."""
        if self._is_all:
            return cursor.execute(_PLACE + "ORDER BY id DESC")
        if len(self._spaces) == 1:
            (space,) = self._spaces.values()
            order = "id DESC" if space.shuffled else NEWEST
            return cursor.execute(_PLACE + f"AND space = ? ORDER BY {order}", (space.number,))
        found: list[_Place] = []
        for number in self._spaces:
            found += cursor.execute(_PLACE + "AND space = ?", (number,))
        return iter(sorted(found, reverse=True))

    def before(self, checkpoint_id: str, found: Iterator[_Place]) -> Iterator[_Place]:
        """Only those stored before a checkpoint of their own space, or, where it is not stored, with smaller IDs."""
        bounds: dict[int, int | None] = {}
        for place in found:
            number, space, name = place
            if space not in bounds:
                columns = _named(self._db, self.space(space), checkpoint_id)
                bounds[space] = None if columns is None else columns[0]
            bound = bounds[space]
            if long(name) < checkpoint_id if bound is None else number < bound:
                yield place


def _latest(db: sqlite3.Connection, space: Space) -> _Found | None:
    last = f"ORDER BY {NEWEST} LIMIT 1"
    if space.shuffled:
        # In the order they were stored: a look at every row of the space, but not at what is in it.
        last = "AND id = (SELECT max(id) FROM thread_rows WHERE space = ?1 AND task_id IS NULL)"
    found: _Found | None = db.execute(
        _CHECKPOINT + f"WHERE space = ?1 AND task_id IS NULL {last}", (space.number,)
    ).fetchone()
    return found


def _named(db: sqlite3.Connection, space: Space, checkpoint_id: str) -> _Found | None:
    name = short(checkpoint_id)
    found: _Found | None = db.execute(
        _CHECKPOINT + f"WHERE space = ? AND {AT} = ? AND checkpoint_id = ? AND task_id IS NULL",
        (space.number, at(name), name),
    ).fetchone()
    return found


def _read(db: sqlite3.Connection, space: Space, found: _Found, memo: BlobMemo) -> CheckpointRow:
    _, checkpoint_id, parent_id, body = found
    kept = KeptCheckpoint(Slot(space.ns, long(checkpoint_id)), None if parent_id is None else long(parent_id), body)
    return read_checkpoint(space.thread_id, kept, blob_getter(db), memo)


def _writes(db: sqlite3.Connection, space: Space, checkpoint_id: str, memo: BlobMemo) -> list[WriteRow]:
    name = short(checkpoint_id)
    found = db.execute(
        f"SELECT task_id, body FROM thread_rows WHERE space = ? AND {AT} = ? AND checkpoint_id = ? "
        "AND task_id IS NOT NULL",
        (space.number, at(name), name),
    ).fetchall()
    get_blob = blob_getter(db)
    return in_order(
        row
        for task_id, body in found
        for row in read_writes(space.thread_id, Slot(space.ns, checkpoint_id, long(task_id)), body, get_blob, memo)
    )
