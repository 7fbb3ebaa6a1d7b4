"""What the nodes of test graphs note when they run, so that somebody other than AgentSpan counts them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Run:
    """One time that the body of a node, a task or a tool began."""

    label: str
    task_id: str
    """LangGraph's, which is the same when the task runs again; "" outside of a graph."""
    life: int


class Runs:
    """A witness for one execution at a time. Thread-safe; `reset` before each."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()

    def reset(self, gates: dict[str, int] | None = None) -> None:
        """Forget everything. `gates` says for labels how many approvals there must be before they run."""
        with self._lock:
            self.log: list[Run] = []
            self.life = 0
            self.approvals = 0
            self.ended: set[str] = set()
            """Tasks whose end is committed; the store that the execution is on says so."""
            self.faults: list[str] = []
            self.on_enter: Callable[[int, str], None] | None = None
            """Called with the number of the run, from 1, on the thread that runs it."""
            self._gates = gates or {}

    def enter(self, label: str) -> int:
        """A body begins; returns how often this label has run, this time included."""
        task_id = _task_id()
        with self._lock:
            self.log.append(Run(label, task_id, self.life))
            number, hook = len(self.log), self.on_enter
            count = sum(run.label == label for run in self.log)
            if task_id in self.ended:
                self.faults.append(f"{label} ran again although its end is on record (task {task_id})")
            if self.approvals < self._gates.get(label, 0):
                self.faults.append(f"{label} ran with {self.approvals} approvals of {self._gates[label]}")
        if hook is not None:
            hook(number, label)
        return count

    @property
    def counts(self) -> Counter[str]:
        """Label → how often it ran."""
        with self._lock:
            return Counter(run.label for run in self.log)

    def in_flight(self, opaque: Collection[str] = ()) -> Counter[str]:
        """Label → how many of its runs of this life were not on record yet: those that a crash now may repeat."""
        with self._lock:
            lost = [run for run in self.log if run.life == self.life]
            return Counter(run.label for run in lost if run.label in opaque or run.task_id not in self.ended)


def _task_id() -> str:
    from langgraph.config import get_config

    try:
        return str(get_config()["configurable"].get("__pregel_task_id", ""))
    except RuntimeError:
        return ""


RUNS = Runs()
