"""Tools: what an agent's model may call.

A tool is a plain function with a definition beside it. `@tool` reads the function once and refuses what could not work;
`human_tool` and `wait_for_message_tool` define tools that a person or the next message answers.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any, NoReturn, TypeVar, overload

from agentspan.agents.context import ToolContext
from agentspan.agents.nearest import unknown_option
from agentspan.agents.outputs import schema_of_type
from agentspan.agents.schema import ArgumentSchema
from agentspan.agents.spec import OnCrash, RetryPolicy, ToolKind
from agentspan.agents.tool_def import ToolDef, is_async_callable
from agentspan.errors import TerminalToolError, ToolDefinitionError
from agentspan.wording import a

__all__ = [
    "TerminalToolError",
    "ToolContext",
    "ToolDef",
    "function_tool",
    "get_tool_def",
    "get_tool_defs",
    "human_tool",
    "tool",
    "wait_for_message_tool",
]

F = TypeVar("F", bound=Callable[..., Any])

_LATER = {"external", "guardrails", "credentials", "stateful", "isolated"}
_OTHER_WORDS = {"max_retries": "retry_count", "retries": "retry_count", "timeout": "timeout_seconds"}
"""Ray's and others' words for ours."""
_QUESTION_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"question": {"type": "string", "description": "The question to ask the person."}},
    "required": ["question"],
    "additionalProperties": False,
}


@overload
def tool(func: F) -> F: ...


@overload
def tool(
    func: None = None,
    *,
    name: str | None = None,
    description: str | None = None,
    approval_required: bool = False,
    timeout_seconds: float | None = None,
    retry_count: int = 2,
    retry_delay_seconds: float = 2,
    retry_policy: str | RetryPolicy = "linear_backoff",
    max_calls: int | None = None,
    on_crash: str | OnCrash = "retry",
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    memory: int | None = None,
    resources: dict[str, float] | None = None,
) -> Callable[[F], F]: ...


@overload
def tool(func: F, **options: Any) -> F: ...


def tool(func: Any = None, **options: Any) -> Any:
    """Let a model call a function. Write `@tool`, `@tool(approval_required=True)`, or `tool(function, name=...)`.

    The function stays what it was and can be called directly. The model is told its name, its docstring and its
    arguments (from the type hints); what the model sends is checked and converted before the function runs. It may be
    `def` (runs in a thread) or `async def`. A `ToolContext` parameter is filled in and not shown to the model.

    A call that was under way when the process died is tried again, so a tool that changes something outside should
    hand on `ToolContext.idempotency_key`, or say what else to do with `on_crash`.

    With any of `num_cpus`, `num_gpus`, `memory` and `resources` each call runs as a Ray task, in a process of its own on
    any node that has what it asks for; while that is in use, the call waits in line. All else stays as it is, with two
    things better: a call that is cancelled or runs out of time is ended (`KeyboardInterrupt` first, the process after
    that), and one that kills its process kills nothing else. `ToolContext.dependencies` are then copies, as loaded there.

    Args:
        func: The function; left out when there are options.
        name: What the model calls it: 1 to 64 letters, digits, `_`, `-`. Default: the function's name.
        description: What it is for. Default: the docstring.
        approval_required: A person must approve each call before it runs.
        timeout_seconds: Limit of one attempt. Default: none.
        retry_count: Attempts after the first, 0 to 100, when it raises. `TerminalToolError` is never tried again.
        retry_delay_seconds: Pause before the first retry.
        retry_policy: How the pause grows: `fixed`, `linear_backoff` or `exponential_backoff`.
        max_calls: Calls that one execution may make. Default: any number.
        on_crash: What to do with a call whose outcome a crash made unknown: `retry`, `ask` a person, or `fail`.
        num_cpus: CPUs, 0 or more; parts of one will do. Default, when another resource is asked for: 1.
        num_gpus: GPUs: a part of one, or whole ones.
        memory: Bytes.
        resources: Amounts of the cluster's own resources, by name. All four count for who may run where at the same
            time; Ray enforces no limit.

    Raises:
        ToolDefinitionError: An option is unknown or out of range, or a model could not call the function.
    """
    if func is None:
        _check_options(options.get("name") or "(unnamed)", options)
        return functools.partial(_define, options=options)
    return _define(func, options)


function_tool = tool
"""`tool`, by the name that programs written for openai-agents import."""

TOOL_OPTIONS = (
    "name",
    "description",
    "approval_required",
    "timeout_seconds",
    "retry_count",
    "retry_delay_seconds",
    "retry_policy",
    "max_calls",
    "on_crash",
    "num_cpus",
    "num_gpus",
    "memory",
    "resources",
)


def _check_options(name: str, options: Mapping[str, Any]) -> None:
    for option in options:
        if option in _OTHER_WORDS:
            _refuse(name, f"there is no option {option!r}; it is called {_OTHER_WORDS[option]!r} here.")
        if option not in TOOL_OPTIONS:
            _refuse(name, unknown_option(option, TOOL_OPTIONS, later=_LATER))


def _define(func: Any, options: Mapping[str, Any]) -> Any:
    name = options.get("name") or _name_of(func)
    _check_options(name, options)
    _refuse_uncallable(func, name)
    given = {option: value for option, value in options.items() if option not in ("name", "description")}
    description = options.get("description") or ""
    target = func if _is_untouched_function(func) else _wrapper(func, name)
    # The schema is read from the user's own object: a wrapper around a partial or a bound method hides some of it.
    arguments = ArgumentSchema.of(func, tool=name)
    target._tool_def = ToolDef(name=name, description=description, func=target, arguments=arguments, **given)
    return target


def _is_untouched_function(func: Any) -> bool:
    """A plain function that is not a tool yet carries its definition itself, so it stays importable under its name."""
    if not isinstance(func, types.FunctionType):
        return False
    known = func.__dict__.get("_tool_def")
    return known is None or known.func is not func


def _wrapper(func: Any, name: str) -> Any:
    """A function of its own for what cannot carry a definition, or already carries another."""
    if is_async_callable(func):

        async def call_async(*args: Any, **kwargs: Any) -> Any:
            return await func(*args, **kwargs)

        return _dressed(call_async, func, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        return func(*args, **kwargs)

    return _dressed(call, func, name)


def _dressed(wrapper: Any, func: Any, name: str) -> Any:
    wrapper.__name__ = wrapper.__qualname__ = name
    # `updated=()`: a callable object's own attributes are no business of the wrapper.
    return functools.update_wrapper(wrapper, func, updated=())


def _name_of(func: Any) -> str:
    while isinstance(func, functools.partial):
        func = func.func
    name = getattr(func, "__name__", None) or type(func).__name__
    return str(name)


def _refuse_uncallable(func: Any, name: str) -> None:
    if isinstance(func, str):
        _refuse(func, f"@tool got text instead of a function. Write @tool(name={func!r}).")
    if isinstance(func, (staticmethod, classmethod)):
        kind = type(func).__name__
        _refuse(name, f"it is a {kind} already. Put @{kind} above @tool.")
    if isinstance(func, type):
        _refuse(name, "it is a class. Decorate a function, or an instance that can be called.")
    if not callable(func):
        _refuse(name, f"{a(type(func).__name__)} cannot be called. Decorate a function.")
    if name == "<lambda>":
        _refuse(name, "a lambda has no name a model could call. Pass name='...', or write a def.")
    if inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func):
        _refuse(name, "it yields, and a tool has one result. Return a list.")


def get_tool_def(obj: Any) -> ToolDef:
    """The definition of a tool.

    Raises:
        ToolDefinitionError: `obj` is not a tool; says how to make it one.
    """
    if isinstance(obj, ToolDef):
        return obj
    definition = getattr(obj, "_tool_def", None)
    name = _name_of(obj)
    if not isinstance(definition, ToolDef):
        if not callable(obj):
            _refuse(name, f"{a(type(obj).__name__)} is not a tool. Give functions decorated with @tool, or ToolDefs.")
        _refuse(name, f"it is a plain function. Decorate it with @tool, or pass tool({name}).")
    if isinstance(obj, types.MethodType):
        return replace(definition, func=obj)
    if definition.arguments is not None and definition.arguments.takes_self:
        _refuse(definition.name, "it is a method without its instance. Pass it bound: tools=[instance.method].")
    if definition.func is not obj:
        # Another decorator sits above @tool and copied the definition; it must run too.
        return replace(definition, func=obj)
    return definition


def get_tool_defs(tools: Iterable[Any]) -> list[ToolDef]:
    """The definitions of several tools, in order.

    Raises:
        ToolDefinitionError: One of them is not a tool.
    """
    return [get_tool_def(obj) for obj in tools]


def human_tool(
    name: str,
    description: str,
    input_schema: dict[str, Any] | None = None,
    response_schema: dict[str, Any] | type | None = None,
) -> ToolDef:
    """A tool that asks a person: the execution waits, for days if need be, and the answer is the tool's result.

    Args:
        name: What the model calls it.
        description: When to ask.
        input_schema: JSON schema of what the model sends. Default: `{"question": "..."}`.
        response_schema: JSON schema, or a type such as a pydantic model, that the answer must fit. Default: anything.

    Raises:
        ToolDefinitionError: The name or a schema cannot be used.
    """
    if response_schema is not None and not isinstance(response_schema, dict):
        try:
            response_schema = schema_of_type(response_schema)
        except ValueError as error:
            _refuse(name, f"response_schema: {error}")
    return ToolDef(
        name=name,
        description=description,
        kind=ToolKind.HUMAN,
        input_schema=input_schema or deepcopy(_QUESTION_SCHEMA),
        response_schema=response_schema,
    )


def wait_for_message_tool(name: str, description: str, batch_size: int = 1, blocking: bool = True) -> ToolDef:
    """A tool that takes the next messages sent to the execution (`handle.send`, `runtime.send_message`).

    Args:
        name: What the model calls it.
        description: When to listen.
        batch_size: The most messages one call takes, from 1.
        blocking: Wait until there is one. With False it answers at once, with an empty list if there is none.

    Raises:
        ToolDefinitionError: The name or the batch size cannot be used.
    """
    return ToolDef(name=name, description=description, kind=ToolKind.MESSAGE, batch_size=batch_size, blocking=blocking)


def _refuse(tool: Any, problem: str) -> NoReturn:
    raise ToolDefinitionError(tool=str(tool), problem=problem)
