"""The saver's only way out: a queue of writes to threads, and reads that see them.

A saver is called from any thread and any event loop, also synchronously on the thread of a running loop. So its port
belongs to no loop: it takes work from anywhere and answers with futures of `concurrent.futures`.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol, TypeVar

from agentspan.errors import StoreUnavailableError
from agentspan.frameworks.langgraph.saving.desk import Desk, Opening
from agentspan.persistence.postgres_url import without_password
from agentspan.persistence.threads import ThreadStore, ThreadWrite

T = TypeVar("T")

CLOSE_TIMEOUT_S = 10.0
"""How long the end of the process waits for what is still queued."""


class ThreadPort(Protocol):
    """What a saver needs. Every method may be called from any thread and returns at once; a future that was given out is
    carried out even if its holder cancels it."""

    def push(self, thread_id: str, write: ThreadWrite) -> Future[None]:
        """Queue a write; the future is done when it is durable.

        Writes to one thread become durable in the order they were pushed. When one fails, those of its thread that are
        queued behind it fail too: a checkpoint is never there without the task writes pushed before it.
        """
        ...

    def read(self, call: Callable[[ThreadStore], Awaitable[T]]) -> Future[T]:
        """Run `call` on the port's own loop, after everything pushed before it has become durable or has failed."""
        ...

    def close(self) -> None:
        """Finish what is queued. Idempotent; nothing can be pushed or read afterwards."""
        ...


class StoreThreads:
    """A port to a store of its own, on a background thread that does not keep the process alive.

    The store is opened with the first push or read. A checkpoint is written at once; task writes wait two milliseconds
    for the checkpoint that usually follows, so that a step of a sequential graph is one transaction. Threads do not
    wait for each other: what several of them push at the same time shares a transaction of the store (group commit).
    """

    def __init__(self, store: str | Path | Opening) -> None:
        self._opening = store if callable(store) else _opening(store)
        self._where = "a store" if callable(store) else without_password(str(store))
        self._lock = threading.Lock()
        self._desk: Desk | None = None
        self._closed = False
        self._end: weakref.finalize[Any, Any] | None = None

    def push(self, thread_id: str, write: ThreadWrite) -> Future[None]:
        """See `ThreadPort.push`."""
        return self._open().push(thread_id, write)

    def read(self, call: Callable[[ThreadStore], Awaitable[T]]) -> Future[T]:
        """See `ThreadPort.read`."""
        return self._open().read(call)

    def close(self) -> None:
        """See `ThreadPort.close`."""
        with self._lock:
            self._closed = True
            end = self._end
        if end is not None:
            end()

    async def aclose(self) -> None:
        """`close`, without blocking the running loop."""
        await asyncio.to_thread(self.close)

    def _open(self) -> Desk:
        desk = self._desk
        if desk is not None and desk.is_alive():
            return desk
        with self._lock:
            if self._closed:
                raise StoreUnavailableError(where=self._where, problem="this saver is closed")
            if self._desk is None or not self._desk.is_alive():  # Not alive: this is a forked child.
                self._desk = Desk(self._opening)
                # Also at the exit of the interpreter, while threads can still run, and when nobody has the port any more.
                self._end = weakref.finalize(self, self._desk.stop, CLOSE_TIMEOUT_S)
            return self._desk


def _opening(url: str | Path) -> Opening:
    async def opening() -> Any:
        from agentspan.persistence.opening import open_store

        return await open_store(url, inline=True)

    return opening
