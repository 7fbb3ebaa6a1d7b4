from __future__ import annotations

from typing import Any

import pytest

from agentspan.agents.problems import accepted_arguments, schema_problems, type_words

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "pattern": "^[a-z]+$"},
        "age": {"type": "integer", "minimum": 0, "exclusiveMaximum": 150},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 2},
        "boss": {"$ref": "#/$defs/boss"},
        "mood": {"enum": ["good", "bad"]},
        "kind": {"const": "person"},
        "id": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
    },
    "required": ["name"],
    "additionalProperties": False,
    "$defs": {"boss": {"type": ["string", "null"]}},
}


@pytest.mark.parametrize(
    "value",
    [
        {"name": "ann"},
        {"name": "ann", "age": 3, "tags": ["a"], "boss": None, "mood": "bad", "kind": "person", "id": 3},
        {"name": "ann", "age": 3.0},
    ],
)
def test_data_that_fits(value: Any) -> None:
    assert schema_problems(PERSON, value) == {}


@pytest.mark.parametrize(
    ("value", "path", "says"),
    [
        ([], "", "must be object"),
        ({}, "name", "required"),
        ({"name": ""}, "name", "at least this many characters: 1"),
        ({"name": "ANN"}, "name", "pattern"),
        ({"name": "ann", "age": "3"}, "age", 'must be integer; got "3"'),
        ({"name": "ann", "age": True}, "age", "must be integer; got true"),
        ({"name": "ann", "age": 1.5}, "age", "must be integer"),
        ({"name": "ann", "age": -1}, "age", "at least 0"),
        ({"name": "ann", "age": 150}, "age", "less than 150"),
        ({"name": "ann", "tags": ["a", 1]}, "tags[1]", "must be string"),
        ({"name": "ann", "tags": ["a", "b", "c"]}, "tags", "at most this many items: 2"),
        ({"name": "ann", "boss": 3}, "boss", "must be string | null"),
        ({"name": "ann", "mood": "odd"}, "mood", 'must be "good" | "bad"'),
        ({"name": "ann", "kind": "cat"}, "kind", 'must be "person"'),
        ({"name": "ann", "id": None}, "id", "must be string | integer"),
        ({"name": "ann", "nam": 1}, "nam", "Did you mean 'name'?"),
    ],
)
def test_data_that_does_not_fit(value: Any, path: str, says: str) -> None:
    problems = schema_problems(PERSON, value)
    assert list(problems) == [path]
    assert says in problems[path]


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"not": {"type": "string"}},
        {"type": "unknown"},
        {"pattern": "(?<bad"},
        {"$ref": "#/nowhere"},
        {"format": "x"},
    ],
)
def test_what_is_not_known_is_let_pass(schema: dict[str, Any]) -> None:
    assert schema_problems(schema, "text") == {}


def test_all_of_and_extra_property_schemas() -> None:
    schema = {"allOf": [{"required": ["a"]}, {"additionalProperties": {"type": "integer"}}]}
    assert schema_problems(schema, {"a": 1, "b": 2}) == {}
    assert list(schema_problems(schema, {"b": "x"})) == ["a", "b"]


def test_words() -> None:
    assert type_words({"type": "string", "format": "date"}, {}) == "string (date)"
    assert type_words(True, {}) == "anything"
    assert accepted_arguments({"type": "object"}) == "It takes a JSON object."
    assert accepted_arguments({"additionalProperties": False}) == "It takes no arguments."
