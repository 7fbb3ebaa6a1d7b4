"""Finds the classes a graph declares: what its state may hold, and no other class.

Only data classes count: pydantic models, dataclasses, named tuples, enums, attrs classes, exceptions, and subclasses of
Python's own types. A plain class in a schema (a client, a lock) is not data and is not declared by being named.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
import types
import typing
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import TYPE_CHECKING, Any

import typing_extensions
from pydantic import BaseModel

from agentspan.frameworks.langgraph.state.builtin_types import number_of
from agentspan.frameworks.langgraph.state.forms import DUMPERS

if TYPE_CHECKING:
    from langgraph.pregel import Pregel

_DATA_BASES = (BaseModel, Enum, BaseException, str, int, float, bytes, tuple, list, dict, set, frozenset)
_BASES = frozenset((*_DATA_BASES, *DUMPERS, object, bool, type(None), Exception, type))
"""Classes that are no types of their own."""
_RESPONSE_CELLS = ("initial_response_format", "response_format")
"""Where `create_agent` and `create_react_agent` keep what `structured_response` will be: their schemas only say "any"."""


def declared_types(*roots: Any) -> list[type]:
    """The data classes that these types are made of.

    Args:
        roots: Classes and type hints of any kind. What is no type is ignored.

    Returns:
        Each class once, in the order found: through `Annotated`, unions, containers, generics, aliases, literals of enums,
        and the fields of TypedDicts, models, dataclasses and named tuples. Not the subclasses of a class that is found. A
        forward reference that cannot be resolved is skipped.
    """
    walk = _Walk()
    for root in roots:
        walk.visit(root)
    return list(walk.found)


def graph_types(app: Pregel[Any, Any, Any, Any]) -> list[type]:
    """The data classes a compiled graph declares, its sub-graphs included.

    They are named by its schemas (state, input, output, context, the nodes' own), its channels, what its nodes, branches
    and `@task` functions say they return, the `response_format` of an agent, and LangGraph's own list when it has made one.
    """
    walk = _Walk()
    seen: set[int] = set()
    for graph in (app, *(graph for _, graph in app.get_subgraphs(recurse=True))):
        for root in _roots(graph, seen):
            walk.visit(root)
        for module, name in getattr(graph, "_serde_allowlist", None) or ():
            walk.visit(getattr(sys.modules.get(module), name, None))
    return list(walk.found)


def _roots(graph: Any, seen: set[int]) -> Iterator[Any]:
    builder = getattr(graph, "builder", None)
    if builder is not None:
        yield from builder.schemas
        for name in ("state_schema", "input_schema", "output_schema", "context_schema"):
            yield getattr(builder, name, None)
        for node in builder.nodes.values():
            yield node.input_schema
        for branches in builder.branches.values():
            yield from (branch.input_schema for branch in branches.values())
    yield getattr(graph, "context_schema", None)
    for channel in graph.channels.values():
        for name in ("ValueType", "UpdateType"):
            yield _told(channel, name)
    for node in graph.nodes.values():
        yield from _function_roots(_function(node.bound), seen)


def _told(channel: Any, name: str) -> Any:
    try:
        return getattr(channel, name, None)
    except Exception:
        return None  # A channel of the user's own may have no answer; its values then need declaring elsewhere.


def _function(bound: Any) -> Any:
    function = getattr(bound, "func", None) or getattr(bound, "afunc", None)
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.unwrap(function) if callable(function) else None


def _function_roots(function: Any, seen: set[int]) -> Iterator[Any]:
    """What a node or task says it returns, what an agent's node was given to answer in, and the tasks it may call."""
    function = getattr(function, "__func__", function)
    if not isinstance(function, types.FunctionType) or id(function) in seen:
        return
    seen.add(id(function))
    yield _hint(function.__annotations__.get("return"), function.__globals__, {})
    for name, held in _reachable(function):
        if name in _RESPONSE_CELLS:
            for part in held if isinstance(held, tuple) else (held,):
                yield getattr(part, "schema", None) or part
        elif type(held).__name__ == "_TaskFunction" and type(held).__module__ == "langgraph.func":
            yield from _function_roots(inspect.unwrap(held.func), seen)


def _reachable(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """The closure of a function and the globals it names, its inner functions included."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:
            continue  # It was never filled.
    waiting = [function.__code__]
    for code in waiting:
        yield from ((name, function.__globals__[name]) for name in code.co_names if name in function.__globals__)
        waiting.extend(held for held in code.co_consts if isinstance(held, types.CodeType))


class _Walk:
    """One search. `found` keeps the order; `_seen` the hints that were visited, so that recursive types end."""

    def __init__(self) -> None:
        self.found: dict[type, None] = {}
        self._seen: dict[int, Any] = {}

    def visit(self, hint: Any) -> None:
        if hint is None or hint is Any or id(hint) in self._seen:
            return
        self._seen[id(hint)] = hint  # Held, so that its id stays its own.
        for part in self._parts(hint):
            self.visit(part)

    def _parts(self, hint: Any) -> Iterable[Any]:
        if isinstance(hint, typing.TypeVar | typing_extensions.TypeVar):
            return (hint.__bound__, *hint.__constraints__, getattr(hint, "__default__", None))
        if isinstance(hint, typing_extensions.TypeAliasType) or type(hint).__name__ == "TypeAliasType":
            return (_hint(hint.__value__, _names(hint.__module__), {}),)
        if hasattr(hint, "__supertype__"):
            return (hint.__supertype__,)
        origin = typing_extensions.get_origin(hint)
        if origin is not None:
            return self._parts_of_generic(origin, typing_extensions.get_args(hint))
        return self._parts_of_class(hint) if isinstance(hint, type) else ()

    def _parts_of_generic(self, origin: Any, args: tuple[Any, ...]) -> Iterable[Any]:
        if origin in (typing.Literal, typing_extensions.Literal):
            return tuple(type(value) for value in args if isinstance(value, Enum))
        if origin in (typing.Annotated, typing_extensions.Annotated):
            return args[:1]
        if origin is type:
            return ()  # The value would be a class, which is not data.
        flat = [part for arg in args for part in (arg if isinstance(arg, list) else (arg,))]
        return (origin, *flat)

    def _parts_of_class(self, cls: type) -> Iterable[Any]:
        if typing_extensions.is_typeddict(cls) or typing.is_typeddict(cls):
            return _fields(cls)
        if cls in _BASES or number_of(cls) is not None or not _is_data(cls):
            return ()
        self.found[cls] = None
        if issubclass(cls, BaseModel):
            return _model_parts(cls)
        if issubclass(cls, Enum | BaseException):
            return ()
        return _fields(cls)


def _is_data(cls: type) -> bool:
    if cls.__module__ in ("builtins", "typing", "collections.abc"):
        return False
    return issubclass(cls, _DATA_BASES) or dataclasses.is_dataclass(cls) or hasattr(cls, "__attrs_attrs__")


def _model_parts(cls: type[BaseModel]) -> Iterator[Any]:
    for field in cls.model_fields.values():
        yield field.annotation
    generic = getattr(cls, "__pydantic_generic_metadata__", None) or {}
    yield generic.get("origin")
    yield from generic.get("args", ())
    # Private attributes and what `extra` may hold are no fields, but are state all the same.
    yield from _fields(cls)


def _fields(cls: type) -> list[Any]:
    """The hints of a class's fields."""
    try:
        return list(typing_extensions.get_type_hints(cls, include_extras=True).values())
    except Exception:
        # One name that is not there fails them all, with whatever error its expression leads to: take them one by one.
        return [hint for base in cls.__mro__ for hint in _fields_one_by_one(base)]


def _fields_one_by_one(base: type) -> Iterator[Any]:
    try:
        annotations = dict(inspect.get_annotations(base))
    except Exception:
        return  # From Python 3.14 on a class may fail to tell its annotations at all.
    for hint in annotations.values():
        yield _hint(hint, _names(base.__module__), dict(vars(base)))


def _names(module: str | None) -> dict[str, Any]:
    found = sys.modules.get(module or "")
    return vars(found) if found is not None else {}


def _hint(hint: Any, names: dict[str, Any], own: dict[str, Any]) -> Any:
    """A hint with its forward references resolved, or None."""
    holder = types.SimpleNamespace(__annotations__={"hint": hint})
    try:
        return typing_extensions.get_type_hints(holder, names, own, include_extras=True)["hint"]
    except Exception:
        return None  # It names something that is not there at run time.
