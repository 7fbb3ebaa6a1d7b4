"""What users read: status, pending calls, result. Pure functions of a state (and, for what it cannot know, a row's data)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Protocol

from agentspan.agents.results import AgentResult, AgentStatus, PendingTool, Status, TokenUsage, ToolCallRecord
from agentspan.engine.answers import verdicts
from agentspan.engine.decide import CallModel, CallTool, CheckStop, Effect, LoadFork, RunGraph
from agentspan.engine.state import ROOT, Call, ExecutionState, Frame, PastCall, edit_notice


class Waiting(Protocol):
    """A call that waits for a decision, as the store keeps it."""

    @property
    def call_id(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def ask(self) -> str: ...
    @property
    def tool(self) -> str: ...
    @property
    def arguments(self) -> dict[str, Any] | None: ...
    @property
    def arguments_hash(self) -> str: ...
    @property
    def question(self) -> str: ...
    @property
    def response_schema(self) -> dict[str, Any] | None: ...
    @property
    def form(self) -> dict[str, Any]: ...
    @property
    def asked_at(self) -> float: ...


def status_of(state: ExecutionState) -> Status:
    """RUNNING while anything is or could be under way, WAITING when only people, messages or timers can go on."""
    if state.is_finished:
        return state.status
    if state.paused:
        return Status.PAUSED
    frames = state.frames.values()
    if any(call.phase == "ready" for frame in frames for call in frame.calls):
        return Status.RUNNING
    return Status.WAITING if state.open_asks() else Status.RUNNING


def current_task(
    state: ExecutionState, effects: Sequence[Effect], notes: Mapping[Effect, str] = MappingProxyType({})
) -> str:
    """What the execution is doing, in a few words; empty when it has ended. `notes` say more of an effect."""
    if state.is_finished:
        return ""
    names = []
    for effect in effects:
        match effect:
            case CallModel():
                names.append(_noted(f"model:turn-{effect.turn}", notes.get(effect)))
            case CallTool():
                call = state.call(effect.path, effect.call_id)
                names.append(_noted(f"tool:{call.name if call else effect.call_id}", notes.get(effect)))
            case CheckStop():
                names.append("stop_when")
            case RunGraph():
                frame = state.frames[effect.path]
                running = frame.graph.running.values() if frame.graph else ()
                names += [f"node:{name}" for name in running] or ["graph"]
            case LoadFork():
                names.append("fork")
            case _:
                names.append("session")
    if not names:
        names = [f"waiting:{call.name}" for _, call in state.open_asks()]
    if not names and state.root.model_retry_at is not None:
        names = ["model:retry"]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _noted(name: str, note: str | None) -> str:
    return f"{name} ({note})" if note else name


def agent_status(state: ExecutionState, *, status: str, current: str, pending: Iterable[Waiting]) -> AgentStatus:
    """The status a user sees. `pending` are the stored calls that are not decided yet, so an accepted decision shows at once."""
    stands = Status(status)
    waits = [_pending_tool(row, state) for row in pending]
    return AgentStatus(
        execution_id=state.execution_id,
        status=stands,
        is_complete=stands.is_settled,
        is_running=stands in (Status.RUNNING, Status.QUEUED),
        is_waiting=bool(waits) and not stands.is_settled,
        reason=state.error or (state.finish_reason.value if state.finish_reason else None),
        output=state.output,
        current_task=current or None,
        messages=state.root.messages,
        pending_tool=waits[0] if waits else None,
        pending=waits,
    )


def _pending_tool(row: Waiting, state: ExecutionState) -> PendingTool:
    frame = state.frames.get(row.path)
    return PendingTool(
        call_id=row.call_id,
        tool_name=row.tool,
        arguments=row.arguments or {},
        kind=row.ask,
        question=row.question,
        response_schema=row.response_schema,
        arguments_hash=row.arguments_hash,
        asked_at=_instant(row.asked_at),
        agent_name=frame.agent if frame else state.agent,
        verdicts=tuple(verdicts(row)),
    )


def agent_result(state: ExecutionState) -> AgentResult:
    """The result of an execution that has ended."""
    return AgentResult(
        output=state.output,
        execution_id=state.execution_id,
        status=state.status,
        finish_reason=state.finish_reason,
        error=state.error,
        token_usage=TokenUsage(
            prompt_tokens=state.prompt_tokens,
            completion_tokens=state.completion_tokens,
            total_tokens=state.total_tokens,
        ),
        messages=state.root.messages,
        tool_calls=tool_calls(state),
        session_id=state.session_id,
        metadata=state.metadata,
    )


def tool_calls(state: ExecutionState) -> list[ToolCallRecord]:
    """Every tool call of the root frame, in order; the finished ones put together again from the conversation."""
    frame = state.frames.get(ROOT)
    if frame is None:
        return []
    return [*_past_calls(frame), *(_present_call(call) for call in frame.calls)]


def _past_calls(frame: Frame) -> Iterable[ToolCallRecord]:
    arguments: dict[str, str] = {}
    results: dict[str, str] = {}
    for message in frame.messages:
        for call in message.get("tool_calls") or ():
            arguments[call["id"]] = call["function"]["arguments"]
        if message.get("role") == "tool":
            results[message["tool_call_id"]] = message["content"]
    for past in frame.past_calls:
        yield _past_call(past, arguments.get(past.call_id, "{}"), results.get(past.call_id, ""))


def _past_call(past: PastCall, arguments: str, content: str) -> ToolCallRecord:
    failed = past.outcome in ("failed", "rejected")
    content = content.removeprefix(edit_notice(past.edited))
    return ToolCallRecord(
        call_id=past.call_id,
        name=past.name,
        arguments=_parse(arguments) if past.edited is None else past.edited,
        result=None if failed else content if past.text_result else json.loads(content),
        error=content if failed else None,
        attempts=past.attempts,
        status=past.outcome,
        decided_by=past.decided_by,
        decided_at=_instant(past.decided_at),
    )


def _present_call(call: Call) -> ToolCallRecord:
    return ToolCallRecord(
        call_id=call.call_id,
        name=call.name,
        arguments=call.arguments or {},
        result=call.result,
        error=call.error,
        attempts=call.attempt,
        status=call.outcome or call.phase,
        decided_by=call.decided_by,
        decided_at=_instant(call.decided_at),
    )


def _parse(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {"": text}
    return value if isinstance(value, dict) else {"": value}


def _instant(at: float | None) -> datetime | None:
    return None if at is None else datetime.fromtimestamp(at, UTC)
