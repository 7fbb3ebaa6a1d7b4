"""Task writes that failed, until somebody hears of it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection

_PLACES_MAX = 1000


class Failures:
    """LangGraph looks at failed task writes only when a run ends. Thread-safe; shared by all copies of a saver."""

    def __init__(self) -> None:
        self._by_checkpoint: OrderedDict[tuple[str, str, str], dict[str, BaseException]] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, place: tuple[str, str, str, str], problem: BaseException | None) -> None:
        """Remember how the writes of a task (thread, namespace, checkpoint, task) went; None: well."""
        *where, task_id = place
        key = (where[0], where[1], where[2])
        if problem is None:
            if self._by_checkpoint:
                self.settle(key, (task_id,))
            return
        with self._lock:
            self._by_checkpoint.setdefault(key, {})[task_id] = problem
            while len(self._by_checkpoint) > _PLACES_MAX:
                self._by_checkpoint.popitem(last=False)

    def settle(self, checkpoint: tuple[str, str, str], task_ids: Collection[str]) -> None:
        """The writes of these tasks are stored after all."""
        with self._lock:
            failed = self._by_checkpoint.get(checkpoint)
            if failed is not None:
                for task_id in task_ids:
                    failed.pop(task_id, None)
                if not failed:
                    del self._by_checkpoint[checkpoint]

    def raise_for(self, thread_id: str, ns: str, checkpoint_id: str | None) -> None:
        """Raise, once, if writes on this checkpoint are missing."""
        if checkpoint_id is None or not self._by_checkpoint:
            return
        with self._lock:
            failed = self._by_checkpoint.pop((thread_id, ns, checkpoint_id), None)
        for problem in (failed or {}).values():
            raise problem
