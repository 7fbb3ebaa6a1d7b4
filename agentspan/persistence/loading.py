"""Between stored rows and a state: the one way back (P11), and the rows for what waits."""

from __future__ import annotations

from collections.abc import Set

from agentspan.engine.apply import apply
from agentspan.engine.records import from_plain
from agentspan.engine.state import ExecutionState, from_snapshot
from agentspan.errors import CorruptRecordError, UnexpectedRecordError
from agentspan.persistence.store import Loaded, PendingRow


def load_state(loaded: Loaded) -> ExecutionState:
    """Build the state from a snapshot and the records after it.

    Raises:
        CorruptRecordError: Something stored does not add up; says which row.
    """
    execution_id = loaded.row.execution_id
    what = "snapshot"
    try:
        if loaded.snapshot is None:
            state = ExecutionState(execution_id=execution_id)
        else:
            state = from_snapshot(loaded.snapshot)
            if state.seq != loaded.snapshot_seq or state.execution_id != execution_id:
                raise ValueError(f"it is of {state.execution_id!r} at seq {state.seq}")
        for entry in loaded.entries:
            what = f"record {entry.seq}"
            if entry.seq != state.seq + 1:
                raise ValueError(f"it follows seq {state.seq}")
            apply(state, from_plain(entry.kind, entry.body))
    except (ValueError, UnexpectedRecordError) as problem:
        raise CorruptRecordError(execution_id=execution_id, what=what, problem=str(problem)) from problem
    return state


def pending_rows(state: ExecutionState, *, exclude: Set[str] = frozenset()) -> list[PendingRow]:
    """The calls that wait, as rows; without those in `exclude`, which the store has already."""
    return [
        PendingRow(
            execution_id=state.execution_id,
            call_id=call.call_id,
            path=frame.path,
            ask=str(call.ask),
            tool=call.name,
            arguments=call.arguments,
            arguments_hash=call.arguments_hash,
            question=call.plan.question,
            response_schema=call.plan.response_schema,
            parameters=call.plan.parameters,
            form=call.plan.form,
            asked_at=call.asked_at or state.updated_at,
        )
        for frame, call in state.open_asks()
        if call.call_id not in exclude
    ]
