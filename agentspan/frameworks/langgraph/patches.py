"""Repairs of LangGraph that its users need before we can run their graphs. Each is applied only where it is missing."""

from __future__ import annotations

from collections.abc import Iterator


class _Done:
    """A save that has nothing to save."""

    def __await__(self) -> Iterator[None]:
        return iter(())

    def result(self, timeout: float | None = None) -> None:
        return None


def apply() -> None:
    """Repair the LangGraph of this process. Idempotent.

    With `durability="sync"` a loop without a checkpointer (a sub-graph compiled with `checkpointer=False`, or the root)
    waits for a save that it never made: AttributeError, `_put_checkpoint_fut`.
    """
    from langgraph.pregel import _loop

    for loop in (_loop.AsyncPregelLoop, _loop.SyncPregelLoop):
        if not hasattr(loop, "_put_checkpoint_fut"):
            setattr(loop, "_put_checkpoint_fut", _Done())  # noqa: B010 (LangGraph declares a Future)
