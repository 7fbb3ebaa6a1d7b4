"""Who may have a process now, and who waits: in order, in the store, as QUEUED."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any


class Line:
    """Places of one kind, and the executions in line for one."""

    def __init__(self, places: int | None) -> None:
        """`places` None: there is always room."""
        self._places = places
        self._inside: set[str] = set()
        self._waiting: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def resize(self, places: int | None) -> None:
        """Another number of places. Nobody who has one loses it."""
        self._places = places

    @property
    def has_room(self) -> bool:
        """Whether somebody who comes now is let in at once."""
        return not self._waiting and self._is_free

    @property
    def _is_free(self) -> bool:
        return self._places is None or len(self._inside) < self._places

    def enter(self, execution_id: str, wish: dict[str, Any], *, at_once: bool) -> bool:
        """Take a place, or get in line with `wish`. `at_once`: it has a process already, so it is let in whatever there is."""
        if at_once or (self._is_free and next(iter(self._waiting), execution_id) == execution_id):
            self._waiting.pop(execution_id, None)
            self._inside.add(execution_id)
            return True
        self._waiting.setdefault(execution_id, wish)
        return False

    def leave(self, execution_id: str) -> None:
        """Give up a place. Idempotent."""
        self._inside.discard(execution_id)

    def next(self) -> tuple[str, dict[str, Any]] | None:
        """Who has waited longest, if there is room; the caller lets it `enter`."""
        if not self._waiting or not self._is_free:
            return None
        return next(iter(self._waiting.items()))

    def ahead_of(self, execution_id: str) -> int | None:
        """How many are in line before this one; None when it is not in line."""
        if execution_id not in self._waiting:
            return None
        return list(self._waiting).index(execution_id)

    def __len__(self) -> int:
        return len(self._waiting)
