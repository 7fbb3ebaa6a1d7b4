"""How values of Python's own types, numpy's and pydantic's helper types are stored.

Each has an extension code; the payload is as small as is simple. Only exact types: a subclass is another type. Building
a value calls only the constructors named here.
"""

from __future__ import annotations

import importlib
import ipaddress
import pathlib
import re
import sys
import uuid
from collections import Counter, OrderedDict, defaultdict, deque
from decimal import Decimal
from fractions import Fraction
from typing import Any

from ormsgpack import Ext

from agentspan.frameworks.langgraph.state.forms_times import (
    TIME_DUMPERS,
    TIME_LOADERS,
    dump_pydantic_zone,
    is_pydantic_zone,
)
from agentspan.frameworks.langgraph.state.wire import (
    BYTEARRAY,
    INT,
    PAIRS,
    TEXT,
    TUPLE,
    Dumper,
    Loader,
    Reader,
    Refused,
    UnknownType,
    Writer,
    name_of,
)

_SET, _FROZENSET, _DEQUE, _ORDERED_DICT, _DEFAULT_DICT, _COUNTER = 6, 7, 8, 9, 10, 11
_COMPLEX, _RANGE, _SLICE, _DECIMAL, _FRACTION, _UUID = 12, 13, 14, 15, 16, 17
_PATH, _PATTERN, _IP, _URL, _NDARRAY, _NUMPY_SCALAR = 25, 26, 27, 28, 29, 30

# The position of an entry is its number in the bytes: append only.
_FACTORIES: tuple[Any, ...] = (None, list, dict, set, int, str, float, tuple, bool, frozenset)
_PATHS: tuple[type[pathlib.PurePath], ...] = (
    pathlib.PosixPath,
    pathlib.WindowsPath,
    pathlib.PurePosixPath,
    pathlib.PureWindowsPath,
)
_IPS: tuple[type, ...] = (
    ipaddress.IPv4Address,
    ipaddress.IPv6Address,
    ipaddress.IPv4Interface,
    ipaddress.IPv6Interface,
    ipaddress.IPv4Network,
    ipaddress.IPv6Network,
)
_URLS: tuple[tuple[str, str], ...] = (
    ("pydantic_core", "Url"),
    ("pydantic_core", "MultiHostUrl"),
    *(
        ("pydantic.networks", name)
        for name in [
            "AnyUrl",
            "AnyHttpUrl",
            "HttpUrl",
            "AnyWebsocketUrl",
            "WebsocketUrl",
            "FileUrl",
            "FtpUrl",
            "PostgresDsn",
            "CockroachDsn",
            "AmqpDsn",
            "RedisDsn",
            "MongoDsn",
            "KafkaDsn",
            "NatsDsn",
            "MySQLDsn",
            "MariaDBDsn",
            "ClickHouseDsn",
            "SnowflakeDsn",
        ]
    ),
)
_ORDERED = frozenset({str, int, bytes})
_NUMPY_KINDS = "biufcSUmM"
"""Kinds of numpy dtypes that are nothing but their bytes."""


# --- text and numbers ------------------------------------------------------------------------------------------------


def _dump_int(_: Writer, value: int) -> Ext:
    return Ext(INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def _load_int(_: Reader, data: bytes) -> int:
    return int.from_bytes(data, "big", signed=True)


def _load_text(_: Reader, data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _load_complex(reader: Reader, data: bytes) -> complex:
    return complex(*reader.unpack(data))


def _load_decimal(_: Reader, data: bytes) -> Decimal:
    return Decimal(data.decode())


def _load_fraction(reader: Reader, data: bytes) -> Fraction:
    return Fraction(*reader.unpack(data))


# --- containers ------------------------------------------------------------------------------------------------------


def _load_pairs(reader: Reader, data: bytes) -> dict[Any, Any]:
    parts = reader.unpack(data)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def _dump_set(writer: Writer, value: set[Any] | frozenset[Any]) -> Ext:
    # Text is put in order, so that equal sets have equal bytes: its order in a set differs from process to process.
    # Not everything has an order (a Decimal NaN fails to be compared), and that of a class is its own code.
    kinds = set(map(type, value))
    items = sorted(value) if len(kinds) == 1 and kinds <= _ORDERED else list(value)
    return Ext(_SET if type(value) is set else _FROZENSET, writer.pack(items))


def _dump_deque(writer: Writer, value: deque[Any]) -> Ext:
    return Ext(_DEQUE, writer.pack([value.maxlen, *value]))


def _load_deque(reader: Reader, data: bytes) -> deque[Any]:
    parts = reader.unpack(data)
    return deque(parts[1:], parts[0])


def _flat(value: dict[Any, Any]) -> list[Any]:
    return [part for pair in value.items() for part in pair]


def _dump_default_dict(writer: Writer, value: defaultdict[Any, Any]) -> Ext:
    for number, factory in enumerate(_FACTORIES):
        if value.default_factory is factory:
            return Ext(_DEFAULT_DICT, writer.pack([number, *_flat(value)]))
    raise Refused(
        f"a defaultdict whose default is made by {name_of(value.default_factory)}",
        "and code is not data",
        "Use list, dict, set, int, str, float or tuple as its default_factory, or store dict(value).",
    )


def _load_default_dict(reader: Reader, data: bytes) -> defaultdict[Any, Any]:
    parts = reader.unpack(data)
    return defaultdict(_FACTORIES[parts[0]], zip(parts[1::2], parts[2::2], strict=True))


def _load_counter(reader: Reader, data: bytes) -> Counter[Any]:
    # Not Counter(pairs), which would count them.
    counter: Counter[Any] = Counter()
    dict.update(counter, _load_pairs(reader, data))
    return counter


# --- names and addresses -----------------------------------------------------------------------------------------------


def _dump_path(writer: Writer, value: pathlib.PurePath) -> Ext:
    return Ext(_PATH, writer.pack([_PATHS.index(type(value)), str(value)]))


def _load_path(reader: Reader, data: bytes) -> pathlib.PurePath:
    number, text = reader.unpack(data)
    path: pathlib.PurePath = _PATHS[number](text)
    return path


def _dump_pattern(writer: Writer, value: re.Pattern[Any]) -> Ext:
    return Ext(_PATTERN, writer.pack([value.pattern, int(value.flags) & ~int(re.DEBUG)]))


def _load_pattern(reader: Reader, data: bytes) -> re.Pattern[Any]:
    pattern, flags = reader.unpack(data)
    return re.compile(pattern, flags & ~int(re.DEBUG))


def _dump_ip(writer: Writer, value: Any) -> Ext:
    return Ext(_IP, writer.pack([_IPS.index(type(value)), str(value)]))


def _load_ip(reader: Reader, data: bytes) -> Any:
    number, text = reader.unpack(data)
    return _IPS[number](text)


def _dump_url(writer: Writer, value: Any) -> Ext:
    return Ext(_URL, writer.pack([_url_number(type(value)), str(value)]))


def _load_url(reader: Reader, data: bytes) -> Any:
    number, text = reader.unpack(data)
    if number == 0:
        from pydantic_core import Url

        return Url(text)
    if number == 1:
        from pydantic_core import MultiHostUrl

        return MultiHostUrl(text)
    from pydantic import networks

    return getattr(networks, _URLS[number][1])(text)


def _url_number(cls: type) -> int | None:
    module = "pydantic_core" if cls.__module__.startswith("pydantic_core") else cls.__module__
    entry = (module, cls.__name__)
    return _URLS.index(entry) if entry in _URLS else None


# --- numpy -----------------------------------------------------------------------------------------------------------


def _check_dtype(value: Any) -> None:
    if value.dtype.kind not in _NUMPY_KINDS:
        raise Refused(
            f"a numpy {type(value).__name__} of dtype {value.dtype}",
            "whose items are Python objects or records",
            "Store value.tolist().",
        )


def _dump_ndarray(writer: Writer, value: Any) -> Ext:
    _check_dtype(value)
    order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
    return Ext(_NDARRAY, writer.pack([value.dtype.str, list(value.shape), order, value.tobytes(order)]))


def _load_ndarray(reader: Reader, data: bytes) -> Any:
    dtype, shape, order, buffer = reader.unpack(data)
    numpy = _numpy()
    # A copy, because an array over bytes cannot be written to.
    return numpy.ndarray(tuple(shape), numpy.dtype(dtype), bytes(buffer), order=order).copy(order)


def _dump_numpy_scalar(writer: Writer, value: Any) -> Ext:
    _check_dtype(value)
    return Ext(_NUMPY_SCALAR, writer.pack([value.dtype.str, value.tobytes()]))


def _load_numpy_scalar(reader: Reader, data: bytes) -> Any:
    dtype, buffer = reader.unpack(data)
    numpy = _numpy()
    return numpy.ndarray((), numpy.dtype(dtype), bytes(buffer))[()]


def _numpy() -> Any:
    try:
        numpy: Any = importlib.import_module("numpy")
    except ImportError:
        raise UnknownType("numpy (which is not installed here)") from None
    return numpy


# --- the tables ------------------------------------------------------------------------------------------------------

DUMPERS: dict[type, Dumper] = {
    int: _dump_int,
    tuple: lambda writer, value: Ext(TUPLE, writer.pack(list(value))),
    set: _dump_set,
    frozenset: _dump_set,
    deque: _dump_deque,
    OrderedDict: lambda writer, value: Ext(_ORDERED_DICT, writer.pack(_flat(value))),
    defaultdict: _dump_default_dict,
    Counter: lambda writer, value: Ext(_COUNTER, writer.pack(_flat(value))),
    complex: lambda writer, value: Ext(_COMPLEX, writer.pack([value.real, value.imag])),
    range: lambda writer, value: Ext(_RANGE, writer.pack([value.start, value.stop, value.step])),
    slice: lambda writer, value: Ext(_SLICE, writer.pack([value.start, value.stop, value.step])),
    Decimal: lambda writer, value: Ext(_DECIMAL, str(value).encode()),
    Fraction: lambda writer, value: Ext(_FRACTION, writer.pack([value.numerator, value.denominator])),
    uuid.UUID: lambda writer, value: Ext(_UUID, value.bytes),
    **TIME_DUMPERS,
    re.Pattern: _dump_pattern,
    **dict.fromkeys(_PATHS, _dump_path),
    **dict.fromkeys(_IPS, _dump_ip),
}
"""By exact type; the types that are there without anything else imported."""

LOADERS: dict[int, Loader] = {
    INT: _load_int,
    TUPLE: lambda reader, data: tuple(reader.unpack(data)),
    TEXT: _load_text,
    PAIRS: _load_pairs,
    BYTEARRAY: lambda reader, data: bytearray(data),
    _SET: lambda reader, data: set(reader.unpack(data)),
    _FROZENSET: lambda reader, data: frozenset(reader.unpack(data)),
    _DEQUE: _load_deque,
    _ORDERED_DICT: lambda reader, data: OrderedDict(_load_pairs(reader, data)),
    _DEFAULT_DICT: _load_default_dict,
    _COUNTER: _load_counter,
    _COMPLEX: _load_complex,
    _RANGE: lambda reader, data: range(*reader.unpack(data)),
    _SLICE: lambda reader, data: slice(*reader.unpack(data)),
    _DECIMAL: _load_decimal,
    _FRACTION: _load_fraction,
    _UUID: lambda reader, data: uuid.UUID(bytes=data),
    **TIME_LOADERS,
    _PATH: _load_path,
    _PATTERN: _load_pattern,
    _IP: _load_ip,
    _URL: _load_url,
    _NDARRAY: _load_ndarray,
    _NUMPY_SCALAR: _load_numpy_scalar,
}


def find_dumper(cls: type) -> Dumper | None:
    """The dumper for a type of a package that may not be there, or None."""
    if is_pydantic_zone(cls):
        return dump_pydantic_zone
    if cls.__module__.startswith("pydantic") and _url_number(cls) is not None:
        return _dump_url
    numpy = sys.modules.get("numpy")
    if numpy is not None and cls.__module__ == "numpy":
        if cls is numpy.ndarray:
            return _dump_ndarray
        if issubclass(cls, numpy.generic):
            return _dump_numpy_scalar
    return None
