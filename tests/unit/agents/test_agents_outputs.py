from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel, Field, field_validator
from typing_extensions import TypedDict

from agentspan.agents.outputs import OutputSchema, schema_of_type
from agentspan.errors import ConfigurationError, OutputFormatError


class Verdict(BaseModel):
    ok: bool
    reasons: list[str] = []
    score: int = Field(default=5, ge=0, le=10)


class Doubling(BaseModel):
    number: int

    @field_validator("number")
    @classmethod
    def double(cls, number: int) -> int:
        return number * 2


class Hidden(BaseModel):
    shown: int
    secret: int = Field(exclude=True)


class Node(BaseModel):
    value: int
    children: list[Node] = []


@dataclass
class Point:
    x: int
    y: int = 0


class Options(TypedDict):
    deep: bool


@pytest.mark.parametrize(
    ("kind", "text", "plain", "instance"),
    [
        (Verdict, '{"ok": true}', {"ok": True, "reasons": [], "score": 5}, Verdict(ok=True)),
        (Verdict, '```json\n{"ok": true}\n```', {"ok": True, "reasons": [], "score": 5}, Verdict(ok=True)),
        (Point, '{"x": 1}', {"x": 1, "y": 0}, Point(1)),
        (Options, '{"deep": true}', {"deep": True}, {"deep": True}),
        (list[Point], '{"value": [{"x": 1}]}', [{"x": 1, "y": 0}], [Point(1)]),
        (list[Point], '[{"x": 1}]', [{"x": 1, "y": 0}], [Point(1)]),
        (int, "3", 3, 3),
        (dict[str, int], '{"value": 3}', {"value": 3}, {"value": 3}),
        (Node, '{"value": 1, "children": [{"value": 2}]}', None, Node(value=1, children=[Node(value=2)])),
        (Doubling, '{"number": 2}', {"number": 2}, Doubling(number=2)),
        (Hidden, '{"shown": 1, "secret": 2}', {"shown": 1, "secret": 2}, Hidden(shown=1, secret=2)),
    ],
)
def test_text_becomes_an_instance_and_data_that_gives_it_again(kind: Any, text: str, plain: Any, instance: Any) -> None:
    output = OutputSchema(kind)
    found, made = output.parse(text)
    assert made == instance
    assert type(made) is type(instance)
    if plain is not None:
        assert found == plain
    assert output.load(found) == made
    assert output.json_schema["type"] == "object"


def test_other_types_than_objects_are_wrapped() -> None:
    output = OutputSchema(list[Point])
    assert output.name == "output"
    assert output.json_schema["required"] == ["value"]
    assert "Point" in output.json_schema["$defs"]
    assert output.json_schema["properties"]["value"]["items"] == {"$ref": "#/$defs/Point"}


def test_names_are_what_providers_take() -> None:
    assert OutputSchema(Verdict).name == "Verdict"

    class Odd(BaseModel):
        a: int

    Odd.__name__ = "Page[Item]"
    assert OutputSchema(Odd).name == "Page_Item"


@pytest.mark.parametrize(
    ("text", "path", "says"),
    [
        ("Sure! It is fine.", "", "not valid JSON"),
        ("", "", "not valid JSON"),
        ('{"ok": NaN}', "", "NaN is not a JSON number"),
        ('{"ok": true, "reasons": ["\\udc00"]}', "", "surrogates not allowed"),
        ('{"ok": "perhaps"}', "ok", "valid boolean"),
        ('{"ok": true, "score": 11}', "score", "less than or equal to 10"),
        ("{}", "ok", "required"),
        ("[]", "", "object"),
    ],
)
def test_text_that_does_not_fit_says_what_to_mend(text: str, path: str, says: str) -> None:
    with pytest.raises(OutputFormatError) as caught:
        OutputSchema(Verdict).parse(text)
    assert list(caught.value.problems) == [path]
    assert says in caught.value.problems[path]
    assert "'Verdict'" in str(caught.value)
    assert "Answer again with JSON" in str(caught.value)


def test_data_of_an_older_type_is_refused() -> None:
    with pytest.raises(OutputFormatError, match="ok: is required"):
        OutputSchema(Verdict).load({"score": 1})


class Socket:
    pass


def test_a_type_without_json_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="Socket has no JSON schema"):
        schema_of_type(Socket)


def test_it_pickles_after_use() -> None:
    output = OutputSchema(Verdict)
    output.parse('{"ok": true}')
    again = pickle.loads(pickle.dumps(output))
    assert again.parse('{"ok": false}')[1] == Verdict(ok=False)
    assert again.json_schema == output.json_schema
