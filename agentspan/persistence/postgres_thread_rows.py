"""Reading threads of the Postgres store. Every function is a piece of work (see `postgres_link`)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from agentspan.errors import CorruptRecordError
from agentspan.persistence.codec import BlobMemo
from agentspan.persistence.postgres_blobs import getter
from agentspan.persistence.postgres_link import Batch, Work
from agentspan.persistence.postgres_session import Ask
from agentspan.persistence.postgres_text import kept, kept_or_none, told, told_or_none
from agentspan.persistence.thread_bodies import GetBlob, KeptCheckpoint, Slot, in_order, read_checkpoint, read_writes
from agentspan.persistence.threads import CheckpointRow, ThreadCheckpoint, WriteRow

log = logging.getLogger("agentspan.store")

_CHECKPOINT = "SELECT ns, checkpoint_id, parent_id, body FROM checkpoints WHERE thread = {} AND ns = %s "
_WRITES = "SELECT task_id, body FROM thread_writes WHERE thread = {} AND ns = %s AND checkpoint_id = {}"
_MINE = "(SELECT id FROM threads WHERE thread_id = %s)"


def checkpoint(thread_id: str, ns: str, checkpoint_id: str | None, memo: BlobMemo) -> Work[ThreadCheckpoint | None]:
    """One checkpoint with its writes; without an ID the one stored last."""
    where = (kept(thread_id), kept(ns))
    if checkpoint_id is None:
        one = "ORDER BY id DESC LIMIT 1"
        last = f"(SELECT checkpoint_id FROM checkpoints WHERE thread = {_MINE} AND ns = %s {one})"
        asks = [
            Ask(_CHECKPOINT.format(_MINE) + one, where),
            Ask(_WRITES.format(_MINE, last), (*where, *where)),
        ]
    else:
        exactly = (*where, kept(checkpoint_id))
        asks = [
            Ask(_CHECKPOINT.format(_MINE) + "AND checkpoint_id = %s", exactly),
            Ask(_WRITES.format(_MINE, "%s"), exactly),
        ]
    found, tasks = yield Batch(asks)
    if not found.rows:
        return None
    get_blob = yield from getter([found.rows[0][3], *(body for _, body in tasks.rows)])
    row = _read(thread_id, found.rows[0], get_blob, memo)
    writes = _read_writes(thread_id, ns, row.checkpoint_id, tasks.rows, get_blob, memo)
    return ThreadCheckpoint(thread_id=thread_id, row=row, writes=writes)


def checkpoints(thread_id: str, ns: str, checkpoint_ids: Sequence[str], memo: BlobMemo) -> Work[list[CheckpointRow]]:
    """Several checkpoints by ID, in the order asked for."""
    some = _CHECKPOINT.format(_MINE) + "AND checkpoint_id = ANY(%s::text[])"
    (found,) = yield Batch([Ask(some, (kept(thread_id), kept(ns), list(map(kept, checkpoint_ids))))])
    get_blob = yield from getter(columns[3] for columns in found.rows)
    rows = {told(columns[1]): _read(thread_id, columns, get_blob, memo) for columns in found.rows}
    return [rows[checkpoint_id] for checkpoint_id in checkpoint_ids if checkpoint_id in rows]


def writes(thread_id: str, ns: str, checkpoint_id: str, memo: BlobMemo) -> Work[list[WriteRow]]:
    """The writes on one checkpoint, in order."""
    where = (kept(thread_id), kept(ns), kept(checkpoint_id))
    (found,) = yield Batch([Ask(_WRITES.format(_MINE, "%s"), where)])
    get_blob = yield from getter(body for _, body in found.rows)
    return _read_writes(thread_id, ns, checkpoint_id, found.rows, get_blob, memo)


def places(thread_id: str, checkpoint_id: str) -> Work[list[tuple[str, str]]]:
    """Where the other namespaces stood when a checkpoint of the root was stored."""
    bound = f"SELECT id FROM checkpoints WHERE thread = {_MINE} AND ns = '' AND checkpoint_id = %s"
    sql = (
        f"SELECT DISTINCT ON (ns) ns, checkpoint_id FROM checkpoints WHERE thread = {_MINE} AND ns <> '' "
        f"AND id < ({bound}) ORDER BY ns, id DESC"
    )
    (found,) = yield Batch([Ask(sql, (kept(thread_id), kept(thread_id), kept(checkpoint_id)))])
    return [(told(ns), told(name)) for ns, name in found.rows]


def listing(
    thread_id: str | None, ns: str | None, before: str | None, skip: int, limit: int, memo: BlobMemo
) -> Work[list[ThreadCheckpoint]]:
    """Checkpoints, the last stored first."""
    terms: dict[str, Any] = {"t.thread_id = %s": kept_or_none(thread_id), "c.ns = %s": kept_or_none(ns)}
    given = {term: value for term, value in terms.items() if value is not None}
    params: list[Any] = list(given.values())
    where, bound = list(given), ""
    if before is not None:
        # Before that checkpoint, or, in threads where it is not stored, those with smaller IDs.
        bound = "LEFT JOIN checkpoints b ON b.thread = c.thread AND b.ns = c.ns AND b.checkpoint_id = %s "
        where.append("CASE WHEN b.id IS NULL THEN c.checkpoint_id < %s ELSE c.id < b.id END")
        params = [kept(before), *params, kept(before)]
    sql = (
        "SELECT t.thread_id, c.ns, c.checkpoint_id, c.parent_id, c.body "
        f"FROM checkpoints c JOIN threads t ON t.id = c.thread {bound}"
        f"{'WHERE ' + ' AND '.join(where) if where else ''} ORDER BY c.id DESC LIMIT %s OFFSET %s"
    )
    (found,) = yield Batch([Ask(sql, (*params, limit, skip))])
    get_blob = yield from getter(columns[4] for columns in found.rows)
    listed = []
    for name, *columns in found.rows:
        try:
            listed.append(ThreadCheckpoint(thread_id=told(name), row=_read(told(name), columns, get_blob, memo)))
        except CorruptRecordError as problem:
            if thread_id is not None:
                raise
            log.error("store.thread_damaged", extra={"thread_id": told(name), "problem": str(problem)})
    return listed


def _read(thread_id: str, columns: Sequence[Any], get_blob: GetBlob, memo: BlobMemo) -> CheckpointRow:
    ns, checkpoint_id, parent_id, body = columns
    stored = KeptCheckpoint(Slot(told(ns), told(checkpoint_id)), told_or_none(parent_id), body)
    return read_checkpoint(thread_id, stored, get_blob, memo)


def _read_writes(
    thread_id: str, ns: str, checkpoint_id: str, found: Sequence[tuple[Any, ...]], get_blob: GetBlob, memo: BlobMemo
) -> list[WriteRow]:
    return in_order(
        row
        for task_id, body in found
        for row in read_writes(thread_id, Slot(ns, checkpoint_id, told(task_id)), body, get_blob, memo)
    )
