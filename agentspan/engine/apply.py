"""One record onto a state: the only code that changes one.

`apply` checks that the record fits before it changes anything, so a broken invariant stops the incarnation with the
state still good. The same function builds the state while running and when it is loaded, so the two cannot differ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agentspan.agents.results import FinishReason, Status
from agentspan.engine import apply_graph
from agentspan.engine import records as r
from agentspan.engine.answers import resume_value
from agentspan.engine.events import count_events
from agentspan.engine.misfit import misfit
from agentspan.engine.state import (
    ROOT,
    Call,
    ExecutionState,
    Frame,
    GraphRun,
    PastCall,
    from_snapshot,
    tool_message,
)


def apply(state: ExecutionState, record: r.AnyRecord) -> None:
    """Advance `state` by one record.

    Raises:
        UnexpectedRecordError: The record does not fit; the state is unchanged.
    """
    if state.is_finished:
        misfit(state, record, f"the execution ended as {state.status.value}")
    if (state.seq < 0) != isinstance(record, r.Started):
        misfit(state, record, "an execution starts with exactly one 'started' record")
    _HANDLERS[type(record)](state, record)
    state.seq += 1
    state.events += count_events(record)
    state.updated_at = record.at


def _frame(state: ExecutionState, record: Any) -> Frame:
    frame = state.frames.get(record.path)
    if frame is None:
        misfit(state, record, f"there is no frame {record.path!r}")
        raise AssertionError
    return frame


def _call(state: ExecutionState, record: Any, *phases: str) -> tuple[Frame, Call]:
    frame = _frame(state, record)
    call = next((call for call in frame.calls if call.call_id == record.call_id), None)
    if call is None:
        misfit(state, record, f"call {record.call_id!r} is not part of the current turn")
        raise AssertionError
    if call.phase not in phases:
        misfit(state, record, f"call {record.call_id!r} is {call.phase}, not {' or '.join(phases)}")
    return frame, call


def _awaiting_model(state: ExecutionState, record: Any) -> Frame:
    frame = _frame(state, record)
    if (
        frame.calls
        or frame.answered
        or frame.model_error is not None
        or frame.graph is not None
        or not state.session_loaded
    ):
        misfit(state, record, "no model call was due")
    return frame


def _started(state: ExecutionState, record: r.Started) -> None:
    state.agent = record.agent
    state.prompt = record.prompt
    state.session_id = record.session_id
    state.session_from = record.session_from
    state.session_loaded = record.session_from is None and record.forked_from is None
    state.forked_from, state.forked_step, state.forked_state = (
        record.forked_from,
        record.forked_step,
        record.forked_state,
    )
    state.start = record.graph
    state.metadata = record.metadata
    state.started_at = record.at
    state.timeout_s = record.timeout_s
    state.deadline_at = record.at + record.timeout_s if record.timeout_s else None
    prompt = record.prompt
    if record.graph is not None:
        state.frames[ROOT] = Frame(path=ROOT, agent=record.agent, graph=GraphRun())
        return
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt or ())
    state.frames[ROOT] = Frame(path=ROOT, agent=record.agent, messages=messages)


def _forked(state: ExecutionState, record: r.Forked) -> None:
    if state.session_loaded or state.forked_from is None:
        misfit(state, record, "it is not a fork, or has its state already")
    if record.error is not None:
        state.session_loaded, state.root.model_error = True, record.error
        return
    if (record.snapshot is None) != (state.start is not None):
        misfit(state, record, "an agent goes on from a snapshot, a graph from its thread")
    if record.snapshot is None:
        state.session_loaded = True
        return
    try:
        origin = from_snapshot(record.snapshot)
    except ValueError as problem:
        misfit(state, record, str(problem))
        raise AssertionError from problem
    state.session_loaded = True
    state.frames, state.shared, state.queue, state.guidance = (
        origin.frames,
        origin.shared,
        origin.queue,
        origin.guidance,
    )


def _session_loaded(state: ExecutionState, record: r.SessionLoaded) -> None:
    if state.session_loaded or state.forked_from is not None:
        misfit(state, record, "it continues no session, or has its conversation already")
    state.root.messages[:0] = record.messages
    state.session_loaded, state.root.model_error = True, record.error


def _recovered(state: ExecutionState, record: r.Recovered) -> None:
    calls = [(lost, state.call(lost.path, lost.call_id)) for lost in record.calls]
    for lost, call in calls:
        if call is None or call.phase != "ready":
            misfit(state, record, f"call {lost.call_id!r} was not in flight")
    for path in record.models:
        frame = state.frames.get(path)
        if frame is None or frame.calls or frame.answered or frame.graph is not None or not state.session_loaded:
            misfit(state, record, f"no model call of frame {path!r} was in flight")
    for path in record.graphs:
        apply_graph.running_graph(state, record, path)
    state.recoveries += 1
    for path in record.graphs:
        graph = apply_graph.running_graph(state, record, path)
        graph.attempt += 1
        graph.running = {}
    for path in record.models:
        state.frames[path].model_attempt += 1
        state.frames[path].model_retry_at = None
    for lost, call in calls:
        assert call is not None
        call.retry_at = None
        match lost.action:
            case "retry":
                call.attempt += 1
            case "ask":
                call.phase, call.ask, call.asked_at = "asking", "crash", record.at
            case "fail":
                _done(call, "failed", error="The process running this call died; whether it took effect is unknown.")
    for frame in state.frames.values():
        _close_turn(state, frame)


def _model_answered(state: ExecutionState, record: r.ModelAnswered) -> None:
    frame = _awaiting_model(state, record)
    frame.turn += 1
    frame.model_attempt, frame.model_failures, frame.model_retry_at = 1, 0, None
    frame.last_finish = record.finish_reason
    state.model_calls += 1
    state.prompt_tokens += record.prompt_tokens
    state.completion_tokens += record.completion_tokens
    state.total_tokens += record.total_tokens
    message: dict[str, Any] = {"role": "assistant", "content": record.text}
    if record.calls:
        message["tool_calls"] = [
            {
                "id": call.call_id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.raw},
                **call.extra,
            }
            for call in record.calls
        ]
    frame.messages.append(message)
    if record.text:
        frame.answer = record.text
    if not record.calls:
        if record.output_error is None:
            frame.answered, frame.answer, frame.output = True, record.text, record.output
        else:
            frame.reasks += 1
            frame.messages.append({"role": "user", "content": record.output_error})
        return
    for plan in record.calls:
        frame.call_counts[plan.name] = frame.call_counts.get(plan.name, 0) + 1
        call = Call(plan=plan, phase="ready", arguments=plan.arguments)
        if plan.error is not None:
            _done(call, "failed", error=plan.error)
        elif plan.ask is not None:
            call.phase, call.ask, call.asked_at = "asking", plan.ask, record.at
        frame.calls.append(call)
    _close_turn(state, frame)


def _model_failed(state: ExecutionState, record: r.ModelFailed) -> None:
    frame = _awaiting_model(state, record)
    if record.retry_at is None:
        frame.model_error = record.error
    else:
        frame.model_attempt = record.attempt + 1
        frame.model_failures += 1
        frame.model_retry_at = record.retry_at


def _tool_returned(state: ExecutionState, record: r.ToolReturned) -> None:
    frame, call = _call(state, record, "ready")
    _done(call, "completed", result=record.result)
    for key in record.state_del:
        state.shared.pop(key, None)
    state.shared.update(record.state_set)
    _close_turn(state, frame)


def _tool_failed(state: ExecutionState, record: r.ToolFailed) -> None:
    frame, call = _call(state, record, "ready")
    if record.retry_at is not None:
        call.attempt, call.retry_at = record.attempt + 1, record.retry_at
        call.failures += 1
        return
    _done(call, "failed", error=record.error)
    _close_turn(state, frame)


def _tool_lost(state: ExecutionState, record: r.ToolLost) -> None:
    _, call = _call(state, record, "ready")
    call.retry_at = None
    call.phase, call.ask, call.asked_at = "asking", "crash", record.at


def _decided(state: ExecutionState, record: r.Decided) -> None:
    frame, call = _call(state, record, "asking")
    if call.ask == "message":
        misfit(state, record, f"call {record.call_id!r} waits for a message, not for a decision")
    call.decided_by, call.decided_at = record.by or None, record.at
    if call.ask in ("interrupt", "breakpoint"):
        answer = resume_value(
            call.plan, record.verdict, arguments=record.arguments, reason=record.reason, value=record.value
        )
        _done(call, "answered", result=answer)
        apply_graph.close_asks(state, record, frame)
        return
    match record.verdict:
        case "approve" if call.ask == "question":
            _done(call, "answered", result=True if record.value is None else record.value)
        case "approve":
            # A call whose outcome is unknown runs again as a new attempt; an approved one runs for the first time.
            if call.ask == "crash":
                call.attempt += 1
            call.phase, call.approved = "ready", True
            if record.arguments is not None:
                call.arguments = record.arguments
        case "reject":
            why = f": {record.reason}" if record.reason else "."
            _done(call, "rejected", error=f"A person rejected this call{why}")
        case "respond":
            _done(call, "answered", result=record.value)
    _close_turn(state, frame)


def _message_received(state: ExecutionState, record: r.MessageReceived) -> None:
    state.queue.append(record.message)


def _messages_delivered(state: ExecutionState, record: r.MessagesDelivered) -> None:
    frame, call = _call(state, record, "asking")
    if call.ask != "message" or len(record.messages) > len(state.queue):
        misfit(state, record, f"call {record.call_id!r} cannot take {len(record.messages)} messages")
    del state.queue[: len(record.messages)]
    _done(call, "completed", result=record.messages)
    _close_turn(state, frame)


def _controlled(state: ExecutionState, record: r.Controlled) -> None:
    match record.command:
        case "pause":
            state.paused = True
        case "resume":
            state.paused = False
        case "stop":
            state.stopping = True
        case "cancel":
            state.cancelled, state.cancel_reason = True, record.text
        case "guide":
            state.guidance = record.text


def _stop_checked(state: ExecutionState, record: r.StopChecked) -> None:
    frame = _frame(state, record)
    if frame.calls or record.turn != frame.turn or frame.stop_checked_turn == frame.turn:
        misfit(state, record, f"turn {record.turn} was not to be checked")
    frame.stop_checked_turn = record.turn
    frame.stop_met = record.stop
    if record.error is not None:
        frame.model_error = record.error


def _finished(state: ExecutionState, record: r.Finished) -> None:
    try:
        status, finish_reason = Status(record.status), FinishReason(record.finish_reason)
    except ValueError as problem:
        misfit(state, record, str(problem))
        raise AssertionError from problem
    if not status.is_terminal:
        misfit(state, record, f"{status.value} is no end")
    state.status, state.finish_reason = status, finish_reason
    state.output, state.error = record.output, record.error


def _done(call: Call, outcome: Any, *, result: Any = None, error: str | None = None) -> None:
    call.phase, call.outcome, call.result, call.error, call.retry_at = "done", outcome, result, error, None


def _close_turn(state: ExecutionState, frame: Frame) -> None:
    """Once every call of the turn is done, put all their results into the conversation, in the order they were asked."""
    if not frame.calls or any(call.phase != "done" for call in frame.calls):
        return
    for call in frame.calls:
        frame.messages.append(tool_message(call))
        frame.past_calls.append(
            PastCall(
                call_id=call.call_id,
                name=call.name,
                attempts=call.attempt,
                outcome=call.outcome,
                text_result=call.error is not None or isinstance(call.result, str),
                decided_by=call.decided_by,
                decided_at=call.decided_at,
                edited=call.edited,
            )
        )
    frame.calls = []


_HANDLERS: dict[type[r.Record], Callable[[ExecutionState, Any], None]] = {
    r.Started: _started,
    r.SessionLoaded: _session_loaded,
    r.Recovered: _recovered,
    r.ModelAnswered: _model_answered,
    r.ModelFailed: _model_failed,
    r.ToolReturned: _tool_returned,
    r.ToolFailed: _tool_failed,
    r.ToolLost: _tool_lost,
    r.Decided: _decided,
    r.MessageReceived: _message_received,
    r.MessagesDelivered: _messages_delivered,
    r.Controlled: _controlled,
    r.StopChecked: _stop_checked,
    r.Forked: _forked,
    r.GraphTold: apply_graph.graph_told,
    r.GraphWaits: apply_graph.graph_waits,
    r.GraphHeld: apply_graph.graph_held,
    r.GraphEnded: apply_graph.graph_ended,
    r.GraphFailed: apply_graph.graph_failed,
    r.Finished: _finished,
}
