"""What a graph answers, as plain data."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
from decimal import Decimal
from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    AnyMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from pydantic import BaseModel, RootModel

from agentspan.agents.results import TokenUsage
from agentspan.frameworks.langgraph.app.outputs import natural_output, plain, role_messages, token_usage


class Colour(enum.Enum):
    RED = "red"


class Item(BaseModel):
    name: str
    colour: Colour = Colour.RED


class Items(RootModel[list[int]]):
    pass


@dataclasses.dataclass
class Point:
    x: int
    items: tuple[Item, ...] = ()


class Chat(BaseModel):
    messages: list[AnyMessage]


CALL = {"name": "look", "args": {"at": "é"}, "id": "c1", "type": "tool_call"}
TALK = [
    SystemMessage("be kind"),
    HumanMessage("hi", name="ann"),
    AIMessage("let me see", tool_calls=[CALL]),
    ToolMessage("seen", tool_call_id="c1", name="look"),
    AIMessage("all is well"),
]


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({"messages": TALK}, "all is well"),
        ({"messages": TALK, "structured_response": Item(name="pen")}, {"name": "pen", "colour": "red"}),
        ({"messages": TALK, "structured_response": None}, "all is well"),
        ({"count": 1, "chat": TALK}, "all is well"),
        (TALK, "all is well"),
        (TALK[-1], "all is well"),
        (Chat(messages=TALK), "all is well"),
        ({"messages": [*TALK, HumanMessage("and?")]}, "all is well"),
        ({"messages": [AIMessage([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "yes"}])]}, "yes"),
        ({"messages": [AIMessageChunk("a chunk")]}, "a chunk"),
        (
            {"messages": TALK[:2]},
            [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi", "name": "ann"}],
        ),
        ({"answer": Item(name="pen")}, {"name": "pen", "colour": "red"}),
        ({"a": 1, "b": (2, 3)}, {"a": 1, "b": [2, 3]}),
        ("text", "text"),
        (42, 42),
        (None, None),
        ([], []),
        (Point(1), {"x": 1, "items": []}),
        (Items([1, 2]), [1, 2]),
        ({}, {}),
    ],
)
def test_the_natural_output(state: Any, expected: Any) -> None:
    output = natural_output(state)
    assert output == expected
    json.dumps(output, allow_nan=False)


def test_a_call_without_an_answer_is_no_answer() -> None:
    output = natural_output({"messages": TALK[:3], "n": 1})
    assert output["n"] == 1
    assert [message["role"] for message in output["messages"]] == ["system", "user", "assistant"]


def test_messages_become_role_dicts() -> None:
    assert role_messages({"messages": TALK}) == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "hi", "name": "ann"},
        {
            "role": "assistant",
            "content": "let me see",
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "é"}'}}],
        },
        {"role": "tool", "content": "seen", "name": "look", "tool_call_id": "c1"},
        {"role": "assistant", "content": "all is well"},
    ]
    assert role_messages(ChatMessage("x", role="critic")) == [{"role": "critic", "content": "x"}]
    assert role_messages({"n": 1}) == role_messages(7) == role_messages({"messages": []}) == []


def test_a_picture_stays_in_the_content() -> None:
    blocks = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    assert role_messages([HumanMessage(blocks)])[0]["content"] == blocks  # type: ignore[arg-type]


def test_any_value_becomes_json_data() -> None:
    class Odd:
        def __str__(self) -> str:
            raise RuntimeError

    cyclic: list[Any] = []
    cyclic.append(cyclic)
    values = {
        "when": datetime.date(2026, 1, 2),
        "price": Decimal("1.50"),
        "colour": Colour.RED,
        "bytes": b"\x00\xff",
        "nan": float("nan"),
        "set": {3, 1, 2},
        "point": Point(1, (Item(name="a"),)),
        "odd": Odd(),
        "cyclic": cyclic,
        (1, 2): "tuple key",
        Colour.RED: 1,
        "function": len,
    }
    result = plain(values)
    json.dumps(result, allow_nan=False)
    assert result["when"] == "2026-01-02"
    assert result["price"] == "1.50"
    assert result["set"] == [1, 2, 3]
    assert result["point"] == {"x": 1, "items": [{"name": "a", "colour": "red"}]}
    assert result["nan"] == "nan"
    assert result["red"] == 1
    assert isinstance(result["odd"], str)


def test_token_usage() -> None:
    usage: Any = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    assert token_usage(AIMessage("x", usage_metadata=usage)) == TokenUsage(
        prompt_tokens=3, completion_tokens=4, total_tokens=7
    )
    assert token_usage(AIMessage("x")) is None
    assert token_usage(HumanMessage("x")) is None
