"""How dates, times and time zones are stored; part of `forms.py`."""

from __future__ import annotations

import datetime
import struct
from typing import Any
from zoneinfo import ZoneInfo

from ormsgpack import Ext

from agentspan.frameworks.langgraph.state.wire import Dumper, Loader, Reader, Refused, Writer, name_of
from agentspan.wording import a

_DATETIME, _DATE, _TIME, _TIMEDELTA, _TIMEZONE, _ZONEINFO, _TZINFO = 18, 19, 20, 21, 22, 23, 24
_DATETIME_HEAD = struct.Struct(">HBBBBBIB")
_TIME_HEAD = struct.Struct(">BBBIB")
_DATE_HEAD = struct.Struct(">HBB")
_NAIVE, _UTC, _ZONED = 0, 2, 4
"""What the last byte of a head says of the zone; 1 is added for the second of two equal times (`fold`)."""


def _dump_datetime(writer: Writer, value: datetime.datetime) -> Ext:
    mark, zone = _zone_of(writer, value)
    head = _DATETIME_HEAD.pack(
        value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond, mark
    )
    return Ext(_DATETIME, head + zone)


def _load_datetime(reader: Reader, data: bytes) -> datetime.datetime:
    year, month, day, hour, minute, second, microsecond, mark = _DATETIME_HEAD.unpack_from(data)
    zone = _load_zone(reader, mark, data[_DATETIME_HEAD.size :])
    return datetime.datetime(year, month, day, hour, minute, second, microsecond, zone, fold=mark & 1)


def _dump_time(writer: Writer, value: datetime.time) -> Ext:
    mark, zone = _zone_of(writer, value)
    return Ext(_TIME, _TIME_HEAD.pack(value.hour, value.minute, value.second, value.microsecond, mark) + zone)


def _load_time(reader: Reader, data: bytes) -> datetime.time:
    hour, minute, second, microsecond, mark = _TIME_HEAD.unpack_from(data)
    zone = _load_zone(reader, mark, data[_TIME_HEAD.size :])
    return datetime.time(hour, minute, second, microsecond, zone, fold=mark & 1)


def _zone_of(writer: Writer, value: datetime.datetime | datetime.time) -> tuple[int, bytes]:
    zone = value.tzinfo
    if zone is None:
        return _NAIVE | value.fold, b""
    if zone is datetime.UTC:
        return _UTC | value.fold, b""
    if type(zone) not in (datetime.timezone, ZoneInfo) and not is_pydantic_zone(type(zone)):
        raise Refused(
            f"{a(name_of(type(value)))} whose time zone is {a(name_of(type(zone)))}",
            "which is not a time zone of the standard library",
            "Use zoneinfo.ZoneInfo or datetime.timezone.",
        )
    return _ZONED | value.fold, writer.pack(zone)


def _load_zone(reader: Reader, mark: int, data: bytes) -> Any:
    if mark & ~1 == _ZONED:
        return reader.unpack(data)
    return datetime.UTC if mark & ~1 == _UTC else None


def _load_date(_: Reader, data: bytes) -> datetime.date:
    return datetime.date(*_DATE_HEAD.unpack(data))


def _load_timedelta(reader: Reader, data: bytes) -> datetime.timedelta:
    return datetime.timedelta(*reader.unpack(data))


def _dump_timezone(writer: Writer, value: datetime.timezone) -> Ext:
    offset = value.utcoffset(None)
    name = value.tzname(None)
    named = [] if name == datetime.timezone(offset).tzname(None) else [name]
    return Ext(_TIMEZONE, writer.pack([offset.days, offset.seconds, offset.microseconds, *named]))


def _load_timezone(reader: Reader, data: bytes) -> datetime.timezone:
    days, seconds, microseconds, *named = reader.unpack(data)
    return datetime.timezone(datetime.timedelta(days, seconds, microseconds), *named)


def _dump_zoneinfo(_: Writer, value: ZoneInfo) -> Ext:
    if value.key is None:
        raise Refused("a ZoneInfo that was read from a file", "so it has no key", "Use zoneinfo.ZoneInfo(key).")
    return Ext(_ZONEINFO, value.key.encode())


def _load_zoneinfo(_: Reader, data: bytes) -> ZoneInfo:
    return ZoneInfo(data.decode())


def is_pydantic_zone(cls: type) -> bool:
    return cls.__name__ == "TzInfo" and cls.__module__.startswith("pydantic_core")


def dump_pydantic_zone(writer: Writer, value: datetime.tzinfo) -> Ext:
    offset = value.utcoffset(None)
    assert offset is not None  # Pydantic makes these for fixed offsets only.
    return Ext(_TZINFO, writer.pack(int(offset.total_seconds())))


def _load_pydantic_zone(reader: Reader, data: bytes) -> Any:
    from pydantic_core import TzInfo

    return TzInfo(reader.unpack(data))


TIME_DUMPERS: dict[type, Dumper] = {
    datetime.datetime: _dump_datetime,
    datetime.date: lambda writer, value: Ext(_DATE, _DATE_HEAD.pack(value.year, value.month, value.day)),
    datetime.time: _dump_time,
    datetime.timedelta: lambda writer, value: Ext(
        _TIMEDELTA, writer.pack([value.days, value.seconds, value.microseconds])
    ),
    datetime.timezone: _dump_timezone,
    ZoneInfo: _dump_zoneinfo,
}

TIME_LOADERS: dict[int, Loader] = {
    _DATETIME: _load_datetime,
    _DATE: _load_date,
    _TIME: _load_time,
    _TIMEDELTA: _load_timedelta,
    _TIMEZONE: _load_timezone,
    _ZONEINFO: _load_zoneinfo,
    _TZINFO: _load_pydantic_zone,
}
