"""The state of a native execution after any of its steps, as the start of another."""

from __future__ import annotations

from typing import Any

from agentspan.engine.apply import apply
from agentspan.engine.records import from_plain
from agentspan.engine.state import ExecutionState, to_snapshot
from agentspan.errors import ConfigurationError
from agentspan.persistence.loading import load_state
from agentspan.persistence.store import Store

CHANGES = frozenset({"messages", "state"})
"""What a fork may change: the conversation, and what tools share in `ToolContext.state`."""


async def state_after(store: Store, execution_id: str, seq: int | None) -> ExecutionState:
    """The state after the record `seq`; None is the last.

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
    while state.seq < seq:
        for entry in await store.journal(execution_id, after_seq=state.seq, limit=min(500, seq - state.seq)):
            apply(state, from_plain(entry.kind, entry.body))
    return state


async def forked_snapshot(store: Store, fork: ExecutionState) -> dict[str, Any]:
    """The snapshot that a fork goes on from: another execution's state, with the changes asked for."""
    assert fork.forked_from is not None, "only a fork is forked"
    origin = await state_after(store, fork.forked_from, fork.forked_step)
    root, changes = origin.root, fork.forked_state or {}
    if "messages" in changes:
        # Another conversation: what the old one was about to do is not part of it.
        root.messages = list(changes["messages"])
        root.calls, root.answered, root.output, root.model_error = [], False, None, None
    origin.shared.update(changes.get("state") or {})
    for frame in origin.frames.values():
        # Attempts are counted anew: the fork has tried nothing yet.
        frame.model_attempt, frame.model_failures, frame.model_retry_at = 1, 0, None
        for call in frame.calls:
            call.attempt, call.failures, call.retry_at = 1, 0, None
    return to_snapshot(origin)
