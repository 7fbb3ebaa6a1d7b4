"""Short ways to say what the rules need: an execution, a step, a question, a decision."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from agentspan.engine.admit import Signal
from agentspan.persistence.store import Commit, JournalEntry, NewExecution, PendingRow, Receipt, RowChange, Store


def new(execution_id: str, **fields: Any) -> NewExecution:
    """A request for an execution that nobody else asked for."""
    made: dict[str, Any] = {
        "request_id": f"request-{uuid4().hex}",
        "agent": "helper",
        "deployment_id": "d1",
        "created_at": 1000.0,
    } | fields
    started = {"at": made["created_at"], "agent": made["agent"], "prompt": "hi"}
    return NewExecution(execution_id=execution_id, **{"started": started, **made})


def entry(seq: int, *, events_to: int | None = None, kind: str = "tool", **body: Any) -> JournalEntry:
    """A record that tells one event unless told otherwise."""
    return JournalEntry(seq=seq, kind=kind, body=body, events_to=seq + 1 if events_to is None else events_to)


def step(execution_id: str, *entries: JournalEntry, epoch: int = 1, **fields: Any) -> Commit:
    """A commit. Fields of its row change may be given beside its own."""
    change = {name: fields.pop(name) for name in list(fields) if name in RowChange.__slots__}
    fields.setdefault("seq", entries[-1].seq if entries else 0)
    return Commit(
        execution_id=execution_id,
        epoch=epoch,
        entries=entries,
        change=RowChange(**{"status": "RUNNING", "updated_at": 1001.0, **change}),
        **fields,
    )


def ask(execution_id: str, call_id: str, **fields: Any) -> PendingRow:
    """A call that waits for an approval unless told otherwise."""
    made: dict[str, Any] = {
        "path": "",
        "ask": "approval",
        "tool": "refund",
        "arguments": {"amount": 5},
        "arguments_hash": f"hash-{call_id}",
        "asked_at": 1001.0,
    } | fields
    return PendingRow(execution_id=execution_id, call_id=call_id, **made)


def signal(execution_id: str, kind: Any, **fields: Any) -> Signal:
    """A signal that nobody else sent."""
    made: dict[str, Any] = {"signal_id": f"signal-{uuid4().hex}", "at": 1002.0} | fields
    return Signal(execution_id=execution_id, kind=kind, **made)


async def begin(store: Store, execution_id: str = "e1", **fields: Any) -> int:
    """Create an execution and take it over; returns the epoch."""
    await store.create(new(execution_id, **fields))
    return (await store.take_over(execution_id, host={"pid": 1})).epoch


async def finish(store: Store, execution_id: str, *, seq: int = 1, epoch: int = 1, **fields: Any) -> Receipt:
    """Commit the last record."""
    ended = {"status": "COMPLETED", "finish_reason": "stop", **fields}
    return await store.commit(step(execution_id, entry(seq, kind="finished"), epoch=epoch, **ended))


async def begin_asking(store: Store, *calls: PendingRow, execution_id: str = "e1") -> None:
    """An execution whose record 1 opened calls."""
    epoch = await begin(store, execution_id)
    await store.commit(step(execution_id, entry(1), epoch=epoch, status="WAITING", opens=calls))
