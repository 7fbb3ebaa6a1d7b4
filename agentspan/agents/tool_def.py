"""The definition of a tool: one place that holds and checks everything there is to say about it."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NoReturn, TypeVar

from agentspan.agents.nearest import did_you_mean, listed
from agentspan.agents.schema import ArgumentSchema, check_arguments
from agentspan.agents.spec import OnCrash, RetryPolicy, ToolKind, ToolSpec
from agentspan.agents.tool_resources import needs_of
from agentspan.errors import ToolDefinitionError

RETRIES_MAX = 100
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def is_async_callable(func: Any) -> bool:
    """Whether calling it gives a coroutine, as far as its definition says: `async def`, or an `async def __call__`."""
    return inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(type(func).__call__)


@dataclass(frozen=True, eq=False, kw_only=True)
class ToolDef:
    """One tool, as code and as data. `@tool` makes it; made by hand it is checked the same way.

    Times are in seconds. `input_schema` and `description` are read from the function when they are not given.

    Raises:
        ToolDefinitionError: On construction, when a value cannot be used or a model could not call the function.
    """

    name: str
    description: str = ""
    input_schema: dict[str, Any] = field(default_factory=dict)
    """JSON schema of the arguments: always an object schema."""
    func: Callable[..., Any] | None = field(default=None, repr=False)
    """What runs; None when a person or a message answers."""
    kind: ToolKind = ToolKind.FUNCTION
    approval_required: bool = False
    """A person must approve each call before it runs."""
    timeout_seconds: float | None = None
    """Limit of one attempt; None for none."""
    retry_count: int = 2
    """Attempts after the first one: 0 to 100."""
    retry_delay_seconds: float = 2.0
    retry_policy: RetryPolicy = RetryPolicy.LINEAR_BACKOFF
    max_calls: int | None = None
    """Calls that one execution may make; None for any number."""
    on_crash: OnCrash = OnCrash.RETRY
    batch_size: int = 1
    blocking: bool = True
    response_schema: dict[str, Any] | None = None
    num_cpus: float | None = None
    num_gpus: float | None = None
    memory: int | None = None
    """Bytes."""
    resources: dict[str, float] | None = None
    """Of the cluster's own resources, by name. With any of these four a call runs as a Ray task, on any node."""
    arguments: ArgumentSchema | None = field(default=None, repr=False)
    """The function's arguments; read from `func` when not given."""

    def __post_init__(self) -> None:
        name = self.name
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            _refuse(name, "a name has 1 to 64 letters, digits, '_' or '-'. Choose one with name='...'.")
        self._set("retry_policy", _choice(name, "retry_policy", RetryPolicy, self.retry_policy))
        self._set("on_crash", _choice(name, "on_crash", OnCrash, self.on_crash))
        self._set("kind", _choice(name, "kind", ToolKind, self.kind))
        _whole(name, "retry_count", self.retry_count, 0, RETRIES_MAX)
        _whole(name, "batch_size", self.batch_size, 1)
        if self.max_calls is not None:
            _whole(name, "max_calls", self.max_calls, 1, hint="Leave it out for any number.")
        if self.timeout_seconds is not None and not _is_number(self.timeout_seconds, above=0):
            given = self.timeout_seconds
            _refuse(name, f"timeout_seconds is {given!r}; give seconds above 0, or leave it out for no limit.")
        if not _is_number(self.retry_delay_seconds, least=0):
            _refuse(name, f"retry_delay_seconds is {self.retry_delay_seconds!r}; give seconds, 0 or more.")
        for option in ("approval_required", "blocking"):
            if not isinstance(getattr(self, option), bool):
                _refuse(name, f"{option} is {getattr(self, option)!r}; give True or False.")
        try:
            needs = self.needs
        except ValueError as problem:
            _refuse(name, str(problem))
        if needs and self.kind is not ToolKind.FUNCTION:
            _refuse(
                name, f"a {self.kind.value} answers it, so there is nothing to run. Leave out num_cpus and the like."
            )
        if self.kind is ToolKind.FUNCTION:
            self._read_function()
        elif not self.input_schema:
            self._set("input_schema", {"type": "object", "properties": {}, "additionalProperties": False})
        if self.input_schema.get("type") != "object":
            _refuse(name, 'input_schema must be a JSON schema with "type": "object", since arguments have names.')

    def _read_function(self) -> None:
        if self.func is None:
            _refuse(self.name, "it has no function to run; give func=, or use human_tool() or wait_for_message_tool().")
        if self.arguments is None:
            self._set("arguments", ArgumentSchema.of(self.func, tool=self.name))
        assert self.arguments is not None
        if not self.input_schema:
            self._set("input_schema", self.arguments.json_schema)
        if not self.description:
            self._set("description", self.arguments.description)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @property
    def is_async(self) -> bool:
        """Whether `func` is `async def`. A function that is not may still return an awaitable; await what you get."""
        return is_async_callable(self.func)

    @property
    def wants_context(self) -> str | None:
        """The parameter that takes the `ToolContext`, or None."""
        return self.arguments.context_parameter if self.arguments else None

    @property
    def needs(self) -> dict[str, float]:
        """What each call asks of a node, by Ray's names. Empty: it runs in its execution's own process."""
        return needs_of(num_cpus=self.num_cpus, num_gpus=self.num_gpus, memory=self.memory, resources=self.resources)

    def spec(self) -> ToolSpec:
        """The tool as plain data, for the engine and the store."""
        return ToolSpec(
            name=self.name,
            description=self.description,
            parameters=self.input_schema,
            kind=self.kind,
            approval_required=self.approval_required,
            timeout_seconds=self.timeout_seconds,
            retry_count=self.retry_count,
            retry_delay_seconds=float(self.retry_delay_seconds),
            retry_policy=self.retry_policy,
            max_calls=self.max_calls,
            on_crash=self.on_crash,
            batch_size=self.batch_size,
            blocking=self.blocking,
            response_schema=self.response_schema,
            needs=self.needs,
        )

    def validate_arguments(self, raw: str | Mapping[str, Any]) -> dict[str, Any]:
        """Check what a model sent and turn it into keyword arguments for `func`, without the context.

        Args:
            raw: JSON text of an object (empty text stands for no arguments), or that object.

        Raises:
            ToolArgumentsError: It does not fit; the text tells the model what to mend. Nothing was called.
        """
        if self.arguments is not None:
            return self.arguments.validate(raw)
        return check_arguments(raw, tool=self.name, schema=self.input_schema)

    def plain_arguments(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """JSON data of arguments that `validate_arguments` returned, defaults included: to show them."""
        return self.arguments.to_plain(arguments) if self.arguments is not None else dict(arguments)

    def recorded_arguments(self, raw: str | Mapping[str, Any]) -> dict[str, Any]:
        """JSON data to show, hash and store for what a model sent. `validate_arguments` of it gives what will run.

        Raises:
            ToolArgumentsError: It does not fit.
        """
        if self.arguments is not None:
            return self.arguments.to_record(raw)
        return check_arguments(raw, tool=self.name, schema=self.input_schema)


# --- checks of values ------------------------------------------------------------------------------------------------

E = TypeVar("E", bound=Enum)


def _choice(tool: str, option: str, kind: type[E], value: Any) -> E:
    try:
        return kind(value)
    except ValueError:
        choices = [str(member.value) for member in kind]
        near = did_you_mean(value, choices) if isinstance(value, str) else ""
        _refuse(tool, f"{option} is {value!r}.{near} It can be: {listed(choices)}.")


def _whole(tool: str, option: str, value: Any, least: int, most: int | None = None, *, hint: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most is not None and value > most):
        limits = f"from {least} to {most}" if most is not None else f"of at least {least}"
        _refuse(tool, f"{option} is {value!r}; give a whole number {limits}.{' ' if hint else ''}{hint}")


def _is_number(value: Any, *, least: float | None = None, above: float | None = None) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return False
    return (least is None or value >= least) and (above is None or value > above)


def _refuse(tool: Any, problem: str) -> NoReturn:
    raise ToolDefinitionError(tool=str(tool), problem=problem)
