"""What a function takes: its parameters, their resolved types, and what its docstring says of them.

Whatever a model could not call by name, with JSON, as often as it likes, is refused here, when the tool is defined.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn, Optional, Union

from pydantic import Field
from pydantic.fields import FieldInfo

from agentspan.agents.context import ToolContext
from agentspan.agents.docstrings import parse_docstring
from agentspan.errors import ToolDefinitionError

REQUIRED = inspect.Parameter.empty
"""The default of an argument that has none."""


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument that the model gives."""

    name: str
    hint: Any
    """Its resolved type, with description and alias attached."""
    default: Any = REQUIRED


@dataclass(frozen=True, slots=True)
class Signature:
    """What a function takes."""

    arguments: tuple[Argument, ...]
    context_parameter: str | None
    takes_self: bool
    description: str


def read_signature(function: Callable[..., Any], *, tool: str) -> Signature:
    """Read a function's parameters and docstring.

    Raises:
        ToolDefinitionError: A model could not call it, or not safely; says which parameter and what to write.
    """
    said = parse_docstring(_docstring(function))
    hints = _Hints(function, tool)
    takes_self = _is_unbound_method(function)
    preset = _preset_keywords(function)
    arguments: list[Argument] = []
    context_parameter: str | None = None
    parameters = list(inspect.signature(function).parameters.values())
    for parameter in parameters[1:] if takes_self else parameters:
        if parameter.name in preset:
            continue
        _refuse_unnameable(parameter, tool)
        hint = hints.resolve(parameter)
        if not _is_context(hint):
            _refuse_mutable(parameter, tool)
            arguments.append(_argument(parameter, hint, said.arguments.get(parameter.name)))
        elif context_parameter is None:
            context_parameter = parameter.name
        else:
            _refuse(tool, f"{context_parameter!r} and {parameter.name!r} both take the ToolContext; keep one.")
    return Signature(tuple(arguments), context_parameter, takes_self, said.description)


class _Hints:
    """Resolves the annotations of one function, each by itself so that an error can name the parameter."""

    def __init__(self, function: Callable[..., Any], tool: str) -> None:
        self._tool = tool
        target = _implementation(function)
        try:
            self._raw: Mapping[str, Any] = dict(getattr(target, "__annotations__", {}))
        except NameError as error:  # Python 3.14 evaluates annotations when they are asked for.
            _refuse(tool, f"an annotation refers to {error.name!r}, which is not defined; {_WHERE_TYPES_LIVE}")
        self._globals: dict[str, Any] = getattr(inspect.unwrap(target), "__globals__", {})

    def resolve(self, parameter: inspect.Parameter) -> Any:
        if parameter.annotation is parameter.empty:
            return Any
        raw = self._raw.get(parameter.name, parameter.annotation)
        holder = types.SimpleNamespace(__annotations__={parameter.name: raw})
        try:
            return typing.get_type_hints(holder, globalns=self._globals, include_extras=True)[parameter.name]
        except NameError as error:
            _refuse(
                self._tool,
                f"the annotation {raw!r} of its argument {parameter.name!r} refers to {error.name!r}, which cannot be "
                f"found from the function's module; {_WHERE_TYPES_LIVE}",
            )
        except (TypeError, SyntaxError) as error:
            _refuse(self._tool, f"the annotation {raw!r} of its argument {parameter.name!r} is not a type: {error}")


_WHERE_TYPES_LIVE = (
    "with `from __future__ import annotations`, types must be defined or imported at the top level of the module, not "
    "inside a function and not only under TYPE_CHECKING."
)


def _implementation(function: Callable[..., Any]) -> Any:
    """The object that carries annotations and docstring: through partials and callable objects."""
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, (types.FunctionType, types.MethodType, types.BuiltinFunctionType)):
        return function
    return type(function).__call__


def _docstring(function: Callable[..., Any]) -> str | None:
    target = _implementation(function)
    own = getattr(target, "__doc__", None)
    while isinstance(function, functools.partial):
        function = function.func
    return own if target is function else own or type(function).__doc__


def _is_unbound_method(function: Callable[..., Any]) -> bool:
    if not isinstance(function, types.FunctionType):
        return False
    owner = function.__qualname__.rpartition(".")[0]
    if not owner or owner.endswith("<locals>"):
        return False
    first = next(iter(inspect.signature(function).parameters.values()), None)
    return first is not None and first.name in ("self", "cls")


def _preset_keywords(function: Callable[..., Any]) -> set[str]:
    """Keywords a partial has filled in: they are the caller's, so the model may not set them."""
    preset: set[str] = set()
    while isinstance(function, functools.partial):
        preset |= set(function.keywords)
        function = function.func
    return preset


def _is_context(hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin is Annotated:
        return _is_context(typing.get_args(hint)[0])
    if origin in (Union, types.UnionType):
        return any(_is_context(member) for member in typing.get_args(hint))
    return isinstance(hint, type) and issubclass(hint, ToolContext)


def _refuse_unnameable(parameter: inspect.Parameter, tool: str) -> None:
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        star = "*" if parameter.kind is parameter.VAR_POSITIONAL else "**"
        instead = "a list" if star == "*" else "a dict"
        _refuse(
            tool,
            f"it takes {star}{parameter.name}, and a model needs to know every argument by name. Name the arguments, "
            f"or take one argument that is {instead}.",
        )
    if parameter.kind is parameter.POSITIONAL_ONLY:
        _refuse(
            tool, f"its argument {parameter.name!r} is positional-only, but arguments come by name. Remove the '/'."
        )


def _refuse_mutable(parameter: inspect.Parameter, tool: str) -> None:
    default = parameter.default
    if isinstance(default, FieldInfo):
        default = default.default
    try:
        hash(default)
    except TypeError:
        kind = type(default).__name__
        factory = kind if kind in ("list", "dict", "set", "bytearray") else f"lambda: {kind}(...)"
        _refuse(
            tool,
            f"the default of its argument {parameter.name!r} is a mutable {kind}: one object shared by all calls and "
            "all executions of a process, which one call could change for the others. Write "
            f"`{parameter.name} = None` and make the {kind} inside the function, or "
            f"`{parameter.name} = Field(default_factory={factory})`.",
        )


def _argument(parameter: inspect.Parameter, hint: Any, from_docstring: str | None) -> Argument:
    declared = FieldInfo.from_annotation(hint)
    notes = [note for note in typing.get_args(hint)[1:] if isinstance(note, str)] if _is_annotated(hint) else []
    default = parameter.default
    own = default.description if isinstance(default, FieldInfo) else None
    description = own or declared.description or (notes[-1] if notes else None) or from_docstring
    if default is None and not _allows_none(hint):
        # `x: str = None` is what people write for an optional argument; the schema has to allow what the default is.
        hint = Optional[hint]  # noqa: UP045 - `hint | None` is not defined for every hint.
    alias = declared.alias or parameter.name
    return Argument(parameter.name, Annotated[hint, Field(alias=alias, description=description)], default)


def _is_annotated(hint: Any) -> bool:
    return typing.get_origin(hint) is Annotated


def _allows_none(hint: Any) -> bool:
    if _is_annotated(hint):
        return _allows_none(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (Union, types.UnionType):
        return any(_allows_none(member) for member in typing.get_args(hint))
    return hint in (Any, None, type(None), object)


def _refuse(tool: str, problem: str) -> NoReturn:
    raise ToolDefinitionError(tool=tool, problem=problem)
