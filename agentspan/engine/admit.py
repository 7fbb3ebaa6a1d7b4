"""What a signal means for the state it meets.

The store accepted the signal and keeps it until a record that names it is committed; so a signal takes effect exactly
when that record lands, once, however often it is read from the inbox (P5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from agentspan.engine import records as r
from agentspan.engine.state import ExecutionState

SignalKind = Literal["approve", "reject", "respond", "message", "pause", "resume", "stop", "cancel", "guide"]

DECISIONS: frozenset[str] = frozenset({"approve", "reject", "respond"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """An input to an execution, stored before it is acknowledged."""

    signal_id: str
    """Made by the client, so that sending it again is sending the same one."""
    execution_id: str
    kind: SignalKind
    call_id: str | None = None
    """For decisions: the call it is about; None when only one waits."""
    arguments_hash: str | None = None
    """For decisions: what the person was shown; None when nothing was shown."""
    arguments: dict[str, Any] | None = None
    """approve: edited arguments."""
    value: Any = None
    """respond: the answer. message: the message."""
    text: str = ""
    """reject, cancel: the reason. guide: the note."""
    by: str = ""
    """Who sent it, for the record."""
    at: float = 0.0


def admit(state: ExecutionState, signal: Signal, now: float) -> r.AnyRecord | None:
    """The record a signal becomes, or None if there is nothing left for it to change."""
    if state.is_finished:
        return None
    if signal.kind == "message":
        return r.MessageReceived(at=now, signal_id=signal.signal_id, message=signal.value, by=signal.by)
    if signal.kind not in DECISIONS:
        return r.Controlled(at=now, signal_id=signal.signal_id, command=signal.kind, text=signal.text, by=signal.by)  # type: ignore[arg-type]
    for frame, call in state.open_asks():
        if call.call_id != signal.call_id or call.ask == "message":
            continue
        if signal.arguments_hash not in (None, call.arguments_hash):
            return None
        return r.Decided(
            at=now,
            signal_id=signal.signal_id,
            path=frame.path,
            call_id=call.call_id,
            name=call.name,
            verdict=signal.kind,  # type: ignore[arg-type]
            arguments=signal.arguments,
            reason=signal.text,
            value=signal.value,
            by=signal.by,
        )
    return None
