"""From async to sync: one background event loop per process, and a twin for every async method.

The async code is written once. A sync call hands the coroutine to the background loop and waits, so it also works inside
a running loop (a notebook cell), where it blocks that loop for the time of the call, as any sync call does.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_thread: threading.Thread | None = None


def _background_loop() -> asyncio.AbstractEventLoop:
    global _loop, _thread
    with _lock:
        if _loop is None or _thread is None or not _thread.is_alive():  # Not alive: this is a forked child.
            _loop = _new_loop()
            _thread = threading.Thread(target=_loop.run_forever, name="agentspan-bridge", daemon=True)
            _thread.start()
        return _loop


def _new_loop() -> asyncio.AbstractEventLoop:
    import uvloop

    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def run_sync(coroutine: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine on the background loop and wait for it. Ctrl-C cancels it."""
    if threading.current_thread() is _thread:
        coroutine.close()
        raise RuntimeError(
            "A sync AgentSpan call was made from AgentSpan's own event loop; await its _async twin there."
        )
    future = asyncio.run_coroutine_threadsafe(coroutine, _background_loop())
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def twin(method: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, R]:
    """The sync twin of an async method: same parameters, same result, same errors."""

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return run_sync(method(*args, **kwargs))

    call.__name__ = method.__name__.removesuffix("_async")
    call.__qualname__ = method.__qualname__.removesuffix("_async")
    return call
