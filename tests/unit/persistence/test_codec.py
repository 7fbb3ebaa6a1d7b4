"""Values to bytes and back."""

from __future__ import annotations

import datetime
import enum
import math
import pickle
import string
import uuid
from collections import OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentspan.errors import UnstorableValueError
from agentspan.persistence import codec
from agentspan.persistence.codec import BLOB_BYTES_MIN, BlobMemo, BodyError, blob_bytes, content_hash, pack, unpack


def round_trip(value: Any, **options: Any) -> Any:
    packed = pack(value, **options)
    stored = {name: blob_bytes(blob) for name, blob in packed.blobs.items()}
    return unpack(packed.data, stored.get)


text = st.text(st.characters(exclude_categories=()))  # Lone surrogates too.
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text | st.binary()
plain = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(text, inner) | st.tuples(inner, inner), max_leaves=20
)


@given(plain)
@settings(max_examples=200, deadline=None)
def test_plain_data_survives(value: Any) -> None:
    assert round_trip(value) == value


@given(st.text(st.characters(exclude_categories=()), min_size=1), st.integers(BLOB_BYTES_MIN, BLOB_BYTES_MIN * 2))
@settings(max_examples=30, deadline=None)
def test_big_text_survives(seed: str, size: int) -> None:
    value = (seed * size)[:size]
    assert round_trip({"a": [value, (value,)]}) == {"a": [value, (value,)]}


def test_types_survive() -> None:
    value = {"tuple": (1, (2,)), "list": [1], "true": True, "one": 1, "float": 1.0, "bytes": b"a"}
    found = round_trip(value)
    assert [type(item) for item in found.values()] == [tuple, list, bool, int, float, bytes]
    assert math.isnan(round_trip([float("nan")])[0])


def test_kinds_of_plain_data_are_stored_as_what_they_are_a_kind_of() -> None:
    class Status(str, enum.Enum):
        DONE = "done"

    class Level(enum.IntEnum):
        HIGH = 3

    class Percent(float):
        pass

    pair = namedtuple("pair", "a b")
    counts: defaultdict[str, int] = defaultdict(int, a=1)
    value = {Status.DONE: Status.DONE, "l": Level.HIGH, "p": Percent(0.5), "t": pair(1, 2), "d": counts}
    found = round_trip(value)
    assert found == {"done": "done", "l": 3, "p": 0.5, "t": (1, 2), "d": {"a": 1}}
    assert [type(item) for item in found.values()] == [str, int, float, tuple, dict]
    assert type(next(iter(found))) is str
    assert round_trip(OrderedDict(b=1, a=2)) == {"b": 1, "a": 2}
    assert round_trip(bytearray(b"x")) == b"x"


@dataclass
class Point:
    x: int


@pytest.mark.parametrize(
    ("value", "found", "hint"),
    [
        ({1, 2}, "set", "list"),
        (datetime.datetime(2026, 1, 1), "datetime", "isoformat"),
        (uuid.UUID(int=1), "UUID", "str(value)"),
        (Point(1), "Point", "asdict"),
        (len, "builtin_function_or_method", "lists and dicts"),
        (1j, "complex", "numbers"),
    ],
)
def test_an_unstorable_value_is_named_with_a_way_out(value: Any, found: str, hint: str) -> None:
    with pytest.raises(UnstorableValueError) as caught:
        pack({"messages": [0, {"artifact": value}]})
    assert (caught.value.path, caught.value.found) == ("$.messages[1].artifact", found)
    assert hint in caught.value.hint
    assert pickle.loads(pickle.dumps(caught.value)).facts == caught.value.facts


def test_the_check_notices_every_flipped_byte() -> None:
    data = pack({"a": "text", "n": 2**80}, context=b"record e1 3").data
    for index in range(len(data)):
        for bit in (1, 128):
            damaged = bytearray(data)
            damaged[index] ^= bit
            with pytest.raises(BodyError):
                unpack(bytes(damaged), context=b"record e1 3")


def test_a_truncated_body_is_noticed() -> None:
    data = pack({"a": 1}).data
    for length in range(len(data)):
        with pytest.raises(BodyError):
            unpack(data[:length])


def test_a_body_belongs_to_one_place() -> None:
    data = pack({"a": 1}, context=b"record e1 3").data
    with pytest.raises(BodyError, match="digest"):
        unpack(data, context=b"record e1 4")


def test_a_newer_format_is_refused_clearly() -> None:
    data = pack({"a": 1}).data
    with pytest.raises(BodyError, match="format byte is 2 and this version reads 1: written by a newer AgentSpan"):
        unpack(bytes([2]) + data[1:])


def test_an_extension_of_a_newer_version_is_refused() -> None:
    packed = pack([codec.Ext(99, b"x")])
    with pytest.raises(BodyError, match="extension type 99"):
        unpack(packed.data)


def test_a_large_value_is_kept_elsewhere_once() -> None:
    big = "x" * BLOB_BYTES_MIN
    packed = pack({"a": big, "b": ["".join(["x"] * BLOB_BYTES_MIN)], "c": big.encode(), "small": "x" * 100})
    assert list(packed.blobs) == [content_hash(big.encode())]
    assert len(packed.data) < 300


def test_just_below_the_limit_stays_inside() -> None:
    packed = pack({"a": "x" * (BLOB_BYTES_MIN - 1), "b": "é" * (BLOB_BYTES_MIN // 2 - 1)})
    assert packed.blobs == {}
    assert len(pack({"b": "é" * (BLOB_BYTES_MIN // 2)}).blobs) == 1


def test_a_missing_or_altered_large_value_is_noticed() -> None:
    packed = pack({"a": "x" * BLOB_BYTES_MIN})
    with pytest.raises(BodyError, match="missing"):
        unpack(packed.data, {}.get)
    with pytest.raises(BodyError, match="hash"):
        unpack(packed.data, lambda name: b"y" * BLOB_BYTES_MIN)


def test_a_large_value_is_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[int] = []

    def counting(content: bytes) -> bytes:
        hashed.append(len(content))
        return content_hash(content)

    monkeypatch.setattr(codec, "content_hash", counting)
    memo = BlobMemo()
    prompt = "x" * 100_000
    first = pack({"prompt": prompt}, memo)
    for turn in range(5):
        assert pack({"prompt": prompt, "turn": turn}, memo, large=True).blobs == first.blobs
    assert hashed == [100_000]


def test_what_was_loaded_is_not_hashed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    memo = BlobMemo()
    packed = pack({"prompt": "x" * 100_000})
    stored = {name: blob_bytes(blob) for name, blob in packed.blobs.items()}
    loaded = unpack(packed.data, stored.get, memo=memo)
    monkeypatch.setattr(codec, "content_hash", lambda content: pytest.fail("hashed again"))
    assert pack(loaded, memo).data == packed.data


def test_the_memo_forgets_the_oldest() -> None:
    memo = BlobMemo(bytes_max=250_000)
    values = [letter * 100_000 for letter in string.ascii_lowercase[:4]]
    for value in values:
        memo.remember(value, value[:1].encode())
    assert [memo.hash_of(value) for value in values] == [None, None, b"c", b"d"]


def test_mutable_bytes_are_never_remembered() -> None:
    memo = BlobMemo()
    buffer = bytearray(b"a" * BLOB_BYTES_MIN)
    first = pack([buffer], memo)
    buffer[:] = b"b" * BLOB_BYTES_MIN
    assert pack([buffer], memo).blobs.keys() != first.blobs.keys()
    assert set(first.blobs.values()) == {b"a" * BLOB_BYTES_MIN}


def test_inline_bodies_need_nothing_else() -> None:
    value = {"notes": "x" * 100_000, "odd": "\ud83d", "data": b"y" * 100_000}
    packed = pack(value, inline=True)
    assert packed.blobs == {}
    assert unpack(packed.data) == value


def test_spare_depth_counts() -> None:
    value: Any = 1
    for _ in range(codec.DEPTH_MAX - 32):
        value = [value]
    assert round_trip(value, spare_depth=32) == value
    with pytest.raises(UnstorableValueError, match="223 levels deep"):
        pack([value], spare_depth=32)
    assert round_trip([value]) == [value]


def test_a_value_above_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "BODY_BYTES_MAX", 50_000)
    for value in ({"a": "x" * 60_000}, {"a": [1.5] * 10_000}):
        with pytest.raises(UnstorableValueError, match="above the limit"):
            pack(value)
