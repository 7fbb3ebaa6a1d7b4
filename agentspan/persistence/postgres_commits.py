"""Writing a step to the Postgres store.

The usual step is one statement, which is its own check: it changes the row only if epoch and seq are the caller's, and
adds the record only if it changed the row. The update locks the row, so a newer incarnation and an older one are never
both let in. Why a statement changed nothing is found out afterwards (`is_kept`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from agentspan.errors import UnknownExecutionError
from agentspan.persistence import postgres_blobs, postgres_threads, rules
from agentspan.persistence.bodies import PackedCommit
from agentspan.persistence.codec import BlobMemo
from agentspan.persistence.postgres_link import Batch, Last, Work
from agentspan.persistence.postgres_rows import records_between, stored_entry
from agentspan.persistence.postgres_session import Answer, Ask
from agentspan.persistence.postgres_text import kept, kept_or_none
from agentspan.persistence.store import Receipt

_ENTRIES_MAX = 500
"""Records in the statement of a step; a statement has at most 65,535 parameters."""

_UPDATE = """
UPDATE executions SET seq = %s, events = coalesce(%s::bigint, events), status = %s, updated_at = %s, wake_at = %s,
    resident = %s, current_task = %s, finish_reason = %s, error = %s,
    crashes = CASE WHEN %s THEN 0 ELSE crashes END, host = CASE WHEN %s THEN host ELSE ''::bytea END,
    unfinished = unfinished AND %s
WHERE execution_id = %s AND epoch = %s AND seq = %s AND (unfinished OR (status = %s AND %s))
RETURNING id
"""
_VALUES = "(%s::bigint, %s::text, %s::bigint, %s::bigint, %b::bytea)"


_Columns = tuple[Any, ...]
"""The parameters of `_UPDATE`."""
_TYPES = (
    ("seq", "bigint"),
    ("events", "bigint"),
    ("status", "text"),
    ("updated_at", "double precision"),
    ("wake_at", "double precision"),
    ("resident", "boolean"),
    ("current_task", "text"),
    ("finish_reason", "text"),
    ("error", "text"),
    ("progress", "boolean"),
    ("keeps_host", "boolean"),
    ("goes_on", "boolean"),
    ("execution_id", "text"),
    ("epoch", "bigint"),
    ("held", "bigint"),
    ("same", "text"),
    ("is_empty", "boolean"),
)
_NAME = [name for name, _ in _TYPES].index("execution_id")
_MERGED = f"""
WITH given AS (
    SELECT * FROM unnest({", ".join(f"%s::{kind}[]" for _, kind in _TYPES)}) AS g ({", ".join(name for name, _ in _TYPES)})
), held AS (
    UPDATE executions e SET seq = g.seq, events = coalesce(g.events, e.events), status = g.status,
        updated_at = g.updated_at, wake_at = g.wake_at, resident = g.resident, current_task = g.current_task,
        finish_reason = g.finish_reason, error = g.error,
        crashes = CASE WHEN g.progress THEN 0 ELSE e.crashes END,
        host = CASE WHEN g.keeps_host THEN e.host ELSE ''::bytea END, unfinished = e.unfinished AND g.goes_on
    FROM given g
    WHERE e.execution_id = g.execution_id AND e.epoch = g.epoch AND e.seq = g.held
        AND (e.unfinished OR (e.status = g.same AND g.is_empty))
    RETURNING e.id, e.execution_id
), r AS (
    INSERT INTO records SELECT held.id, n.seq, n.kind, n.epoch, n.events_to, n.body
    FROM unnest(%s::text[], %s::bigint[], %s::text[], %s::bigint[], %s::bigint[], %b::bytea[])
        AS n (execution_id, seq, kind, epoch, events_to, body) JOIN held USING (execution_id)
), s AS (
    INSERT INTO snapshots SELECT held.id, n.seq, n.body
    FROM unnest(%s::text[], %s::bigint[], %b::bytea[]) AS n (execution_id, seq, body) JOIN held USING (execution_id)
    ON CONFLICT (execution) DO UPDATE SET seq = excluded.seq, body = excluded.body
)
SELECT id, execution_id FROM held
"""


class _Steps:
    """Makes one statement of the steps of different executions: the server plans it once, and not for each."""

    def merge(self, asks: Sequence[Ask]) -> Ask:
        """See `Merger.merge`."""
        steps = [ask.params for ask in asks if isinstance(ask.params, _Step)]
        assert len(steps) == len(asks)
        rows = [step.columns for step in steps]
        records = [(step.columns[_NAME], *record) for step in steps for record in step.records]
        snapshots = [(step.columns[_NAME], *step.snapshot) for step in steps if step.snapshot is not None]
        return Ask(
            _MERGED,
            [
                *(list(column) for column in zip(*rows, strict=True)),
                *_transposed(records, 6),
                *_transposed(snapshots, 3),
            ],
        )

    def split(self, answer: Answer, asks: Sequence[Ask]) -> list[Answer]:
        """See `Merger.split`."""
        ids = {execution_id: execution for execution, execution_id in answer.rows}
        found = [ids.get(ask.params[_NAME]) for ask in asks]
        return [Answer([], 0) if execution is None else Answer([(execution,)], 1) for execution in found]


def _transposed(rows: Sequence[tuple[Any, ...]], width: int) -> list[list[Any]]:
    return [[row[index] for row in rows] for index in range(width)]


_STEPS = _Steps()


class _Step(list[Any]):
    """The parameters of a step's statement, and what they were made of."""

    def __init__(self, columns: _Columns, records: list[tuple[Any, ...]], snapshot: tuple[int, bytes] | None) -> None:
        super().__init__(columns)
        for record in records:
            self += record
        self += snapshot or ()
        self.columns = columns
        self.records = records
        self.snapshot = snapshot


@lru_cache(256)
def _step_sql(entries: int, snapshot: bool, consumed: bool, closes: bool, ends: bool) -> str:
    parts = [f"held AS ({_UPDATE})"]
    if entries:
        values = ", ".join([_VALUES] * entries)
        parts.append(
            "r AS (INSERT INTO records SELECT held.id, e.* FROM held, "
            f"(VALUES {values}) AS e (seq, kind, epoch, events_to, body))"
        )
    if snapshot:
        parts.append(
            "s AS (INSERT INTO snapshots SELECT id, %s::bigint, %b::bytea FROM held "
            "ON CONFLICT (execution) DO UPDATE SET seq = excluded.seq, body = excluded.body)"
        )
    if consumed:
        parts.append(
            "c AS (UPDATE inbox i SET consumed = true FROM held "
            "WHERE i.execution = held.id AND i.signal_id = ANY(%s::text[]))"
        )
    if closes or ends:
        some = "" if ends else " AND p.call_id = ANY(%s::text[])"
        parts.append(f"p AS (DELETE FROM pending p USING held WHERE p.execution = held.id{some})")
    return f"WITH {', '.join(parts)} SELECT id FROM held"


def _step(packed: PackedCommit) -> Ask:
    given, change = packed.commit, packed.commit.change
    ends = change.status in rules.FINISHED
    params = _Step(
        _columns(packed, ends),
        [
            (entry.seq, kept(entry.kind), entry.epoch, entry.events_to, entry.body)
            for entry in packed.entries[:_ENTRIES_MAX]
        ],
        None if packed.snapshot is None else (given.seq, packed.snapshot.data),
    )
    if given.consumed:
        params.append(list(map(kept, given.consumed)))
    if given.closes and not ends:
        params.append(list(map(kept, given.closes)))
    sql = _step_sql(len(params.records), packed.snapshot is not None, bool(given.consumed), bool(given.closes), ends)
    return Ask(sql, params, None if given.consumed or given.closes or ends else _STEPS)


def _columns(packed: PackedCommit, ends: bool) -> _Columns:
    given, change = packed.commit, packed.commit.change
    resident = change.resident and not ends
    return (
        given.seq,
        packed.entries[-1].events_to if packed.entries else None,
        kept(change.status),
        change.updated_at,
        None if ends else change.wake_at,
        resident,
        kept(rules.legible(change.current_task)),
        kept_or_none(change.finish_reason),
        None if change.error is None else kept(rules.legible(change.error)),
        given.progress,
        resident,
        change.status not in rules.SETTLED,
        kept(given.execution_id),
        given.epoch,
        given.seq - len(packed.entries),
        kept(change.status),
        not packed.entries,
    )


def commit(packed: PackedCommit, memo: BlobMemo) -> Work[Receipt | None]:
    """One step; None if nothing was written (see `is_kept`). The order of statements does not matter: nobody sees one
    without the others."""
    given, thread = packed.commit, packed.thread
    if not _is_consecutive(packed):
        return None
    opens = () if given.change.status in rules.FINISHED else packed.opens
    more = packed.entries[_ENTRIES_MAX:]
    if not (packed.blobs or thread or opens or more):
        (step,) = yield Last([_step(packed)])
        return receipt(packed) if step.rows else None
    asks = Batch([_step(packed)])
    if packed.blobs:
        asks.append(postgres_blobs.known(packed.blobs))
    if thread is not None:
        asks += postgres_threads.look(thread)
    step, *found = yield asks
    if not step.rows:
        return None
    ((execution,),) = step.rows
    writes = Batch(_more_records(execution, more))
    blob_bytes = thread_blob_bytes = 0
    if packed.blobs:
        there = [content_hash for (content_hash,) in found.pop(0).rows]
        blob_bytes = postgres_blobs.size_of(packed.blobs, there)
        writes += postgres_blobs.keep(execution, packed.blobs, there)
    writes += [_open(execution, row.call_id, row.asked_at, body.data) for row, body in opens]
    if thread is None:
        yield Last(writes)
    else:
        if writes:
            yield writes
        thread_blob_bytes = yield from postgres_threads.store(thread, found, memo)
    return receipt(packed, blob_bytes, thread_blob_bytes)


def receipt(packed: PackedCommit, blob_bytes: int = 0, thread_blob_bytes: int = 0) -> Receipt:
    """What a commit wrote, or had written."""
    return Receipt(
        bytes_written=sum([len(entry.body) for entry in packed.entries]) + blob_bytes,
        snapshot_bytes=0 if packed.snapshot is None else len(packed.snapshot.data),
        thread_bytes=0 if packed.thread is None else packed.thread.bytes + thread_blob_bytes,
    )


def _is_consecutive(packed: PackedCommit) -> bool:
    first = packed.commit.seq - len(packed.entries) + 1
    return [entry.seq for entry in packed.entries] == list(range(first, packed.commit.seq + 1))


def _more_records(execution: int, entries: Sequence[rules.StoredEntry]) -> Iterable[Ask]:
    for entry in entries:
        columns = (execution, entry.seq, kept(entry.kind), entry.epoch, entry.events_to, entry.body)
        yield Ask("INSERT INTO records VALUES (%s, %s, %s, %s, %s, %b)", columns)


def _open(execution: int, call_id: str, asked_at: float, body: bytes) -> Ask:
    # The same question again (a commit sent twice) keeps its decision; another under the same ID starts anew.
    return Ask(
        "INSERT INTO pending (execution, call_id, asked_at, body) VALUES (%s, %s, %s, %b) "
        "ON CONFLICT (execution, call_id) DO UPDATE SET asked_at = excluded.asked_at, body = excluded.body, "
        "decided_by = NULL WHERE pending.body <> excluded.body",
        (execution, kept(call_id), asked_at, body),
    )


def is_kept(packed: PackedCommit) -> Work[bool]:
    """Whether a commit that changed nothing is in the store already; False if it may be tried again.

    Raises:
        UnknownExecutionError, StaleEpochError, SequenceConflictError, ExecutionFinishedError: As `Store.commit`.
    """
    given, entries = packed.commit, packed.entries
    (here,) = yield Batch(
        [Ask("SELECT id, status, epoch, seq FROM executions WHERE execution_id = %s", (kept(given.execution_id),))]
    )
    if not here.rows:
        raise UnknownExecutionError(execution_id=given.execution_id)
    execution, status, epoch, seq = here.rows[0]
    first = given.seq - len(entries) + 1
    (found,) = yield Last([records_between(execution, first, given.seq)])
    return not rules.is_new(
        given,
        entries,
        status=status,
        epoch=epoch,
        seq=seq,
        stored=lambda _first, _last: [stored_entry(columns) for columns in found.rows],
    )
