"""How LangChain's messages are stored: the hot path of agents' state.

    40  [number of the class, fields that follow (bits), fields that were set (bits), field, field, …]

A bit of the two masks is the position of a field in `_FIELDS`. A field with its usual value (`_USUAL`, and `type`) is left
out. The table says what is usual, not LangChain, so what is stored means the same with every version of it. A message with
anything else in it (extra or private attributes, a field this table does not know) is stored as any other model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ormsgpack import Ext

from agentspan.frameworks.langgraph.state import builtin_types
from agentspan.frameworks.langgraph.state.forms_classes import class_form
from agentspan.frameworks.langgraph.state.wire import Dumper, Loader, Reader, UnknownType, Writer

_MESSAGE = 40

# Append only, as the positions are stored.
_FIELDS = (
    "content",
    "additional_kwargs",
    "response_metadata",
    "type",
    "name",
    "id",
    "tool_calls",
    "invalid_tool_calls",
    "usage_metadata",
    "tool_call_id",
    "artifact",
    "status",
    "role",
    "tool_call_chunks",
    "chunk_position",
    "example",
)
_BITS = {name: 1 << position for position, name in enumerate(_FIELDS)}
_NONE = type(None)
_EMPTY: dict[str, type] = {
    "content": str,
    "additional_kwargs": dict,
    "response_metadata": dict,
    "name": _NONE,
    "id": _NONE,
    "tool_calls": list,
    "invalid_tool_calls": list,
    "usage_metadata": _NONE,
    "tool_call_id": str,
    "artifact": _NONE,
    "role": str,
    "tool_call_chunks": list,
    "chunk_position": _NONE,
    "example": bool,
}
"""Fields that are usually empty, and the type of the empty value."""
_TYPES = (
    "ai",
    "human",
    "tool",
    "system",
    "remove",
    "chat",
    "function",
    "AIMessageChunk",
    "HumanMessageChunk",
    "ToolMessageChunk",
    "SystemMessageChunk",
    "ChatMessageChunk",
    "FunctionMessageChunk",
)
"""The usual `type` of each class, by its number."""
_USUAL_STATUS = "success"
_set = object.__setattr__


def message_dumper(cls: type) -> Dumper | None:
    """The dumper for a message class of LangChain, or None."""
    number = builtin_types.number_of(cls)
    if number is None or number >= len(_TYPES):
        return None
    return _dumper(cls, number)


def _dumper(cls: Any, number: int) -> Dumper:
    known = [name for name in cls.model_fields if name in _BITS]
    usual = {"type": _TYPES[number], "status": _USUAL_STATUS}
    plan = [(name, _BITS[name], _EMPTY.get(name, _NONE), usual.get(name)) for name in known]
    count = len(cls.model_fields)
    bits = {name: _BITS[name] for name in known}
    dump_model = class_form(cls, number).dump

    def dump(writer: Writer, message: Any) -> Ext:
        fields = message.__dict__
        given = 0
        try:
            for name in message.__pydantic_fields_set__:
                given |= bits[name]
        except KeyError:
            return dump_model(writer, message)
        if len(fields) != count or message.__pydantic_extra__ or message.__pydantic_private__:
            return dump_model(writer, message)
        present = 0
        parts: list[Any] = [number, 0, given]
        for name, bit, empty, text in plan:
            value = fields[name]
            # The type is looked at first: the truth of an artifact is no business of ours.
            if type(value) is empty and not value:
                continue
            if text is not None and type(value) is str and value == text:
                continue
            present |= bit
            parts.append(value)
        parts[1] = present
        return Ext(_MESSAGE, writer.pack(parts))

    return dump


@dataclass(frozen=True, slots=True)
class _Plan:
    """How to make a message of one class of the fields that were stored."""

    cls: Any
    names: tuple[str, ...]
    blank: dict[str, Any]
    """All fields in the order of the class. Those that were left out have their value, but for lists and dicts."""
    fresh: tuple[tuple[str, Callable[[], Any]], ...]
    """Empty lists and dicts to make for each message."""
    strange: tuple[str, ...]
    """Stored fields that the installed class does not have."""


_plans: dict[tuple[int, int], _Plan] = {}
_given: dict[int, frozenset[str]] = {}


def _plan(number: int, present: int) -> _Plan:
    if not 0 <= number < len(_TYPES) or present >> len(_FIELDS):
        raise UnknownType(f"message type number {number} with fields {present:b}, from a newer AgentSpan")
    cls: Any = builtin_types.class_of(number)
    names = tuple(name for name in _FIELDS if present & _BITS[name])
    blank: dict[str, Any] = {}
    fresh: list[tuple[str, Callable[[], Any]]] = []
    for name, field in cls.model_fields.items():
        blank[name] = None
        kind = _EMPTY.get(name)
        if name in names:
            continue
        if name == "type":
            blank[name] = _TYPES[number]
        elif name == "status":
            blank[name] = _USUAL_STATUS
        elif kind is list or kind is dict:
            fresh.append((name, kind))
        elif kind is not None:
            blank[name] = kind() if kind is not _NONE else None
        elif not field.is_required():
            # A field that is newer than this table.
            default = field.default_factory if field.default_factory is not None else (lambda made=field.default: made)
            fresh.append((name, default))
    strange = tuple(name for name in names if name not in cls.model_fields)
    return _Plan(cls, names, blank, tuple(fresh), strange)


def _names_of(mask: int) -> frozenset[str]:
    return frozenset(name for name in _FIELDS if mask & _BITS[name])


def _load(reader: Reader, data: bytes) -> Any:
    number, present, given, *values = reader.unpack(data)
    plan = _plans.get((number, present))
    if plan is None:
        plan = _plans[number, present] = _plan(number, present)
    given &= (1 << len(_FIELDS)) - 1
    names = _given.get(given)
    if names is None:
        names = _given[given] = _names_of(given)
    fields = plan.blank.copy()
    for name, make in plan.fresh:
        fields[name] = make()
    fields.update(zip(plan.names, values, strict=True))
    extra = {name: fields.pop(name) for name in plan.strange}
    message = plan.cls.__new__(plan.cls)
    _set(message, "__dict__", fields)
    _set(message, "__pydantic_fields_set__", set(names))
    _set(message, "__pydantic_extra__", extra)
    _set(message, "__pydantic_private__", None)
    return message


MESSAGE_LOADERS: dict[int, Loader] = {_MESSAGE: _load}
