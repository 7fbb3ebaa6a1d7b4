"""Channel values in O(delta): what a checkpoint stores of a list or dict that grows.

An exact `list` is stored as what was spliced into an earlier version of it, an exact `dict` (with text keys) as the
entries that changed; whatever the reducer did, only the values before and after are looked at. Elements and entries are
written out one by one, so that the store keeps a large one once. Everything else is stored whole.

A chain of deltas is short, and each element is written few times, because deltas form a ladder. The k-th delta since the
last full value builds on the one before it; every 8th builds on the 8th before, every 64th on the 64th before, and so
on. To read version 77 takes 77, 76, …, 73, 72, 64, 0: the sum of its octal digits. An element is written once per rung,
log8(n) times. A full value is written when the chain to read would be more than twice the value.

An encoded value is one of

    bytes                                                     anything, whole
    [1, run]                                                  a list
    [2, [key, entry, …]]                                      a dict
    [3, source, version, k, front, run, back]                 a list: front items of the base, the run, back items of it
    [4, source, version, k, [key, entry, …], [gone, …]]       a dict: the base with these entries, without those gone

with a run: bytes (a list of scalars and short texts, in one) or [bytes, …] (an item each); and an entry: bytes, [run] (a
whole list), or [front, run, back] (a list, spliced into the one in the base).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from agentspan.frameworks.langgraph.saving.marks import PLAIN, common_ends, items_mark, mark_of

Version = int | str | float
Run = Any
Encoded = Any

WHOLE, LIST, DICT, SPLICE, CHANGES = 0, 1, 2, 3, 4
RUNG = 16
SMALL_BYTES = 24
"""What is no longer than this is stored again rather than referred to."""
_DELTA_BYTES = 12
"""About what a delta costs beside its items."""
_SCALARS = frozenset({int, float, bool, type(None)})
_SHORT = 1024
"""Texts shorter than this need no place of their own."""


class Serde(Protocol):
    """One value to bytes and back; `path` is where it is, for errors."""

    def dumps(self, value: Any, path: str = "$") -> bytes: ...

    def loads(self, data: bytes, path: str = "$") -> Any: ...


class Sources(Protocol):
    """The tables of a row under construction."""

    def source(self, checkpoint_id: str) -> int: ...

    def version(self, version: Version) -> int: ...


_UNTOUCHED: dict[str, tuple[int, int] | None] = {}


class Anchor(NamedTuple):  # A named tuple, as below, because a step makes several, and a frozen dataclass costs thrice.
    """A stored version that later ones build on, and what has happened to the value since."""

    where: str
    """The checkpoint that holds it."""
    version: Version
    k: int
    """Deltas since the full value."""
    chain_bytes: int
    """What has to be read to have it."""
    ends: tuple[int, int] | None = None
    """A list: how many items at its front and back are still as they were; None: all."""
    keys: tuple[str, ...] = ()
    """A dict: its keys then, in order."""
    touched: dict[str, tuple[int, int] | None] = _UNTOUCHED
    """A dict: entries that changed since; for a list that was only spliced, its ends."""

    def then(self, ends: tuple[int, int] | None, touched: dict[str, tuple[int, int] | None]) -> Anchor:
        """The anchor after one more change."""
        both = self.touched
        if touched:
            both = dict(both)
            for key, spliced in touched.items():
                both[key] = _narrower(both[key], spliced) if key in both else spliced
        return self._replace(ends=ends if self.ends is None else _narrower(self.ends, ends), touched=both)


def _narrower(one: tuple[int, int] | None, other: tuple[int, int] | None) -> tuple[int, int] | None:
    if one is None or other is None:
        return None
    return min(one[0], other[0]), min(one[1], other[1])


class Held(NamedTuple):
    """What is known of the stored value of one channel."""

    where: str
    version: Version
    kind: int
    types: list[type]
    """Of the items or entries, or of the one value."""
    marks: list[Any]
    sizes: list[int]
    size: int
    """Of all of them."""
    keys: tuple[str, ...] = ()
    small: Encoded = None
    """The value itself, when referring to it would be longer."""
    anchors: tuple[Anchor, ...] = ()
    """Of a list or dict: one per rung of the ladder, the full value last."""


def encode(
    value: Any, held: Held | None, *, where: str, version: Version, sources: Sources, serde: Serde, path: str
) -> tuple[Encoded, Held]:
    """Encode the next value of a channel; None for the encoding says that what is held is still right.

    Args:
        value: The value.
        held: What is stored of the value before.
        where: The checkpoint it will be stored in.
        version: The channel's version there.
        sources: Numbers the checkpoints and versions it refers to.
        serde: Writes out the pieces.
        path: Where the value is in the state.
    """
    kind = kind_of(value)
    if held is None or held.kind != kind:
        return _full(kind, value, where, version, serde, path)
    if kind == WHOLE:
        if held.types[0] is type(value) and held.marks[0] == value:
            return held.small, held
        return _full(kind, value, where, version, serde, path)
    if kind == LIST:
        return _next_list(value, held, where, version, sources, serde, path)
    return _next_dict(value, held, where, version, sources, serde, path)


def kind_of(value: Any) -> int:
    """Whether a value is stored whole, as a list or as a dict."""
    if type(value) is list:
        return LIST
    if type(value) is dict and all(type(key) is str for key in value):
        return DICT
    return WHOLE


def held_full(
    kind: int, value: Any, sizes: list[int], where: str, version: Version, serde: Serde, small: Encoded = None
) -> Held:
    """What is known of a value that was stored, or read, in full."""
    size = sum(sizes)
    if kind == WHOLE:
        marks = [value if type(value) in PLAIN else mark_of(value, serde.dumps)]
        return Held(where, version, kind, [type(value)], marks, sizes, size, (), small)
    keys = tuple(value) if kind == DICT else ()
    parts = list(value.values()) if kind == DICT else value
    root = Anchor(where, version, 0, size, None, keys)
    marks = items_mark(parts, serde.dumps)
    return Held(where, version, kind, list(map(type, parts)), marks, sizes, size, keys, small, (root,))


def _full(kind: int, value: Any, where: str, version: Version, serde: Serde, path: str) -> tuple[Encoded, Held]:
    encoded: Encoded
    if kind == LIST:
        run, sizes = pack_run(value, serde, path)
        encoded = [LIST, run]
    elif kind == DICT:
        entries: list[Any] = []
        sizes = []
        for key, entry in value.items():
            packed, size = _pack_entry(entry, serde, f"{path}.{key}")
            entries += (key, packed)
            sizes.append(size + len(key))
        encoded = [DICT, entries]
    else:
        encoded = serde.dumps(value, path)
        sizes = [len(encoded)]
    small = encoded if sum(sizes) + 2 * len(sizes) <= SMALL_BYTES else None
    return encoded, held_full(kind, value, sizes, where, version, serde, small)


def pack_run(values: Sequence[Any], serde: Serde, path: str, first: int = 0) -> tuple[Run, list[int]]:
    """Items of a list, and about how many bytes each takes. `first` is the position of the first, for errors."""
    if all(type(value) in _SCALARS or (type(value) is str and len(value) < _SHORT) for value in values):
        data = serde.dumps(list(values), path)
        return data, [max(1, len(data) // len(values))] * len(values) if values else []
    run = [serde.dumps(value, f"{path}[{first + at}]") for at, value in enumerate(values)]
    return run, list(map(len, run))


def _pack_entry(value: Any, serde: Serde, path: str) -> tuple[Any, int]:
    if type(value) is list:
        run, sizes = pack_run(value, serde, path)
        return [run], sum(sizes)
    data = serde.dumps(value, path)
    return data, len(data)


# --- the ladder


def base_of(anchors: tuple[Anchor, ...]) -> Anchor:
    """What the next delta builds on."""
    return anchors[min(_rung(anchors[0].k + 1), len(anchors) - 1)]


def climbed(anchors: tuple[Anchor, ...], new: Anchor) -> tuple[Anchor, ...]:
    """The anchors after a delta was stored."""
    reached = _rung(new.k)
    return (new,) * (reached + 1) + anchors[min(reached + 1, len(anchors) - 1) :]


def anchors_of(chain: Sequence[Anchor]) -> tuple[Anchor, ...]:
    """The anchors that a chain, the newest first, leaves."""
    found: list[Anchor] = []
    step = 1
    for anchor in chain:
        while anchor.k % step == 0 and anchor.k:
            found.append(anchor)
            step *= RUNG
    return (*found, chain[-1])


def _rung(k: int) -> int:
    rung = 0
    while k % RUNG == 0:
        k //= RUNG
        rung += 1
    return rung


# --- the next version


def _next_list(
    value: list[Any], held: Held, where: str, version: Version, sources: Sources, serde: Serde, path: str
) -> tuple[Encoded, Held]:
    front, back = common_ends(held.types, held.marks, value)
    if front == len(value) == len(held.marks):
        return held.small, held
    anchors = tuple([anchor.then((front, back), {}) for anchor in held.anchors])
    base = base_of(anchors)
    assert base.ends is not None
    kept_front, kept_back = base.ends
    run, sizes = pack_run(value[kept_front : len(value) - kept_back], serde, path, kept_front)
    delta = sum(sizes)
    sizes = held.sizes[:kept_front] + sizes + held.sizes[len(held.sizes) - kept_back :]
    whole = sum(sizes)
    if _is_too_long(base, delta, whole):
        return _full(LIST, value, where, version, serde, path)
    k = anchors[0].k + 1
    encoded = [SPLICE, sources.source(base.where), sources.version(base.version), k, kept_front, run, kept_back]
    fresh = items_mark(value[front : len(value) - back], serde.dumps)
    marks = held.marks[:front] + fresh + held.marks[len(held.marks) - back :]
    new = Anchor(where, version, k, base.chain_bytes + delta)
    return encoded, Held(
        where, version, LIST, list(map(type, value)), marks, sizes, whole, anchors=climbed(anchors, new)
    )


def _next_dict(
    value: dict[str, Any], held: Held, where: str, version: Version, sources: Sources, serde: Serde, path: str
) -> tuple[Encoded, Held]:
    places = {key: at for at, key in enumerate(held.keys)}
    touched: dict[str, tuple[int, int] | None] = {key: None for key in held.keys if key not in value}
    for key, entry in value.items():
        at = places.get(key)
        if at is None:
            touched[key] = None
        elif held.types[at] is not type(entry) or held.marks[at] != entry:
            is_list = type(entry) is list and held.types[at] is list
            touched[key] = common_ends(held.marks[at].types, held.marks[at].marks, entry) if is_list else None
    keys = tuple(value)
    if not touched and keys == held.keys:
        return held.small, held
    anchors = tuple([anchor.then(None, touched) for anchor in held.anchors])
    base = base_of(anchors)
    entries: list[Any] = []
    sizes: list[int] = []
    delta = 0
    for key, entry in value.items():
        if key not in base.touched:
            sizes.append(held.sizes[places[key]])
            continue
        ends = base.touched[key]
        if ends is None:
            packed, size = _pack_entry(entry, serde, f"{path}.{key}")
            kept = 0
        else:
            run, run_sizes = pack_run(entry[ends[0] : len(entry) - ends[1]], serde, f"{path}.{key}", ends[0])
            packed, size = [ends[0], run, ends[1]], sum(run_sizes)
            kept = held.sizes[places[key]] * sum(ends) // max(1, len(held.marks[places[key]].marks))
        entries += (key, packed)
        sizes.append(size + kept + len(key))
        delta += size + len(key)
    gone = [key for key in base.keys if key not in value]
    whole = sum(sizes)
    if _is_too_long(base, delta, whole) or list(keys) != _keys_after(base.keys, keys):
        return _full(DICT, value, where, version, serde, path)
    k = anchors[0].k + 1
    encoded = [CHANGES, sources.source(base.where), sources.version(base.version), k, entries, gone]
    marks = [
        mark_of(entry, serde.dumps, 1) if key in touched else held.marks[places[key]] for key, entry in value.items()
    ]
    new = Anchor(where, version, k, base.chain_bytes + delta, keys=keys)
    types = list(map(type, value.values()))
    return encoded, Held(where, version, DICT, types, marks, sizes, whole, keys, anchors=climbed(anchors, new))


def _is_too_long(base: Anchor, delta: int, whole: int) -> bool:
    return delta + _DELTA_BYTES >= whole or base.chain_bytes + delta > 2 * whole


def _keys_after(before: Sequence[str], now: Sequence[str]) -> list[str]:
    """The order that changing a dict with the keys `before` to have the keys `now` leaves them in."""
    wanted, known = set(now), set(before)
    return [key for key in before if key in wanted] + [key for key in now if key not in known]
