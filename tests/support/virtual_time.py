"""An event loop whose time jumps to the next timer as soon as nothing else can happen: no test waits, none is flaky.

It is for code without threads and sockets. When nothing is ready and no timer is left, the loop would sleep for ever;
it raises `Stuck` instead, so a lost wake-up is a failure with a traceback and not a timeout.
"""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

EPOCH_S = 1_700_000_000.0
"""The wall clock when a virtual loop starts."""


class Stuck(AssertionError):
    """Everything waits for something that nobody will do."""


class _Selector(selectors.SelectSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise Stuck("Nothing is ready and no timer is set: whoever waits here waits for ever.")
        # A hair more than asked for, as on real machines; less would have the loop spin on rounding errors.
        self.now += timeout + 1e-9 if timeout > 0 else 0.0
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


def clock() -> float:
    """The wall clock of the running virtual loop, in UTC seconds."""
    return EPOCH_S + asyncio.get_running_loop().time()


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def virtual(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test in virtual time."""

    @functools.wraps(test)
    def run(**arguments: Any) -> None:
        run_virtual(test(**arguments))

    return run


async def jump(seconds: float) -> None:
    """Let this much virtual time pass. On a real loop it would be a sleep, which tests do not do."""
    assert isinstance(asyncio.get_running_loop(), VirtualLoop), "jump() is for virtual time"
    await asyncio.sleep(seconds)


async def until(condition: Callable[[], Any], *, within: float = 600.0) -> None:
    """Wait in virtual time for something to become true."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    while not condition():
        assert loop.time() < deadline, f"not true within {within:g} s of virtual time"
        await jump(0.01)
