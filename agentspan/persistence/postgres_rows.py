"""Reading rows of the Postgres store. Every function is a piece of work (see `postgres_link`)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
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
from agentspan.persistence.postgres_blobs import getter
from agentspan.persistence.postgres_link import Batch, Last, Work
from agentspan.persistence.postgres_session import Ask
from agentspan.persistence.postgres_text import kept, kept_or_none, told, told_or_none
from agentspan.persistence.rules import CANDIDATES_MAX, StoredEntry, legible, name_candidates
from agentspan.persistence.store import DeploymentRow, ExecutionRow, JournalEntry, Loaded, PendingRow
from agentspan.persistence.thread_bodies import GetBlob

log = logging.getLogger("agentspan.store")

_ROW = """
SELECT e.execution_id, e.agent, e.deployment_id, e.status, e.epoch, e.seq, e.events, e.session_id, e.idempotency_key,
    e.created_at, e.updated_at, e.wake_at, e.resident, e.crashes, e.recoveries, e.host, e.current_task, e.finish_reason,
    e.error, e.metadata,
    (SELECT count(*) FROM inbox i WHERE i.execution = e.id AND NOT i.consumed),
    (SELECT count(*) FROM pending p WHERE p.execution = e.id AND p.decided_by IS NULL)
FROM executions e
"""
_RECORDS = "SELECT r.seq, r.kind, r.epoch, r.events_to, r.body FROM records r "
_MINE = "= (SELECT id FROM executions WHERE execution_id = %s)"


def row(execution_id: str) -> Work[ExecutionRow]:
    """One row. Raises UnknownExecutionError."""
    (answer,) = yield Last([_row_of(execution_id)])
    return _the_row(execution_id, answer.rows)


def _row_of(execution_id: str) -> Ask:
    return Ask(_ROW + "WHERE e.execution_id = %s", (kept(execution_id),))


def _the_row(execution_id: str, found: Sequence[tuple[Any, ...]]) -> ExecutionRow:
    if not found:
        raise UnknownExecutionError(execution_id=execution_id)
    return _row(found[0])


def rows(
    *, statuses: Sequence[str] | None, agent: str | None, session_id: str | None, limit: int, before: float | None
) -> Work[list[ExecutionRow]]:
    """Rows, newest first."""
    wanted: dict[str, Any] = {
        "e.status = ANY(%s::text[])": None if statuses is None else list(map(kept, statuses)),
        "e.agent = %s": kept_or_none(agent),
        "e.session_id = %s": kept_or_none(session_id),
        "e.created_at < %s": before,
    }
    terms = {term: value for term, value in wanted.items() if value is not None}
    where = f"WHERE {' AND '.join(terms)} " if terms else ""
    order = "ORDER BY e.created_at DESC, e.id DESC LIMIT %s"
    (answer,) = yield Last([Ask(_ROW + where + order, (*terms.values(), limit))])
    return [_row(columns) for columns in answer.rows]


def unfinished() -> Work[list[ExecutionRow]]:
    """What a supervisor has to look after, oldest first."""
    (answer,) = yield Last([Ask(_ROW + "WHERE e.unfinished ORDER BY e.created_at, e.id")])
    return [_row(columns) for columns in answer.rows]


def find(prefix: str) -> Work[str]:
    """The full ID for a short one."""
    if prefix and legible(prefix) == prefix:
        low = kept(prefix)
        (answer,) = yield Last(
            [
                Ask(
                    "SELECT execution_id FROM executions WHERE execution_id >= %s AND execution_id < %s ORDER BY 1 LIMIT %s",
                    (low, low + "\U0010ffff", CANDIDATES_MAX + 1),
                )
            ]
        )
        candidates = [told(found) for (found,) in answer.rows]
        if candidates and (len(candidates) == 1 or candidates[0] == prefix):
            return candidates[0]
        if candidates:
            raise AmbiguousExecutionError(execution_id=prefix, candidates=name_candidates(candidates))
    raise UnknownExecutionError(execution_id=prefix)


def load(execution_id: str, memo: BlobMemo) -> Work[Loaded]:
    """The latest snapshot and the records after it."""
    name = kept(execution_id)
    after = f"coalesce((SELECT seq FROM snapshots WHERE execution {_MINE}), -1)"
    here, snapshots, records = yield Batch(
        [
            _row_of(execution_id),
            Ask(f"SELECT seq, body FROM snapshots WHERE execution {_MINE}", (name,)),
            Ask(_RECORDS + f"WHERE r.execution {_MINE} AND r.seq > {after} ORDER BY r.seq", (name, name)),
        ]
    )
    found = _the_row(execution_id, here.rows)
    stored = [stored_entry(columns) for columns in records.rows]
    get_blob = yield from getter([body for _, body in snapshots.rows] + [entry.body for entry in stored])
    snapshot, snapshot_seq, snapshot_bytes = None, -1, 0
    if snapshots.rows:
        snapshot_seq, data = snapshots.rows[0]
        snapshot_bytes = len(data)
        snapshot = read_snapshot(execution_id, snapshot_seq, data, get_blob, memo)
    check_tail(execution_id, [entry.seq for entry in stored], after=snapshot_seq, tail=found.seq)
    return Loaded(
        row=found,
        snapshot=snapshot,
        snapshot_seq=snapshot_seq,
        entries=[read_entry(execution_id, entry, get_blob, memo) for entry in stored],
        snapshot_bytes=snapshot_bytes,
        entries_bytes=sum(len(entry.body) for entry in stored),
    )


def records_between(execution: int, first: int, last: int) -> Ask:
    """Asks for stored records from one seq to another, inclusive, in order."""
    return Ask(_RECORDS + "WHERE r.execution = %s AND r.seq BETWEEN %s AND %s ORDER BY r.seq", (execution, first, last))


def journal(execution_id: str, after_seq: int, limit: int) -> Work[list[JournalEntry]]:
    """Records after a seq."""
    name = kept(execution_id)
    here, records = yield Batch(
        [
            _exists(execution_id),
            Ask(
                _RECORDS + f"WHERE r.execution {_MINE} AND r.seq > %s ORDER BY r.seq LIMIT %s", (name, after_seq, limit)
            ),
        ]
    )
    _check_exists(execution_id, here.rows)
    return (yield from _entries(execution_id, records.rows))


def journal_after_event(execution_id: str, event: int, limit: int) -> Work[list[JournalEntry]]:
    """Records that tell any event after number `event`."""
    low = yield from _first_telling(execution_id, event)
    # A record that tells nothing ends at the same event as the one before it. Without it a page is never all silence.
    told_from = (
        f"LEFT JOIN records p ON p.execution = r.execution AND p.seq = r.seq - 1 WHERE r.execution {_MINE} "
        "AND r.seq >= %s AND r.events_to > coalesce(p.events_to, 0) ORDER BY r.seq LIMIT %s"
    )
    (records,) = yield Batch([Ask(_RECORDS + told_from, (kept(execution_id), low, limit))])
    return (yield from _entries(execution_id, records.rows))


def _first_telling(execution_id: str, event: int) -> Work[int]:
    """The first seq that ends after `event`, by bisection: an index on `events_to` would cost every commit."""
    (here,) = yield Batch([Ask("SELECT id, seq FROM executions WHERE execution_id = %s", (kept(execution_id),))])
    _check_exists(execution_id, here.rows)
    execution, tail = here.rows[0]
    low, high = 0, tail + 1
    while low < high:
        middle = (low + high) // 2
        (found,) = yield Batch(
            [Ask("SELECT events_to FROM records WHERE execution = %s AND seq = %s", (execution, middle))]
        )
        if not found.rows:
            raise CorruptRecordError(execution_id=execution_id, what=f"record {middle}", problem="it is missing")
        if found.rows[0][0] > event:
            high = middle
        else:
            low = middle + 1
    return low


def _entries(execution_id: str, found: Sequence[tuple[Any, ...]]) -> Work[list[JournalEntry]]:
    stored = [stored_entry(columns) for columns in found]
    get_blob = yield from getter(entry.body for entry in stored)
    return [read_entry(execution_id, entry, get_blob) for entry in stored]


def _exists(execution_id: str) -> Ask:
    return Ask("SELECT 1 FROM executions WHERE execution_id = %s", (kept(execution_id),))


def _check_exists(execution_id: str, found: Sequence[tuple[Any, ...]]) -> None:
    if not found:
        raise UnknownExecutionError(execution_id=execution_id)


def inbox(execution_id: str) -> Work[list[Signal]]:
    """Signals not consumed yet, in the order they were accepted."""
    waiting = f"SELECT signal_id, body FROM inbox WHERE execution {_MINE} AND NOT consumed ORDER BY id"
    here, found = yield Batch([_exists(execution_id), Ask(waiting, (kept(execution_id),))])
    _check_exists(execution_id, here.rows)
    get_blob = yield from getter(body for _, body in found.rows)
    return [read_signal(execution_id, told(signal_id), body, get_blob) for signal_id, body in found.rows]


_CALLS = "SELECT call_id, decided_by, body FROM pending WHERE execution {} ORDER BY asked_at, id"


def calls_of(execution: int) -> Ask:
    """Asks for the open calls of one execution, decided or not, oldest first."""
    return Ask(_CALLS.format("= %s"), (execution,))


def pending(execution_id: str | None, limit: int) -> Work[list[PendingRow]]:
    """Undecided calls, oldest first, of one execution or of all."""
    if execution_id is None:
        return (yield from _all_pending(limit))
    here, found = yield Batch([_exists(execution_id), Ask(_CALLS.format(_MINE), (kept(execution_id),))])
    _check_exists(execution_id, here.rows)
    get_blob = yield from getter(body for _, _, body in found.rows)
    calls = [read_call(execution_id, columns, get_blob) for columns in found.rows]
    return [call for call in calls if call.decided_by_signal is None][:limit]


def _all_pending(limit: int) -> Work[list[PendingRow]]:
    every = (
        "SELECT e.execution_id, p.call_id, p.decided_by, p.body FROM pending p JOIN executions e ON e.id = p.execution "
        "WHERE p.decided_by IS NULL ORDER BY p.asked_at, p.id LIMIT %s"
    )
    (found,) = yield Batch([Ask(every, (limit,))])
    get_blob = yield from getter(columns[3] for columns in found.rows)
    calls = []
    for execution_id, *columns in found.rows:
        try:
            calls.append(read_call(told(execution_id), columns, get_blob))
        except CorruptRecordError as problem:
            # One damaged row must not hide everybody else's (P11).
            log.error("store.pending_damaged", extra={"execution_id": told(execution_id), "problem": str(problem)})
    return calls


def read_call(execution_id: str, columns: Sequence[Any], get_blob: GetBlob) -> PendingRow:
    """An open call from what `calls_of` gave."""
    call_id, decided_by, body = columns
    return read_pending(execution_id, told(call_id), told_or_none(decided_by), body, get_blob)


_DEPLOYMENT = """
SELECT d.deployment_id, d.agent, d.kind, d.source, d.reference, d.signature, d.python, d.created_at, d.spec, {code}
FROM deployments d
"""


def deployment(deployment_id: str) -> Work[DeploymentRow | None]:
    """One version."""
    sql = _DEPLOYMENT.format(code="d.code") + "WHERE d.deployment_id = %s"
    (found,) = yield Last([Ask(sql, (kept(deployment_id),))])
    return _deployment(found.rows[0]) if found.rows else None


def current_deployment(agent: str) -> Work[DeploymentRow | None]:
    """The version a start by name uses."""
    sql = _DEPLOYMENT.format(code="d.code") + "JOIN current_deployments c USING (deployment_id) WHERE c.agent = %s"
    (found,) = yield Last([Ask(sql, (kept(agent),))])
    return _deployment(found.rows[0]) if found.rows else None


def deployments() -> Work[list[DeploymentRow]]:
    """The current version of every agent, without its code."""
    current = "WHERE d.deployment_id IN (SELECT deployment_id FROM current_deployments) ORDER BY d.agent"
    (found,) = yield Last([Ask(_DEPLOYMENT.format(code="NULL") + current)])
    return [_deployment(columns) for columns in found.rows]


def stored_entry(columns: tuple[Any, ...]) -> StoredEntry:
    """A record from its columns."""
    seq, kind, epoch, events_to, body = columns
    return StoredEntry(seq, told(kind), epoch, events_to, body)


def _row(columns: tuple[Any, ...]) -> ExecutionRow:
    return ExecutionRow(
        execution_id=told(columns[0]),
        agent=told(columns[1]),
        deployment_id=told(columns[2]),
        status=told(columns[3]),
        epoch=columns[4],
        seq=columns[5],
        events=columns[6],
        session_id=told(columns[7]),
        idempotency_key=told_or_none(columns[8]),
        created_at=columns[9],
        updated_at=columns[10],
        wake_at=columns[11],
        resident=columns[12],
        crashes=columns[13],
        recoveries=columns[14],
        host=read_note(columns[15]),
        current_task=told(columns[16]),
        finish_reason=told_or_none(columns[17]),
        error=told_or_none(columns[18]),
        metadata=read_note(columns[19]),
        inbox=columns[20],
        pending=columns[21],
    )


def _deployment(columns: tuple[Any, ...]) -> DeploymentRow:
    deployment_id, agent, kind, source, reference, signature, python, created_at, spec, code = columns
    return DeploymentRow(
        deployment_id=told(deployment_id),
        agent=told(agent),
        kind=told(kind),
        source=told(source),
        reference=told_or_none(reference),
        code=code,
        signature=told(signature),
        spec=read_note(spec),
        python=told(python),
        created_at=created_at,
    )
