"""The refusal of a record that does not fit the state it meets."""

from __future__ import annotations

from agentspan.engine import records as r
from agentspan.engine.state import ExecutionState
from agentspan.errors import UnexpectedRecordError


def misfit(state: ExecutionState, record: r.Record, problem: str) -> None:
    """Refuse it; nothing was changed.

    Raises:
        UnexpectedRecordError: Always.
    """
    raise UnexpectedRecordError(
        execution_id=state.execution_id, seq=state.seq + 1, kind=record.KIND, status=state.status.value, problem=problem
    )
