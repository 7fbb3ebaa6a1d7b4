"""The thread that graphs run on: one event loop for all graphs of a process, apart from the loop that drives them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

import uvloop

from agentspan.frameworks.langgraph.running.threads import DaemonThreads

T = TypeVar("T")

SYNC_NODES_MAX = 64
"""Sync nodes that run at once. The default pool of asyncio has 6 threads on two cores."""


class GraphLoop:
    """An event loop in a daemon thread: a node that never returns must not keep the process."""

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        self._threads = DaemonThreads(SYNC_NODES_MAX, name="node")
        self._loop.set_default_executor(self._threads)
        self._thread = threading.Thread(target=self._loop.run_forever, name="graphs", daemon=True)
        self._thread.start()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine there. Cancelling the future cancels it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        """End the loop; what runs on it is abandoned, with its connections: for the end of a process."""
        self._threads.shutdown()
        self._loop.call_soon_threadsafe(self._loop.stop)
