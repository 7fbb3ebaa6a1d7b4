"""Whether a stored state stands at a static breakpoint (`interrupt_before`, `interrupt_after`).

LangGraph only says so in the stream of the run that stops there: afterwards the state looks the same as one whose process
died. A gate that a crash opens is none, so it is worked out again from the checkpoint, by LangGraph's own rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_INTERRUPT = "__interrupt__"


@dataclass(frozen=True, slots=True)
class Breakpoint:
    """Where it stands."""

    when: str
    """`before` or `after`."""
    nodes: Sequence[str]


def breakpoint_at(head: Any, snapshot: Any, *, before: Any, after: Any, passed: str) -> Breakpoint | None:
    """The breakpoint that the head of a thread stands at.

    Args:
        head: The last checkpoint tuple.
        snapshot: The same as a `StateSnapshot`, with the tasks that come next.
        before, after: `interrupt_before` and `interrupt_after`: names of nodes, or `"*"`.
        passed: The checkpoint whose breakpoint a person let it pass last.
    """
    checkpoint = head.checkpoint
    if checkpoint["id"] == passed or any(task.result or task.error for task in snapshot.tasks):
        return None
    if not before and not after:
        return None
    seen = checkpoint["versions_seen"].get(_INTERRUPT, {})
    versions = checkpoint["channel_versions"]
    if not any(channel not in seen or version > seen[channel] for channel, version in versions.items()):
        return None
    nodes = _chosen(before, [task.name for task in snapshot.tasks])
    if nodes:
        return Breakpoint("before", nodes)
    nodes = _chosen(after, _just_ran(head)) if head.metadata.get("source") == "loop" else []
    return Breakpoint("after", nodes) if nodes else None


def _chosen(wanted: Any, names: Sequence[str]) -> list[str]:
    names = [name for name in dict.fromkeys(names) if not name.startswith("__")]
    return names if wanted == "*" else [name for name in names if name in (wanted or ())]


def _just_ran(head: Any) -> list[str]:
    """The nodes whose step made this checkpoint: they alone have seen what was current right before it."""
    newest: dict[str, Any] = {
        name: max(seen.values()) for name, seen in head.checkpoint["versions_seen"].items() if seen
    }
    newest.pop(_INTERRUPT, None)
    newest.pop("__input__", None)
    top = max(newest.values(), default=None)
    return [name for name, version in newest.items() if version == top]
