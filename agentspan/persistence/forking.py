"""The state of a native execution after any of its steps, as the start of another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentspan.engine.apply import apply
from agentspan.engine.records import from_plain
from agentspan.engine.state import ROOT, ExecutionState, Frame, to_snapshot
from agentspan.errors import ConfigurationError
from agentspan.persistence.loading import load_state
from agentspan.persistence.store import Store
from agentspan.wording import a

CHANGES = frozenset({"messages", "state"})
"""What a fork may change: the conversation, and what tools share in `ToolContext.state`."""


def check_changes(execution_id: str, changes: Any) -> None:
    """Refuse what a fork of a native execution cannot change, before anything is started.

    Raises:
        ConfigurationError: Says what fits.
    """
    problem = _problem(changes)
    if problem:
        raise ConfigurationError(
            problem=f"A fork of execution {execution_id!r} {problem}. What can be changed is "
            '{"messages": [a chat message with a role, ...]}, the whole conversation, and {"state": {...}}, what tools share.'
        )


def _problem(changes: Any) -> str:
    if not isinstance(changes, Mapping):
        return f"cannot be changed by {a(type(changes).__name__)}"
    unknown = sorted(str(name) for name in set(changes) - CHANGES)
    if unknown:
        return f"cannot change {', '.join(unknown)}"
    messages = changes.get("messages", [{"role": "user"}])
    if not (
        isinstance(messages, list)
        and messages
        and all(isinstance(message, dict) and isinstance(message.get("role"), str) for message in messages)
    ):
        return "cannot go on with these messages"
    if not isinstance(changes.get("state", {}), dict):
        return f"cannot have {a(type(changes['state']).__name__)} as its state"
    return ""


async def state_after(store: Store, execution_id: str, seq: int | None) -> ExecutionState:
    """The state after the record `seq`; None is the last.

    An execution that goes on from another one (a session, a fork) has that one's conversation from its second step on;
    the state before is the one with it.

    Raises:
        UnknownExecutionError: No such execution.
        ConfigurationError: It has no such step.
    """
    if seq is None:
        return load_state(await store.load(execution_id))
    last = (await store.row(execution_id)).seq
    if not 0 <= seq <= last:
        raise ConfigurationError(problem=f"Execution {execution_id!r} has no step {seq}; its steps are 0 to {last}.")
    state = ExecutionState(execution_id=execution_id)
    while state.seq < seq or (not state.session_loaded and state.seq < last):
        for entry in await store.journal(execution_id, after_seq=state.seq, limit=min(500, max(1, seq - state.seq))):
            apply(state, from_plain(entry.kind, entry.body))
    return state


async def check_agent(store: Store, execution_id: str, seq: int | None, spec: Mapping[str, Any]) -> None:
    """Refuse another agent for a state in the middle of calls that it does not know.

    Raises:
        ConfigurationError: Names the tools that it lacks.
    """
    state = await state_after(store, execution_id, seq)
    calls = [call for frame in state.frames.values() for call in frame.calls if call.phase != "done"]
    missing = sorted({call.name for call in calls if call.name not in spec.get("tools", ())})
    if missing:
        raise ConfigurationError(
            problem=f"Execution {execution_id!r} cannot be forked with this agent: the state has calls of "
            f"{', '.join(missing)}, which {spec.get('name')!r} does not have. Fork a step before, or change the messages."
        )


async def forked_snapshot(store: Store, fork: ExecutionState) -> dict[str, Any]:
    """The snapshot that a fork goes on from: another execution's state, with the changes asked for."""
    assert fork.forked_from is not None, "only a fork is forked"
    origin = await state_after(store, fork.forked_from, fork.forked_step)
    changes = fork.forked_state or {}
    if "messages" in changes:
        # Another conversation: neither what the old one was about to do is part of it, nor the turns it has had.
        origin.frames = {ROOT: Frame(path=ROOT, agent=origin.root.agent, messages=list(changes["messages"]))}
    origin.shared.update(changes.get("state") or {})
    origin.root.agent = fork.agent  # Which may be another one, that goes on in its place.
    for frame in origin.frames.values():
        # Attempts are counted anew: the fork has tried nothing yet, and a model that failed is asked again.
        frame.model_attempt, frame.model_failures, frame.model_retry_at, frame.model_error = 1, 0, None, None
        for call in frame.calls:
            call.attempt, call.failures, call.retry_at = 1, 0, None
    return to_snapshot(origin)
