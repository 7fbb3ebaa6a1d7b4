"""How instances of classes are stored: what the graph declares, and the built-in ones of LangChain and LangGraph.

Every form starts with a *reference* to the class: its number if it is built in, else `module:qualname`. An instance is
rebuilt by `object.__new__` and its stored attributes: no constructor, validator, `__post_init__` or `__setstate__` runs,
so what comes back is what was there. Fields that the class got since then have their defaults.

    41  pydantic model        [ref, fields, names that were set or nil for all, extra or nil, private or nil]
    42  dataclass, plain class [ref, attributes]
    43  subclass of a type of Python's own (a named tuple, a str) [ref, plain value, attributes or nil]
    44  member of an Enum     [ref, name]
    45  combination of Flags  [ref, int]
"""

from __future__ import annotations

import dataclasses
import functools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from enum import Enum, Flag
from types import MemberDescriptorType
from typing import Any

from ormsgpack import Ext
from pydantic import BaseModel

from agentspan.frameworks.langgraph.state.wire import (
    Dumper,
    Loader,
    Reader,
    Refused,
    StateBytesError,
    UnknownType,
    Writer,
    name_of,
)
from agentspan.wording import a

_MODEL, _OBJECT, _SUBCLASS, _ENUM, _FLAG = 41, 42, 43, 44, 45

Ref = str | int
_set = object.__setattr__


@dataclasses.dataclass(frozen=True, slots=True)
class ClassForm:
    """How the instances of one class are stored."""

    cls: type
    code: int
    dump: Dumper
    build: Callable[[list[Any]], Any]
    """Makes an instance of the parts after the reference."""


def class_form(cls: type, ref: Ref) -> ClassForm:
    """The form that fits a class. A class without one gets a form whose `dump` refuses."""
    if issubclass(cls, Enum):
        return _flag_form(cls, ref) if issubclass(cls, Flag) else _enum_form(cls, ref)
    if issubclass(cls, BaseModel):
        return _model_form(cls, ref)
    for base, make_plain, fill in _BASES:
        if issubclass(cls, base):
            if not can_make(base, cls):
                return ClassForm(cls, _SUBCLASS, _refuse_hidden_state, _never)
            return _subclass_form(cls, ref, make_plain, fill)
    return _object_form(cls, ref)


def attributes_of(value: Any) -> dict[str, Any]:
    """What an instance holds: its slots and its `__dict__`, but for cached properties, which can be computed again."""
    return _attributes(value, _slots(type(value)), _unstored(type(value)))


def can_make(base: Any, cls: type) -> bool:
    """Instances are no more than the base and attributes. Else they are made in C, or are to be closed (`__del__`)."""
    if hasattr(cls, "__del__"):
        return False
    try:
        base.__new__(cls)
    except TypeError:
        return False
    return True


def _attributes(value: Any, slots: Mapping[str, Any], unstored: frozenset[str]) -> dict[str, Any]:
    found = {}
    for name, slot in slots.items():
        try:
            found[name] = slot.__get__(value)
        except AttributeError:
            continue  # It was never set.
    held = getattr(value, "__dict__", None)
    if held:
        found.update(held if unstored.isdisjoint(held) else {n: held[n] for n in held if n not in unstored})
    return found


# --- pydantic ----------------------------------------------------------------------------------------------------------


def _model_form(cls: type[BaseModel], ref: Ref) -> ClassForm:
    names = frozenset(cls.model_fields)
    private_names = frozenset(cls.__private_attributes__)
    is_root = cls.__pydantic_root_model__

    def dump(writer: Writer, value: Any) -> Ext:
        fields = value.__dict__
        if not fields.keys() <= names:
            fields = {name: item for name, item in fields.items() if name in names}
        given = value.__pydantic_fields_set__
        told = None if given == fields.keys() else sorted(given)
        parts = [ref, fields, told, value.__pydantic_extra__, value.__pydantic_private__]
        return Ext(_MODEL, writer.pack(parts))

    def build(parts: list[Any]) -> BaseModel:
        fields, told, extra, private = parts
        given = set(fields) if told is None else set(told)
        if fields.keys() != names:
            fields, extra = _fit_fields(cls, fields, extra)
        if private_names and private is not None and not private_names <= private.keys():
            private = _fit_private(cls, private)
        model: BaseModel = cls.__new__(cls)
        _set(model, "__dict__", fields)
        _set(model, "__pydantic_fields_set__", given)
        # In a RootModel both are None by class, and setting them would add to its fields.
        if not is_root or extra is not None:
            _set(model, "__pydantic_extra__", extra)
        if not is_root or private is not None:
            _set(model, "__pydantic_private__", private)
        return model

    return ClassForm(cls, _MODEL, dump, build)


def _fit_fields(cls: type[BaseModel], stored: dict[str, Any], extra: Any) -> tuple[dict[str, Any], Any]:
    """Stored fields for a model that has others now: new ones get defaults, removed ones go to `extra` if it is kept."""
    fields = {}
    for name, field in cls.model_fields.items():
        if name in stored:
            fields[name] = stored[name]
        elif not field.is_required():
            fields[name] = field.get_default(call_default_factory=True, validated_data=fields)
    if cls.model_config.get("extra") == "allow":
        extra = {**{name: item for name, item in stored.items() if name not in fields}, **(extra or {})}
    return fields, extra


def _fit_private(cls: type[BaseModel], stored: dict[str, Any]) -> dict[str, Any]:
    from pydantic_core import PydanticUndefined

    made = {name: field.get_default() for name, field in cls.__private_attributes__.items() if name not in stored}
    return {**stored, **{name: item for name, item in made.items() if item is not PydanticUndefined}}


# --- dataclasses and plain classes ---------------------------------------------------------------------------------------


def _object_form(cls: type, ref: Ref) -> ClassForm:
    slots, unstored, defaults = _slots(cls), _unstored(cls), _dataclass_defaults(cls)
    if isinstance(ref, int):
        # A version of the framework that has more slots than the one that stored the value.
        defaults = {**dict.fromkeys(slots, _nothing), **defaults}
    if not can_make(object, cls):
        return ClassForm(cls, _OBJECT, _refuse_hidden_state, _never)

    def dump(writer: Writer, value: Any) -> Ext:
        return Ext(_OBJECT, writer.pack([ref, _attributes(value, slots, unstored)]))

    def build(parts: list[Any]) -> Any:
        (stored,) = parts
        value: Any = object.__new__(cls)
        _give(value, stored, slots)
        for name, make in defaults.items():
            if name not in stored:
                _give(value, {name: make()}, slots)
        return value

    return ClassForm(cls, _OBJECT, dump, build)


def _nothing() -> None:
    return None


def _itself(value: Any) -> Any:
    return value


def _dataclass_defaults(cls: type) -> dict[str, Callable[[], Any]]:
    made: dict[str, Callable[[], Any]] = {}
    for field in dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ():
        if field.default_factory is not dataclasses.MISSING:
            made[field.name] = field.default_factory
        elif field.default is not dataclasses.MISSING:
            made[field.name] = functools.partial(_itself, field.default)
    return made


def _give(value: Any, attributes: dict[str, Any], slots: Mapping[str, Any]) -> None:
    # Not by setattr, which may be the class's own, or run a property of that name.
    held = getattr(value, "__dict__", None)
    for name, item in attributes.items():
        slot = slots.get(name)
        if slot is not None:
            slot.__set__(value, item)
        elif held is not None:
            held[name] = item
        # Else the class has lost this attribute since then.


def _refuse_hidden_state(_: Writer, value: Any) -> Ext:
    raise Refused(
        a(name_of(type(value))),
        "which is not made of attributes that could be stored",
        "Store what is needed to make it again, and make it in the node.",
    )


def _never(_: list[Any]) -> Any:
    raise StateBytesError("it holds an instance of a class that is made in C")


# --- subclasses of Python's own types ----------------------------------------------------------------------------------


def _subclass_form(
    cls: type, ref: Ref, make_plain: Callable[[Any], Any], fill: Callable[[type, Any], Any]
) -> ClassForm:
    slots, unstored = _slots(cls), _unstored(cls)
    named = issubclass(cls, tuple) and hasattr(cls, "_fields")

    def dump(writer: Writer, value: Any) -> Ext:
        return Ext(_SUBCLASS, writer.pack([ref, make_plain(value), _attributes(value, slots, unstored) or None]))

    def build(parts: list[Any]) -> Any:
        plain, attributes = parts
        if named and len(plain) < len(cls._fields):  # type: ignore[attr-defined]
            plain = plain + [cls._field_defaults.get(name) for name in cls._fields[len(plain) :]]  # type: ignore[attr-defined]
        value = fill(cls, plain)
        if attributes:
            _give(value, attributes, slots)
        return value

    return ClassForm(cls, _SUBCLASS, dump, build)


def _new(base: Any) -> Callable[[type, Any], Any]:
    return lambda cls, plain: base.__new__(cls, plain)


def _filled(base: Any, method: str) -> Callable[[type, Any], Any]:
    put = getattr(base, method)

    def fill(cls: type, plain: Any) -> Any:
        value = base.__new__(cls)
        put(value, plain)
        return value

    return fill


def _fill_ordered(cls: type, plain: list[Any]) -> Any:
    value: Any = OrderedDict.__new__(cls)
    for key, item in zip(plain[::2], plain[1::2], strict=True):
        OrderedDict.__setitem__(value, key, item)
    return value


_BASES: tuple[tuple[type, Callable[[Any], Any], Callable[[type, Any], Any]], ...] = (
    (str, str.__str__, _new(str)),
    (int, int.__int__, _new(int)),
    (float, float.__float__, _new(float)),
    (bytes, lambda value: bytes.__getitem__(value, slice(None)), _new(bytes)),
    (tuple, lambda value: list(tuple.__iter__(value)), _new(tuple)),
    (list, lambda value: list(list.__iter__(value)), _filled(list, "extend")),
    (
        OrderedDict,
        lambda value: [part for pair in OrderedDict.items(value) for part in pair],
        _fill_ordered,
    ),
    (dict, lambda value: dict(dict.items(value)), _filled(dict, "update")),
    (set, lambda value: set(set.__iter__(value)), _filled(set, "update")),
    (frozenset, lambda value: frozenset(frozenset.__iter__(value)), _new(frozenset)),
)


# --- enums ---------------------------------------------------------------------------------------------------------------


def _enum_form(cls: type[Enum], ref: Ref) -> ClassForm:
    # By name: a value may change, and `cls(value)` would run `_missing_`.
    def dump(writer: Writer, value: Any) -> Ext:
        return Ext(_ENUM, writer.pack([ref, value.name]))

    def build(parts: list[Any]) -> Enum:
        (name,) = parts
        member = cls.__members__.get(name)
        if member is None:
            raise UnknownType(f"{name_of(cls)}.{name} (the enum has no such member any more)")
        return member

    return ClassForm(cls, _ENUM, dump, build)


def _flag_form(cls: type[Flag], ref: Ref) -> ClassForm:
    def dump(writer: Writer, value: Any) -> Ext:
        return Ext(_FLAG, writer.pack([ref, value.value]))

    def build(parts: list[Any]) -> Flag:
        return cls(parts[0])

    return ClassForm(cls, _FLAG, dump, build)


# --- reading -------------------------------------------------------------------------------------------------------------


def _loader(code: int) -> Loader:
    def load(reader: Reader, data: bytes) -> Any:
        ref, *parts = reader.unpack(data)
        form: ClassForm = reader.resolve(ref)
        if form.code != code:
            raise UnknownType(f"{name_of(form.cls)}, which was another kind of class when it was stored")
        return form.build(parts)

    return load


CLASS_LOADERS: dict[int, Loader] = {code: _loader(code) for code in (_MODEL, _OBJECT, _SUBCLASS, _ENUM, _FLAG)}


def _slots(cls: type) -> dict[str, Any]:
    """The descriptors of the slots, by name."""
    found: dict[str, Any] = {}
    for base in cls.__mro__:
        for name, held in base.__dict__.items():
            if isinstance(held, MemberDescriptorType) and name != "__weakref__":
                found.setdefault(name, held)
    return found


def _unstored(cls: type) -> frozenset[str]:
    """Names in the `__dict__` of an instance that are not part of the value: what is cached, and typing's own."""
    cached = (
        name
        for base in cls.__mro__
        for name, held in base.__dict__.items()
        if isinstance(held, functools.cached_property)
    )
    return frozenset((*cached, "__orig_class__"))
