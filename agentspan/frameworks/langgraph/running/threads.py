"""Threads for sync nodes that do not keep the process: a node that never returns must not hold up its end.

The interpreter waits at its end for the threads of every `ThreadPoolExecutor`, in the program of a user forever.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class DaemonThreads(Executor):
    """At most `threads_max` daemon threads, each started when work finds no idle one."""

    def __init__(self, threads_max: int, *, name: str) -> None:
        self._threads_max = threads_max
        self._name = name
        self._work: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._count = 0
        self._closed = False
        self._lock = threading.Lock()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See `Executor.submit`."""
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("these threads have been shut down")
            self._work.put((future, partial(fn, *args, **kwargs)))
            if not self._idle.acquire(blocking=False) and self._count < self._threads_max:
                self._count += 1
                threading.Thread(target=self._run, name=f"{self._name}-{self._count}", daemon=True).start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work and end threads as they become idle; waits for none, whatever is asked."""
        with self._lock:
            if not self._closed:
                self._closed = True
                for _ in range(self._count):
                    self._work.put(None)

    def _run(self) -> None:
        while True:
            try:
                found = self._work.get_nowait()
            except Empty:
                self._idle.release()
                found = self._work.get()
            if found is None:
                return
            future, call = found
            if future.set_running_or_notify_cancel():
                try:
                    result = call()
                except BaseException as problem:  # Whoever waits for the future gets it, and this thread goes on.
                    future.set_exception(problem)
                else:
                    future.set_result(result)
                    del result
            del found, future, call  # An idle thread keeps nothing alive.
