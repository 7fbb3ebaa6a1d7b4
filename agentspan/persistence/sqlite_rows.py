"""Reading rows of the SQLite store. Every function runs on a store's thread, inside a transaction."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from agentspan.engine.admit import Signal
from agentspan.errors import AmbiguousExecutionError, CorruptRecordError, UnknownExecutionError
from agentspan.persistence.bodies import (
    check_tail,
    read_entry,
    read_note,
    read_pending,
    read_signal,
    read_snapshot,
)
from agentspan.persistence.codec import BlobMemo
from agentspan.persistence.rules import CANDIDATES_MAX, StoredEntry, legible, name_candidates
from agentspan.persistence.store import DeploymentRow, ExecutionRow, JournalEntry, Loaded, PendingRow
from agentspan.persistence.thread_bodies import GetBlob

log = logging.getLogger("agentspan.store")

_ROW = """
SELECT e.execution_id, e.agent, e.deployment_id, e.status, e.epoch, e.seq, e.events, e.session_id, e.idempotency_key,
    e.created_at, e.updated_at, e.wake_at, e.resident, e.crashes, e.recoveries, e.host, e.current_task, e.finish_reason,
    e.error, m.body,
    (SELECT count(*) FROM inbox i WHERE i.execution = e.id AND i.consumed = 0),
    (SELECT count(*) FROM pending p WHERE p.execution = e.id AND p.decided_by IS NULL)
FROM executions e LEFT JOIN metadata m ON m.execution = e.id
"""
_ENTRY = "SELECT id, kind, epoch, events_to, body FROM records "
_SEQ = 0xFFFFFFFF


def key(execution: int, seq: int) -> int:
    """The rowid of a record."""
    return execution << 32 | seq


def number_of(db: sqlite3.Connection, execution_id: str) -> int:
    """The rowid of an execution. Raises UnknownExecutionError."""
    found = db.execute("SELECT id FROM executions WHERE execution_id = ?", (execution_id,)).fetchone()
    if found is None:
        raise UnknownExecutionError(execution_id=execution_id)
    return int(found[0])


def blob_getter(db: sqlite3.Connection) -> GetBlob:
    """Finds large values by hash."""

    def get(content_hash: bytes) -> bytes | None:
        found = db.execute("SELECT body FROM blobs WHERE hash = ?", (content_hash,)).fetchone()
        return None if found is None else bytes(found[0])

    return get


def row(db: sqlite3.Connection, execution_id: str) -> ExecutionRow:
    """One row. Raises UnknownExecutionError."""
    found = db.execute(_ROW + "WHERE e.execution_id = ?", (execution_id,)).fetchone()
    if found is None:
        raise UnknownExecutionError(execution_id=execution_id)
    return _row(found)


def rows(
    db: sqlite3.Connection,
    *,
    statuses: Sequence[str] | None,
    agent: str | None,
    session_id: str | None,
    limit: int,
    before: float | None,
) -> list[ExecutionRow]:
    """Rows, newest first."""
    wanted: dict[str, Any] = {
        "e.status IN (SELECT value FROM json_each(?))": None if statuses is None else json.dumps(list(statuses)),
        "e.agent = ?": agent,
        "e.session_id = ?": session_id,
        "e.created_at < ?": before,
    }
    terms = {term: value for term, value in wanted.items() if value is not None}
    where = f"WHERE {' AND '.join(terms)} " if terms else ""
    found = db.execute(_ROW + where + "ORDER BY e.created_at DESC, e.id DESC LIMIT ?", (*terms.values(), limit))
    return [_row(columns) for columns in found]


def unfinished(db: sqlite3.Connection) -> list[ExecutionRow]:
    """What a supervisor has to look after, oldest first."""
    return [_row(columns) for columns in db.execute(_ROW + "WHERE e.unfinished = 1 ORDER BY e.created_at, e.id")]


def find(db: sqlite3.Connection, prefix: str) -> str:
    """The full ID for a short one."""
    if prefix and legible(prefix) == prefix:
        candidates = [
            str(found[0])
            for found in db.execute(
                "SELECT execution_id FROM executions WHERE execution_id >= ? AND execution_id < ? ORDER BY 1 LIMIT ?",
                (prefix, prefix + "\U0010ffff", CANDIDATES_MAX + 1),
            )
        ]
        if candidates and (len(candidates) == 1 or candidates[0] == prefix):
            return candidates[0]
        if candidates:
            raise AmbiguousExecutionError(execution_id=prefix, candidates=name_candidates(candidates))
    raise UnknownExecutionError(execution_id=prefix)


def load(db: sqlite3.Connection, execution_id: str, memo: BlobMemo) -> Loaded:
    """The latest snapshot and the records after it."""
    here = row(db, execution_id)
    execution = number_of(db, execution_id)
    get_blob = blob_getter(db)
    kept = db.execute("SELECT seq, body FROM snapshots WHERE execution = ?", (execution,)).fetchone()
    snapshot, snapshot_seq, snapshot_bytes = None, -1, 0
    if kept is not None:
        snapshot_seq, snapshot_bytes = kept[0], len(kept[1])
        snapshot = read_snapshot(execution_id, snapshot_seq, kept[1], get_blob, memo)
    stored = records_between(db, execution, snapshot_seq + 1, _SEQ)
    check_tail(execution_id, [entry.seq for entry in stored], after=snapshot_seq, tail=here.seq)
    return Loaded(
        row=here,
        snapshot=snapshot,
        snapshot_seq=snapshot_seq,
        entries=[read_entry(execution_id, entry, get_blob, memo) for entry in stored],
        snapshot_bytes=snapshot_bytes,
        entries_bytes=sum(len(entry.body) for entry in stored),
    )


def records_between(
    db: sqlite3.Connection, execution: int, first: int, last: int, limit: int = -1
) -> list[StoredEntry]:
    """Stored records from one seq to another, inclusive, in order."""
    found = db.execute(
        _ENTRY + "WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?", (key(execution, first), key(execution, last), limit)
    )
    return [_stored(columns) for columns in found]


def journal(db: sqlite3.Connection, execution_id: str, after_seq: int, limit: int) -> list[JournalEntry]:
    """Records after a seq."""
    stored = records_between(db, number_of(db, execution_id), after_seq + 1, _SEQ, limit)
    get_blob = blob_getter(db)
    return [read_entry(execution_id, entry, get_blob) for entry in stored]


def journal_after_event(db: sqlite3.Connection, execution_id: str, event: int, limit: int) -> list[JournalEntry]:
    """Records that tell any event after number `event`."""
    execution = number_of(db, execution_id)
    first = _first_telling(db, execution, execution_id, event)
    # A record that tells nothing ends at the same event as the one before it. Without it a page is never all silence.
    found = db.execute(
        "SELECT r.id, r.kind, r.epoch, r.events_to, r.body FROM records r LEFT JOIN records p ON p.id = r.id - 1 "
        "WHERE r.id BETWEEN ? AND ? AND r.events_to > coalesce(p.events_to, 0) ORDER BY r.id LIMIT ?",
        (key(execution, first), key(execution, _SEQ), limit),
    ).fetchall()
    get_blob = blob_getter(db)
    return [read_entry(execution_id, _stored(columns), get_blob) for columns in found]


def _first_telling(db: sqlite3.Connection, execution: int, execution_id: str, event: int) -> int:
    """The first seq that ends after `event`, by bisection: an index on `events_to` would cost every commit a page."""
    tail = db.execute("SELECT seq FROM executions WHERE id = ?", (execution,)).fetchone()[0]
    low, high = 0, tail + 1
    while low < high:
        middle = (low + high) // 2
        found = db.execute("SELECT events_to FROM records WHERE id = ?", (key(execution, middle),)).fetchone()
        if found is None:
            raise CorruptRecordError(execution_id=execution_id, what=f"record {middle}", problem="it is missing")
        if found[0] > event:
            high = middle
        else:
            low = middle + 1
    return low


def inbox(db: sqlite3.Connection, execution_id: str) -> list[Signal]:
    """Signals not consumed yet, in the order they were accepted."""
    found = db.execute(
        "SELECT signal_id, body FROM inbox WHERE execution = ? AND consumed = 0 ORDER BY id",
        (number_of(db, execution_id),),
    ).fetchall()
    get_blob = blob_getter(db)
    return [read_signal(execution_id, signal_id, body, get_blob) for signal_id, body in found]


def calls_of(db: sqlite3.Connection, execution: int, execution_id: str) -> list[PendingRow]:
    """Open calls of one execution, decided or not, oldest first."""
    found = db.execute(
        "SELECT call_id, decided_by, body FROM pending WHERE execution = ? ORDER BY asked_at, id", (execution,)
    ).fetchall()
    get_blob = blob_getter(db)
    return [read_pending(execution_id, call_id, decided_by, body, get_blob) for call_id, decided_by, body in found]


def pending(db: sqlite3.Connection, execution_id: str | None, limit: int) -> list[PendingRow]:
    """Undecided calls, oldest first, of one execution or of all."""
    if execution_id is not None:
        calls = calls_of(db, number_of(db, execution_id), execution_id)
        return [call for call in calls if call.decided_by_signal is None][:limit]
    found = db.execute(
        "SELECT e.execution_id, p.call_id, p.decided_by, p.body FROM pending p JOIN executions e ON e.id = p.execution "
        "WHERE p.decided_by IS NULL ORDER BY p.asked_at, p.id LIMIT ?",
        (limit,),
    ).fetchall()
    return list(sound(found, blob_getter(db)))


def sound(found: Iterable[tuple[str, str, str | None, bytes]], get_blob: GetBlob) -> Iterable[PendingRow]:
    """The calls whose rows pass their check. One damaged row must not hide everybody else's (P11)."""
    for columns in found:
        try:
            yield read_pending(*columns, get_blob)
        except CorruptRecordError as problem:
            log.error("store.pending_damaged", extra={"execution_id": columns[0], "problem": str(problem)})


_DEPLOYMENT = """
SELECT deployment_id, agent, kind, source, reference, signature, python, created_at, spec, {code}
FROM deployments
"""


def deployment(db: sqlite3.Connection, deployment_id: str) -> DeploymentRow | None:
    """One version."""
    found = db.execute(_DEPLOYMENT.format(code="code") + "WHERE deployment_id = ?", (deployment_id,)).fetchone()
    return None if found is None else _deployment(found)


def current_deployment(db: sqlite3.Connection, agent: str) -> DeploymentRow | None:
    """The version a start by name uses."""
    found = db.execute("SELECT deployment_id FROM current_deployments WHERE agent = ?", (agent,)).fetchone()
    return None if found is None else deployment(db, found[0])


def deployments(db: sqlite3.Connection) -> list[DeploymentRow]:
    """The current version of every agent, without its code."""
    current = "WHERE deployment_id IN (SELECT deployment_id FROM current_deployments) ORDER BY agent"
    return [_deployment(columns) for columns in db.execute(_DEPLOYMENT.format(code="NULL") + current)]


def _stored(columns: tuple[int, str, int, int, bytes]) -> StoredEntry:
    rowid, kind, epoch, events_to, body = columns
    return StoredEntry(rowid & _SEQ, kind, epoch, events_to, body)


def _row(columns: tuple[Any, ...]) -> ExecutionRow:
    return ExecutionRow(
        execution_id=columns[0],
        agent=columns[1],
        deployment_id=columns[2],
        status=columns[3],
        epoch=columns[4],
        seq=columns[5],
        events=columns[6],
        session_id=columns[7],
        idempotency_key=columns[8],
        created_at=columns[9],
        updated_at=columns[10],
        wake_at=columns[11],
        resident=bool(columns[12]),
        crashes=columns[13],
        recoveries=columns[14],
        host=read_note(columns[15]),
        current_task=columns[16],
        finish_reason=columns[17],
        error=columns[18],
        metadata=read_note(columns[19]),
        inbox=columns[20],
        pending=columns[21],
    )


def _deployment(columns: tuple[Any, ...]) -> DeploymentRow:
    deployment_id, agent, kind, source, reference, signature, python, created_at, spec, code = columns
    return DeploymentRow(
        deployment_id=deployment_id,
        agent=agent,
        kind=kind,
        source=source,
        reference=reference,
        code=code,
        signature=signature,
        spec=read_note(spec),
        python=python,
        created_at=created_at,
    )
