"""Marks: what a stored value looked like, cheap to compare with what is there now.

A node may change a list's element in place, so identity alone says nothing; writing every element out again to compare
bytes would cost O(history) in each step. A mark repeats the structure of a value and holds its *leaves themselves*
(strings, numbers, bytes). Comparing it with a value is a handful of C loops over pairs of mostly identical objects.

    mark == value        True: nothing in the value has changed since `mark_of(value)`.

A value may be called changed though it is not (it is stored again, no harm), never the other way round: types are
compared as well (1 == True == 1.0), the order of keys too, and the sign of a zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from datetime import date, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from hashlib import blake2b
from pathlib import PurePath
from typing import Any
from uuid import UUID

Dumps = Callable[[Any], bytes]

PLAIN = frozenset({str, bytes, int, bool, type(None)})
_CONTAINERS = (dict, list, tuple, set, frozenset, str, bytes, bytearray, int, float)
_FIXED = (Enum, UUID, Decimal, date, time, timedelta, timezone, PurePath, type)
"""Cannot be changed in place; equal ones may still be stored differently (Decimal 1.0 and 1.00), their repr tells."""
_DEPTH_MAX = 16


def mark_of(value: Any, dumps: Dumps, depth: int = 0) -> Any:
    """The mark of a value.

    Args:
        value: Anything that can be stored.
        dumps: Writes out what cannot be walked; its hash is the mark then.
        depth: Levels above it; what is nested deeper than 16 is written out.
    """
    kind = type(value)
    if kind in PLAIN:
        return value
    if kind is float:
        return value if value else _Zero(value)
    if depth >= _DEPTH_MAX:
        return _Hashed(value, dumps)
    if kind is list or kind is tuple:
        return _Items(value, dumps, depth)
    if kind is dict:
        return _Fields(value, dumps, depth)
    if isinstance(value, _FIXED):
        return _Fixed(value)
    if _is_open(kind, value):
        return _Object(value, dumps, depth)
    return _Hashed(value, dumps)


def items_mark(values: Sequence[Any], dumps: Dumps, depth: int = 1) -> list[Any]:
    """The marks of a list's elements, one each."""
    return [value if type(value) in PLAIN else mark_of(value, dumps, depth) for value in values]


def unchanged(types: list[type], marks: list[Any], values: list[Any]) -> bool:
    """Whether all of these values are as they were; `types` and `marks` have one entry for each."""
    return types == list(map(type, values)) and marks == values


def common_ends(types: list[type], marks: list[Any], values: list[Any]) -> tuple[int, int]:
    """How many elements at the front, and how many of the others at the end, are as they were."""
    shorter = min(len(marks), len(values))
    if unchanged(types[:shorter], marks[:shorter], values[:shorter]):
        return shorter, 0
    front = 0
    while types[front] is type(values[front]) and marks[front] == values[front]:
        front += 1  # It ends before `shorter`: one of them differs.
    back = 0
    while (
        back < shorter - front and types[-1 - back] is type(values[-1 - back]) and marks[-1 - back] == values[-1 - back]
    ):
        back += 1
    return front, back


def _is_open(kind: type, value: Any) -> bool:
    """All that is in the object is in its `__dict__` (and, for pydantic, in three more attributes)."""
    if not hasattr(value, "__dict__") or isinstance(value, _CONTAINERS):
        return False
    return hasattr(kind, "__pydantic_fields__") or (is_dataclass(kind) and not hasattr(kind, "__slots__"))


class _Mark:
    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]


class _Zero(_Mark):
    __slots__ = ("sign",)

    def __init__(self, value: float) -> None:
        self.sign = math.copysign(1.0, value)

    def __eq__(self, other: object) -> bool:
        return type(other) is float and other == 0.0 and math.copysign(1.0, other) == self.sign


class _Items(_Mark):
    __slots__ = ("kind", "marks", "types")

    def __init__(self, values: Sequence[Any], dumps: Dumps, depth: int) -> None:
        self.kind = type(values)
        self.types = list(map(type, values))
        self.marks = items_mark(values, dumps, depth + 1)

    def __eq__(self, other: object) -> bool:
        if type(other) is not self.kind:
            return False
        return unchanged(self.types, self.marks, list(other))


class _Fields(_Mark):
    __slots__ = ("key_types", "keys", "marks", "types")

    def __init__(self, fields: dict[Any, Any], dumps: Dumps, depth: int) -> None:
        self.keys = list(fields)
        self.key_types = list(map(type, self.keys))
        self.types = list(map(type, fields.values()))
        self.marks = items_mark(list(fields.values()), dumps, depth + 1)

    def __eq__(self, other: object) -> bool:
        if type(other) is not dict or len(other) != len(self.keys):
            return False
        if not other:
            return True
        keys = list(other)
        return (
            keys == self.keys
            and list(map(type, keys)) == self.key_types
            and unchanged(self.types, self.marks, list(other.values()))
        )


class _Fixed(_Mark):
    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        mine = self.value
        return other is mine or (
            type(other) is type(mine) and not isinstance(mine, (Enum, type)) and repr(other) == repr(mine)
        )


class _Object(_Mark):
    """A pydantic model or a dataclass."""

    __slots__ = ("extra", "fields", "fields_set", "kind", "private")

    def __init__(self, value: Any, dumps: Dumps, depth: int) -> None:
        self.kind = type(value)
        self.fields = _Fields(value.__dict__, dumps, depth)
        given = getattr(value, "__pydantic_fields_set__", None)
        self.fields_set = None if given is None else set(given)
        self.extra = mark_of(getattr(value, "__pydantic_extra__", None), dumps, depth + 1)
        self.private = mark_of(getattr(value, "__pydantic_private__", None), dumps, depth + 1)

    def __eq__(self, other: object) -> bool:
        return (
            type(other) is self.kind
            and self.fields == other.__dict__
            and self.fields_set == getattr(other, "__pydantic_fields_set__", None)
            and self.extra == getattr(other, "__pydantic_extra__", None)
            and self.private == getattr(other, "__pydantic_private__", None)
        )


class _Hashed(_Mark):
    """What is written out to be compared."""

    __slots__ = ("digest", "dumps", "kind")

    def __init__(self, value: Any, dumps: Dumps) -> None:
        self.kind = type(value)
        self.dumps = dumps
        self.digest = _digest(dumps(value))

    def __eq__(self, other: object) -> bool:
        return type(other) is self.kind and _digest(self.dumps(other)) == self.digest


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=16).digest()
