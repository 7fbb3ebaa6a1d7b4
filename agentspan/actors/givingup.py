"""The end of an execution that keeps killing its process: a clear error that names the step, instead of a loop."""

from __future__ import annotations

from agentspan.engine import records as r
from agentspan.engine.apply import apply
from agentspan.persistence.loading import load_state
from agentspan.persistence.store import Commit, JournalEntry, RowChange, Store, TakenOver


async def give_up(store: Store, execution_id: str, taken: TakenOver, *, why: str, now: float) -> None:
    """Record that it failed, under an epoch that was just taken."""
    loaded = await store.load(execution_id)
    state = load_state(loaded)
    step = loaded.row.current_task or "its next step"
    error = (
        f"Gave up after {taken.crashes} crashes in a row without progress in {step}: {why}. "
        f"The journal is intact; see `agent-span show {execution_id}`."
    )
    record = r.Finished(at=now, status="FAILED", finish_reason="error", error=error, output=state.root.answer or None)
    apply(state, record)
    entry = JournalEntry(seq=state.seq, kind=record.KIND, body=r.to_plain(record), events_to=state.events)
    change = RowChange(status="FAILED", updated_at=now, resident=False, finish_reason="error", error=error)
    await store.commit(
        Commit(execution_id=execution_id, epoch=taken.epoch, entries=[entry], seq=state.seq, change=change)
    )
