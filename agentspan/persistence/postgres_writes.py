"""Writing to the Postgres store, but for steps (`postgres_commits`). Every function is a piece of work."""

from __future__ import annotations

from typing import Any

from agentspan.engine.admit import DECISIONS, Signal
from agentspan.errors import ExecutionFinishedError, SequenceConflictError, StaleEpochError, UnknownExecutionError
from agentspan.persistence import postgres_blobs, rules
from agentspan.persistence.bodies import pack_note, pack_signal, pack_started, read_signal
from agentspan.persistence.codec import BlobMemo, Packed
from agentspan.persistence.decisions import judge
from agentspan.persistence.postgres_link import Batch, Last, Work
from agentspan.persistence.postgres_rows import calls_of, read_call
from agentspan.persistence.postgres_session import Ask
from agentspan.persistence.postgres_text import kept, kept_or_none, told
from agentspan.persistence.store import Accepted, Created, DeploymentRow, NewExecution, TakenOver


def keys_of(new: NewExecution) -> tuple[str, ...]:
    """What the creation of an execution depends on."""
    keys = (new.execution_id, f"request {new.request_id}")
    return keys if new.idempotency_key is None else (*keys, f"key {new.agent} {new.idempotency_key}")


_FIRST = (
    "SELECT execution_id FROM executions WHERE request_id = %s "
    "UNION ALL SELECT execution_id FROM executions WHERE agent = %s AND idempotency_key = %s LIMIT 1"
)
# The lock keeps `gc` from removing it before the new execution, which says that it is needed, can be seen.
_SESSION = (
    "SELECT id, execution_id FROM executions WHERE agent = %s AND session_id = %s AND session_id <> '' "
    "AND status = %s ORDER BY created_at DESC, id DESC LIMIT 1 FOR KEY SHARE"
)
_CREATE = """
WITH made AS (
    INSERT INTO executions (execution_id, request_id, agent, deployment_id, session_id, idempotency_key, session_from,
        created_at, status, events, updated_at, metadata, wake_at,
        unfinished, epoch, seq, resident, crashes, recoveries, current_task, host)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %b, %s, true, 0, 0, false, 0, 0, '', '') RETURNING id
), first AS (
    INSERT INTO records SELECT id, 0, 'started', 0, %s::bigint, %b::bytea FROM made
)
SELECT id FROM made
"""


def create(new: NewExecution, started: Packed, metadata: bytes, memo: BlobMemo) -> Work[Created]:
    """The row and record 0 (`started`), unless the request or the key has them already."""
    name, agent = kept(new.execution_id), kept(new.agent)
    first, held, session, known = yield Batch(
        [
            Ask(_FIRST, (kept(new.request_id), agent, kept_or_none(new.idempotency_key))),
            Ask("SELECT 1 FROM executions WHERE execution_id = %s", (name,)),
            Ask(_SESSION, (agent, kept(new.session_id), rules.COMPLETED)),
            postgres_blobs.known(started.blobs),
        ]
    )
    if first.rows:
        return Created(execution_id=told(first.rows[0][0]), is_new=False)
    if held.rows:
        raise SequenceConflictError(execution_id=new.execution_id, seq=0, held=0)
    session_from = None
    if session.rows:
        session_from, before = session.rows[0]
        started = pack_started(new, told(before), memo)
    insert = Ask(
        _CREATE,
        (
            name,
            kept(new.request_id),
            agent,
            kept(new.deployment_id),
            kept(new.session_id),
            kept_or_none(new.idempotency_key),
            session_from,
            new.created_at,
            rules.QUEUED,
            rules.STARTED_EVENTS,
            new.created_at,
            metadata,
            new.wake_at,
            rules.STARTED_EVENTS,
            started.data,
        ),
    )
    if not started.blobs:
        yield Last([insert])
    else:
        (made,) = yield Batch([insert])
        there = [content_hash for (content_hash,) in known.rows]
        yield Last(postgres_blobs.keep(made.rows[0][0], started.blobs, there))
    return Created(execution_id=new.execution_id, is_new=True)


def _hold(execution_id: str) -> Ask:
    """Asks for the row, and keeps it from changing until the transaction ends."""
    return Ask(
        "SELECT id, status, epoch, resident, crashes FROM executions WHERE execution_id = %s FOR NO KEY UPDATE",
        (kept(execution_id),),
    )


def _held(execution_id: str, found: list[tuple[Any, ...]]) -> tuple[Any, ...]:
    if not found:
        raise UnknownExecutionError(execution_id=execution_id)
    return found[0]


def take_over(execution_id: str, host: bytes, expected_epoch: int | None, blame: bool, now: float) -> Work[TakenOver]:
    """Raise the epoch and mark the execution resident."""
    (found,) = yield Batch([_hold(execution_id)])
    execution, status, epoch, resident, crashes = _held(execution_id, found.rows)
    if status in rules.SETTLED:
        raise ExecutionFinishedError(execution_id=execution_id, status=status, signal="a take-over")
    if expected_epoch is not None and expected_epoch != epoch:
        raise StaleEpochError(execution_id=execution_id, offered=expected_epoch, held=epoch)
    crashed = resident and epoch > 0
    blamed = crashed and blame
    yield Last(
        [
            Ask(
                "UPDATE executions SET epoch = epoch + 1, resident = true, host = %b, status = %s, updated_at = %s, "
                "crashes = crashes + %s, recoveries = recoveries + %s WHERE id = %s",
                (
                    host,
                    rules.RUNNING if status == rules.QUEUED else status,
                    now,
                    int(blamed),
                    int(crashed),
                    execution,
                ),
            )
        ]
    )
    return TakenOver(epoch=epoch + 1, crashed=crashed, crashes=crashes + blamed)


def set_host(execution_id: str, epoch: int, host: bytes) -> Work[None]:
    """Note where the holder lives."""
    name = kept(execution_id)
    found, _ = yield Last(
        [
            Ask("SELECT 1 FROM executions WHERE execution_id = %s", (name,)),
            Ask(
                "UPDATE executions SET host = %b WHERE execution_id = %s AND epoch = %s AND resident",
                (host, name, epoch),
            ),
        ]
    )
    _held(execution_id, found.rows)


def quarantine(execution_id: str, error: str, now: float) -> Work[None]:
    """Set an unfinished execution aside."""
    (found,) = yield Batch([_hold(execution_id)])
    execution, status, *_ = _held(execution_id, found.rows)
    if status in rules.SETTLED:
        return
    yield Last(
        [
            Ask(
                "UPDATE executions SET status = %s, error = %s, epoch = epoch + 1, resident = false, host = '', "
                "wake_at = NULL, current_task = '', updated_at = %s, unfinished = false WHERE id = %s",
                (rules.QUARANTINED, kept(rules.legible(error)), now, execution),
            )
        ]
    )


def release(execution_id: str, now: float) -> Work[bool]:
    """Take an execution out of quarantine."""
    (found,) = yield Batch([_hold(execution_id)])
    execution, status, *_ = _held(execution_id, found.rows)
    if status != rules.QUARANTINED:
        return False
    yield Last(
        [
            Ask(
                "UPDATE executions SET status = %s, error = NULL, resident = true, crashes = 0, updated_at = %s, "
                "unfinished = true WHERE id = %s",
                (rules.RUNNING, now, execution),
            )
        ]
    )
    return True


class _UnreadError(Exception):
    """A decision is needed that was not read yet."""

    def __init__(self, call_id: str) -> None:
        super().__init__(call_id)
        self.call_id = call_id


def send(signal: Signal, memo: BlobMemo) -> Work[Accepted]:
    """Store a signal, or find the one that counts."""
    decides = signal.kind in DECISIONS
    (held,) = yield Batch([_hold(signal.execution_id)])
    execution, status, *_ = _held(signal.execution_id, held.rows)
    asks = Batch([_signals(execution, "signal_id", signal.signal_id)])
    if decides:
        asks.append(calls_of(execution))
    known, *waiting = yield asks
    if known.rows:
        return Accepted(signal=(yield from _signal(signal.execution_id, known.rows[0])), is_new=True)
    rows = waiting[0].rows if decides else []
    get_blob = yield from postgres_blobs.getter(body for *_, body in rows)
    calls = [read_call(signal.execution_id, columns, get_blob) for columns in rows]
    answer = yield from _judged(signal, status, calls, execution)
    if not answer.is_new:
        return answer
    body = pack_signal(answer.signal, memo)
    call_id = answer.signal.call_id if decides else None
    writes = Last()
    if body.blobs:
        (found,) = yield Batch([postgres_blobs.known(body.blobs)])
        writes += postgres_blobs.keep(execution, body.blobs, [content_hash for (content_hash,) in found.rows])
    writes.append(
        Ask(
            "INSERT INTO inbox (execution, signal_id, decides, consumed, body) VALUES (%s, %s, %s, false, %b)",
            (execution, kept(signal.signal_id), kept_or_none(call_id), body.data),
        )
    )
    if call_id is not None:
        writes.append(
            Ask(
                "UPDATE pending SET decided_by = %s WHERE execution = %s AND call_id = %s",
                (kept(signal.signal_id), execution, kept(call_id)),
            )
        )
    yield writes
    return answer


def _judged(signal: Signal, status: str, calls: list[Any], execution: int) -> Work[Accepted]:
    decisions: dict[str, Signal | None] = {}

    def first_decision(call_id: str) -> Signal | None:
        if call_id not in decisions:
            raise _UnreadError(call_id)
        return decisions[call_id]

    while True:
        try:
            return judge(signal, status=status, calls=calls, first_decision=first_decision)
        except _UnreadError as unread:
            call_id = unread.call_id
        (found,) = yield Batch([_signals(execution, "decides", call_id)])
        decisions[call_id] = (yield from _signal(signal.execution_id, found.rows[0])) if found.rows else None


def _signals(execution: int, where: str, value: str) -> Ask:
    sql = f"SELECT signal_id, body FROM inbox WHERE execution = %s AND {where} = %s ORDER BY id DESC LIMIT 1"
    return Ask(sql, (execution, kept(value)))


def _signal(execution_id: str, columns: tuple[Any, ...]) -> Work[Signal]:
    signal_id, body = columns
    get_blob = yield from postgres_blobs.getter([body])
    return read_signal(execution_id, told(signal_id), body, get_blob)


def save_deployment(given: DeploymentRow) -> Work[bool]:
    """Keep a version and make it the current one."""
    name, agent = kept(given.deployment_id), kept(given.agent)
    added, _ = yield Last(
        [
            Ask(
                "INSERT INTO deployments (deployment_id, agent, kind, source, reference, signature, python, created_at, "
                "spec, code) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %b, %b) ON CONFLICT DO NOTHING",
                (
                    name,
                    agent,
                    kept(given.kind),
                    kept(given.source),
                    kept_or_none(given.reference),
                    kept(given.signature),
                    kept(given.python),
                    given.created_at,
                    pack_note(given.spec),
                    given.code,
                ),
            ),
            Ask(
                "INSERT INTO current_deployments VALUES (%s, %s) "
                "ON CONFLICT (agent) DO UPDATE SET deployment_id = excluded.deployment_id",
                (agent, name),
            ),
        ]
    )
    return added.changed == 1
