"""What should happen next, as a function of the state alone.

The driver asks after every commit and performs what it is told; an effect that is under way already is named again and
again until its record is in, so a driver that lost its memory (a crash) is told the same. `records` are what the engine
can say by itself, without anybody doing anything: they are committed first.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import assert_never

from agentspan.agents.spec import AgentSpec, OnCrash, ToolKind
from agentspan.engine import records as r
from agentspan.engine.state import ROOT, Call, ExecutionState, Frame, GraphRun

REASKS_MAX = 3
"""How often a model is asked again for output that fits the type, before the execution fails."""


@dataclass(frozen=True, slots=True)
class CallModel:
    """Ask the model for the next turn of a frame."""

    path: str
    turn: int
    attempt: int


@dataclass(frozen=True, slots=True)
class CallTool:
    """Run one attempt of a tool call."""

    path: str
    call_id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class CheckStop:
    """Ask the agent's `stop_when`."""

    path: str
    turn: int


@dataclass(frozen=True, slots=True)
class LoadSession:
    """Fetch the conversation of the session's previous execution."""

    execution_id: str


@dataclass(frozen=True, slots=True)
class LoadFork:
    """Fetch the state of the execution this one was forked from."""

    execution_id: str


@dataclass(frozen=True, slots=True)
class RunGraph:
    """Run a graph until it ends, waits for people, or is asked to hold."""

    path: str
    run: int
    attempt: int


Effect = CallModel | CallTool | CheckStop | LoadSession | LoadFork | RunGraph


@dataclass(slots=True)
class Decision:
    """What comes next. Nothing in it, with an unfinished state, means: wait for a signal, or for `wake_at`."""

    effects: list[Effect] = field(default_factory=list)
    records: list[r.AnyRecord] = field(default_factory=list)
    drain: bool = False
    """Let what is under way finish, and decide again, before `records` are committed."""
    wake_at: float | None = None
    """The earliest instant (UTC seconds) at which the answer would be another by time alone."""

    def wake_by(self, at: float | None) -> None:
        if at is not None and (self.wake_at is None or at < self.wake_at):
            self.wake_at = at


def decide(state: ExecutionState, spec: AgentSpec, now: float) -> Decision:
    """Say what happens next; do none of it."""
    decision = Decision()
    if state.is_finished:
        return decision
    ending = _ending(state, now)
    if ending is not None:
        decision.records.append(ending)
        return decision
    decision.wake_by(state.deadline_at)
    if state.paused:
        if state.stopping:
            _stop_held(state, spec, now, decision)
        return decision
    if not state.session_loaded:
        origin = state.forked_from
        decision.effects.append(LoadSession(str(state.session_from)) if origin is None else LoadFork(origin))
        return decision
    for frame in state.frames.values():
        if frame.graph is not None:
            _graph(state, frame, frame.graph, now, decision)
        elif frame.calls:
            _turn_in_progress(state, frame, spec, now, decision)
        else:
            _between_turns(state, frame, spec, now, decision)
    return decision


def _ending(state: ExecutionState, now: float) -> r.Finished | None:
    """An end that waits for nothing that is under way."""
    if state.cancelled:
        return r.Finished(
            at=now,
            status="TERMINATED",
            finish_reason="cancelled",
            error=state.cancel_reason or None,
            output=_text(state),
        )
    if state.deadline_at is not None and now >= state.deadline_at:
        return r.Finished(
            at=now,
            status="TIMED_OUT",
            finish_reason="timeout",
            output=_text(state),
            error=f"The execution did not finish within its {state.timeout_s:g} s.",
        )
    return None


def _text(state: ExecutionState) -> str | None:
    return state.root.answer or None


def _graph(state: ExecutionState, frame: Frame, graph: GraphRun, now: float, decision: Decision) -> None:
    if frame.model_error is not None:
        decision.records.append(r.Finished(at=now, status="FAILED", finish_reason="error", error=frame.model_error))
    elif graph.ended:
        decision.records.append(r.Finished(at=now, status="COMPLETED", finish_reason="stop", output=frame.output))
    elif state.stopping:
        # What runs is let come to the next step border; what it has done is in its thread.
        decision.records.append(_stopped(state, now))
        decision.drain = True
    elif not frame.calls:
        decision.effects.append(RunGraph(frame.path, graph.run, graph.attempt))


def _turn_in_progress(state: ExecutionState, frame: Frame, spec: AgentSpec, now: float, decision: Decision) -> None:
    running = False
    queued = len(state.queue)
    for call in frame.calls:
        if call.phase == "ready":
            running = True
            if call.retry_at is not None and call.retry_at > now:
                decision.wake_by(call.retry_at)
            else:
                decision.effects.append(CallTool(frame.path, call.call_id, call.attempt))
        elif call.phase == "asking" and call.ask == "message":
            tool = spec.tools.get(call.name)
            take = min(queued, tool.batch_size if tool else 1)
            if take or (tool and not tool.blocking):
                start = len(state.queue) - queued
                decision.records.append(
                    r.MessagesDelivered(
                        at=now,
                        path=frame.path,
                        call_id=call.call_id,
                        name=call.name,
                        messages=state.queue[start : start + take],
                    )
                )
                queued -= take
    if state.stopping and not running and not decision.records:
        # Only calls that wait for people are left; a stop does not wait for them.
        decision.records.append(_stopped(state, now))
        decision.drain = True


def _between_turns(state: ExecutionState, frame: Frame, spec: AgentSpec, now: float, decision: Decision) -> None:
    if frame.model_error is not None:
        decision.records.append(
            r.Finished(at=now, status="FAILED", finish_reason="error", error=frame.model_error, output=_text(state))
        )
    elif frame.answered:
        assert frame.path == ROOT, "only the root's answer ends the execution"
        decision.records.append(
            r.Finished(
                at=now,
                status="COMPLETED",
                finish_reason="length" if frame.last_finish == "length" else "stop",
                output=frame.output if spec.output_schema is not None else frame.answer,
            )
        )
    elif state.stopping or frame.stop_met:
        # A model call may be under way: what it answers is paid for, so it is recorded before the end.
        decision.records.append(_stopped(state, now))
        decision.drain = True
    elif spec.has_stop_when and frame.turn > frame.stop_checked_turn:
        decision.effects.append(CheckStop(frame.path, frame.turn))
    elif frame.reasks > REASKS_MAX:
        error = f"The model's answer did not fit the output type {spec.output_name} in {frame.reasks} tries."
        decision.records.append(
            r.Finished(at=now, status="FAILED", finish_reason="error", error=error, output=_text(state))
        )
    elif frame.turn >= spec.max_turns:
        error = f"The agent did not come to an answer within {spec.max_turns} turns (max_turns)."
        decision.records.append(
            r.Finished(at=now, status="FAILED", finish_reason="max_turns", error=error, output=_text(state))
        )
    elif frame.model_retry_at is not None and frame.model_retry_at > now:
        decision.wake_by(frame.model_retry_at)
    else:
        decision.effects.append(CallModel(frame.path, frame.turn + 1, frame.model_attempt))


def _stop_held(state: ExecutionState, spec: AgentSpec, now: float, decision: Decision) -> None:
    """A stop while it is paused. Nothing new is started, so there is only what is under way to wait for."""
    root = state.root
    # It may have come to its end already; a stop does not take that away.
    if root.graph is not None:
        _graph(state, root, root.graph, now, decision)
    elif not root.calls and (root.answered or root.model_error is not None):
        _between_turns(state, root, spec, now, decision)
    else:
        decision.records.append(_stopped(state, now))
        decision.drain = True


def _stopped(state: ExecutionState, now: float) -> r.Finished:
    return r.Finished(at=now, status="COMPLETED", finish_reason="stopped", output=_text(state))


def recover(state: ExecutionState, spec: AgentSpec, *, epoch: int, now: float) -> r.Recovered:
    """What a new incarnation has to record before it does anything, when the last one died (P3).

    Everything `decide` names may have been in flight. A pause may have come after the flight began, so it does not count.
    """
    paused, state.paused = state.paused, False
    try:
        effects = decide(state, spec, now).effects
    finally:
        state.paused = paused
    lost: list[r.InterruptedCall] = []
    models: list[str] = []
    graphs: list[str] = []
    for effect in effects:
        match effect:
            case CallTool():
                call = state.call(effect.path, effect.call_id)
                assert call is not None
                lost.append(_interrupted(effect.path, call, spec))
            case CallModel():
                models.append(effect.path)
            case RunGraph():
                graphs.append(effect.path)
            case CheckStop() | LoadSession() | LoadFork():
                pass  # They only read; running them again changes nothing.
            case _:
                assert_never(effect)
    return r.Recovered(at=now, epoch=epoch, calls=tuple(lost), models=tuple(models), graphs=tuple(graphs))


def _interrupted(path: str, call: Call, spec: AgentSpec) -> r.InterruptedCall:
    tool = spec.tools.get(call.name)
    on_crash = tool.on_crash if tool else OnCrash.RETRY
    ask = on_crash is OnCrash.ASK
    return r.InterruptedCall(
        path=path,
        call_id=call.call_id,
        name=call.name,
        attempt=call.attempt,
        action=on_crash.value,
        arguments=call.arguments if ask else None,
        arguments_hash=call.arguments_hash if ask else "",
    )


def ask_for(spec: AgentSpec, name: str) -> r.Ask | None:
    """Why a call of this tool has to wait before it runs, or None."""
    tool = spec.tools.get(name)
    if tool is None:
        return None
    if tool.kind is ToolKind.HUMAN:
        return "question"
    if tool.kind is ToolKind.MESSAGE:
        return "message"
    return "approval" if tool.approval_required else None
