"""The bytes of a graph's state: msgpack, and our own extension codes for what msgpack has no form for.

    version (1) | msgpack

`Writer` turns a value into msgpack and `Reader` turns it back; neither knows any type beyond msgpack's own. What they
meet otherwise goes to a *dumper* (by exact type) or a *loader* (by extension code), which `forms*.py` hold.

The payload of an extension is mostly msgpack again: a *chunk*. The common path is one call of ormsgpack for each chunk,
in C. Only a chunk with something that ormsgpack would refuse or change (a dict with keys that are not text, text with
lone surrogates, a bytearray) is walked in Python, with stand-ins put in.

What ormsgpack does in C it does on the C stack, so the nesting must have a bound: `CHUNKS_MAX` chunks in each other, the
first `WIDE_CHUNKS` with the 254 levels that ormsgpack allows, the others with `NARROW_LEVELS`. Without it, a value
nested some 10,000 levels deep ends the process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ormsgpack
from ormsgpack import Ext

CHUNKS_MAX = 100
WIDE_CHUNKS = 16
NARROW_LEVELS = 32
_LEVELS = 254

# Extension codes are for ever: a new form gets a new code.
INT, TUPLE, TEXT, PAIRS, BYTEARRAY = 1, 2, 3, 4, 5

_packb, _unpackb = ormsgpack.packb, ormsgpack.unpackb
_ATOMS = frozenset({str, int, float, bool, type(None), bytes})
OPTIONS = (
    ormsgpack.OPT_PASSTHROUGH_BIG_INT
    | ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_SUBCLASS
    | ormsgpack.OPT_PASSTHROUGH_TUPLE
    | ormsgpack.OPT_PASSTHROUGH_UUID
)


class StateBytesError(ValueError):
    """Stored bytes are not a state this version can read; the message says why."""


class Refused(Exception):
    """A dumper's answer to a value that cannot be stored: the facts of an `UnstorableStateError`, but for the path."""

    def __init__(self, found: str, problem: str, remedy: str) -> None:
        super().__init__(found, problem, remedy)
        self.found, self.problem, self.remedy = found, problem, remedy


class UnknownType(Exception):
    """A loader's answer to a type that is not on the list; `found` is its name."""

    def __init__(self, found: str) -> None:
        super().__init__(found)
        self.found = found


class Gap:
    """Stands for a value of an unknown type while its place is looked for."""

    __slots__ = ("found",)

    def __init__(self, found: str) -> None:
        self.found = found


Dumper = Callable[["Writer", Any], Ext]
"""Called with a value of one exact type. Raises `Refused`."""
Loader = Callable[["Reader", bytes], Any]
"""Called with the payload of one extension code. Raises `UnknownType`, or whatever a damaged payload leads to."""


class Writer:
    """Writes one value. Make a new one for each: after a failure it is of no more use."""

    __slots__ = ("_depth", "_dumpers", "_find", "_hook", "refusal")

    def __init__(self, dumpers: Mapping[type, Dumper], find: Callable[[type], Dumper]) -> None:
        self._dumpers = dumpers
        self._find = find
        self._hook = self._stand_in
        self._depth = 0
        self.refusal: Exception | None = None
        """What went wrong first: ormsgpack keeps only the type of the value that its hook failed on."""

    def fresh(self) -> Writer:
        """Another writer at this depth, to try whether a value can be written at all."""
        writer = Writer(self._dumpers, self._find)
        writer._depth = self._depth
        return writer

    def pack(self, value: Any) -> bytes:
        """One chunk. Raises TypeError (ormsgpack's) or whatever the dumpers raise; `refusal` has the cause."""
        depth = self._depth
        self._depth = depth + 1
        if depth >= WIDE_CHUNKS:
            data = self._pack_narrow(value)
        else:
            try:
                data = _packb(value, self._hook, OPTIONS)
            except TypeError as told:
                if self.refusal is not None or "Recursion" in str(told):
                    raise
                data = _packb(self._lift(value), self._hook, OPTIONS)
            else:
                # ormsgpack writes a bytearray as bytes. There can be one only if there is a header of bytes.
                if (b"\xc4" in data or b"\xc5" in data or b"\xc6" in data) and _holds_buffers(value):
                    data = _packb(self._lift(value), self._hook, OPTIONS)
        self._depth = depth
        return data

    def _pack_narrow(self, value: Any) -> bytes:
        if self._depth > CHUNKS_MAX:
            self.refusal = self.refusal or RecursionError()
            raise self.refusal
        value = self._lift(value)
        # ormsgpack counts the levels itself. Inside of one-item lists (one byte each, cut off again) fewer are left.
        spare = _LEVELS - NARROW_LEVELS
        for _ in range(spare):
            value = [value]
        return _packb(value, self._hook, OPTIONS)[spare:]

    def _stand_in(self, value: Any) -> Ext:
        try:
            dump = self._dumpers.get(type(value))
            if dump is None:
                dump = self._find(type(value))
            return dump(self, value)
        except Exception as refusal:
            self.refusal = self.refusal or refusal
            raise

    def _lift(self, value: Any) -> Any:
        kind = type(value)
        if kind is str:
            return Ext(TEXT, value.encode("utf-8", "surrogatepass")) if is_odd(value) else value
        if kind is list:
            return [self._lift(item) for item in value]
        if kind is dict:
            return self._lift_dict(value)
        if kind is bytearray:
            return Ext(BYTEARRAY, bytes(value))
        if kind is memoryview:
            self.refusal = Refused("a memoryview", "a view of memory that may change", "Store bytes(value).")
            raise self.refusal
        return value

    def _lift_dict(self, given: dict[Any, Any]) -> Any:
        if all(type(key) is str and not is_odd(key) for key in given):
            return {key: self._lift(item) for key, item in given.items()}
        return Ext(PAIRS, self.pack([part for pair in given.items() for part in pair]))


class Reader:
    """Reads one value. With `tolerant`, a value of an unknown type becomes a `Gap`."""

    __slots__ = ("_depth", "_hook", "_loaders", "problem", "resolve")

    def __init__(
        self, loaders: Mapping[int, Loader], resolve: Callable[[str | int], Any], *, tolerant: bool = False
    ) -> None:
        self._loaders = loaders
        self._hook = self._tolerant if tolerant else self._load
        self._depth = 0
        self.resolve = resolve
        """The form of a class by its name, or by its number among the built-in ones. Raises `UnknownType`."""
        self.problem: Exception | None = None
        """What went wrong first: ormsgpack does not pass on what its hook raises."""

    def unpack(self, data: bytes | memoryview) -> Any:
        """One chunk. Raises ValueError (ormsgpack's); `problem` has the cause if a loader failed."""
        self._depth += 1
        if self._depth > CHUNKS_MAX:
            raise StateBytesError("it is nested too deep")
        value = _unpackb(data, ext_hook=self._hook)
        self._depth -= 1
        return value

    def _load(self, code: int, data: bytes) -> Any:
        try:
            load = self._loaders.get(code)
            if load is None:
                raise StateBytesError(f"it contains extension type {code}, which this version does not know")
            return load(self, data)
        except Exception as problem:
            self.problem = self.problem or problem
            raise

    def _tolerant(self, code: int, data: bytes) -> Any:
        depth = self._depth
        try:
            return self._load(code, data)
        except UnknownType as unknown:
            self._depth, self.problem = depth, None
            return Gap(unknown.found)


def name_of(thing: Any) -> str:
    """`module.qualname` of a class or a function, without `builtins`."""
    module = getattr(thing, "__module__", None)
    name = getattr(thing, "__qualname__", None) or type(thing).__qualname__
    return name if module in (None, "builtins") else f"{module}.{name}"


def is_odd(text: str) -> bool:
    """It has lone surrogates, so there is no UTF-8 for it."""
    if text.isascii():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _holds_buffers(value: Any) -> bool:
    """There is a bytearray or a memoryview in a chunk that ormsgpack could write."""
    waiting: list[Any] = [[value]]
    for items in waiting:  # It grows as it is read.
        for item in items:
            kind = type(item)
            if kind in _ATOMS:
                continue
            if kind is dict:
                waiting.append(item.values())
            elif kind is list:
                waiting.append(item)
            elif kind is bytearray or kind is memoryview:
                return True
    return False


def unreadable(problem: Exception | None, told: Exception) -> StateBytesError:
    """The error for bytes that could not be read, from a reader's `problem` and what ormsgpack said."""
    if isinstance(problem, StateBytesError):
        return problem
    if problem is not None:
        return StateBytesError(f"a part of it does not fit its type: {type(problem).__name__}: {problem}")
    return StateBytesError(f"it is not msgpack: {told}")
