"""Why an agent is not shipped: what cannot be pickled, what is too large, what holds a key. Names the object to blame."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from agentspan.actors.blame import Blame, Test, blame, pickle_problem
from agentspan.actors.localcode import Packed, pickle_by_value
from agentspan.actors.locality import Unshippable
from agentspan.credentials import keys_in, shown
from agentspan.errors import UnshippableCodeError

CODE_BYTES_MAX = 32 * 1024 * 1024
"""The most code by value. It is read whenever an actor meets the deployment for the first time."""
SECRET_CHARS_MIN = 12
"""Shorter values of secret variables are not looked for: they occur in code by chance."""

_SECRET_NAME = re.compile(r"(^|_)((API|ACCESS|SECRET|PRIVATE)_KEY|TOKEN|SECRET|PASSWORD)$", re.IGNORECASE)
_WRAPPED_REMEDY = (
    "Create it inside the node that uses it; or have a function of an installed module make the graph, and pass its place, "
    '"module:function"; or run the graph in this process with host="client".'
)


def packed(agent: Any) -> Packed:
    """An agent's code by value.

    Raises:
        UnshippableCodeError: Something in it cannot be pickled, or it is too large.
    """
    try:
        code = pickle_by_value(agent)
    except Exception as problem:  # Pickling runs the objects' own code, which may raise anything.
        raise _refusal(agent, pickle_problem, str(problem)) from problem
    if len(code.code) > CODE_BYTES_MAX:
        raise _refusal(agent, _too_large, str(_oversize(len(code.code))))
    return code


def _refusal(agent: Any, test: Test, otherwise: str) -> UnshippableCodeError:
    found = blame(_parts(agent), test) or Blame("it cannot be shipped as a whole", otherwise, None)
    remedy = found.remedy or (None if _is_native(agent) else _WRAPPED_REMEDY)
    return UnshippableCodeError(
        agent=agent.name,
        culprit=found.culprit,
        problem=found.problem,
        **({} if remedy is None else {"remedy": _remedy_for(agent, remedy)}),
    )


def _is_native(agent: Any) -> bool:
    return not hasattr(agent, "parts")


def _remedy_for(agent: Any, remedy: str) -> str:
    """The words for what the code is part of: agents have tools, graphs have nodes."""
    return remedy if _is_native(agent) else remedy.replace("the tool", "the node").replace("the agent", "the graph")


def _parts(agent: Any) -> Iterator[tuple[str, Any]]:
    """What an agent is made of, by the names its author knows."""
    if not _is_native(agent):
        yield from agent.parts()
        return
    facts = dict(getattr(agent, "__dict__", {}))
    tools: Mapping[str, Any] = facts.pop("tool_defs", {})
    facts.pop("tools", None)
    for name, definition in tools.items():
        yield f"tool {name!r}", getattr(definition, "func", None)
        yield f"tool {name!r}", definition
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from ((f'{name}["{key}"]', item) for key, item in value.items())
        elif isinstance(value, tuple):
            yield from ((f"{name}[{index}]", item) for index, item in enumerate(value))
        else:
            yield name.lstrip("_"), value


def refuse_secrets(agent: Any, code: bytes, spec: dict[str, Any]) -> None:
    """Check that neither code nor spec contains a key: a copy of what a variable with a secret's name holds, or any text
    that has the form of a provider's keys.

    Only literal copies are found; it is a guard against mistakes, not against intent.

    Raises:
        UnshippableCodeError: One does; names the variable and what holds it.
    """
    text = json.dumps(spec, ensure_ascii=False)
    for variable, value in os.environ.items():
        if len(value) < SECRET_CHARS_MIN or not _SECRET_NAME.search(variable):
            continue
        literal = value.encode("utf-8", "surrogateescape")
        if literal not in code and value not in text:
            continue
        problem = f"It holds the value of the environment variable {variable}, and keys do not travel with code"
        remedy = f"Read os.environ[{variable!r}] inside the tool, and set it where the server runs."
        raise _holds_key(agent, literal, problem, remedy)
    for key in keys_in(code + text.encode("utf-8", "surrogatepass")):
        hint = shown(key.decode("ascii", "replace"))
        problem = f"It holds what looks like a key, {hint}, and keys do not travel with code"
        remedy = "Put it into an environment variable where the server runs, and read os.environ inside the tool."
        raise _holds_key(agent, key, problem, remedy)


def _holds_key(agent: Any, literal: bytes, problem: str, remedy: str) -> UnshippableCodeError:
    found = blame(_parts(agent), _Holds(literal, problem))
    culprit = found.culprit if found else "its description (metadata, base_url, schemas) cannot be stored"
    return UnshippableCodeError(agent=agent.name, culprit=culprit, problem=problem, remedy=_remedy_for(agent, remedy))


class _Holds:
    """A test for `blame`: whether a part holds these bytes."""

    def __init__(self, literal: bytes, problem: str) -> None:
        self._literal = literal
        self._problem = problem

    def __call__(self, part: Any) -> Unshippable | None:
        return Unshippable(self._problem) if self._literal in _code_of(part) else None


def _too_large(part: Any) -> Unshippable | None:
    size = len(_code_of(part))
    return _oversize(size) if size > CODE_BYTES_MAX else None


def _oversize(size: int) -> Unshippable:
    mib = 1024 * 1024
    return Unshippable(
        f"It takes {size / mib:.0f} MiB, and the code of an agent at most {CODE_BYTES_MAX // mib} MiB",
        "Load it inside the tool, from a file or a service.",
    )


def _code_of(part: Any) -> bytes:
    try:
        return pickle_by_value(part).code
    except Exception:  # By itself it may not pickle, as parts of a whole that does; then it is not the one.
        return b""
