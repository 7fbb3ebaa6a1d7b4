"""Writing threads to the Postgres store. Every function with a `yield` is a piece of work.

Whoever writes to a thread holds a row: that of the execution whose thread it is, or else that of the thread. So what was
read before is still so when it is written, and checkpoints are numbered in the order they were stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agentspan.errors import CorruptRecordError, ThreadOwnedError
from agentspan.persistence import postgres_blobs
from agentspan.persistence.codec import BlobMemo
from agentspan.persistence.postgres_link import Batch, Last, Work
from agentspan.persistence.postgres_session import Answer, Ask
from agentspan.persistence.postgres_text import kept, kept_or_none, told, told_or_none
from agentspan.persistence.thread_bodies import (
    KeptCheckpoint,
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

_ROWS_AT_ONCE = 200
"""Rows in one round of a copy."""

Row = tuple[Slot, str | None, bytes]
"""Where, the parent of a checkpoint, and the body."""


def write_thread(packed: PackedThread, memo: BlobMemo) -> Work[int]:
    """`store` for a thread of its own."""
    owner, *found = yield Batch([_owner(packed.thread_id), *look(packed, lock=True)])
    _refuse_owned(packed.thread_id, owner)
    return packed.bytes + (yield from store(packed, found, memo))


def look(packed: PackedThread, *, lock: bool = False) -> Batch:
    """Asks for what `store` has to know."""
    name = kept(packed.thread_id)
    asks = Batch([_number(packed.thread_id, lock=lock)])
    slots = {task.slot for task in packed.tasks} | packed.forget.keys()
    if slots:
        asks.append(
            Ask(
                "SELECT w.ns, w.checkpoint_id, w.task_id, w.body FROM thread_writes w "
                "JOIN unnest(%s::text[], %s::text[], %s::text[]) AS asked (ns, checkpoint_id, task_id) "
                "USING (ns, checkpoint_id, task_id) WHERE w.thread = (SELECT id FROM threads WHERE thread_id = %s)",
                (*map(list, zip(*map(_columns, slots), strict=True)), name),
            )
        )
    if packed.blobs:
        asks.append(postgres_blobs.known(packed.blobs))
    return asks


def store(packed: PackedThread, found: Sequence[Answer], memo: BlobMemo) -> Work[int]:
    """Store what is not there yet, `found` being the answers to `look`; returns the bytes of new large values."""
    numbers, *rest = found
    bodies: dict[Slot, bytes] = {}
    if packed.tasks or packed.forget:
        bodies = {
            Slot(told(ns), told(checkpoint_id), told(task_id)): body
            for ns, checkpoint_id, task_id, body in rest.pop(0).rows
        }
    if numbers.rows:
        thread = numbers.rows[0][0]
    elif not (packed.checkpoints or packed.tasks):
        return 0
    else:
        insert = Ask("INSERT INTO threads (thread_id) VALUES (%s) RETURNING id", (kept(packed.thread_id),))
        (made,) = yield Batch([insert])
        thread = made.rows[0][0]
    get_blob = yield from postgres_blobs.getter(bodies.values())
    stored = {slot: tuple(read_writes(packed.thread_id, slot, body, get_blob, memo)) for slot, body in bodies.items()}
    writes, blob_bytes = Last(), 0
    if packed.blobs:
        there = [content_hash for (content_hash,) in rest.pop(0).rows]
        blob_bytes = postgres_blobs.size_of(packed.blobs, there)
        writes += postgres_blobs.keep(-thread, packed.blobs, there)
    writes += [_put_checkpoint(thread, checkpoint) for checkpoint in packed.checkpoints]
    writes += _put_tasks(thread, packed, stored, memo)
    yield writes
    return blob_bytes


def _put_checkpoint(thread: int, checkpoint: KeptCheckpoint) -> Ask:
    slot, parent_id, body = checkpoint
    return Ask(
        "INSERT INTO checkpoints (thread, ns, checkpoint_id, parent_id, body) VALUES (%s, %s, %s, %s, %b) "
        "ON CONFLICT (thread, ns, checkpoint_id) DO UPDATE SET parent_id = excluded.parent_id, body = excluded.body "
        "WHERE (checkpoints.parent_id, checkpoints.body) IS DISTINCT FROM (excluded.parent_id, excluded.body)",
        (thread, kept(slot.ns), kept(slot.checkpoint_id), kept_or_none(parent_id), body),
    )


def _put_tasks(
    thread: int, packed: PackedThread, stored: dict[Slot, tuple[WriteRow, ...]], memo: BlobMemo
) -> Iterable[Ask]:
    now: dict[Slot, tuple[WriteRow, ...]] = dict(stored)
    for slot, forget in packed.forget.items():
        if slot in now:
            now[slot] = without(now[slot], forget)
    bodies: dict[Slot, bytes] = {}
    for task in packed.tasks:
        if now.get(task.slot):
            now[task.slot] = merged(now[task.slot], task.writes)
        else:
            now[task.slot] = task.writes
            bodies[task.slot] = task.body
    for slot, writes in now.items():
        where = (thread, *_columns(slot))
        if not writes:
            here = "thread = %s AND ns = %s AND checkpoint_id = %s AND task_id = %s"
            yield Ask(f"DELETE FROM thread_writes WHERE {here}", where)
        elif writes != stored.get(slot):
            # The large values in it are there: those that were stored, and those of this write.
            body = bodies.get(slot) or pack_writes(packed.thread_id, slot, writes, memo).data
            yield _put_writes(where, body)


def _put_writes(where: tuple[int | str, ...], body: bytes) -> Ask:
    return Ask(
        "INSERT INTO thread_writes (thread, ns, checkpoint_id, task_id, body) VALUES (%s, %s, %s, %s, %b) "
        "ON CONFLICT (thread, ns, checkpoint_id, task_id) DO UPDATE SET body = excluded.body",
        (*where, body),
    )


def delete_checkpoints(thread_id: str, places: Sequence[tuple[str, str]]) -> Work[None]:
    """Remove checkpoints with their writes, and the large values that nothing of the thread refers to any more."""
    owner, numbers = yield Batch([_owner(thread_id), _number(thread_id, lock=True)])
    _refuse_owned(thread_id, owner)
    if not numbers.rows or not places:
        return
    ((thread,),) = numbers.rows
    spaces, names = [kept(ns) for ns, _ in places], [kept(checkpoint_id) for _, checkpoint_id in places]
    some = "USING unnest(%s::text[], %s::text[]) AS gone (ns, checkpoint_id) WHERE t.thread = %s"
    here = "AND t.ns = gone.ns AND t.checkpoint_id = gone.checkpoint_id"
    yield Batch(
        Ask(f"DELETE FROM {table} t {some} {here}", (spaces, names, thread))
        for table in ("checkpoints", "thread_writes")
    )
    rows = yield from _rows_of(thread)
    needed: set[bytes] = set()
    try:
        for slot, parent_id, body in rows:
            needed |= large_values_of(thread_id, slot, parent_id, body)
    except CorruptRecordError:
        return  # Nobody can say what that row needs: everything stays until the thread goes.
    yield Last(postgres_blobs.keep_only(-thread, needed))


def delete_thread(thread_id: str) -> Work[None]:
    """Remove a thread of its own with all that only it refers to."""
    owner, numbers = yield Batch([_owner(thread_id), _number(thread_id, lock=True)])
    _refuse_owned(thread_id, owner)
    threads = [number for (number,) in numbers.rows]
    if threads:
        yield Last([*postgres_blobs.drop_unneeded([-thread for thread in threads]), *remove(threads)])


def remove(threads: list[int]) -> list[Ask]:
    """Remove the rows of threads; their large values are the caller's business."""
    tables = {"checkpoints": "thread", "thread_writes": "thread", "threads": "id"}
    return [Ask(f"DELETE FROM {table} WHERE {key} = ANY(%s::bigint[])", (threads,)) for table, key in tables.items()]


def copy_thread(source: str, target: str) -> Work[None]:
    """Copy a thread. Large values are not copied but referred to once more."""
    owner, olds, news = yield Batch([_owner(target), _number(source), _number(target, lock=True)])
    _refuse_owned(target, owner)
    if source == target:
        return
    old = olds.rows[0][0] if olds.rows else None
    rows = [] if old is None else (yield from _rows_of(old))
    wanted = [(slot, parent_id, copied(source, target, slot, parent_id, body)) for slot, parent_id, body in rows]
    new = news.rows[0][0] if news.rows else None
    there = [] if new is None else (yield from _rows_of(new))
    if there and there != wanted:
        raise not_empty(source, target)
    if there or not wanted:
        return
    if new is None:
        insert = Ask("INSERT INTO threads (thread_id) VALUES (%s) RETURNING id", (kept(target),))
        (made,) = yield Batch([insert])
        new = made.rows[0][0]
    for start in range(0, len(wanted), _ROWS_AT_ONCE):
        yield Batch(_copy(new, row) for row in wanted[start : start + _ROWS_AT_ONCE])
    assert old is not None
    refer = "INSERT INTO blob_refs SELECT %s::bigint, blob FROM blob_refs WHERE owner = %s ON CONFLICT DO NOTHING"
    yield Last([Ask(refer, (-new, -old))])


def _copy(thread: int, row: Row) -> Ask:
    slot, parent_id, body = row
    if slot.task_id is None:
        return _put_checkpoint(thread, KeptCheckpoint(slot, parent_id, body))
    return _put_writes((thread, *_columns(slot)), body)


def _rows_of(thread: int) -> Work[list[Row]]:
    """All rows of a thread: checkpoints in the order they were stored, then the writes of tasks."""
    checkpoints, tasks = yield Batch(
        [
            Ask("SELECT ns, checkpoint_id, parent_id, body FROM checkpoints WHERE thread = %s ORDER BY id", (thread,)),
            Ask(
                "SELECT ns, checkpoint_id, task_id, body FROM thread_writes WHERE thread = %s "
                "ORDER BY ns, checkpoint_id, task_id",
                (thread,),
            ),
        ]
    )
    rows: list[Row] = [
        (Slot(told(ns), told(checkpoint_id)), told_or_none(parent_id), body)
        for ns, checkpoint_id, parent_id, body in checkpoints.rows
    ]
    rows += [
        (Slot(told(ns), told(checkpoint_id), told(task_id)), None, body)
        for ns, checkpoint_id, task_id, body in tasks.rows
    ]
    return rows


def _columns(slot: Slot) -> tuple[str, str, str]:
    assert slot.task_id is not None
    return kept(slot.ns), kept(slot.checkpoint_id), kept(slot.task_id)


def _number(thread_id: str, *, lock: bool = False) -> Ask:
    locked = " FOR UPDATE" if lock else ""
    return Ask(f"SELECT id FROM threads WHERE thread_id = %s{locked}", (kept(thread_id),))


def _owner(thread_id: str) -> Ask:
    return Ask("SELECT 1 FROM executions WHERE execution_id = %s", (kept(thread_id),))


def _refuse_owned(thread_id: str, owner: Answer) -> None:
    if owner.rows:
        raise ThreadOwnedError(thread_id=thread_id)
