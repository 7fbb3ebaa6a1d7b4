"""Marks notice every change, in place or not, and call nothing changed that is equal in every respect."""

from __future__ import annotations

import copy
import dataclasses
import datetime
import enum
import uuid
from collections import OrderedDict
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from pydantic import BaseModel, PrivateAttr

from agentspan.frameworks.langgraph.saving.marks import common_ends, items_mark, mark_of
from agentspan.frameworks.langgraph.state.serde import StateSerde


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclasses.dataclass
class Point:
    x: int
    tags: list[str]


class Item(BaseModel):
    name: str
    parts: list[int] = []
    _seen: int = PrivateAttr(default=0)


DUMPS = StateSerde([Colour, Point, Item]).dumps

ALIKE: list[Any] = [
    None,
    True,
    0,
    0.0,
    1.5,
    "text",
    b"bytes",
    [],
    [1, [2, [3]]],
    (1, "two"),
    {"a": {"b": [1.5]}},
    {1: 2, None: 3},
    {1, 2},
    frozenset({"a"}),
    Colour.RED,
    Decimal("1.0"),
    uuid.UUID(int=7),
    datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    Path("a/b"),
    bytearray(b"x"),
    OrderedDict(a=1),
    Point(1, ["t"]),
    Item(name="n", parts=[1]),
    HumanMessage("hello", id="1"),
    AIMessage("", tool_calls=[{"name": "f", "args": {"x": 1}, "id": "c"}], id="2"),
]


@pytest.mark.parametrize("value", ALIKE, ids=lambda value: f"{type(value).__name__}-{value!r:.20}")
def test_a_value_fits_its_mark_and_so_does_a_copy(value: Any) -> None:
    mark = mark_of(value, DUMPS)
    assert mark == value
    assert mark == copy.deepcopy(value)


@pytest.mark.parametrize("value", ALIKE, ids=lambda value: f"{type(value).__name__}-{value!r:.20}")
def test_no_other_value_fits(value: Any) -> None:
    (mark,) = items_mark([value], DUMPS)
    others = [other for other in ALIKE if other is not value]
    for other in others:
        assert common_ends([type(value)], [mark], [other]) == (0, 0), other


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([1], [True]),
        ([1], [1.0]),
        ([0.0], [-0.0]),
        (["1"], [b"1"]),
        ([1, 2], [1, 2, 3]),
        ([1], (1,)),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({1: "x"}, {True: "x"}),
        ({}, OrderedDict()),
        (Decimal("1.0"), Decimal("1.00")),
        (Colour.RED, Colour.BLUE),
        ([[], {}], [[], []]),
        (Item(name="n"), Item(name="n", parts=[])),
    ],
)
def test_what_only_looks_equal_is_another_value(before: Any, after: Any) -> None:
    assert mark_of({"in": before}, DUMPS) != {"in": after}


def message() -> AIMessage:
    return AIMessage(
        "hi", additional_kwargs={"a": []}, tool_calls=[{"name": "f", "args": {"x": [1]}, "id": "c"}], id="i"
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda one: setattr(one, "content", "ho"),
        lambda one: one.additional_kwargs["a"].append(1),
        lambda one: one.additional_kwargs.update(b=2),
        lambda one: one.tool_calls[0]["args"]["x"].append(2),
        lambda one: one.tool_calls.clear(),
        lambda one: setattr(one, "usage_metadata", {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}),
    ],
)
def test_a_message_changed_in_place_is_noticed(change: Any) -> None:
    one = message()
    mark = mark_of(one, DUMPS)
    assert mark == one
    change(one)
    assert mark != one


def test_objects_changed_in_place_are_noticed() -> None:
    point, item, nested = Point(1, []), Item(name="n"), {"deep": [Point(1, [])]}
    marks = [mark_of(one, DUMPS) for one in (point, item, nested)]
    point.tags.append("t")
    item._seen = 1
    nested["deep"][0].x = 2
    assert marks[0] != point
    assert marks[1] != item
    assert marks[2] != nested


def test_what_is_nested_very_deep_is_compared_too() -> None:
    value: list[Any] = []
    inner = value
    for _ in range(40):
        inner.append([])
        inner = inner[0]
    mark = mark_of(value, DUMPS)
    assert mark == value
    inner.append("change")
    assert mark != value


def test_not_a_number_is_itself_and_nothing_else() -> None:
    nan = float("nan")
    assert mark_of([nan], DUMPS) == [nan]
    assert common_ends([float, int], [nan, 1], [nan, 2]) in ((1, 0), (0, 0))


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([], [], (0, 0)),
        ([1, 2], [1, 2, 3], (2, 0)),
        ([1, 2, 3], [1, 3], (1, 1)),
        ([1, 1, 1], [1, 1], (2, 0)),
        ([1, 2, 3], [9, 2, 3], (0, 2)),
        ([1, 2, 1, 2], [1, 2, 5, 1, 2], (2, 2)),
        ([1, 2], [3, 4], (0, 0)),
    ],
)
def test_the_ends_that_two_lists_share(before: list[Any], after: list[Any], expected: tuple[int, int]) -> None:
    assert common_ends(list(map(type, before)), items_mark(before, DUMPS), after) == expected
