"""Channel values back from what `channels` made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from agentspan.frameworks.langgraph.saving.channels import (
    CHANGES,
    DICT,
    LIST,
    SMALL_BYTES,
    SPLICE,
    WHOLE,
    Anchor,
    Encoded,
    Held,
    Run,
    Serde,
    Version,
    anchors_of,
    held_full,
)


class Link(NamedTuple):
    """One stored version of a channel's value."""

    where: str
    version: Version
    encoded: Encoded


def base_link(encoded: Encoded) -> tuple[int, int] | None:
    """Which source and version (by number) an encoded value builds on, if any."""
    if type(encoded) is list and encoded[0] in (SPLICE, CHANGES):
        return encoded[1], encoded[2]
    return None


class Cell(NamedTuple):
    """A piece of a value that nobody looks into."""

    data: bytes


class Opaque:
    """Moves pieces without reading them: stored state can be rearranged where its types are not known."""

    def __init__(self, serde: Serde) -> None:
        self.plain = serde

    def dumps(self, value: Any, path: str = "$") -> bytes:
        return value.data if type(value) is Cell else self.plain.dumps(value, path)

    def loads(self, data: bytes, path: str = "$") -> Any:
        return Cell(data)


def decode(chain: Sequence[Link], serde: Serde, path: str) -> tuple[Any, Callable[[], Held]]:
    """The value at the head of a chain, and (on call, before the value is handed out) what the next delta needs of it.

    Args:
        chain: The newest first; the last one is a full value, the others build each on the next.
        serde: Reads the pieces.
        path: Where the value is in the state.
    """
    full = chain[-1]
    kind = WHOLE if type(full.encoded) is bytes else full.encoded[0]
    if kind == LIST:
        value, sizes, anchors = _read_list(chain, serde, path)
    elif kind == DICT:
        value, sizes, anchors = _read_dict(chain, serde, path)
    else:
        value, sizes, anchors = serde.loads(full.encoded, path), [len(full.encoded)], None

    def hold() -> Held:
        small = full.encoded if len(chain) == 1 and sum(sizes) + 2 * len(sizes) <= SMALL_BYTES else None
        held = held_full(kind, value, sizes, chain[0].where, chain[0].version, serde, small)
        return held if anchors is None else held._replace(anchors=anchors())

    return value, hold


def unpack_run(run: Run, serde: Serde, path: str, first: int = 0) -> list[Any]:
    """The items of a run."""
    if type(run) is list:
        return [serde.loads(data, f"{path}[{first + at}]") for at, data in enumerate(run)]
    plain = serde.plain if isinstance(serde, Opaque) else serde
    items: list[Any] = plain.loads(run, path)
    return items


def run_sizes(run: Run, count: int) -> list[int]:
    """About how many bytes each of `count` items of a run takes."""
    if type(run) is list:
        return list(map(len, run))
    return [max(1, len(run) // count)] * count if count else []


_Read = tuple[Any, list[int], Callable[[], tuple[Anchor, ...]] | None]


def _read_list(chain: Sequence[Link], serde: Serde, path: str) -> _Read:
    full = chain[-1]
    value = unpack_run(full.encoded[1], serde, path)
    sizes = run_sizes(full.encoded[1], len(value))
    made = [Anchor(full.where, full.version, 0, sum(sizes))]
    ends: list[tuple[int, int]] = []
    for link in reversed(chain[:-1]):
        _, _, _, k, front, run, back = link.encoded
        fresh = unpack_run(run, serde, path, front)
        fresh_sizes = run_sizes(run, len(fresh))
        value = value[:front] + fresh + value[len(value) - back :]
        sizes = sizes[:front] + fresh_sizes + sizes[len(sizes) - back :]
        ends.append((front, back))
        made.append(Anchor(link.where, link.version, k, made[-1].chain_bytes + sum(fresh_sizes)))
    return value, sizes, lambda: _since(made, [(one, {}) for one in ends])


def _read_dict(chain: Sequence[Link], serde: Serde, path: str) -> _Read:
    full = chain[-1]
    value: dict[str, Any] = {}
    sizes: dict[str, int] = {}
    _change(value, sizes, full.encoded[1], serde, path)
    made = [Anchor(full.where, full.version, 0, sum(sizes.values()), keys=tuple(value))]
    changes: list[tuple[None, dict[str, tuple[int, int] | None]]] = []
    for link in reversed(chain[:-1]):
        _, _, _, k, entries, gone = link.encoded
        for key in gone:
            del value[key], sizes[key]
        written, touched = _change(value, sizes, entries, serde, path)
        changes.append((None, touched | dict.fromkeys(gone)))
        made.append(Anchor(link.where, link.version, k, made[-1].chain_bytes + written, keys=tuple(value)))
    return value, list(sizes.values()), lambda: _since(made, changes)


def _change(
    value: dict[str, Any], sizes: dict[str, int], entries: list[Any], serde: Serde, path: str
) -> tuple[int, dict[str, tuple[int, int] | None]]:
    """Put entries into a dict; returns their bytes, and for each key which ends of a list were kept."""
    written = 0
    touched: dict[str, tuple[int, int] | None] = {}
    for key, entry in zip(entries[::2], entries[1::2], strict=True):
        here = f"{path}.{key}"
        kept = 0
        touched[key] = None
        if type(entry) is not list:
            size, fresh = len(entry), serde.loads(entry, here)
        elif len(entry) == 1:
            fresh = unpack_run(entry[0], serde, here)
            size = sum(run_sizes(entry[0], len(fresh)))
        else:
            front, run, back = entry
            before = value[key]
            fresh = unpack_run(run, serde, here, front)
            size = sum(run_sizes(run, len(fresh)))
            kept = sizes[key] * (front + back) // max(1, len(before))
            fresh = before[:front] + fresh + before[len(before) - back :]
            touched[key] = (front, back)
        value[key] = fresh
        sizes[key] = size + kept + len(key)
        written += size + len(key)
    return written, touched


def _since(
    made: list[Anchor], changes: Sequence[tuple[tuple[int, int] | None, dict[str, tuple[int, int] | None]]]
) -> tuple[Anchor, ...]:
    """The anchors a chain (the oldest first) leaves, each with all that changed after it."""
    chain = [made[-1]]
    for at in range(len(made) - 2, -1, -1):
        anchor = made[at]
        for ends, touched in changes[at:]:
            anchor = anchor.then(ends, touched)
        chain.append(anchor)
    return anchors_of(chain)
