"""Writing to the SQLite store. Every function runs on the writer's thread, in a transaction that others may share."""

from __future__ import annotations

import sqlite3
from typing import Any

from agentspan.engine.admit import DECISIONS, Signal
from agentspan.errors import ExecutionFinishedError, SequenceConflictError, StaleEpochError, UnknownExecutionError
from agentspan.persistence import rules, sqlite_threads
from agentspan.persistence import sqlite_rows as read
from agentspan.persistence.bodies import PackedCommit, pack_note, pack_signal, pack_started, read_signal
from agentspan.persistence.codec import BlobMemo, Packed
from agentspan.persistence.decisions import judge
from agentspan.persistence.sqlite_blobs import keep_blobs
from agentspan.persistence.store import Accepted, Created, DeploymentRow, NewExecution, Receipt, TakenOver

_NOBODY = b""
"""The host of an execution that no incarnation holds."""
NUMBERS_MAX = 10_000
"""Rowids a process remembers."""


def create(db: sqlite3.Connection, new: NewExecution, started: Packed, metadata: bytes, memo: BlobMemo) -> Created:
    """The row and record 0 (`started`), unless the request or the key has them already."""
    first = db.execute(
        "SELECT execution_id FROM executions WHERE request_id = ? "
        "UNION ALL SELECT execution_id FROM executions WHERE agent = ? AND idempotency_key = ? LIMIT 1",
        (new.request_id, new.agent, new.idempotency_key),
    ).fetchone()
    if first is not None:
        return Created(execution_id=first[0], is_new=False)
    if db.execute("SELECT 1 FROM executions WHERE execution_id = ?", (new.execution_id,)).fetchone():
        raise SequenceConflictError(execution_id=new.execution_id, seq=0, held=0)
    session = _session_before(db, new)
    if session is not None:
        started = pack_started(new, session[1], memo)
    execution = db.execute(
        "INSERT INTO executions (execution_id, request_id, agent, deployment_id, session_id, idempotency_key, "
        "session_from, created_at, status, events, updated_at, host, wake_at, "
        "unfinished, epoch, seq, resident, crashes, recoveries, current_task) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1, 0, 0, 0, 0, 0, '')",
        (
            new.execution_id,
            new.request_id,
            new.agent,
            new.deployment_id,
            new.session_id,
            new.idempotency_key,
            None if session is None else session[0],
            new.created_at,
            rules.QUEUED,
            rules.STARTED_EVENTS,
            new.created_at,
            _NOBODY,
            new.wake_at,
        ),
    ).lastrowid
    assert execution is not None
    if metadata:
        db.execute("INSERT INTO metadata VALUES (?, ?)", (execution, metadata))
    keep_blobs(db, execution, started.blobs)
    db.execute(
        "INSERT INTO records VALUES (?, 'started', 0, ?, ?)",
        (read.key(execution, 0), rules.STARTED_EVENTS, started.data),
    )
    return Created(execution_id=new.execution_id, is_new=True)


def _session_before(db: sqlite3.Connection, new: NewExecution) -> tuple[int, str] | None:
    if not new.session_id:
        return None
    found = db.execute(
        "SELECT id, execution_id FROM executions "
        "WHERE agent = ? AND session_id = ? AND session_id <> '' AND status = ? "
        "ORDER BY created_at DESC, id DESC LIMIT 1",
        (new.agent, new.session_id, rules.COMPLETED),
    ).fetchone()
    return None if found is None else (found[0], found[1])


def take_over(
    db: sqlite3.Connection, execution_id: str, host: bytes, expected_epoch: int | None, blame: bool, now: float
) -> TakenOver:
    """Raise the epoch and mark the execution resident."""
    execution, status, epoch, resident, crashes = _held(db, execution_id, "resident, crashes")
    if status in rules.SETTLED:
        raise ExecutionFinishedError(execution_id=execution_id, status=status, signal="a take-over")
    if expected_epoch is not None and expected_epoch != epoch:
        raise StaleEpochError(execution_id=execution_id, offered=expected_epoch, held=epoch)
    crashed = bool(resident) and epoch > 0
    blamed = crashed and blame
    db.execute(
        "UPDATE executions SET epoch = epoch + 1, resident = 1, host = ?, status = ?, updated_at = ?, "
        "crashes = crashes + ?, recoveries = recoveries + ? WHERE id = ?",
        (host, rules.RUNNING if status == rules.QUEUED else status, now, blamed, crashed, execution),
    )
    return TakenOver(epoch=epoch + 1, crashed=crashed, crashes=crashes + blamed)


def set_host(db: sqlite3.Connection, execution_id: str, epoch: int, host: bytes) -> None:
    """Note where the holder lives."""
    execution = read.number_of(db, execution_id)
    db.execute("UPDATE executions SET host = ? WHERE id = ? AND epoch = ? AND resident = 1", (host, execution, epoch))


def _held(db: sqlite3.Connection, execution_id: str, more: str) -> tuple[Any, ...]:
    found: tuple[Any, ...] | None = db.execute(
        f"SELECT id, status, epoch, {more} FROM executions WHERE execution_id = ?", (execution_id,)
    ).fetchone()
    if found is None:
        raise UnknownExecutionError(execution_id=execution_id)
    return found


def commit(db: sqlite3.Connection, packed: PackedCommit, numbers: dict[str, int], memo: BlobMemo) -> Receipt:
    """One step. The order of statements does not matter: nobody sees one without the others.

    Args:
        db: The connection.
        packed: The step.
        numbers: Rowids of executions this process wrote to lately. With it the usual commit is one UPDATE, which is its
            check as well, and one INSERT.
        memo: Hashes of large values.
    """
    given, entries = packed.commit, packed.entries
    bytes_written = sum([len(entry.body) for entry in entries])
    snapshot_bytes = 0 if packed.snapshot is None else len(packed.snapshot.data)
    thread_bytes = 0 if packed.thread is None else packed.thread.bytes
    execution = numbers.get(given.execution_id)
    if execution is None or not _change_row(db, execution, packed):
        # Not known here, or not the usual case: find out which, and say so.
        execution, status, epoch, seq = _held(db, given.execution_id, "seq")
        is_new = rules.is_new(
            given,
            entries,
            status=status,
            epoch=epoch,
            seq=seq,
            stored=lambda first, last: read.records_between(db, execution, first, last),
        )
        if not is_new:
            return Receipt(bytes_written=bytes_written, snapshot_bytes=snapshot_bytes, thread_bytes=thread_bytes)
        changed = _change_row(db, execution, packed)
        assert changed, "rules.is_new and the WHERE of the UPDATE say the same"
        if len(numbers) >= NUMBERS_MAX:
            numbers.clear()
        numbers[given.execution_id] = execution
    for entry in entries:
        db.execute(
            "INSERT INTO records VALUES (?, ?, ?, ?, ?)",
            (read.key(execution, entry.seq), entry.kind, entry.epoch, entry.events_to, entry.body),
        )
    if packed.blobs:
        bytes_written += keep_blobs(db, execution, packed.blobs)
    if packed.snapshot is not None:
        db.execute("INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?)", (execution, given.seq, packed.snapshot.data))
    if packed.thread is not None:
        thread_bytes = sqlite_threads.store(db, packed.thread, memo)
    if given.consumed or given.opens or given.closes:
        _change_waiting(db, execution, packed)
    if given.change.status in rules.SETTLED:
        _settle(db, execution, given.change.status)
    return Receipt(bytes_written=bytes_written, snapshot_bytes=snapshot_bytes, thread_bytes=thread_bytes)


def _change_row(db: sqlite3.Connection, execution: int, packed: PackedCommit) -> bool:
    """Change the row if the commit is new; False (and nothing changed) if it is not, or is refused."""
    given, entries, change = packed.commit, packed.entries, packed.commit.change
    first = given.seq - len(entries) + 1
    if len(entries) > 1 and [entry.seq for entry in entries] != list(range(first, given.seq + 1)):
        return False
    ends = change.status in rules.FINISHED
    resident = change.resident and not ends
    changed = db.execute(
        "UPDATE executions SET seq = ?, events = coalesce(?, events), status = ?, updated_at = ?, wake_at = ?, "
        "resident = ?, current_task = ?, finish_reason = ?, error = ?, "
        "crashes = CASE ? WHEN 1 THEN 0 ELSE crashes END, host = CASE ? WHEN 1 THEN host ELSE x'' END "
        "WHERE id = ? AND execution_id = ? AND epoch = ? AND seq = ? AND (unfinished = 1 OR (status = ? AND ?))",
        (
            given.seq,
            entries[-1].events_to if entries else None,
            change.status,
            change.updated_at,
            None if ends else change.wake_at,
            resident,
            rules.legible(change.current_task),
            change.finish_reason,
            None if change.error is None else rules.legible(change.error),
            given.progress,
            resident,
            execution,
            given.execution_id,
            given.epoch,
            first - 1,
            change.status,
            not entries,
        ),
    )
    return changed.rowcount == 1


def _settle(db: sqlite3.Connection, execution: int, status: str) -> None:
    # The index of unfinished executions is touched only here, so that a step does not pay for it.
    db.execute("UPDATE executions SET unfinished = 0 WHERE id = ?", (execution,))
    if status in rules.FINISHED:
        db.execute("DELETE FROM pending WHERE execution = ?", (execution,))


def _change_waiting(db: sqlite3.Connection, execution: int, packed: PackedCommit) -> None:
    given = packed.commit
    for signal_id in given.consumed:
        db.execute("UPDATE inbox SET consumed = 1 WHERE execution = ? AND signal_id = ?", (execution, signal_id))
    for call_id in given.closes:
        db.execute("DELETE FROM pending WHERE execution = ? AND call_id = ?", (execution, call_id))
    for row, body in packed.opens:
        # The same question again (a commit sent twice) keeps its decision; another under the same ID starts anew.
        db.execute(
            "INSERT INTO pending (execution, call_id, asked_at, body) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (execution, call_id) DO UPDATE SET asked_at = excluded.asked_at, body = excluded.body, "
            "decided_by = NULL WHERE body <> excluded.body",
            (execution, row.call_id, row.asked_at, body.data),
        )


def quarantine(db: sqlite3.Connection, execution_id: str, error: str, now: float) -> None:
    """Set an unfinished execution aside."""
    execution, status, _ = _held(db, execution_id, "0")[:3]
    if status in rules.SETTLED:
        return
    db.execute(
        "UPDATE executions SET status = ?, error = ?, epoch = epoch + 1, resident = 0, host = ?, wake_at = NULL, "
        "current_task = '', updated_at = ?, unfinished = 0 WHERE id = ?",
        (rules.QUARANTINED, rules.legible(error), _NOBODY, now, execution),
    )


def release(db: sqlite3.Connection, execution_id: str, now: float) -> bool:
    """Take an execution out of quarantine."""
    execution, status, _ = _held(db, execution_id, "0")[:3]
    if status != rules.QUARANTINED:
        return False
    db.execute(
        "UPDATE executions SET status = ?, error = NULL, resident = 1, crashes = 0, updated_at = ?, unfinished = 1 "
        "WHERE id = ?",
        (rules.RUNNING, now, execution),
    )
    return True


def send(db: sqlite3.Connection, signal: Signal, memo: BlobMemo) -> Accepted:
    """Store a signal, or find the one that counts."""
    execution, status, _ = _held(db, signal.execution_id, "0")[:3]
    get_blob = read.blob_getter(db)

    def stored(where: str, value: str) -> Signal | None:
        found = db.execute(
            f"SELECT signal_id, body FROM inbox WHERE execution = ? AND {where} = ? ORDER BY id DESC LIMIT 1",
            (execution, value),
        ).fetchone()
        return None if found is None else read_signal(signal.execution_id, found[0], found[1], get_blob)

    known = stored("signal_id", signal.signal_id)
    if known is not None:
        return Accepted(signal=known, is_new=True)
    calls = read.calls_of(db, execution, signal.execution_id) if signal.kind in DECISIONS else []
    answer = judge(signal, status=status, calls=calls, first_decision=lambda call_id: stored("decides", call_id))
    if not answer.is_new:
        return answer
    body = pack_signal(answer.signal, memo)
    keep_blobs(db, execution, body.blobs)
    decides = answer.signal.call_id if signal.kind in DECISIONS else None
    db.execute(
        "INSERT INTO inbox (execution, signal_id, decides, consumed, body) VALUES (?, ?, ?, 0, ?)",
        (execution, signal.signal_id, decides, body.data),
    )
    if decides is not None:
        db.execute(
            "UPDATE pending SET decided_by = ? WHERE execution = ? AND call_id = ?",
            (signal.signal_id, execution, decides),
        )
    return answer


def save_deployment(db: sqlite3.Connection, given: DeploymentRow) -> bool:
    """Keep a version and make it the current one."""
    added = db.execute(
        "INSERT OR IGNORE INTO deployments (deployment_id, agent, kind, source, reference, signature, python, "
        "created_at, spec, code) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            given.deployment_id,
            given.agent,
            given.kind,
            given.source,
            given.reference,
            given.signature,
            given.python,
            given.created_at,
            pack_note(given.spec),
            given.code,
        ),
    ).rowcount
    db.execute("INSERT OR REPLACE INTO current_deployments VALUES (?, ?)", (given.agent, given.deployment_id))
    return added == 1
