"""A LangGraph checkpoint as the body of a row, and back.

A row is small because a graph makes one for every step: names and versions are tables that everything else points into
by number, the table of names is written only when it changed, and channel values are deltas (see `channels`).

    v  the checkpoint's format        t  ts, in microseconds if it has LangGraph's form
    n  names, or the number of the source that has them
    x  versions                       o  sources: the checkpoints this one refers to, UUIDs as 16 bytes
    c  channel_versions               [name, version, …]
    s  versions_seen                  [[node, name, version, …], …]
    u  updated_channels               [name, …]
    w  values stored here             [name, encoded, …]
    a  values stored elsewhere        [name, source, version, …]
    m  metadata, M what of it is not plain, P that it had no "parents"; e  other keys of the checkpoint, not plain

Keys whose value says nothing are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

from agentspan.frameworks.langgraph.saving.channel_reading import Link, base_link
from agentspan.frameworks.langgraph.saving.channels import Held, Serde, Version, encode
from agentspan.persistence.threads import CheckpointRow

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_SCALARS = frozenset({str, int, float, bool, type(None)})
_OWN_KEYS = frozenset({"v", "id", "ts", "channel_values", "channel_versions", "versions_seen", "updated_channels"})


class Known(NamedTuple):
    """What the next checkpoint needs to know of its parent."""

    channels: dict[str, tuple[Version, Held]]
    """By channel, its version there and what is stored of its value."""
    layout_at: str
    """The checkpoint that has the names."""
    layout: dict[str, int]

    @property
    def size(self) -> int:
        return sum([held.size for _, held in self.channels.values()])


class _Tables:
    """The tables of a row under construction."""

    def __init__(self) -> None:
        self.sources: dict[str, int] = {}
        self.versions: dict[Version, int] = {}

    def source(self, checkpoint_id: str) -> int:
        return self.sources.setdefault(checkpoint_id, len(self.sources))

    def version(self, version: Version) -> int:
        return self.versions.setdefault(version, len(self.versions))


def encode_checkpoint(
    checkpoint: Mapping[str, Any],
    metadata: Mapping[str, Any],
    *,
    ns: str,
    parent_id: str | None,
    known: Known | None,
    changed: Iterable[str],
    serde: Serde,
) -> tuple[CheckpointRow, Known]:
    """The row of a checkpoint, and what is known once it is stored.

    Args:
        checkpoint: As `put` gets it.
        metadata: Already without what must not be stored.
        ns: The namespace.
        parent_id: The checkpoint before it.
        known: Of the parent; None stores every value in full.
        changed: Channels that are stored even if their version is the parent's.
        serde: Writes out values.

    Raises:
        UnstorableStateError: A value is not data; names its path.
    """
    own_id: str = checkpoint["id"]
    tables = _Tables()
    layout_at, layout, names = _layout(checkpoint, known, own_id)
    body: dict[str, Any] = {"v": checkpoint["v"], "t": _short_ts(checkpoint["ts"])}
    body["n"] = list(names) if layout_at == own_id else tables.source(layout_at)
    version, versions = tables.version, checkpoint["channel_versions"]
    body["c"] = [part for channel, at in versions.items() for part in (layout[channel], version(at))]
    seen = checkpoint["versions_seen"]
    if seen:
        body["s"] = [
            [layout[node], *(part for channel, at in of.items() for part in (layout[channel], version(at)))]
            for node, of in seen.items()
        ]
    if (updated := checkpoint.get("updated_channels")) is not None:
        body["u"] = [layout[channel] for channel in updated]
    held = _values(checkpoint, known, frozenset(changed), layout, tables, body, serde)
    _metadata(metadata, body, serde)
    if extra := {key: serde.dumps(checkpoint[key]) for key in checkpoint if key not in _OWN_KEYS}:
        body["e"] = extra
    body["x"] = list(tables.versions)
    if tables.sources:
        body["o"] = [_short_id(source) for source in tables.sources]
    row = CheckpointRow(ns=ns, checkpoint_id=own_id, parent_id=parent_id, body=body)
    return row, Known(held, layout_at, layout)


def _layout(
    checkpoint: Mapping[str, Any], known: Known | None, own_id: str
) -> tuple[str, dict[str, int], Iterable[str]]:
    seen, updated = checkpoint["versions_seen"], checkpoint.get("updated_channels") or ()
    needed = (
        checkpoint["channel_versions"],
        checkpoint["channel_values"],
        seen,
        *seen.values(),
        dict.fromkeys(updated),
    )
    if known is not None:
        have = known.layout.keys()
        if all(of.keys() <= have for of in needed):
            return known.layout_at, known.layout, ()
    # With those of before, so that a branch that comes and goes does not change it each time.
    names = {} if known is None else dict.fromkeys(known.layout)
    for of in needed:
        names.update(dict.fromkeys(of))
    return own_id, {name: number for number, name in enumerate(names)}, names


def _values(
    checkpoint: Mapping[str, Any],
    known: Known | None,
    changed: frozenset[str],
    layout: dict[str, int],
    tables: _Tables,
    body: dict[str, Any],
    serde: Serde,
) -> dict[str, tuple[Version, Held]]:
    own_id, versions = checkpoint["id"], checkpoint["channel_versions"]
    before = {} if known is None else known.channels
    here: list[Any] = []
    elsewhere: list[int] = []
    held: dict[str, tuple[Version, Held]] = {}
    for channel, value in checkpoint["channel_values"].items():
        version = versions.get(channel)
        at, last = before.get(channel, (None, None))
        if last is not None and at == version and channel not in changed:
            encoded = last.small
            now = last
        else:
            encoded, now = encode(
                value, last, where=own_id, version=version, sources=tables, serde=serde, path=f"$.{channel}"
            )
        if encoded is not None:
            here += (layout[channel], encoded)
        else:
            elsewhere += (layout[channel], tables.source(now.where), tables.version(now.version))
        if version is not None:
            held[channel] = (version, now)
    if here:
        body["w"] = here
    if elsewhere:
        body["a"] = elsewhere
    return held


def _metadata(metadata: Mapping[str, Any], body: dict[str, Any], serde: Serde) -> None:
    plain = {key: value for key, value in metadata.items() if _is_plain(value)}
    if len(plain) < len(metadata):
        body["M"] = {key: serde.dumps(value, f"metadata.{key}") for key, value in metadata.items() if key not in plain}
    if "parents" not in metadata:
        body["P"] = True
    elif plain.get("parents") == {}:
        del plain["parents"]
    body["m"] = plain


def _is_plain(value: Any) -> bool:
    kind = type(value)
    if kind in _SCALARS:
        return True
    if kind is dict:
        return all(type(key) is str and _is_plain(item) for key, item in value.items())
    return kind in (list, tuple) and all(_is_plain(item) for item in value)


def _short_ts(ts: str) -> int | str:
    try:
        at = datetime.fromisoformat(ts)
        if at.tzinfo == UTC and at.isoformat() == ts:
            return (at - _EPOCH) // _MICROSECOND
    except (ValueError, TypeError):
        pass  # Not a time, so it stays as it is.
    return ts


def _long_ts(ts: int | str) -> str:
    return ts if isinstance(ts, str) else (_EPOCH + ts * _MICROSECOND).isoformat()


@lru_cache(maxsize=4096)  # Of a running graph mostly the same.
def _short_id(checkpoint_id: str) -> bytes | str:
    if len(checkpoint_id) != 36:
        return checkpoint_id
    try:
        short = bytes.fromhex(checkpoint_id.replace("-", ""))
    except ValueError:
        return checkpoint_id
    return short if _long_id(short) == checkpoint_id else checkpoint_id


def _long_id(checkpoint_id: bytes | str) -> str:
    if isinstance(checkpoint_id, str):
        return checkpoint_id
    text = checkpoint_id.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


@dataclass(slots=True)
class Stored:
    """A row, opened as far as it goes without reading values."""

    row: CheckpointRow
    sources: list[str]
    layout_at: str | None
    """The checkpoint that has the names, if this one has not."""
    names: list[str]
    versions: dict[str, Version] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    elsewhere: dict[str, tuple[str, Version]] = field(default_factory=dict)

    @classmethod
    def of(cls, row: CheckpointRow) -> Stored:
        sources = [_long_id(source) for source in row.body.get("o", ())]
        names = row.body["n"]
        stored = cls(row, sources, None, names) if type(names) is list else cls(row, sources, sources[names], [])
        if stored.layout_at is None:
            stored.name(names)
        return stored

    def name(self, names: list[str]) -> None:
        """Say what the numbers mean."""
        body, table = self.row.body, self.row.body["x"]
        self.names = names
        self.versions = {names[channel]: table[at] for channel, at in _pairs(body["c"])}
        self.values = {names[channel]: encoded for channel, encoded in _pairs(body.get("w", ()))}
        at = body.get("a", ())
        self.elsewhere = {
            names[at[first]]: (self.sources[at[first + 1]], table[at[first + 2]]) for first in range(0, len(at), 3)
        }

    def has(self) -> set[str]:
        """The channels that have a value."""
        return {*self.values, *self.elsewhere}

    def base(self, channel: str) -> tuple[str, Version] | None:
        """Where the value stored here is continued, if it is a delta."""
        base = base_link(self.values[channel])
        return None if base is None else (self.sources[base[0]], self.row.body["x"][base[1]])

    def needs(self, channel: str | None) -> list[tuple[str, str]]:
        """The (checkpoint, channel) pairs that have to be read for one channel of this one, or for all."""
        channels = self.has() if channel is None else [channel]
        found = []
        for one in channels:
            base = self.base(one) if one in self.values else self.elsewhere.get(one)
            if base is not None:
                found.append((base[0], one))
        return found

    def link(self, channel: str) -> Link:
        """The value that is stored here."""
        return Link(self.row.checkpoint_id, self.versions.get(channel), self.values[channel])  # type: ignore[arg-type]

    def frame(self, serde: Serde) -> dict[str, Any]:
        """The checkpoint, without the channel values."""
        body, names = self.row.body, self.names
        table = body["x"]
        updated = body.get("u")
        return {
            "v": body["v"],
            "id": self.row.checkpoint_id,
            "ts": _long_ts(body["t"]),
            "channel_values": {},
            "channel_versions": dict(self.versions),
            "versions_seen": {
                names[of[0]]: {names[channel]: table[at] for channel, at in _pairs(of[1:])} for of in body.get("s", ())
            },
            "updated_channels": None if updated is None else [names[channel] for channel in updated],
            **{key: serde.loads(data, f"$.{key}") for key, data in body.get("e", {}).items()},
        }

    def metadata(self, serde: Serde) -> dict[str, Any]:
        """The metadata of the checkpoint."""
        body = self.row.body
        parents: dict[str, Any] = {} if "P" in body else {"parents": {}}
        odd = {key: serde.loads(data, f"metadata.{key}") for key, data in body.get("M", {}).items()}
        return {**parents, **body["m"], **odd}


def _pairs(flat: Any) -> Iterable[tuple[Any, Any]]:
    return zip(flat[::2], flat[1::2], strict=True)
