"""Finds the value in a graph's state that could not be stored or loaded, and says what to do about it.

Only runs when an error has to be told, so it takes its time: a value that can be stored is skipped as a whole, the others
are searched part by part.
"""

from __future__ import annotations

import dataclasses
import inspect
import io
import json
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Any

from ormsgpack import MsgpackEncodeError
from pydantic import BaseModel

from agentspan.errors import UnstorableStateError
from agentspan.frameworks.langgraph.state.forms_classes import attributes_of, can_make
from agentspan.frameworks.langgraph.state.wire import Gap, Refused, name_of
from agentspan.wording import a

_LEAVES = (str, bytes, bytearray, int, float, bool, type(None))
_LEVELS_MAX = 1000
_STEP_CHARS_MAX = 60
_PATH_CHARS_MAX = 200
_DECLARE = "Name it in the state's schema, or deploy the graph with types=[{name}]."
_OUTSIDE = "Keep it out of the state: make it in the node, and store what that needs (a name, a path, an ID)."
_SECRETS = frozenset({"SecretStr", "SecretBytes", "Secret", "_SecretBase"})


def unstorable(
    value: Any,
    path: str,
    attempt: Callable[[Any], Exception | None],
    refused_type: Callable[[Any], Refused | None],
) -> UnstorableStateError:
    """The error for a value that could not be stored.

    Args:
        value: What `attempt` has a problem with.
        path: Where it is.
        attempt: Says what is wrong with a value as a whole, or None.
        refused_type: Says why no value of this one's type can be stored, or None.
    """
    while True:
        refused = refused_type(value)
        if refused is not None:
            return _error(path, refused)
        problem = attempt(value)
        if isinstance(problem, (RecursionError, MsgpackEncodeError)):
            return _endless(value, path)
        parts = (found for found in parts_of(value) if not _is_leaf(found[1]) and attempt(found[1]) is not None)
        step, part = next(parts, ("", None))
        if part is None:
            return _error(path, problem if isinstance(problem, Refused) else _strange(value, problem))
        path += step
        value = part


def _endless(value: Any, path: str) -> UnstorableStateError:
    """The error for a value that is nested without end or too deep: depth first, and no part twice."""
    way = [(path, value, parts_of(value))]
    above, done = {id(value)}, set()
    while way and len(way) <= _LEVELS_MAX:
        place, at, parts = way[-1]
        for step, part in parts:
            if id(part) in above:
                again = Refused(f"{_a(part)} that contains itself", "so it has no end", "Store a part of it.")
                return _error(place + step, again)
            if not _is_leaf(part) and id(part) not in done:
                above.add(id(part))
                way.append((place + step, part, parts_of(part)))
                break
        else:
            way.pop()
            above.remove(id(at))
            done.add(id(at))
    remedy = "Make it flatter, e.g. a list of what is now one inside of the other."
    return _error(path, Refused(f"{_a(value)} nested too deep", "and stored state has a bound", remedy))


def first_gap(value: Any, path: str) -> str | None:
    """Where the first `Gap` is in a loaded value, or None."""
    if isinstance(value, Gap):
        return path
    if _is_leaf(value):
        return None
    for step, part in parts_of(value):
        found = first_gap(part, path + step)
        if found is not None:
            return found
    return None


def refusal(value: Any, declared: Mapping[str, type]) -> Refused:
    """Why a value of a type that is neither built in nor declared is refused."""
    cls = type(value)
    if is_secret(cls):
        return Refused(
            a(name_of(cls)),
            "and secrets do not belong into stored state",
            "Keep it in the environment or in the graph's context, and read it in the node.",
        )
    if isinstance(value, type):
        return Refused(f"the class {name_of(value)}", "and code is not data", "Store its name.")
    if isinstance(value, types.ModuleType):
        return Refused(f"the module {value.__name__}", "and code is not data", "Import it in the node.")
    if inspect.isroutine(value):
        remedy = "Store its name, or call it and store the result."
        return Refused(f"the function {name_of(value)}", "and code is not data", remedy)
    if isinstance(value, io.IOBase):
        return Refused(f"an open file ({name_of(cls)})", "which is not data", _OUTSIDE)
    if hasattr(cls, "__next__") or hasattr(cls, "__anext__") or inspect.isawaitable(value):
        return Refused(_a(value), "which can be read only once", "Store what comes out of it, e.g. list(value).")
    if _looks_like_data(cls):
        return _undeclared(cls, declared)
    if hasattr(cls, "tolist"):
        return Refused(_a(value), "which is not plain data", "Store value.tolist().")
    if cls.__module__.partition(".")[0] == "pandas":
        return Refused(
            _a(value), "which is not plain data", 'Store value.to_dict(); for a DataFrame to_dict("records").'
        )
    if can_make(object, cls):
        name = cls.__name__
        remedy = f"If it is data, make it a dataclass or deploy the graph with types=[{name}]; else keep it out of the state."
        return Refused(_a(value), "which the graph's state does not declare", remedy)
    return Refused(_a(value), "which is not data", _OUTSIDE)


def is_secret(cls: type) -> bool:
    """It is one of pydantic's wrappers for secrets, or made of one."""
    return any(base.__module__ == "pydantic.types" and base.__name__ in _SECRETS for base in cls.__mro__)


def parts_of(value: Any) -> Iterator[tuple[str, Any]]:
    """The parts of a value that the serializer looks at, each with its step in a path."""
    if isinstance(value, dict):
        for key, item in value.items():
            if type(key) is not str:
                yield f" (the key {_short(_repr(key))})", key
            yield _step(key), item
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        yield from ((f".{name}", item) for name, item in zip(value._fields, value, strict=False))
    elif isinstance(value, (list, tuple, deque)):
        yield from ((f"[{index}]", item) for index, item in enumerate(value))
    elif isinstance(value, (set, frozenset)):
        yield from (("[*]", item) for item in value)
    elif isinstance(value, BaseModel):
        held = (value.__dict__, value.__pydantic_extra__, value.__pydantic_private__)
        yield from ((_step(name), item) for items in held for name, item in (items or {}).items())
    elif isinstance(value, (slice, range)):
        yield from ((f".{name}", getattr(value, name)) for name in ("start", "stop", "step"))
    elif not isinstance(value, (BaseException, Enum, type)):
        yield from ((_step(name), item) for name, item in attributes_of(value).items())


def _is_leaf(value: Any) -> bool:
    return type(value) in _LEAVES


def _error(path: str, refused: Refused) -> UnstorableStateError:
    shown = path if len(path) <= _PATH_CHARS_MAX else f"{path[: _PATH_CHARS_MAX - 1]}…"
    return UnstorableStateError(path=shown, found=refused.found, problem=refused.problem, remedy=refused.remedy)


def _strange(value: Any, problem: Exception | None) -> Refused:
    return Refused(
        _a(value),
        f"which could not be read ({type(problem).__name__}: {problem})",
        "Check the class, or keep it out of the state.",
    )


def _undeclared(cls: type, declared: Mapping[str, type]) -> Refused:
    remedy = _DECLARE.format(name=cls.__name__)
    names = {f"{known.__module__}.{known.__qualname__}" for known in declared.values()}
    if name_of(cls) in names:
        return Refused(
            a(name_of(cls)),
            "which has the name of a declared class but is another one: its module was loaded twice, or its cell run again",
            "Build the graph and its values from the same module.",
        )
    for base in cls.__mro__[1:]:
        if base in declared.values():
            told = f"which is a subclass of the declared {base.__name__} but not declared itself"
            return Refused(f"{_article(cls)} {name_of(cls)}", told, remedy)
    return Refused(f"{_article(cls)} {name_of(cls)}", "which the graph's state does not declare", remedy)


def _looks_like_data(cls: type) -> bool:
    if dataclasses.is_dataclass(cls) or hasattr(cls, "__attrs_attrs__"):
        return True
    # Not what is implemented in C: those subclasses have more to them (a pandas Timestamp is a datetime).
    bases = (BaseModel, Enum, str, int, float, bytes, tuple, list, dict, set, frozenset)
    return issubclass(cls, bases) and can_make(object if issubclass(cls, (BaseModel, Enum)) else _base(cls, bases), cls)


def _base(cls: type, bases: tuple[type, ...]) -> type:
    return next(base for base in bases if issubclass(cls, base))


def _step(key: Any) -> str:
    if type(key) is not str:
        return f"[{_short(_repr(key))}]"
    return f".{key}" if key.isidentifier() else f"[{_short(json.dumps(key, ensure_ascii=False))}]"


def _repr(value: Any) -> str:
    try:
        return repr(value)
    except Exception:
        return f"<{type(value).__name__}>"  # It is only named here; its own mistakes are not ours to tell.


def _short(text: str) -> str:
    return text if len(text) <= _STEP_CHARS_MAX else f"{text[: _STEP_CHARS_MAX - 1]}…"


def _a(value: Any) -> str:
    return f"{_article(type(value))} {name_of(type(value))}"


def _article(cls: type) -> str:
    return "an" if name_of(cls)[0] in "aeiouAEIOU" else "a"
