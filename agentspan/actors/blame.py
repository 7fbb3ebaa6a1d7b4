"""Why an agent cannot be shipped, in words its author can act on: the innermost object that is to blame, and the way to it."""

from __future__ import annotations

import dis
import functools
import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from agentspan.actors.localcode import REASON_CHARS_MAX, dump
from agentspan.actors.locality import Unshippable, local_modules_by_value
from agentspan.frameworks.langgraph.app.pickling import travelling
from agentspan.wording import a

HOPS_MAX = 12
"""How deep `blame` looks; deeper finds no longer help a reader."""


class Blame(NamedTuple):
    """What stands in the way, for a person."""

    culprit: str
    problem: str
    remedy: str | None


Test = Callable[[Any], Unshippable | None]
"""Says what is wrong with a value and all it refers to, or None."""


def pickle_problem(value: Any) -> Unshippable | None:
    """Why a value cannot be pickled by value, or None."""
    try:
        dump(value)
    except Unshippable as problem:
        return problem
    except Exception as problem:  # Pickling runs the objects' own code, which may raise anything.
        return Unshippable(f"It cannot be pickled ({str(problem)[:REASON_CHARS_MAX]})")
    return None


def blame(parts: Iterator[tuple[str, Any]], test: Test = pickle_problem) -> Blame | None:
    """Name the innermost object for which `test` finds a problem, and the way to it.

    Args:
        parts: What the agent consists of, by the names its author knows.
    """
    with local_modules_by_value():
        for part, value in parts:
            problem = test(value)
            if problem is not None:
                found = _search(value, problem, test, set())
                assert found is not None, "the part itself is always an answer"
                return Blame(_clause(part, found), str(found.problem), found.problem.remedy)
    return None


def _clause(part: str, found: _Find) -> str:
    kind = _kind(found.value)
    if found.way:
        return f"{part} refers to {', which refers to '.join(found.way)} ({kind})"
    if isinstance(found.value, (types.FunctionType, type)):
        return f"{part} cannot be shipped"
    return f"{part} is {kind}"


class _Find(NamedTuple):
    """The innermost object with a problem, and the way to it."""

    way: tuple[str, ...]
    value: Any
    problem: Unshippable


def _search(value: Any, problem: Unshippable, test: Test, seen: set[int], depth: int = 0) -> _Find | None:
    """Look behind a value for the object that causes its problem. None: it only refers back to one seen before."""
    seen.add(id(value))
    leads_back = False
    for label, child in _references(value) if depth < HOPS_MAX else ():
        if id(child) in seen:
            leads_back = leads_back or child is not value
            continue
        cause = test(child)
        if cause is not None:
            found = _search(child, cause, test, seen, depth + 1)
            if found is not None:
                return found._replace(way=(label, *found.way))
            leads_back = True
    return None if leads_back and depth > 0 else _Find((), value, problem)


def _kind(value: Any) -> str:
    cls = type(value)
    name = cls.__qualname__ if cls.__module__ in ("builtins", "__main__") else f"{cls.__module__}.{cls.__qualname__}"
    return a(name)


def _references(value: Any) -> Iterator[tuple[str, Any]]:
    """What a value refers to, nearest first, each with a name for people."""
    if isinstance(value, types.FunctionType):
        yield from _function_references(value)
    elif isinstance(value, types.MethodType):
        yield "its function", value.__func__
        yield "its object", value.__self__
    elif isinstance(value, functools.partial):
        yield "its function", value.func
        yield from ((f"its argument {index + 1}", item) for index, item in enumerate(value.args))
        yield from ((f"its argument {name!r}", item) for name, item in value.keywords.items())
    elif isinstance(value, functools._lru_cache_wrapper):
        yield "its function", value.__wrapped__
    elif isinstance(value, (staticmethod, classmethod)):
        yield "its function", value.__func__
    elif isinstance(value, property):
        yield from (("its function", part) for part in (value.fget, value.fset, value.fdel) if part is not None)
    elif isinstance(value, dict):
        yield from ((f"the item {key!r}", item) for key, item in list(value.items()))
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from ((f"the item {index}", item) for index, item in enumerate(list(value)))
    elif isinstance(value, types.ModuleType):
        names = [(name, item) for name, item in list(vars(value).items()) if name != "__builtins__"]
        yield from ((f"the global {name!r}", item) for name, item in names)
    else:
        yield from _attributes(value)


def _function_references(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name in _names(function.__code__):
        if name in function.__globals__:
            yield f"the global {name!r}", function.__globals__[name]
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f"the variable {name!r} of the function around it", cell.cell_contents
        except ValueError:
            continue  # Not assigned yet.
    parameters = list(inspect.signature(function, follow_wrapped=False).parameters.values())
    for parameter in parameters:
        if parameter.default is not parameter.empty:
            yield f"the default of {parameter.name!r}", parameter.default
    yield from ((f"the annotation of {name!r}", hint) for name, hint in function.__annotations__.items())
    yield from ((f"its attribute {name!r}", item) for name, item in vars(function).items())


def _names(code: types.CodeType) -> dict[str, None]:
    """The globals that a function, and the functions inside it, use; in order."""
    names = dict.fromkeys(step.argval for step in dis.get_instructions(code) if step.opname.endswith("_GLOBAL"))
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names(constant)
    return names


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    try:
        fields = travelling(value)
    except Exception:  # A model's constructor may raise anything; the model is then to blame as a whole.
        fields = {}
    if fields is not None:
        yield from ((f"its attribute {name!r}", item) for name, item in fields.items())
        return
    if isinstance(value, type):
        yield from ((f"its base {base.__name__}", base) for base in value.__bases__)
    yield from ((f"its attribute {name!r}", item) for name, item in list(getattr(value, "__dict__", {}).items()))
    if not isinstance(value, type):
        for cls in type(value).__mro__:
            slots = cls.__dict__.get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if hasattr(value, name):
                    yield f"its attribute {name!r}", getattr(value, name)
        yield f"its class {type(value).__name__}", type(value)
