"""The saver of an execution: what it stores goes through the driver's commits, with the events that belong to it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from agentspan.engine import records as r
from agentspan.frameworks.langgraph.saver import AgentSpanSaver
from agentspan.frameworks.langgraph.serde import StateSerde
from agentspan.frameworks.langgraph.telling import Teller
from agentspan.persistence.threads import ThreadStore, ThreadWrite, WriteRow

T = TypeVar("T")

WRITES_WITHIN_S = 0.001
"""How long what a task wrote waits for the checkpoint that usually follows at once."""


class Report(Protocol):
    """`driver.Report`, said again because this room is further in."""

    def __call__(
        self, records: Sequence[r.AnyRecord] = (), thread: ThreadWrite | None = None, *, within_s: float = 0.0
    ) -> Future[None]: ...


class ExecutionPort:
    """A `ThreadPort` onto one execution. `push` and `read` may be called from any thread, also from the graph's own."""

    def __init__(
        self,
        execution_id: str,
        report: Report,
        store: ThreadStore,
        told: Teller,
        *,
        clock: Callable[[], float],
        path: str,
    ) -> None:
        """Make it on the driver's loop, which its reads run on."""
        self.failure: BaseException | None = None
        """The first thing that could not be committed."""
        self._execution_id = execution_id
        self._report = report
        self._store = store
        self._told = told
        self._clock = clock
        self._path = path
        self._driver_loop = asyncio.get_running_loop()
        self._last: Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def close(self) -> None:
        """The run is over: nothing is taken any more. What was taken is committed."""
        self._closed = True

    def push(self, thread_id: str, write: ThreadWrite) -> Future[None]:
        """Have it committed, with the events told so far. Done when it is durable."""
        return self._send(write, within_s=0.0 if write.checkpoints else WRITES_WITHIN_S)

    def read(self, call: Callable[[ThreadStore], Awaitable[T]]) -> Future[T]:
        """Read from the store, after all that was pushed before."""
        return asyncio.run_coroutine_threadsafe(self._read(self._last, call), self._driver_loop)

    async def _read(self, last: Future[None] | None, call: Callable[[ThreadStore], Awaitable[T]]) -> T:
        if last is not None and not last.done():
            await asyncio.wrap_future(self._report())
        return await call(self._store)

    def told_within(self, seconds: float) -> None:
        """Have the events told so far committed soon, if no checkpoint takes them along. On the graph's loop."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._tell)

    def _tell(self) -> None:
        self._timer = None
        self._send(None, within_s=0.0)

    async def flushed(self) -> None:
        """Return once everything pushed and told is committed. On the graph's loop.

        Raises:
            AgentspanError: Something could not be committed.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._send(None, within_s=0.0)
        if self._last is not None:
            await asyncio.wrap_future(self._last)
        if self.failure is not None:
            raise self.failure

    def _send(self, write: ThreadWrite | None, *, within_s: float) -> Future[None]:
        now = self._clock()
        told = [replace(record, at=now, path=self._path) for record in self._told.take()]
        if self._closed:
            # A node's thread outlived its run; what it still has to say has no place any more.
            late: Future[None] = Future()
            late.set_exception(RuntimeError("the run of the graph is over"))
            return late
        if write is None and not told and self._last is not None:
            return self._last
        sent = self._last = self._report(told, write, within_s=within_s)
        sent.add_done_callback(self._note)
        return sent

    def _note(self, done: Future[None]) -> None:
        if not done.cancelled() and done.exception() is not None and self.failure is None:
            self.failure = done.exception()


class ExecutionSaver(AgentSpanSaver):
    """Stores the one thread of an execution, whatever `thread_id` its nodes see, and tells what tasks wrote."""

    def __init__(self, port: ExecutionPort, execution_id: str, serde: StateSerde, told: Teller) -> None:
        super().__init__(port, serde=serde, thread_id=execution_id)
        self._told = told

    def _push_task_writes(
        self,
        thread_id: str,
        ns: str,
        checkpoint_id: str,
        task_id: str,
        task_path: str,
        writes: Sequence[tuple[str, Any]],
        rows: Sequence[WriteRow],
    ) -> Future[None]:
        # What the task wrote, and the events about it, in one commit.
        self._told.end(ns.split("|") if ns else (), task_id, task_path, writes)
        return super()._push_task_writes(thread_id, ns, checkpoint_id, task_id, task_path, writes, rows)
