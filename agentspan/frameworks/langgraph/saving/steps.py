"""Work written once for sync and async callers: a generator yields the futures it waits for."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")
Steps = Generator[Future[Any], Any, T]


def run_sync(steps: Steps[T]) -> T:
    """Wait for each future by blocking."""
    try:
        future = next(steps)
        while True:
            try:
                result = future.result()
            except BaseException as problem:
                future = steps.throw(problem)
            else:
                future = steps.send(result)
    except StopIteration as end:
        answer: T = end.value
        return answer


async def run_async(steps: Steps[T]) -> T:
    """Wait for each future on the running loop."""
    try:
        future = next(steps)
        while True:
            try:
                result = await settled(future)
            except BaseException as problem:
                future = steps.throw(problem)
            else:
                future = steps.send(result)
    except StopIteration as end:
        answer: T = end.value
        return answer


async def settled(future: Future[T]) -> T:
    """The result of a future of another thread.

    As `asyncio.wrap_future`, but a loop is woken once for all futures that are done at the same time: those of a group
    commit are. Who is cancelled stops waiting; the future goes on.
    """
    if future.done():
        return future.result()
    loop = asyncio.get_running_loop()
    bell = _bells.get(loop)
    if bell is None:
        bell = _bells.setdefault(loop, _Bell(loop))
    waiter: asyncio.Future[None] = loop.create_future()
    future.add_done_callback(lambda _: bell.ring(waiter))
    await waiter
    return future.result()


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Futures that this thread settles inside wake their loops at the end, each once.

    The first one would make the loop's thread run, and take the interpreter's lock from the thread that has others yet
    to settle.
    """
    held: set[_Bell] = set()
    _holding.bells = held
    try:
        yield
    finally:
        _holding.bells = None
        for bell in held:
            bell.send()


class _Holding(threading.local):
    bells: set[_Bell] | None = None


_holding = _Holding()


class _Bell:
    """Wakes a loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)  # The loop keeps this alive, not the other way round.
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._is_rung = False

    def ring(self, waiter: asyncio.Future[None]) -> None:
        """Let one go on. From any thread."""
        self._waiters.append(waiter)
        if _holding.bells is None:
            self.send()
        else:
            _holding.bells.add(self)

    def send(self) -> None:
        """Wake the loop, if it is not already on its way."""
        loop = self._loop()
        if not self._is_rung and loop is not None:
            self._is_rung = True
            with contextlib.suppress(RuntimeError):  # The loop was closed: nobody waits any more.
                loop.call_soon_threadsafe(self._answer)

    def _answer(self) -> None:
        self._is_rung = False  # First: who appends after the last popleft rings again.
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)


_bells: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Bell] = weakref.WeakKeyDictionary()
