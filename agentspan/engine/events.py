"""What a reader of the event stream is told by each record.

Events are not stored: they are read off the journal, so they cost nothing to write and cannot disagree with it. Each
record tells a fixed number of events, a function of the record alone; numbering them in order gives the gap-free
sequence that readers resume from (P10). Therefore the number of events a stored record tells must never change.

The `data` of a `waiting` event has `asks`, how many calls began to wait with it, and `verdicts` where a graph asks.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from agentspan.agents.events import AgentEvent, EventType
from agentspan.engine import records as r
from agentspan.engine.answers import verdicts
from agentspan.engine.state import from_snapshot


def events_of(record: r.AnyRecord, *, execution_id: str, first: int) -> list[AgentEvent]:
    """The events a record tells, numbered from `first`."""
    at = datetime.fromtimestamp(record.at, UTC)
    return [
        AgentEvent(execution_id=execution_id, seq=first + index, at=at, **fields)
        for index, fields in enumerate(_TELL[type(record)](record))
    ]


def count_events(record: r.AnyRecord) -> int:
    """How many events a record tells."""
    return len(_TELL[type(record)](record))


Fields = dict[str, Any]


def _started(record: r.Started) -> list[Fields]:
    return [{"type": EventType.STARTED, "content": record.prompt if isinstance(record.prompt, str) else None}]


def _nothing(record: r.Record) -> list[Fields]:
    return []


def _recovered(record: r.Recovered) -> list[Fields]:
    lost = [{"call_id": call.call_id, "tool_name": call.name, "attempt": call.attempt} for call in record.calls]
    told: list[Fields] = [
        {
            "type": EventType.RECOVERED,
            "content": f"recovered as epoch {record.epoch}",
            "data": {"epoch": record.epoch, "calls": lost, "models": [*record.models, *record.graphs]},
        }
    ]
    asks = sum(call.action == "ask" for call in record.calls)
    for call in record.calls:
        where = {"tool_name": call.name, "call_id": call.call_id, "attempt": call.attempt, "agent_path": call.path}
        if call.action == "ask":
            told.append(
                {
                    "type": EventType.WAITING,
                    **where,
                    "args": call.arguments,
                    "data": {"ask": "crash", "arguments_hash": call.arguments_hash, "asks": asks},
                }
            )
        elif call.action == "fail":
            told.append({"type": EventType.TOOL_RESULT, **where, "data": {"error": "outcome unknown after a crash"}})
    return told


def _forked(record: r.Forked) -> list[Fields]:
    """What waits for somebody in the state that it goes on from waits anew, and readers have not heard of it."""
    try:
        open_asks = from_snapshot(record.snapshot).open_asks() if record.snapshot is not None else []
    except ValueError:
        return []  # It cannot be applied either, which says so.
    return [
        {
            "type": EventType.WAITING,
            "tool_name": call.name,
            "call_id": call.call_id,
            "agent_path": frame.path,
            "args": call.arguments,
            "content": call.plan.question or None,
            "data": {"ask": call.ask, "arguments_hash": call.arguments_hash, "asks": len(open_asks)},
        }
        for frame, call in open_asks
    ]


def _model(record: r.ModelAnswered) -> list[Fields]:
    told: list[Fields] = []
    path = record.path
    if record.thinking:
        told.append({"type": EventType.THINKING, "content": record.thinking, "agent_path": path})
    if record.text:
        told.append({"type": EventType.MESSAGE, "content": record.text, "agent_path": path})
    asks = sum(call.ask is not None and call.error is None for call in record.calls)
    for call in record.calls:
        where = {"tool_name": call.name, "call_id": call.call_id, "agent_path": path}
        told.append({"type": EventType.TOOL_CALL, **where, "args": call.arguments})
        if call.error is not None:
            told.append({"type": EventType.TOOL_RESULT, **where, "data": {"error": call.error}})
        elif call.ask is not None:
            data = {"ask": call.ask, "arguments_hash": call.arguments_hash, "asks": asks}
            told.append(
                {
                    "type": EventType.WAITING,
                    **where,
                    "args": call.arguments,
                    "content": call.question or None,
                    "data": data,
                }
            )
    return told


def _model_failed(record: r.ModelFailed) -> list[Fields]:
    # A final failure is told once, by the `Finished` record that follows from it.
    if record.retry_at is None:
        return []
    return [
        {
            "type": EventType.ERROR,
            "content": record.error,
            "attempt": record.attempt,
            "will_retry": True,
            "agent_path": record.path,
        }
    ]


def _tool(record: r.ToolReturned) -> list[Fields]:
    return [{"type": EventType.TOOL_RESULT, **_where(record), "attempt": record.attempt, "result": record.result}]


def _tool_failed(record: r.ToolFailed) -> list[Fields]:
    fields: Fields = {**_where(record), "attempt": record.attempt}
    if record.retry_at is not None:
        return [{"type": EventType.ERROR, **fields, "content": record.error, "will_retry": True}]
    return [{"type": EventType.TOOL_RESULT, **fields, "data": {"error": record.error}}]


def _tool_lost(record: r.ToolLost) -> list[Fields]:
    return [
        {
            "type": EventType.WAITING,
            **_where(record),
            "attempt": record.attempt,
            "args": record.arguments,
            "content": record.error,
            "data": {"ask": "crash", "arguments_hash": record.arguments_hash, "asks": 1},
        }
    ]


def _decided(record: r.Decided) -> list[Fields]:
    data = {"verdict": record.verdict, "by": record.by, "edited": record.arguments is not None}
    told: list[Fields] = [
        {
            "type": EventType.DECISION,
            **_where(record),
            "content": record.reason or None,
            "args": record.arguments,
            "data": data,
        }
    ]
    if record.verdict == "reject":
        told.append({"type": EventType.TOOL_RESULT, **_where(record), "data": {"error": f"rejected: {record.reason}"}})
    elif record.verdict == "respond":
        told.append({"type": EventType.TOOL_RESULT, **_where(record), "result": record.value})
    return told


def _message(record: r.MessageReceived) -> list[Fields]:
    content = record.message if isinstance(record.message, str) else None
    return [
        {
            "type": EventType.SIGNAL,
            "content": content,
            "data": {"command": "message", "message": record.message, "by": record.by},
        }
    ]


def _delivered(record: r.MessagesDelivered) -> list[Fields]:
    return [{"type": EventType.TOOL_RESULT, **_where(record), "result": record.messages}]


def _control(record: r.Controlled) -> list[Fields]:
    return [
        {"type": EventType.SIGNAL, "content": record.text or None, "data": {"command": record.command, "by": record.by}}
    ]


def _finished(record: r.Finished) -> list[Fields]:
    told: list[Fields] = []
    if record.status in ("FAILED", "TIMED_OUT"):
        told.append({"type": EventType.ERROR, "content": record.error, "will_retry": False})
    told.append(
        {
            "type": EventType.DONE,
            "output": record.output,
            "data": {"status": record.status, "finish_reason": record.finish_reason, "error": record.error},
        }
    )
    return told


def _graph_told(record: r.GraphTold) -> list[Fields]:
    return [{"agent_path": record.path, **told, "type": EventType(told["type"])} for told in record.told]


def _graph_waits(record: r.GraphWaits) -> list[Fields]:
    return [
        {
            "type": EventType.WAITING,
            "tool_name": ask.name,
            "call_id": ask.call_id,
            "agent_path": record.path,
            "args": ask.arguments,
            "content": ask.question or None,
            "data": {
                "ask": ask.ask,
                "arguments_hash": ask.arguments_hash,
                "asks": len(record.asks),
                "verdicts": verdicts(ask),
            },
        }
        for ask in record.asks
    ]


def _where(record: Any) -> Fields:
    return {"tool_name": record.name, "call_id": record.call_id, "agent_path": record.path}


_TELL: dict[type[r.Record], Callable[[Any], list[Fields]]] = {
    r.Started: _started,
    r.SessionLoaded: _nothing,
    r.Recovered: _recovered,
    r.ModelAnswered: _model,
    r.ModelFailed: _model_failed,
    r.ToolReturned: _tool,
    r.ToolFailed: _tool_failed,
    r.ToolLost: _tool_lost,
    r.Decided: _decided,
    r.MessageReceived: _message,
    r.MessagesDelivered: _delivered,
    r.Controlled: _control,
    r.StopChecked: _nothing,
    r.Forked: _forked,
    r.GraphTold: _graph_told,
    r.GraphWaits: _graph_waits,
    r.GraphHeld: _nothing,
    r.GraphEnded: _nothing,
    r.GraphFailed: _nothing,
    r.Finished: _finished,
}
