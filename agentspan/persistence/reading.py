"""What users and operators read, straight from a store: no actor has to live, no server has to run (P10, design §10.5)."""

from __future__ import annotations

import copy
from collections import deque
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from agentspan.agents.results import AgentResult, AgentStatus, HistoryState, Status
from agentspan.engine.answers import verdicts
from agentspan.engine.apply import apply
from agentspan.engine.events import events_of
from agentspan.engine.records import from_plain
from agentspan.engine.state import ExecutionState
from agentspan.engine.view import agent_result, agent_status
from agentspan.errors import CorruptRecordError
from agentspan.persistence.loading import load_state
from agentspan.persistence.store import ExecutionRow, PendingRow, Store


async def read_status(store: Store, execution_id: str) -> AgentStatus:
    """The status of an execution. A quarantined one still has a status; its reason says what is wrong."""
    row = await store.row(execution_id)
    if row.status == Status.QUARANTINED.value:
        return AgentStatus(execution_id=execution_id, status=Status.QUARANTINED, is_complete=True, reason=row.error)
    state = load_state(await store.load(execution_id))
    pending = await store.pending(execution_id) if row.pending else []
    return agent_status(state, status=row.status, current=row.current_task, pending=pending)


async def read_result(store: Store, execution_id: str) -> AgentResult:
    """The result of a settled execution."""
    return (await read_outcome(store, execution_id))[0]


async def read_outcome(store: Store, execution_id: str) -> tuple[AgentResult, bytes]:
    """The result of a settled execution and, for a graph, its final state as the adapter encoded it."""
    row = await store.row(execution_id)
    if row.status == Status.QUARANTINED.value:
        return AgentResult(output=None, execution_id=execution_id, status=Status.QUARANTINED, error=row.error), b""
    state = load_state(await store.load(execution_id))
    return agent_result(state), state.root.graph.state if state.root.graph is not None else b""


async def read_history(store: Store, execution_id: str, limit: int | None) -> list[HistoryState]:
    """The states of a native execution, one for each record, newest first."""
    states: deque[HistoryState] = deque(maxlen=limit)
    state = ExecutionState(execution_id=execution_id)
    last = (await store.row(execution_id)).seq
    while state.seq < last:
        for entry in await store.journal(execution_id, after_seq=state.seq):
            record = from_plain(entry.kind, entry.body)
            apply(state, record)
            if limit is not None and entry.seq <= last - limit:
                continue
            states.appendleft(
                HistoryState(
                    step=entry.seq,
                    at=datetime.fromtimestamp(record.at, UTC),
                    source=entry.kind,
                    next=tuple(call.name for call in state.root.calls if call.phase != "done")
                    or (() if state.root.answered or state.is_finished else ("model",)),
                    values={"messages": copy.deepcopy(state.root.messages), "state": copy.deepcopy(state.shared)},
                )
            )
    return list(states)


async def read_events(store: Store, execution_id: str, after: int, limit: int = 500) -> dict[str, Any]:
    """Events after number `after`: `{"events": [dict], "next": int}`; `next` is the cursor to go on from."""
    entries = await store.journal_after_event(execution_id, event=after, limit=limit)
    events: list[dict[str, Any]] = []
    for entry in entries:
        try:
            record = from_plain(entry.kind, entry.body)
        except ValueError as problem:
            raise CorruptRecordError(
                execution_id=execution_id, what=f"record {entry.seq}", problem=str(problem)
            ) from problem
        told = events_of(record, execution_id=execution_id, first=0)
        first = entry.events_to - len(told) + 1
        if first + len(told) - 1 > after:
            told = events_of(record, execution_id=execution_id, first=first)
            events += [event.to_dict() for event in told if event.seq is not None and event.seq > after]
    return {"events": events, "next": events[-1]["seq"] if events else after}


def describe_row(row: ExecutionRow) -> dict[str, Any]:
    """A row as JSON data, instants in ISO 8601."""
    plain = asdict(row)
    for name in ("created_at", "updated_at", "wake_at"):
        value = plain[name]
        plain[name] = None if value is None else datetime.fromtimestamp(value, UTC).isoformat()
    return plain


def describe_pending(row: PendingRow) -> dict[str, Any]:
    """A call that waits, and which verdicts can be its answer, as data."""
    return {**asdict(row), "verdicts": verdicts(row)}


async def read_show(store: Store, execution_id: str, *, steps: int = 200) -> dict[str, Any]:
    """All about one execution, for an operator: row, host, deployment, pending calls, the last `steps` records."""
    row = await store.row(execution_id)
    deployment = await store.deployment(row.deployment_id)
    shown = describe_row(row)
    shown["deployment"] = (
        None
        if deployment is None
        else {
            "deployment_id": deployment.deployment_id,
            "source": deployment.source,
            "reference": deployment.reference,
            "kind": deployment.kind,
            "spec": deployment.spec,
        }
    )
    shown["pending_calls"] = [describe_pending(waiting) for waiting in await store.pending(execution_id)]
    entries = await store.journal(execution_id, after_seq=max(-1, row.seq - steps), limit=steps)
    shown["steps"] = [{"seq": entry.seq, "kind": entry.kind, "epoch": entry.epoch, **entry.body} for entry in entries]
    shown["attempts"] = {
        f"{entry.body.get('name', 'model')}:{entry.body.get('call_id', entry.seq)}": entry.body.get("attempt", 1)
        for entry in entries
        if entry.kind in ("model", "tool", "tool_failed")
    }
    return shown
