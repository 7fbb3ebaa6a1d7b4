"""What is said to executions in line takes effect there: nobody has to wait for a place in order to be cancelled.

Nothing of an execution that has not begun has run, so what a signal makes of it follows from its first record alone. It is
committed under the epoch it has, without a take-over: should somebody take it over at the same moment, one of the two is
refused by the store, and the signal is applied once either way (P5).
"""

from __future__ import annotations

from agentspan.agents.results import Status
from agentspan.agents.spec import AgentSpec
from agentspan.engine import records as r
from agentspan.engine.admit import admit
from agentspan.engine.apply import apply
from agentspan.engine.decide import decide
from agentspan.engine.state import ExecutionState
from agentspan.engine.view import status_of
from agentspan.persistence.loading import load_state
from agentspan.persistence.store import Commit, JournalEntry, RowChange, Store

TO_END = "end"
"""It has begun and is to end: it needs a process for that, now."""
CONTROLS = frozenset({"cancel", "stop", "pause", "resume"})
"""Signals that are heard in line. Others wait for the execution to begin."""


async def hear(store: Store, execution_id: str, now: float) -> str | None:
    """Have what was said to an execution in line, and its deadline, take effect, without giving it a process.

    One that has not begun is settled here: cancelled, stopped, paused, resumed or timed out. One that has begun, and is
    to end, has to have its process for that (its callbacks run there).

    Returns its status if that is another now; `TO_END` when it is to be let in so that it can end; None when nothing is
    to be done.

    Raises:
        StaleEpochError, ExecutionFinishedError, SequenceConflictError: Somebody else sees to it. Nothing was written.
    """
    loaded = await store.load(execution_id)
    row, state = loaded.row, load_state(loaded)
    if row.resident or state.is_finished:
        return None
    inbox = await store.inbox(execution_id)
    said = {signal.kind for signal in inbox} & CONTROLS
    is_late = state.deadline_at is not None and now >= state.deadline_at
    if not said and not is_late:
        return None
    if row.epoch > 0:
        return TO_END if is_late or said & {"cancel", "stop"} else None
    records = []
    for signal in inbox:
        record = admit(state, signal, now)
        if record is not None:
            apply(state, record)
            records.append((record, state.events))
    ending = _ending(state, now)
    if ending is not None:
        apply(state, ending)
        records.append((ending, state.events))
    await store.commit(_commit(state, row.epoch, records, [signal.signal_id for signal in inbox], now))
    return _status(state)


def _ending(state: ExecutionState, now: float) -> r.AnyRecord | None:
    """Nothing has run, so the end depends on no more than what was said and the time."""
    # A session is no reason to begin first: whoever goes on from it looks past an execution that never began.
    state.session_loaded, loaded = True, state.session_loaded
    try:
        records = decide(state, AgentSpec(name=state.agent, model=""), now).records
    finally:
        state.session_loaded = loaded
    return records[0] if records else None


def _status(state: ExecutionState) -> str:
    status = status_of(state)
    return str(Status.QUEUED if status is Status.RUNNING else status)


def _commit(
    state: ExecutionState, epoch: int, records: list[tuple[r.AnyRecord, int]], consumed: list[str], now: float
) -> Commit:
    first = state.seq - len(records) + 1
    return Commit(
        execution_id=state.execution_id,
        epoch=epoch,
        entries=[
            JournalEntry(seq=first + i, kind=record.KIND, body=r.to_plain(record), events_to=events_to)
            for i, (record, events_to) in enumerate(records)
        ],
        seq=state.seq,
        change=RowChange(
            status=_status(state),
            updated_at=now,
            wake_at=state.deadline_at,
            resident=False,
            finish_reason=state.finish_reason.value if state.finish_reason else None,
            error=state.error,
        ),
        consumed=consumed,
        progress=False,
    )
