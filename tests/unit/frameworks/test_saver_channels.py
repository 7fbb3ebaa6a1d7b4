"""Channel values in O(delta): whatever happens to a value, what is read is what was put, and short to read."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentspan.frameworks.langgraph.saving.channel_reading import Cell, Link, Opaque, base_link, decode
from agentspan.frameworks.langgraph.saving.channels import CHANGES, DICT, LIST, RUNG, SPLICE, Encoded, Held, encode
from agentspan.frameworks.langgraph.state.serde import StateSerde
from tests.unit.frameworks.exactly import same

SERDE = StateSerde()


class Tape:
    """The versions of one channel, each stored in a checkpoint of its own."""

    def __init__(self) -> None:
        self.held: Held | None = None
        self.links: list[Link] = []
        self.stored_at: list[int] = []
        """For each version put, which link has it."""
        self._names: list[Any] = []

    def source(self, checkpoint_id: str) -> int:
        return self._number(("source", checkpoint_id))

    def version(self, version: Any) -> int:
        return self._number(("version", version))

    def _number(self, name: Any) -> int:
        if name not in self._names:
            self._names.append(name)
        return self._names.index(name)

    def put(self, value: Any) -> Encoded:
        number = len(self.links)
        encoded, self.held = encode(
            value, self.held, where=f"c{number}", version=number, sources=self, serde=SERDE, path="$.it"
        )
        if encoded is not None:
            self.links.append(Link(f"c{number}", number, encoded))
        self.stored_at.append(len(self.links) - 1)
        return encoded

    def chain(self, at: int) -> list[Link]:
        links = [self.links[self.stored_at[at]]]
        while (base := base_link(links[-1].encoded)) is not None:
            (_, where), (_, version) = self._names[base[0]], self._names[base[1]]
            links.append(self.links[int(where[1:])])
            assert links[-1].version == version
        return links

    def read(self, at: int = -1) -> Any:
        return decode(self.chain(at), SERDE, "$.it")[0]

    def restart(self) -> None:
        """Forget, and go on from what is stored."""
        self.held = decode(self.chain(-1), SERDE, "$.it")[1]()


def size(encoded: Encoded) -> int:
    if isinstance(encoded, (bytes, str)):
        return len(encoded)
    return sum(map(size, encoded)) if isinstance(encoded, list) else 1


def test_a_list_that_grows_is_stored_as_what_was_added() -> None:
    tape, value = Tape(), ["x" * 200 + "0"]
    tape.put(value)
    for number in range(1, RUNG):
        value = [*value, "x" * 200 + str(number)]
        encoded = tape.put(value)
        assert encoded[0] == SPLICE
        assert size(encoded) < 230
    assert tape.read() == value


def test_bytes_stay_linear_and_chains_short() -> None:
    tape, value = Tape(), []
    total, steps = 0, 1000
    for number in range(steps):
        value = [*value, {"role": "user", "text": f"{number:200}"}]
        total += size(tape.put(value))
        assert len(tape.chain(-1)) <= 1 + 3 * (RUNG - 1)
    whole = sum(len(SERDE.dumps(item)) for item in value)
    assert total < 4 * whole, (total, whole)
    assert sum(size(link.encoded) for link in tape.chain(-1)) < 1.2 * whole
    assert tape.read() == value
    assert tape.read(500) == value[:501]


def test_restarts_do_not_make_chains_longer() -> None:
    tape, value = Tape(), []
    for number in range(300):
        value = [*value, f"{number:300}"]
        tape.put(value)
        tape.restart()
        assert len(tape.chain(-1)) <= 1 + 3 * (RUNG - 1)
        value = tape.read()
    assert tape.read() == [f"{number:300}" for number in range(300)]


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value[3:],
        lambda value: value[:-2],
        lambda value: [*value[:4], "new" * 50, *value[5:]],
        lambda value: ["first" * 50, *value],
        lambda value: [*value[:2], *value[7:]],
        lambda value: [*value[:5], *value],
    ],
    ids=["drop-front", "drop-end", "replace", "prepend", "cut", "repeat"],
)
def test_any_splice_is_a_delta(change: Any) -> None:
    tape, value = Tape(), [f"{number:100}" for number in range(10)]
    tape.put(value)
    encoded = tape.put(change(value))
    assert encoded[0] == SPLICE
    assert tape.read() == change(value)
    assert tape.read(0) == value


def test_a_value_that_is_replaced_over_and_over_is_read_in_twice_its_size() -> None:
    tape = Tape()
    value = [f"{number:100}" for number in range(20)]
    tape.put(value)
    for number in range(100):
        value = [*value[:8], *(f"{number}-{at:100}" for at in range(12))]
        tape.put(value)
        assert sum(size(link.encoded) for link in tape.chain(-1)) <= 2 * size(value) + 200
    assert tape.read() == value


def test_elements_changed_in_place_are_noticed() -> None:
    tape, value = Tape(), [{"text": "x" * 50, "tags": []} for _ in range(10)]
    tape.put(value)
    value[4]["tags"].append("seen")
    assert tape.put(value) is not None
    assert tape.read()[4]["tags"] == ["seen"]
    assert tape.read(0)[4]["tags"] == []


def test_what_has_not_changed_is_not_stored_again() -> None:
    for value in (["x" * 100] * 3, {"a": "x" * 100}, "x" * 100):
        tape = Tape()
        assert tape.put(value) is not None
        assert tape.put(value) is None
        assert tape.put(copy.deepcopy(value)) is None
        assert tape.read() == value


def test_small_values_are_repeated_rather_than_referred_to() -> None:
    tape = Tape()
    assert tape.put(7) == tape.put(7) == SERDE.dumps(7)
    assert tape.put([]) == tape.put([]) == [LIST, SERDE.dumps([])]


def test_the_entries_of_a_dict_that_changed_are_stored() -> None:
    tape, value = Tape(), {f"k{number}": f"{number:100}" for number in range(50)}
    tape.put(value)
    value = {**value, "k7": "new", "more": 1}
    del value["k9"]
    encoded = tape.put(value)
    assert encoded[0] == CHANGES
    assert size(encoded) < 60
    assert same(tape.read(), value)
    assert "k9" in tape.read(0)


def test_a_list_inside_a_dict_grows_by_what_was_added() -> None:
    tape, value = Tape(), {"messages": [], "title": "t" * 100}
    tape.put(value)
    sizes = []
    for number in range(100):
        value = {**value, "messages": [*value["messages"], f"{number:200}"]}
        sizes.append(size(tape.put(value)))
    assert sum(sizes) < 100 * 200 * 4
    assert same(tape.read(), value)


def test_the_order_of_a_dict_is_kept() -> None:
    tape, value = Tape(), {"a": "x" * 100, "b": "y" * 100, "c": 1}
    tape.put(value)
    for turned in (
        {"c": 1, "a": "x" * 100, "b": "y" * 100},
        {"a": "x" * 100, "c": 1, "b": "y" * 100},
        {"b": 2, "a": 3},
    ):
        tape.put(turned)
        assert list(tape.read()) == list(turned)


def test_dicts_with_other_keys_than_text_are_stored_whole() -> None:
    tape = Tape()
    for value in ({1: "a" * 40}, {1: "a" * 40, 2: "b"}, {True: 1, 1.5: 2}):
        assert isinstance(tape.put(value), bytes)
        assert same(tape.read(), value)


def test_pieces_can_be_moved_without_reading_them() -> None:
    tape, value = Tape(), [f"{number:2000}" for number in range(3)]
    tape.put(value)
    tape.put([*value, {"n": 1}])
    opaque, _ = decode(tape.chain(-1), Opaque(SERDE), "$")
    assert all(type(item) is Cell for item in opaque)
    again, _ = encode(opaque, None, where="w", version=1, sources=tape, serde=Opaque(SERDE), path="$")
    assert decode([Link("w", 1, again)], SERDE, "$")[0] == [*value, {"n": 1}]


LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.floats(), st.text(max_size=40), st.binary(max_size=4)
)
NESTED = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.tuples(inner), st.dictionaries(st.sampled_from("abcd"), inner, max_size=3)
    ),
    max_leaves=6,
)
VALUES = st.one_of(
    LEAVES,
    st.lists(NESTED, max_size=8),
    st.dictionaries(st.sampled_from("abcdefgh"), st.one_of(NESTED, st.lists(LEAVES, max_size=6)), max_size=6),
)


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, Any]]:
    """What happens to a value, step by step."""
    kinds = st.sampled_from(["set", "append", "drop", "swap", "entry", "inner", "restart", "same", "place"])
    return [(draw(kinds), draw(NESTED)) for _ in range(draw(st.integers(1, 40)))]


def happened(kind: str, value: Any, new: Any) -> Any:
    if isinstance(value, list) and kind in ("append", "drop", "swap"):
        middle = len(value) // 2
        return {"append": [*value, new], "drop": value[1:], "swap": [*value[:middle], new, *value[middle + 1 :]]}[kind]
    if isinstance(value, dict) and kind in ("entry", "inner", "drop"):
        key = "abcdefgh"[len(str(new)) % 8]
        if kind == "drop":
            return {known: entry for known, entry in value.items() if known != key}
        if kind == "inner" and isinstance(value.get(key), list):
            return {**value, key: [*value[key], new]}
        return {**value, key: [new] if kind == "inner" else new}
    return new if kind == "set" else value


@settings(max_examples=150, deadline=None)
@given(VALUES, histories())
def test_every_version_reads_as_it_was_put(first: Any, history: list[tuple[str, Any]]) -> None:
    tape, put, value = Tape(), [], first
    for kind, new in [("same", None), *history]:
        if kind == "restart" and put:
            tape.restart()
            value = tape.read()
        elif kind == "place" and isinstance(value, list) and value and isinstance(value[0], (list, dict)):
            value[0].clear()
        value = happened(kind, value, new)
        tape.put(value)
        put.append(copy.deepcopy(value))
    for at, expected in enumerate(put):
        assert same(tape.read(at), expected)


def test_kinds_have_fixed_numbers() -> None:
    assert (LIST, DICT, SPLICE, CHANGES) == (1, 2, 3, 4)
