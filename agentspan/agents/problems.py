"""Says what is wrong with data, in words that a model or a person can act on.

Two sources: a pydantic `ValidationError` (arguments of functions, typed outputs), and a JSON schema written by hand
(questions to people and their answers). Both give `{path: problem}`, with paths like `items[0].price`, and `""` for the
whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from agentspan.agents.nearest import did_you_mean

SHOWN_CHARS_MAX = 80
"""A refused value is quoted up to this length: it goes into a prompt that is paid for."""


def listing(problems: Mapping[str, str]) -> str:
    """One line for each problem."""
    return "\n".join(f"- {path}: {said}" if path else f"- {said}" for path, said in problems.items())


def validation_problems(error: ValidationError, raw: Any, *, names: Sequence[str] = ()) -> dict[str, str]:
    """Problems of a pydantic error, by path into `raw`, the data that was refused.

    Args:
        error: What pydantic raised.
        raw: The refused JSON data.
        names: The valid names at the top, so that a misspelt one can be recognised.
    """
    said: dict[str, list[str]] = {}
    for detail in error.errors(include_url=False, include_context=False):
        kind = detail["type"]
        path = _path(detail["loc"], raw, leaf=kind in ("missing", "extra_forbidden", "missing_argument"))
        if kind == "missing":
            text = "is required and was not given"
        elif kind == "extra_forbidden":
            known = names if len(detail["loc"]) == 1 else ()
            text = f"is not a valid name here.{did_you_mean(str(detail['loc'][-1]), known)}"
        else:
            message = detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
            text = f"{message}; got {_shown(detail['input'])}"
        entry = said.setdefault(path, [])
        if text not in entry:
            entry.append(text)
    return {path: " / or: ".join(texts) for path, texts in said.items()}


def _path(loc: Sequence[int | str], raw: Any, *, leaf: bool) -> str:
    """The location as a path, without what pydantic puts in between: names of union members and of validators."""
    path = ""
    here = raw
    for index, part in enumerate(loc):
        if isinstance(part, int) and isinstance(here, (list, tuple)) and part < len(here):
            path += f"[{part}]"
            here = here[part]
        elif isinstance(here, dict) and part in here:
            path += f".{part}" if path else str(part)
            here = here[part]
        elif leaf and index == len(loc) - 1:
            path += f".{part}" if path else str(part)
    return path


def _shown(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= SHOWN_CHARS_MAX else text[:SHOWN_CHARS_MAX] + "…"


# --- JSON schema, the part people write by hand ----------------------------------------------------------------------

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def schema_problems(schema: Mapping[str, Any], value: Any) -> dict[str, str]:
    """Check JSON data against a JSON schema; empty when it fits.

    Knows `type`, `enum`, `const`, `properties`, `required`, `additionalProperties`, `items`, `anyOf`, `oneOf` (as
    `anyOf`), `allOf`, local `$ref`, and the length, range and pattern keywords. Other keywords are let pass, so nothing
    is refused that a full validator would take.
    """
    said: dict[str, str] = {}
    for path, problem in _check(schema, value, "", schema):
        said[path] = f"{said[path]}; {problem}" if path in said else problem
    return said


Problems = Iterator[tuple[str, str]]


def _check(schema: Any, value: Any, path: str, root: Mapping[str, Any]) -> Problems:
    if schema is False:
        yield path, "is not allowed"
    if not isinstance(schema, Mapping):
        return
    if isinstance(schema.get("$ref"), str):
        yield from _check(_resolve(schema["$ref"], root), value, path, root)
    for part in schema.get("allOf", ()):
        yield from _check(part, value, path, root)
    for keyword in ("anyOf", "oneOf"):
        choices = schema.get(keyword)
        if choices and all(any(_check(choice, value, path, root)) for choice in choices):
            yield path, f"must be {type_words({keyword: choices}, root)}; got {_shown(value)}"
    if not _is_of_type(schema.get("type"), value):
        yield path, f"must be {type_words(schema, root)}; got {_shown(value)}"
        return
    if "enum" in schema and not any(_same(value, choice) for choice in schema["enum"]):
        yield path, f"must be {type_words(schema, root)}; got {_shown(value)}"
    if "const" in schema and not _same(value, schema["const"]):
        yield path, f"must be {_shown(schema['const'])}; got {_shown(value)}"
    for keyword, (applies_to, fits, words) in _LIMITS.items():
        if keyword in schema and _counts_as(value, applies_to) and not fits(value, schema[keyword]):
            yield path, f"{words} {schema[keyword]}; got {_shown(value)}"
    if isinstance(value, dict):
        yield from _check_object(schema, value, path, root)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _check(schema.get("items"), item, f"{path}[{index}]", root)


def _check_object(schema: Mapping[str, Any], value: dict[str, Any], path: str, root: Mapping[str, Any]) -> Problems:
    properties = schema.get("properties", {})
    prefix = f"{path}." if path else ""
    for name in schema.get("required", ()):
        if name not in value:
            yield prefix + name, "is required and was not given"
    for name, item in value.items():
        if name in properties:
            yield from _check(properties[name], item, prefix + name, root)
        elif schema.get("additionalProperties") is False:
            yield prefix + name, "is not a valid name here." + did_you_mean(name, properties)
        else:
            yield from _check(schema.get("additionalProperties"), item, prefix + name, root)


def _resolve(reference: str, root: Mapping[str, Any]) -> Any:
    here: Any = root
    for part in reference.removeprefix("#").strip("/").split("/"):
        part = part.replace("~1", "/").replace("~0", "~")
        if part:
            here = here.get(part) if isinstance(here, Mapping) else None
    return here


def _is_of_type(wanted: Any, value: Any) -> bool:
    if wanted is None:
        return True
    names = [wanted] if isinstance(wanted, str) else wanted
    return any(name not in _TYPES or _counts_as(value, _TYPES[name]) for name in names)


def _counts_as(value: Any, types: tuple[type, ...]) -> bool:
    if isinstance(value, bool):
        return bool in types
    if int in types and isinstance(value, float) and value.is_integer():
        return True  # JSON has one kind of number: 3.0 is an integer.
    return isinstance(value, types)


def _same(left: Any, right: Any) -> bool:
    return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)


_NUMBER = (int, float)
_LIMITS: dict[str, tuple[tuple[type, ...], Callable[[Any, Any], bool], str]] = {
    "minimum": (_NUMBER, lambda value, limit: value >= limit, "must be at least"),
    "maximum": (_NUMBER, lambda value, limit: value <= limit, "must be at most"),
    "exclusiveMinimum": (_NUMBER, lambda value, limit: value > limit, "must be more than"),
    "exclusiveMaximum": (_NUMBER, lambda value, limit: value < limit, "must be less than"),
    "minLength": ((str,), lambda value, limit: len(value) >= limit, "must have at least this many characters:"),
    "maxLength": ((str,), lambda value, limit: len(value) <= limit, "must have at most this many characters:"),
    "pattern": ((str,), lambda value, limit: _matches(value, limit), "must match the pattern"),
    "minItems": ((list,), lambda value, limit: len(value) >= limit, "must have at least this many items:"),
    "maxItems": ((list,), lambda value, limit: len(value) <= limit, "must have at most this many items:"),
}


def _matches(value: str, pattern: str) -> bool:
    try:
        return re.search(pattern, value) is not None
    except re.error:
        return True  # Written for another dialect of regular expressions: nothing to say about it.


def type_words(schema: Any, root: Mapping[str, Any]) -> str:
    """A schema in two or three words: `integer`, `array of string`, `"red" | "blue"`."""
    if not isinstance(schema, Mapping):
        return "anything"
    if isinstance(schema.get("$ref"), str):
        return type_words(_resolve(schema["$ref"], root), root)
    if "const" in schema:
        return _shown(schema["const"])
    if "enum" in schema:
        return " | ".join(_shown(choice) for choice in schema["enum"])
    for keyword in ("anyOf", "oneOf"):
        if schema.get(keyword):
            return " | ".join(dict.fromkeys(type_words(choice, root) for choice in schema[keyword]))
    wanted = schema.get("type")
    if wanted == "array" and schema.get("items"):
        return f"array of {type_words(schema['items'], root)}"
    if wanted == "string" and "format" in schema:
        return f"string ({schema['format']})"
    return " | ".join([wanted] if isinstance(wanted, str) else wanted or ["anything"])


def accepted_arguments(schema: Mapping[str, Any]) -> str:
    """One sentence that names the arguments an object schema takes."""
    properties = schema.get("properties", {})
    if not properties:
        return "It takes no arguments." if schema.get("additionalProperties") is False else "It takes a JSON object."
    required = schema.get("required", ())
    parts = [
        f"{name} ({type_words(part, schema)}, {'required' if name in required else 'optional'})"
        for name, part in properties.items()
    ]
    return f"Its arguments are: {', '.join(parts)}."
