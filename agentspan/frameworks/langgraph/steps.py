"""Work written once for sync and async callers: a generator yields the futures it waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")
Steps = Generator[Future[Any], Any, T]


def run_sync(steps: Steps[T]) -> T:
    """Wait for each future by blocking."""
    return _finish(steps, lambda future: future.result())


def _finish(steps: Steps[T], wait: Callable[[Future[Any]], Any]) -> T:
    try:
        future = next(steps)
        while True:
            try:
                result = wait(future)
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
                result = await asyncio.wrap_future(future)
            except BaseException as problem:
                future = steps.throw(problem)
            else:
                future = steps.send(result)
    except StopIteration as end:
        answer: T = end.value
        return answer
