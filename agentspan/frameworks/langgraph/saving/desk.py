"""The background thread of `StoreThreads`: an event loop, a store, and one lane for each thread that has work."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from agentspan.errors import StoreUnavailableError
from agentspan.frameworks.langgraph.saving.steps import together
from agentspan.persistence.threads import InlineThreadStore, ThreadStore, ThreadWrite, joined

T = TypeVar("T")
Opening = Callable[[], Awaitable[Any]]

LINGER_S = 0.002
"""How long task writes wait at most for the checkpoint that usually follows."""
RETRY_AFTER_S = (0.05, 0.25)
"""Waits before a write whose outcome is unknown is sent again (it is idempotent)."""

_Read = tuple[Callable[[ThreadStore], Awaitable[Any]], "Future[Any]"]


@dataclass(slots=True)
class _Push:
    thread_id: str
    write: ThreadWrite
    done: Future[None]


@dataclass(slots=True)
class _Lane:
    """The writes of one thread, one transaction at a time."""

    queue: deque[_Push] = field(default_factory=deque)
    is_writing: bool = False
    """A task of the loop writes what is queued."""
    taken: int = 0
    settled: int = 0
    waiting: deque[tuple[int, asyncio.Future[None]]] = field(default_factory=deque)
    """Reads, and how many pushes have to be settled before they go on."""

    def group(self) -> list[_Push]:
        """Take what may become one transaction."""
        group = [self.queue.popleft()]
        while self.queue and not self.queue[0].write.forget:
            group.append(self.queue.popleft())
        return group

    def settle(self, pushes: int) -> None:
        """That many more are durable, or have failed."""
        self.settled += pushes
        while self.waiting and self.waiting[0][0] <= self.settled:
            self.waiting.popleft()[1].set_result(None)


class Desk:
    """Takes pushes and reads from any thread.

    A checkpoint wakes the thread. Task writes do so only when no *patrol* is due: a timer, set anew with every
    checkpoint, that looks for those no checkpoint has taken along. So a step of a sequential graph wakes it once.
    """

    def __init__(self, opening: Opening) -> None:
        import uvloop

        self._opening = opening
        self._loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        self._inbox: deque[_Push | _Read] = deque()
        self._is_rung = False
        self._patrol: asyncio.TimerHandle | None = None
        self._lanes: dict[str, _Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._settled: list[tuple[Future[None], BaseException | None]] = []
        self._store: Any = None
        self._inline: InlineThreadStore | None = None
        self._opening_lock = asyncio.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="agentspan-threads", daemon=True)
        self._thread.start()

    def is_alive(self) -> bool:
        """False in a forked child, and after `stop`."""
        return self._thread.is_alive()

    def push(self, thread_id: str, write: ThreadWrite) -> Future[None]:
        """Queue a write."""
        done: Future[None] = Future()
        done.set_running_or_notify_cancel()  # From now on nobody can cancel it.
        self._inbox.append(_Push(thread_id, write, done))
        if write.checkpoints or self._patrol is None:
            self._ring()
        return done

    def read(self, call: Callable[[ThreadStore], Awaitable[T]]) -> Future[T]:
        """Queue a read."""
        if threading.current_thread() is self._thread:
            raise RuntimeError("A checkpointer cannot be used inside of a read of its own store.")
        done: Future[T] = Future()
        done.set_running_or_notify_cancel()
        self._inbox.append((call, done))
        self._ring()
        return done

    def stop(self, timeout_s: float) -> None:
        """Finish what is queued, close the store, end the thread. Gives up waiting after `timeout_s`."""
        if self._thread.is_alive() and not self._stopped.is_set():
            self._loop.call_soon_threadsafe(self._start, self._close())
            if threading.current_thread() is not self._thread:
                self._thread.join(timeout_s)

    def _ring(self) -> None:
        if self._stopped.is_set():
            self._refuse_all()
        elif not self._is_rung:
            self._is_rung = True
            try:
                self._loop.call_soon_threadsafe(self._take)
            except RuntimeError:  # The loop was closed just now.
                self._refuse_all()

    # --- on the thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._stopped.set()
            self._patrol = None  # Nobody relies on it any more.
            self._loop.close()
            self._refuse_all()

    def _refuse_all(self) -> None:
        problem = StoreUnavailableError(where="the checkpointer's store", problem="this saver is closed")
        while self._inbox:
            one = self._inbox.popleft()
            (one.done if isinstance(one, _Push) else one[1]).set_exception(problem)

    def _start(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _close(self) -> None:
        self._take()
        while len(self._tasks) > 1 or self._lanes:
            await self._drained()
            await asyncio.sleep(0)
        self._announce()
        if self._store is not None:
            await self._store.close()
        self._loop.stop()

    def _take(self) -> None:
        self._is_rung = False  # First: who appends after the last popleft rings again.
        ready: dict[str, _Lane] = {}
        while self._inbox:
            one = self._inbox.popleft()
            if not isinstance(one, _Push):
                self._start(self._answer(*one))
                continue
            lane = self._lanes.get(one.thread_id)
            if lane is None:
                lane = self._lanes[one.thread_id] = _Lane()
            lane.queue.append(one)
            lane.taken += 1
            if one.write.checkpoints:
                ready[one.thread_id] = lane
        self._write_out(ready)
        if self._patrol is None or not self._lanes:  # Nothing waits for the patrol that is due.
            self._patrol_later()

    def _patrol_later(self) -> None:
        if self._patrol is not None:
            self._patrol.cancel()
        self._patrol = self._loop.call_later(LINGER_S, self._go_round)

    def _go_round(self) -> None:
        self._patrol = None  # First: who appends from now on rings.
        if self._inbox or any(not lane.is_writing for lane in self._lanes.values()):
            self._take()
            self._write_out(self._lanes)

    def _write_out(self, lanes: Mapping[str, _Lane]) -> None:
        idle = {thread_id: lane for thread_id, lane in lanes.items() if lane.queue and not lane.is_writing}
        if self._inline is not None:
            while idle:
                idle = self._write_now(self._inline, idle)
            self._announce()
        for thread_id, lane in idle.items():
            lane.is_writing = True
            self._start(self._write_all(lane, thread_id))

    def _write_now(self, store: InlineThreadStore, lanes: Mapping[str, _Lane]) -> dict[str, _Lane]:
        """One transaction for all lanes; those that have more."""
        groups = {thread_id: lane.group() for thread_id, lane in lanes.items()}
        problems: Sequence[BaseException | None]
        try:
            problems = store.write_threads([(thread_id, _joined(group)) for thread_id, group in groups.items()])
        except BaseException as failure:  # Handed to everybody who waits for it; the desk goes on.
            problems = [failure] * len(groups)
        more: dict[str, _Lane] = {}
        for (thread_id, group), problem in zip(groups.items(), problems, strict=True):
            lane = lanes[thread_id]
            if isinstance(problem, StoreUnavailableError):
                lane.queue.extendleft(reversed(group))
                lane.is_writing = True
                self._start(self._write_all(lane, thread_id))
                continue
            self._settle(lane, group, problem)
            if lane.queue:
                more[thread_id] = lane
            else:
                del self._lanes[thread_id]
        return more

    async def _write_all(self, lane: _Lane, thread_id: str) -> None:
        while lane.queue:
            group = lane.group()
            problem: BaseException | None = None
            try:
                await self._write(thread_id, _joined(group))
            except BaseException as failure:  # As above.
                problem = failure
            # Lanes that shared a transaction go on in the same round of the loop; their callers hear of it together.
            if not self._settled:
                self._loop.call_soon(self._announce)
            self._settle(lane, group, problem)
        lane.is_writing = False
        del self._lanes[thread_id]

    def _settle(self, lane: _Lane, group: list[_Push], problem: BaseException | None) -> None:
        if problem is not None:  # What is queued behind it fails too.
            group += lane.queue
            lane.queue.clear()
        self._settled += [(push.done, problem) for push in group]
        lane.settle(len(group))

    def _announce(self) -> None:
        settled, self._settled = self._settled, []
        with together():
            for done, problem in settled:
                if problem is None:
                    done.set_result(None)
                else:
                    done.set_exception(problem)

    async def _write(self, thread_id: str, write: ThreadWrite) -> None:
        for wait_s in (*RETRY_AFTER_S, None):
            try:
                store: ThreadStore = await self._opened()
                await store.write_thread(thread_id, write)
                return
            except StoreUnavailableError:
                if wait_s is None:
                    raise
            await asyncio.sleep(wait_s)

    async def _answer(self, call: Callable[[ThreadStore], Awaitable[Any]], done: Future[Any]) -> None:
        try:
            await self._drained()
            done.set_result(await call(await self._opened()))
        except BaseException as problem:  # As above.
            done.set_exception(problem)

    async def _drained(self) -> None:
        waiting: list[asyncio.Future[None]] = []
        for lane in self._lanes.values():
            waiter = self._loop.create_future()
            lane.waiting.append((lane.taken, waiter))
            waiting.append(waiter)
        self._write_out(self._lanes)
        for waiter in waiting:
            await waiter

    async def _opened(self) -> Any:
        if self._store is None:
            async with self._opening_lock:
                if self._store is None:
                    self._store = await self._opening()
                    if isinstance(self._store, InlineThreadStore):
                        self._inline = self._store
        return self._store


def _joined(group: list[_Push]) -> ThreadWrite:
    write = joined([push.write for push in group])
    assert write is not None
    return write
