"""Our serializer for the state of a graph: state is data, and loading it never runs code that the bytes name.

What LangGraph's own serializer changes on the way (tuples, big integers, dict subclasses, private attributes, …) comes
back as it was; what it would turn into a dict because the type is not known is an error that names the place.

The types that may be stored are Python's own (`forms.py`), the classes of LangChain and LangGraph in
`builtin_types.py`, and the classes the graph declares. A declared class is stored as `module:qualname` and found again in
the list this serializer was made with, never by import; so classes of a `__main__` script, or pickled by value, work.

    bytes = version (1) | msgpack with the extension codes of `wire.py` and `forms*.py`
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from agentspan.errors import ConfigurationError, UnknownStateTypeError
from agentspan.frameworks.langgraph.state import blame, builtin_types, forms
from agentspan.frameworks.langgraph.state.forms_classes import CLASS_LOADERS, ClassForm, class_form
from agentspan.frameworks.langgraph.state.forms_errors import ERROR_LOADERS, StoredError, dump_error
from agentspan.frameworks.langgraph.state.forms_messages import MESSAGE_LOADERS, message_dumper
from agentspan.frameworks.langgraph.state.wire import (
    Dumper,
    Reader,
    Refused,
    StateBytesError,
    UnknownType,
    Writer,
    unreadable,
)

__all__ = ["TYPE_TAG", "VERSION", "StateBytesError", "StateSerde", "StoredError"]

VERSION = 1
"""Version of the bytes. 1: first release. Whatever a release has written is readable for ever."""
TYPE_TAG = "agentspan"
"""What LangGraph keeps beside the bytes."""

_VERSION_BYTE = bytes([VERSION])
_NATIVE = frozenset({str, bytes, bytearray, memoryview, float, bool, type(None), list, dict})
"""Types that the writer sees to itself."""
_LOADERS = {**forms.LOADERS, **CLASS_LOADERS, **MESSAGE_LOADERS, **ERROR_LOADERS}


class StateSerde:
    """Turns values of a graph's state into bytes and back, exactly. Immutable, and usable from any thread.

    Args:
        types: The classes the graph declares, beside the built-in ones: pydantic models, dataclasses, enums, named
            tuples, exceptions, and others whose instances are made of attributes. `statetypes.graph_types(app)` finds
            them. Of two with one name neither is stored or loaded, as a stored one could be either.
    """

    def __init__(self, types: Iterable[type] = ()) -> None:
        self._given = tuple(dict.fromkeys(types))
        self._types: dict[str, type] = {}
        self._twice: set[str] = set()
        for cls in self._given:
            self._declare(cls)
        self._forms: dict[str | int, ClassForm] = {}
        # Filled as types are met; two threads that meet one at once put in equals.
        self._dumpers: dict[type, Dumper] = dict(forms.DUMPERS)

    @property
    def types(self) -> tuple[type, ...]:
        """The declared classes."""
        return self._given

    def with_types(self, extra: Iterable[type]) -> StateSerde:
        """A serializer that knows these classes too."""
        return StateSerde((*self.types, *extra))

    def dumps(self, value: Any, path: str = "$") -> bytes:
        """The bytes of a value.

        Args:
            value: Is not changed.
            path: Where the value is, for errors.

        Raises:
            UnstorableStateError: Something in it is not data, or of a class that is not declared; `path` says where.
        """
        writer = Writer(self._dumpers, self._find)
        try:
            return _VERSION_BYTE + writer.pack(value)
        except (TypeError, RecursionError, Refused):
            pass  # What ormsgpack says about it is of little use; the walk says it better.
        raise blame.unstorable(value, path, self._try, self._refused_type) from None

    def loads(self, data: bytes, path: str = "$") -> Any:
        """The value that was dumped.

        Args:
            data: From `dumps`, of this version or an older one.
            path: Where the value is, for errors.

        Raises:
            UnknownStateTypeError: It holds a type that is not declared; nothing was run or imported for it.
            StateBytesError: Damaged, or of a newer version.
        """
        if not data or data[0] != VERSION:
            found = f"version byte {data[0]}" if data else "no bytes"
            raise StateBytesError(f"it has {found} and this version reads {VERSION}: written by a newer AgentSpan?")
        body = memoryview(data)[1:]
        reader = Reader(_LOADERS, self._resolve)
        try:
            return reader.unpack(body)
        except (ValueError, RecursionError) as told:
            if not isinstance(reader.problem, UnknownType):
                raise unreadable(reader.problem, told) from reader.problem
            unknown = reader.problem
        raise self._unknown(body, unknown, path) from None

    def dumps_typed(self, value: Any) -> tuple[str, bytes]:
        """`dumps`, as LangGraph calls it."""
        return TYPE_TAG, self.dumps(value)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """`loads`, as LangGraph calls it."""
        tag, body = data
        if tag != TYPE_TAG:
            raise StateBytesError(f"it was written by another serializer (type {tag!r}, not {TYPE_TAG!r})")
        return self.loads(body)

    def _declare(self, cls: type) -> None:
        if not isinstance(cls, type):
            raise ConfigurationError(
                problem=f"types=[…] holds {cls!r}, which is not a class. List the classes themselves."
            )
        if cls in forms.DUMPERS or builtin_types.number_of(cls) is not None:
            return
        name = type_name(cls)
        if self._types.setdefault(name, cls) is not cls:
            self._twice.add(name)

    def _find(self, cls: type) -> Dumper:
        """The dumper for a type that was not met before."""
        dump = self._declared_dumper(cls) or forms.find_dumper(cls) or message_dumper(cls)
        if dump is None:
            number = builtin_types.number_of(cls)
            if number is not None:
                dump = self._resolve(number).dump
            elif issubclass(cls, BaseException):
                return dump_error
            else:
                # Not remembered: the class may be one of many that are made on the fly.
                return self._refuse
        self._dumpers[cls] = dump
        return dump

    def _declared_dumper(self, cls: type) -> Dumper | None:
        name = type_name(cls)
        if self._types.get(name) is not cls or name in self._twice or blame.is_secret(cls):
            return None
        return dump_error if issubclass(cls, BaseException) else self._resolve(name).dump

    def _resolve(self, ref: str | int) -> ClassForm:
        form = self._forms.get(ref)
        if form is None:
            if isinstance(ref, int):
                cls = builtin_types.class_of(ref)
            elif ref not in self._twice and (declared := self._types.get(ref)) is not None:
                cls = declared
            else:
                raise UnknownType(str(ref))
            form = self._forms[ref] = class_form(cls, ref)
        return form

    def _refuse(self, _: Writer, value: Any) -> Any:
        raise self._refusal(value)

    def _refusal(self, value: Any) -> Refused:
        name = type_name(type(value))
        if name in self._twice:
            shown = name.replace(":", ".")
            return Refused(
                f"a {shown}",
                "and the graph declares two classes of that name, so a stored one could be either",
                "Rename one. If a module was loaded twice, or a notebook cell run again, build the graph anew.",
            )
        return blame.refusal(value, self._types)

    def _refused_type(self, value: Any) -> Refused | None:
        cls = type(value)
        if cls in _NATIVE or cls in self._dumpers or self._find(cls) != self._refuse:
            return None
        return self._refusal(value)

    def _try(self, value: Any) -> Exception | None:
        """What is wrong with a value, or None."""
        writer = Writer(self._dumpers, self._find)
        try:
            writer.pack(value)
        except (TypeError, RecursionError, Refused) as problem:
            return writer.refusal or problem
        return None

    def _unknown(self, body: memoryview, unknown: UnknownType, path: str) -> UnknownStateTypeError:
        reader = Reader(_LOADERS, self._resolve, tolerant=True)
        try:
            place = blame.first_gap(reader.unpack(body), path)
        except (ValueError, RecursionError):
            place = None  # A part with a hole in it does not fit its type; the place stays unknown.
        return UnknownStateTypeError(path=place or path, found=unknown.found)


def type_name(cls: type) -> str:
    """What a class is called in the bytes. A script's module has two names, with and without multiprocessing."""
    module = "__main__" if cls.__module__ == "__mp_main__" else cls.__module__
    return f"{module}:{cls.__qualname__}"
