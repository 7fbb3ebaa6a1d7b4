"""What an execution of a session goes on from."""

from __future__ import annotations

from agentspan.agents.results import Status
from agentspan.engine.state import SESSION_LATER, ExecutionState
from agentspan.persistence.store import Store

LOOK_BACK = 50
"""So many of a session's newest executions are looked at."""


async def session_source(store: Store, state: ExecutionState) -> str | None:
    """The execution whose conversation this one continues; None when the session has none.

    That is known from the start if nothing of the session was unfinished then. Else it is the last one to have completed
    when this one begins. One that was stopped before it began has no conversation to go on with.
    """
    if state.session_from != SESSION_LATER:
        return state.session_from
    rows = await store.rows(
        statuses=[Status.COMPLETED.value], agent=state.agent, session_id=state.session_id, limit=LOOK_BACK
    )
    begun = [row for row in rows if row.epoch > 0]
    return max(begun, key=lambda row: (row.updated_at, row.created_at)).execution_id if begun else None
