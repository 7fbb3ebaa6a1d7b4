"""One attempt at a tool call: the user's function is called, and whatever it does comes back as data.

`attempt` does it in this process, without holding up its loop. A tool that asks for resources is called `Elsewhere`, in
the process of a Ray task (`tooltask`), where `attempt_alone` does the same.
"""

from __future__ import annotations

import asyncio
import contextvars
import copy
import inspect
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic_core import PydanticSerializationError, to_jsonable_python

from agentspan.agents.context import INSIDE, ToolContext
from agentspan.agents.tool_def import ToolDef
from agentspan.errors import TerminalToolError, ToolArgumentsError, UnstorableValueError
from agentspan.persistence.bodies import RECORD_SPARE_DEPTH
from agentspan.persistence.codec import pack

ERROR_CHARS_MAX = 4000
"""Longer error texts are cut before they are recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolOutcome:
    """What came of an attempt: a result, or an `error`. Plain data that the store takes."""

    result: Any = None
    state_set: dict[str, Any] = field(default_factory=dict)
    state_del: tuple[str, ...] = ()
    error: str | None = None
    error_type: str = ""
    is_final: bool = False
    """Another attempt would end the same way."""
    is_lost: bool = False
    """The process that ran it died, so nobody knows whether it took effect."""


class Elsewhere(Protocol):
    """Runs the calls of one deployment's tools in processes of their own."""

    async def __call__(
        self, tool: ToolDef, arguments: dict[str, Any], context: ToolContext, *, note: Callable[[str], None]
    ) -> ToolOutcome:
        """One attempt, `tool.timeout_seconds` included. Raises nothing but being cancelled, and then it is ended.

        `note` is told in a few words what it waits for, if it does, and "" once it runs.
        """
        ...


async def attempt(
    tool: ToolDef, arguments: dict[str, Any], context: ToolContext, *, executor: Executor | None
) -> ToolOutcome:
    """Call a tool here: a coroutine on this loop, any other function in a thread of `executor`.

    A thread cannot be ended: when the attempt runs out of time or is cancelled, what it does comes to nothing but goes on.
    """
    before = _state_of(tool, context)
    try:
        async with asyncio.timeout(tool.timeout_seconds or None):
            kwargs = _kwargs(tool, arguments, context)
            assert tool.func is not None
            if tool.is_async:
                result = await tool.func(**kwargs)
            else:
                ambient = contextvars.copy_context()
                result = await asyncio.get_running_loop().run_in_executor(
                    executor, ambient.run, _blocking, tool.func, kwargs
                )
                # A plain function may still hand back a coroutine (a lambda around an async client, say).
                result = await result if inspect.isawaitable(result) else result
        return _returned(tool, result, before, context)
    except (Exception, SystemExit, asyncio.CancelledError) as problem:
        if is_ours(problem):
            raise
        return failed(tool, problem)


def attempt_alone(tool: ToolDef, arguments: dict[str, Any], context: ToolContext) -> ToolOutcome:
    """Call a tool in a process that has nothing else to do, on its main thread, where it can be interrupted."""
    INSIDE.set(context.execution_id)  # What it starts, and waits for, must not wait for the place of its execution.
    before = _state_of(tool, context)
    try:
        assert tool.func is not None
        result = tool.func(**_kwargs(tool, arguments, context))
        # Not inside a loop from the start: a plain function may want to run one of its own.
        result = asyncio.run(_result_of(result)) if inspect.isawaitable(result) else result
        return _returned(tool, result, before, context)
    except (Exception, SystemExit, asyncio.CancelledError) as problem:
        return failed(tool, problem)


def failed(tool: ToolDef, problem: BaseException) -> ToolOutcome:
    """What an error means: its text for the model, and whether to try again."""
    # Bad arguments stay bad, and a result that cannot be recorded means that the tool has done its work already.
    is_final = isinstance(problem, (TerminalToolError, UnrecordableResultError, ToolArgumentsError))
    if isinstance(problem, TimeoutError) and tool.timeout_seconds:
        error = f"The tool {tool.name!r} did not finish within {tool.timeout_seconds:g} s."
    elif is_final:
        error = text_of(problem)
    else:
        error = f"{type_of(problem)}: {text_of(problem)}"
    return ToolOutcome(error=error, error_type=type_of(problem), is_final=is_final)


class UnrecordableResultError(TypeError):
    """A tool returned something that is not data."""


def is_ours(problem: BaseException) -> bool:
    """The driver cancels this effect. User code may raise CancelledError, too (it awaited a task that somebody cancelled);
    that is a failure like any other."""
    task = asyncio.current_task()
    return isinstance(problem, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def type_of(value: object) -> str:
    """The name of its class."""
    return type(value).__name__


def text_of(problem: BaseException) -> str:
    """What an error says, cut to what is recorded of it."""
    text = str(problem) or repr(problem)
    return text if len(text) <= ERROR_CHARS_MAX else f"{text[:ERROR_CHARS_MAX]}… ({len(text)} characters)"


def _state_of(tool: ToolDef, context: ToolContext) -> dict[str, Any]:
    return copy.deepcopy(context.state) if tool.wants_context else {}


def _kwargs(tool: ToolDef, arguments: dict[str, Any], context: ToolContext) -> dict[str, Any]:
    # What is stored is plain data; the function gets the types it declares. Validates a person's edit, too.
    kwargs = tool.validate_arguments(arguments)
    if tool.wants_context:
        kwargs[tool.wants_context] = context
    return kwargs


def _blocking(func: Callable[..., Any], kwargs: dict[str, Any]) -> Any:
    """Call a tool in its thread. A future cannot carry StopIteration: before Python 3.12 the call would never return."""
    try:
        return func(**kwargs)
    except StopIteration as problem:
        raise RuntimeError("the function raised StopIteration") from problem


async def _result_of(awaitable: Any) -> Any:
    return await awaitable


def _returned(tool: ToolDef, result: Any, before: dict[str, Any], context: ToolContext) -> ToolOutcome:
    plain = _plain(result, tool.name)
    after = context.state
    if not tool.wants_context or before == after:
        return ToolOutcome(result=plain)
    changed = {
        key: _plain(value, tool.name) for key, value in after.items() if key not in before or before[key] != value
    }
    gone = tuple(key for key in before if key not in after)
    return ToolOutcome(result=plain, state_set=changed, state_del=gone)


def _plain(result: Any, tool: str) -> Any:
    if result is None or type(result) in (str, int, bool):
        return result
    try:
        plain = to_jsonable_python(result, inf_nan_mode="constants")
        # What the store would refuse (too deep, too large) must be known before it counts as done.
        pack({"result": plain}, spare_depth=RECORD_SPARE_DEPTH)
        return plain
    except (PydanticSerializationError, UnstorableValueError, ValueError, RecursionError) as problem:
        raise UnrecordableResultError(
            f"The tool {tool!r} ran, but what it returned ({type_of(result)}) cannot be recorded: {text_of(problem)}. "
            "Return JSON data, a dataclass or a pydantic model."
        ) from None
