"""The saver of an execution: what it stores goes through the driver's commits, with the events that belong to it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, TypeVar

from langgraph.checkpoint.base import CheckpointTuple, copy_checkpoint

from agentspan.frameworks.langgraph.running.telling import Teller
from agentspan.frameworks.langgraph.saving.saver import AgentSpanSaver
from agentspan.frameworks.langgraph.saving.steps import settled
from agentspan.frameworks.langgraph.state.serde import StateSerde
from agentspan.persistence.threads import CheckpointRow, Report, ThreadStore, ThreadWrite, WriteRow, joined

T = TypeVar("T")

WRITES_WITHIN_S = 0.003
"""How long what a task wrote waits for the checkpoint that usually follows at once: within a millisecond, with a core for
itself."""


class ExecutionPort:
    """A `ThreadPort` onto one execution. `push` and `read` may be called from any thread, also from the graph's own.

    What a task wrote waits a moment, on this side, for the checkpoint that usually follows: then a super-step crosses
    to the driver once, and is one commit.
    """

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
        """Why something could not be committed or read, the first time: it ends the incarnation, whatever the graph does."""
        self._execution_id = execution_id
        self._report = report
        self._store = store
        self._told = told
        self._clock = clock
        self._path = path
        self._driver_loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._waiting: list[tuple[ThreadWrite, Future[None]]] = []
        self._last: Future[None] | None = None
        self._due: float | None = None
        self._flushes = 0
        self._closed = False

    def close(self) -> None:
        """The run is over: nothing is taken any more, and what nobody waited for is dropped.

        A report that came behind the run's own outcome would meet a state it does not fit.
        """
        with self._lock:
            self._closed = True
            dropped, self._waiting = self._waiting, []
        for _, done in dropped:
            _refuse(done)

    def push(self, thread_id: str, write: ThreadWrite) -> Future[None]:
        """Have it committed, with the events told so far. Done when it is durable."""
        done: Future[None] = Future()
        with self._lock:
            if self._closed:
                _refuse(done)  # A node's thread outlived its run; what it still has to say has no place any more.
                return done
            self._waiting.append((write, done))
            if write.checkpoints or not self._flush_within(WRITES_WITHIN_S):
                self._flush()
        return done

    def read(self, call: Callable[[ThreadStore], Awaitable[T]]) -> Future[T]:
        """Read from the store, after all that was pushed before."""
        with self._lock:
            if self._waiting:
                self._flush()
            return asyncio.run_coroutine_threadsafe(self._read(self._last, call), self._driver_loop)

    async def _read(self, last: Future[None] | None, call: Callable[[ThreadStore], Awaitable[T]]) -> T:
        if last is not None and not last.done():
            await settled(self._report())
        try:
            return await call(self._store)
        except Exception as problem:
            self.failure = self.failure or problem
            raise

    def told_within(self, seconds: float) -> None:
        """Have the events told so far committed soon, if no checkpoint takes them along. On the graph's loop."""
        with self._lock:
            self._flush_within(seconds)

    async def flushed(self) -> None:
        """Return once everything pushed and told is committed. On the graph's loop.

        Raises:
            AgentspanError: Something could not be committed.
        """
        with self._lock:
            self._flush()
            last = self._last
        if last is not None:
            await settled(last)  # Not `wrap_future`, which would cancel what is on its way with its waiter.
        if self.failure is not None:
            raise self.failure

    async def durable(self) -> None:
        """Return once everything pushed is committed; what is only told may come later.

        Raises:
            Exception: Something could not be committed. Never a `BaseException`, which LangGraph would hand to nobody.
        """
        with self._lock:
            if self._waiting:
                self._flush()
            last = self._last
        if last is not None and not last.done():
            waited = asyncio.wrap_future(last)
            await asyncio.wait([waited])
            waited.cancelled() or waited.exception()
        if self.failure is not None:
            if isinstance(self.failure, Exception):
                raise self.failure
            raise RuntimeError("this incarnation is over") from self.failure

    def _flush_within(self, seconds: float) -> bool:
        """Flush after a while. False when this is no loop's thread, so nothing can be put off. With the lock held."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return False
        due = loop.time() + seconds
        if self._due is None or due < self._due:
            self._due = due
            loop.call_at(due, self._timer_due, self._flushes)
        return True

    def _timer_due(self, flushes: int) -> None:
        with self._lock:
            # A timer is not cancelled, since that is no business of other threads; one that is too late does nothing.
            if flushes == self._flushes and not self._closed:
                self._flush()

    def _flush(self) -> None:
        """Report all that waits. With the lock held."""
        self._flushes += 1
        self._due = None
        waiting, self._waiting = self._waiting, []
        now = self._clock()
        told = [replace(record, at=now, path=self._path) for record in self._told.take()]
        if not waiting and not told:
            return
        done = [future for _, future in waiting]
        write = joined([write for write, _ in waiting])
        sent = self._last = self._report(told, write)
        sent.add_done_callback(lambda sent: self._settle(sent, done))

    def _settle(self, sent: Future[None], done: Sequence[Future[None]]) -> None:
        problem = sent.exception()
        if problem is not None and self.failure is None:
            self.failure = problem
        for future in done:
            if future.set_running_or_notify_cancel():
                if problem is None:
                    future.set_result(None)
                else:
                    future.set_exception(problem)


def _refuse(done: Future[None]) -> None:
    if done.set_running_or_notify_cancel():
        done.set_exception(RuntimeError("the run of the graph is over"))


class ExecutionSaver(AgentSpanSaver):
    """Stores the one thread of an execution, whatever `thread_id` its nodes see, and tells what tasks wrote."""

    def __init__(
        self, port: ExecutionPort, execution_id: str, serde: StateSerde, told: Teller, *, is_careful: bool = False
    ) -> None:
        """`is_careful` has the start of every node on record before it runs."""
        super().__init__(port, serde=serde, thread_id=execution_id)
        self._told = told
        self._is_careful = is_careful
        self.head: Any = None
        """The root graph's last checkpoint as it was read last (a `CheckpointTuple`), or None."""
        self._is_current = False
        self._last_put: CheckpointTuple | None = None

    def run_is_over(self) -> None:
        """No node runs any more: if nothing was written on the last checkpoint, it is the head, and need not be read."""
        if self._last_put is not None:
            self.head, self._is_current = self._last_put, True

    async def aget_tuple(self, config: Any) -> Any:
        """See `AgentSpanSaver`. The head is read and decoded once, however often LangGraph and we look at it."""
        given = config["configurable"]
        if given.get("checkpoint_ns") or given.get("checkpoint_id"):
            return await super().aget_tuple(config)
        if not self._is_current:
            self._is_current = True  # Before: what is pushed meanwhile makes it old.
            self.head = await super().aget_tuple(config)
        head = self.head
        if head is None:
            return None
        if head.pending_writes:
            # LangGraph applies them to what it is given, with reducers that may change values in place: even to look at
            # a state. Whoever comes next would take a step that has yet to be made for done.
            self._is_current = False
        return head._replace(checkpoint=copy_checkpoint(head.checkpoint))

    async def durable(self) -> None:
        """Return once all that was stored is committed; see `patches`."""
        await self._port.durable()  # type: ignore[attr-defined]

    def still_waits(self, task_id: str, name: str) -> None:
        """A task will not run, but ask what it has asked in an earlier life; see `patches`."""
        self._told.waits(task_id, name)

    async def starting(self, ns: Sequence[str], tasks: Iterable[Any]) -> None:
        """Tasks are about to run; see `patches`."""
        if self._is_careful:
            for task in tasks:
                self._told.start(ns, {"id": task.id, "name": task.name})
            await self._port.flushed()  # type: ignore[attr-defined]

    def _push_checkpoint(
        self, thread_id: str, ns: str, checkpoint: Any, metadata: Mapping[str, Any], row: CheckpointRow
    ) -> Future[None]:
        self._is_current = False
        if not ns:
            place = {"thread_id": thread_id, "checkpoint_ns": ns}
            at: Any = {"configurable": {**place, "checkpoint_id": row.checkpoint_id}}
            parent: Any = {"configurable": {**place, "checkpoint_id": row.parent_id}} if row.parent_id else None
            kept: Any = dict(metadata)
            self._last_put = CheckpointTuple(at, checkpoint, kept, parent, [])
        return super()._push_checkpoint(thread_id, ns, checkpoint, metadata, row)

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
        self._is_current = False
        if not ns:
            self._last_put = None
        # What the task wrote, and the events about it, in one commit.
        self._told.end(ns.split("|") if ns else (), task_id, task_path, writes)
        return super()._push_task_writes(thread_id, ns, checkpoint_id, task_id, task_path, writes, rows)
