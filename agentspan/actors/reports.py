"""How an effect that is still under way has something committed: a box between its thread and the driver's loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from agentspan.engine import records as r
from agentspan.persistence.threads import ThreadWrite


@dataclass(frozen=True, slots=True)
class Reported:
    """A report that is not committed yet."""

    records: Sequence[r.AnyRecord] = ()
    thread: ThreadWrite | None = None
    done: Future[None] = field(default_factory=Future)


class Reports:
    """The reports of one incarnation, first in, first out."""

    def __init__(self, wake: Callable[[], None]) -> None:
        """`wake` is called on the driver's loop when reports are due."""
        self.are_due = False
        self._wake = wake
        self._waiting: deque[Reported] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed: BaseException | None = None

    def open(self) -> None:
        """Take reports from now on. On the driver's loop."""
        self._loop = asyncio.get_running_loop()

    def add(
        self, records: Sequence[r.AnyRecord] = (), thread: ThreadWrite | None = None, *, within_s: float = 0.0
    ) -> Future[None]:
        """A `Report`."""
        assert self._loop is not None, "effects are performed after `open`"
        reported = Reported(records, thread)
        self._waiting.append(reported)
        try:
            if within_s:
                self._loop.call_soon_threadsafe(self._loop.call_later, within_s, self._hear)
            else:
                self._loop.call_soon_threadsafe(self._hear)
        except RuntimeError:  # The loop is closed: an effect in a thread outlived its driver.
            self._drop()
        return reported.done

    def _hear(self) -> None:
        if self._closed is not None:
            self._drop()
        elif self._waiting:
            self.are_due = True
            self._wake()

    def take(self) -> list[Reported]:
        """All that was reported by now."""
        self.are_due = False
        return [self._waiting.popleft() for _ in range(len(self._waiting))]

    def close(self, problem: BaseException) -> None:
        """Nothing is committed any more: what waits, or comes late, fails with `problem`."""
        self._closed = problem
        self._drop()

    def _drop(self) -> None:
        problem = self._closed or RuntimeError("the driver is gone")
        while self._waiting:
            settle([self._waiting.popleft()], problem)


def settle(reports: Sequence[Reported], problem: BaseException | None = None) -> None:
    """Say that reports were committed, or why not."""
    for report in reports:
        if report.done.set_running_or_notify_cancel():
            if problem is None:
                report.done.set_result(None)
            else:
                report.done.set_exception(problem)
