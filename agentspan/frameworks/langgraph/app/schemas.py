"""The fields of state schemas, read from annotations: `typing` and `typing_extensions` TypedDicts, pydantic models,
dataclasses. JSON schemas are not used: before Python 3.12 pydantic refuses `typing.TypedDict`."""

from __future__ import annotations

import collections.abc
import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, get_args, get_origin

import typing_extensions

REDUCERS = frozenset({"_add_messages", "add_messages"})
"""What LangGraph's reducer for messages is called; it turns role dicts and tuples into message objects."""
MESSAGE_FIELDS = frozenset({"messages", "chat_history", "history", "conversation"})
"""Names by which a list that does not say of what is taken for one of messages."""
TYPE_CHARS_MAX = 60

_QUALIFIERS = {typing.Required, typing.NotRequired, typing_extensions.Required, typing_extensions.NotRequired}
_LISTS = (list, collections.abc.Sequence, collections.abc.Iterable, collections.abc.MutableSequence)


def described_fields(schema: Any, channels: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each field of a schema that has a channel, in order: `name`, `kind`, `required`, `type`, maybe `converts`."""
    hints = _hints(schema)
    optional = _optional(schema)
    fields = []
    for name, channel in channels.items():
        if not hasattr(channel, "UpdateType"):  # A managed value, such as the steps that remain: no input.
            continue
        hint = hints.get(name, Any)
        field = {"name": name, "required": name not in optional, "type": type_name(hint)}
        fields.append(field | _kind(name, hint, channel))
    return fields


def described_value(app: Any, channel: Any = None) -> dict[str, Any]:
    """The one value that a graph takes which is not a state with keys."""
    if channel is None:
        names = app.input_channels
        if not isinstance(names, str) or names not in app.channels:
            return {"form": "value", "kind": "any", "type": "Any", "fields": []}
        channel = app.channels[names]
    hint = _resolved(app, getattr(channel, "typ", Any))
    described: dict[str, Any] = {"form": "value", "type": type_name(hint), "fields": []}
    bare = _bare(hint)
    if bare is Any:
        return described | {"kind": "any"}
    if typing_extensions.is_typeddict(bare):
        names_of = dict.fromkeys(_hints(bare), channel)
        return described | {"kind": "other", "fields": described_fields(bare, names_of)}
    return described | _kind("messages", hint, channel)


def type_name(hint: Any) -> str:
    """An annotation in words for people: `str`, `list[AnyMessage]`."""
    bare = _bare(hint)
    name = bare.__name__ if isinstance(bare, type) and not get_args(bare) else str(bare)
    name = name.replace("typing.", "").replace("typing_extensions.", "")
    return name if len(name) <= TYPE_CHARS_MAX else _short(bare)


def _short(bare: Any) -> str:
    origin = get_origin(bare)
    return getattr(origin, "__name__", "value") if origin is not None else "value"


def _kind(name: str, hint: Any, channel: Any) -> dict[str, Any]:
    # The channel of a DeltaChannel keeps its function as `reducer`, all others as `operator`.
    reducer = getattr(channel, "operator", None) or getattr(channel, "reducer", None)
    if getattr(reducer, "__name__", "") in REDUCERS:
        return {"kind": "messages", "converts": True}
    bare = _bare(hint)
    if _is_text(bare):
        return {"kind": "text"}
    if bare in _LISTS or get_origin(bare) in _LISTS:
        (item,) = get_args(bare)[:1] or (Any,)
        item = _bare(item)
        if _is_message(item) or (item is Any and name in MESSAGE_FIELDS):
            return {"kind": "messages"}
        if name in MESSAGE_FIELDS and (item is dict or get_origin(item) is dict):
            return {"kind": "message_dicts"}
    return {"kind": "other"}


def _is_text(bare: Any) -> bool:
    while isinstance(bare, typing.NewType):
        bare = bare.__supertype__
    return bare is str


def _is_message(item: Any) -> bool:
    from langchain_core.messages import BaseMessage

    if _is_union(item):
        return all(_is_message(_bare(option)) for option in get_args(item))
    return isinstance(item, type) and issubclass(item, BaseMessage)


def _bare(hint: Any) -> Any:
    """An annotation without `Annotated`, `Required` and the None of `Optional`."""
    while True:
        if get_origin(hint) in (Annotated, *_QUALIFIERS):
            hint = get_args(hint)[0]
        elif _is_union(hint) and type(None) in get_args(hint):
            others = [option for option in get_args(hint) if option is not type(None)]
            if len(others) != 1:
                return hint
            hint = others[0]
        else:
            return hint


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (typing.Union, types.UnionType)


def _hints(schema: Any) -> dict[str, Any]:
    try:
        return typing_extensions.get_type_hints(schema, include_extras=True)
    except (NameError, TypeError):  # It names a type that is only there for type checkers.
        return dict(getattr(schema, "__annotations__", {}))


def _optional(schema: Any) -> set[str]:
    """The fields that may be left out."""
    if dataclasses.is_dataclass(schema):
        missing = dataclasses.MISSING
        fields = dataclasses.fields(schema)
        return {f.name for f in fields if f.default is not missing or f.default_factory is not missing}
    if isinstance(model_fields := getattr(schema, "model_fields", None), dict):
        return {name for name, field in model_fields.items() if not field.is_required()}
    optional = set(getattr(schema, "__optional_keys__", ()))
    # Under `from __future__ import annotations` the class itself could not see its NotRequired.
    hints = _hints(schema)
    return {name for name in hints if (name in optional or _says(hints[name], "NotRequired"))} - {
        name for name in hints if _says(hints[name], "Required")
    }


def _says(hint: Any, qualifier: str) -> bool:
    while (origin := get_origin(hint)) in (Annotated, *_QUALIFIERS):
        if origin in (getattr(typing, qualifier), getattr(typing_extensions, qualifier)):
            return True
        hint = get_args(hint)[0]
    return False


def _resolved(app: Any, hint: Any) -> Any:
    """An entrypoint's annotation; under `from __future__ import annotations` LangGraph keeps its text."""
    if not isinstance(hint, str):
        return hint
    from agentspan.frameworks.langgraph.app.structure import node_functions

    for _, function in node_functions(app):
        try:
            return typing_extensions.get_type_hints(function, include_extras=True)[next(iter(function.__annotations__))]
        except (NameError, TypeError, StopIteration, KeyError):
            continue
    return Any
