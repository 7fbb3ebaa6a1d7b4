"""Which tasks of the step that a thread stands at have ended, by what is stored of them."""

from __future__ import annotations

from typing import Any

_OF_NO_END = frozenset({"__error__", "__interrupt__", "__resume__", "__scheduled__"})


def has_unfinished(snapshot: Any, head: Any) -> bool:
    """Whether a task of the step that asks something was still at work, or had failed, when the process died."""
    settled = {task_id for task_id, channel, _ in head.pending_writes or () if channel == "__interrupt__"}
    settled |= finished(head)
    return any(task.id not in settled or task.error for task in snapshot.tasks)


def finished(head: Any) -> set[str]:
    """The tasks that have ended. Some versions of LangGraph still list what these once asked."""
    writes = () if head is None else head.pending_writes or ()
    return {task_id for task_id, channel, _ in writes if channel not in _OF_NO_END}
