"""Finds the value that could not be recorded, and says what to do about it."""

from __future__ import annotations

import datetime
import uuid
from dataclasses import is_dataclass
from decimal import Decimal
from pathlib import PurePath
from typing import Any

from agentspan.errors import UnstorableValueError

_PLAIN = "text, numbers, True, False, None, and lists and dicts (with text keys) of them."


def blame(value: Any, *, depth_max: int) -> UnstorableValueError:
    """The error for a value that could not be packed, naming the path of its first part that is not plain data."""
    return _search(value, "$", 0, depth_max) or UnstorableValueError(path="$", found=type(value).__name__, hint=_PLAIN)


def _search(value: Any, path: str, depth: int, depth_max: int) -> UnstorableValueError | None:
    if value is None or isinstance(value, (str, bytes, bytearray, memoryview, bool, int, float)):
        return None
    if depth >= depth_max:
        found = f"value nested {depth_max} levels deep (or one that contains itself)"
        return UnstorableValueError(
            path=_short(path), found=found, hint="make it flatter, or store a part as JSON text."
        )
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                found = f"dict with the key {repr(key)[:40]} ({type(key).__name__})"
                return UnstorableValueError(path=path, found=found, hint="make every key text, e.g. str(key).")
            problem = _search(item, path + _step(key), depth + 1, depth_max)
            if problem is not None:
                return problem
        return None
    if isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            problem = _search(item, f"{path}[{index}]", depth + 1, depth_max)
            if problem is not None:
                return problem
        return None
    return UnstorableValueError(path=path, found=type(value).__name__, hint=_hint(value))


def _step(key: str) -> str:
    return f".{key}" if key.isidentifier() else f"[{repr(key)[:60]}]"


def _short(path: str) -> str:
    return path if len(path) <= 80 else f"{path[:60]}…"


def _hint(value: Any) -> str:
    if isinstance(value, (set, frozenset)):
        return "use a list, e.g. sorted(value)."
    if isinstance(value, (datetime.date, datetime.time)):
        return "use value.isoformat()."
    if isinstance(value, (uuid.UUID, PurePath, Decimal, datetime.timedelta)):
        return "use str(value)."
    if hasattr(value, "model_dump"):
        return 'use value.model_dump(mode="json").'
    if is_dataclass(value):
        return "use dataclasses.asdict(value)."
    if hasattr(value, "tolist"):
        return "use value.tolist()."
    return _PLAIN
