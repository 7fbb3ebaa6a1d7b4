from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional, Union
from uuid import UUID, uuid4

import pytest
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, computed_field
from typing_extensions import TypedDict

from agentspan.agents.context import ToolContext
from agentspan.agents.schema import ArgumentSchema
from agentspan.errors import ToolArgumentsError, ToolDefinitionError

if TYPE_CHECKING:
    from somewhere_else import NotAtRuntime


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Item(BaseModel):
    name: str
    price: float = 1.0


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    tricks: list[str]


@dataclass
class Point:
    x: int
    y: int = 0


class Options(TypedDict, total=False):
    deep: bool


def read(function: Callable[..., Any]) -> ArgumentSchema:
    return ArgumentSchema.of(function, tool="t")


def one(hint: Any, default: Any = ...) -> ArgumentSchema:
    """The schema of a function with one argument `x`."""
    if default is ...:

        def function(x: Any) -> None: ...
    else:

        def function(x: Any = default) -> None: ...  # type: ignore[no-redef]

    function.__annotations__["x"] = hint
    return read(function)


# hint, JSON schema of the property, JSON value, Python value, JSON value again
TABLE = [
    (str, {"type": "string"}, "a", "a"),
    (int, {"type": "integer"}, 3, 3),
    (float, {"type": "number"}, 3, 3.0),
    (bool, {"type": "boolean"}, True, True),
    (Any, {}, {"a": [1, None]}, {"a": [1, None]}),
    (list[int], {"type": "array", "items": {"type": "integer"}}, [1], [1]),
    (dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}, {"a": 1}, {"a": 1}),
    (set[str], {"type": "array", "items": {"type": "string"}, "uniqueItems": True}, ["a"], {"a"}),
    (Optional[int], {"anyOf": [{"type": "integer"}, {"type": "null"}]}, None, None),  # noqa: UP045
    (int | None, {"anyOf": [{"type": "integer"}, {"type": "null"}]}, 4, 4),
    (Union[int, str], {"anyOf": [{"type": "integer"}, {"type": "string"}]}, "a", "a"),  # noqa: UP007
    (Literal["a", "b"], {"type": "string", "enum": ["a", "b"]}, "b", "b"),
    (Colour, {"$ref": "#/$defs/Colour"}, "red", Colour.RED),
    (datetime, {"type": "string", "format": "date-time"}, "2026-01-02T03:00:00Z", datetime(2026, 1, 2, 3, tzinfo=UTC)),
    (date, {"type": "string", "format": "date"}, "2026-01-02", date(2026, 1, 2)),
    (UUID, {"type": "string", "format": "uuid"}, str(UUID(int=5)), UUID(int=5)),
    (Path, {"type": "string", "format": "path"}, "/tmp/x", Path("/tmp/x")),
    (Item, {"$ref": "#/$defs/Item"}, {"name": "n", "price": 2.0}, Item(name="n", price=2)),
    (list[Item], {"type": "array", "items": {"$ref": "#/$defs/Item"}}, [{"name": "n", "price": 1.0}], [Item(name="n")]),
    (Point, {"$ref": "#/$defs/Point"}, {"x": 1, "y": 2}, Point(1, 2)),
    (Options, {"$ref": "#/$defs/Options"}, {"deep": True}, {"deep": True}),
    (Annotated[int, Field(ge=1, le=5)], {"type": "integer", "minimum": 1, "maximum": 5}, 5, 5),
    ("int", {"type": "integer"}, 3, 3),
    ("list[Point]", {"type": "array", "items": {"$ref": "#/$defs/Point"}}, [{"x": 1, "y": 2}], [Point(1, 2)]),
]  # fmt: skip


@pytest.mark.parametrize(("hint", "schema", "plain", "value"), TABLE, ids=lambda case: str(case)[:40])
def test_hints_become_schemas_and_values_go_there_and_back(hint: Any, schema: Any, plain: Any, value: Any) -> None:
    read_schema = one(hint)
    found = dict(read_schema.json_schema)
    found.pop("$defs", None)
    assert found == {
        "type": "object",
        "properties": {"x": schema},
        "required": ["x"],
        "additionalProperties": False,
    }
    validated = read_schema.validate(json.dumps({"x": plain}))
    assert validated == {"x": value}
    assert type(validated["x"]) is type(value)
    assert read_schema.to_plain(validated) == {"x": plain}
    assert read_schema.validate({"x": plain}) == validated


def test_a_union_of_models_is_told_apart() -> None:
    schema = one(Annotated[Cat | Dog, Field(discriminator="kind")])
    assert schema.validate({"x": {"kind": "dog", "tricks": []}}) == {"x": Dog(kind="dog", tricks=[])}
    with pytest.raises(ToolArgumentsError) as caught:
        schema.validate({"x": {"kind": "dog"}})
    assert caught.value.problems == {"x.tricks": "is required and was not given"}


@pytest.mark.parametrize(
    ("hint", "given", "value"),
    [
        (int, "3", 3),
        (int, 3.0, 3),
        (float, "2.5", 2.5),
        (bool, "true", True),
        (str, 8821, "8821"),
        (Decimal, 1.5, Decimal("1.5")),
        (str | None, 5, "5"),
        (int | str, 5, 5),
    ],
)
def test_what_a_model_writes_loosely_is_converted(hint: Any, given: Any, value: Any) -> None:
    assert one(hint).validate({"x": given}) == {"x": value}


def test_defaults_are_filled_in_and_shown() -> None:
    def function(a: str, b: int = 3, colour: Colour = Colour.BLUE, note: str = None) -> None: ...  # type: ignore[assignment]  # noqa: RUF013

    schema = read(function)
    properties = schema.json_schema["properties"]
    assert schema.json_schema["required"] == ["a"]
    assert properties["b"] == {"type": "integer", "default": 3}
    assert properties["colour"]["default"] == "blue"
    assert properties["note"] == {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None}
    validated = schema.validate('{"a": "x"}')
    assert validated == {"a": "x", "b": 3, "colour": Colour.BLUE, "note": None}
    assert schema.to_plain(validated) == {"a": "x", "b": 3, "colour": "blue", "note": None}


def test_default_none_accepts_null() -> None:
    assert one(Annotated[str, Field(max_length=2)], None).validate({"x": None}) == {"x": None}


def test_a_default_factory_makes_a_new_object_for_each_call() -> None:
    schema = one(list[int], Field(default_factory=list, description="Numbers."))
    first, second = schema.validate({}), schema.validate({})
    assert first == second == {"x": []}
    assert first["x"] is not second["x"]
    assert schema.json_schema["properties"]["x"]["description"] == "Numbers."
    assert "required" not in schema.json_schema


def test_no_arguments() -> None:
    def function() -> None: ...

    schema = read(function)
    assert schema.json_schema == {"type": "object", "properties": {}, "additionalProperties": False}
    for raw in ("", "  ", "{}", "null", {}):
        assert schema.validate(raw) == {}


def test_names_that_pydantic_keeps_for_itself_are_fine() -> None:
    def function(schema: int, copy: int, _private: int, model_config: int, json: int = 5) -> int:
        return 0

    schema = read(function)
    assert list(schema.json_schema["properties"]) == ["schema", "copy", "_private", "model_config", "json"]
    raw = {"schema": 1, "copy": 2, "_private": 3, "model_config": 4}
    assert schema.validate(raw) == {**raw, "json": 5}
    assert schema.to_plain(schema.validate(raw)) == {**raw, "json": 5}
    assert function(**schema.validate(raw)) == 0


def test_descriptions_by_precedence() -> None:
    def function(
        field: Annotated[str, Field(description="from Field")],
        note: Annotated[str, "from the note"],
        doc: str,
        default: Annotated[int, "lost"] = Field(3, description="from the default"),
        none: int = 1,
    ) -> None:
        """Do it.

        Args:
            field: lost
            note: lost
            doc: from the docstring
        """

    schema = read(function)
    found = {name: part.get("description") for name, part in schema.json_schema["properties"].items()}
    assert found == {
        "field": "from Field",
        "note": "from the note",
        "doc": "from the docstring",
        "default": "from the default",
        "none": None,
    }
    assert schema.description == "Do it."


def test_an_alias_is_the_name_the_model_uses() -> None:
    def function(from_: Annotated[str, Field(alias="from")], to: str = Field("me", alias="recipient")) -> None: ...

    schema = read(function)
    assert list(schema.json_schema["properties"]) == ["from", "recipient"]
    validated = schema.validate({"from": "you"})
    assert validated == {"from_": "you", "to": "me"}
    assert schema.to_plain(validated) == {"from": "you", "recipient": "me"}


@pytest.mark.parametrize("hint", [ToolContext, ToolContext | None, Annotated[ToolContext, "ctx"], "ToolContext"])
def test_the_context_is_not_shown_to_the_model(hint: Any) -> None:
    def function(a: int, ctx: Any, b: int = 2) -> None: ...

    function.__annotations__["ctx"] = hint
    schema = read(function)
    assert list(schema.json_schema["properties"]) == ["a", "b"]
    assert schema.context_parameter == "ctx"
    assert schema.validate({"a": 1}) == {"a": 1, "b": 2}
    with pytest.raises(ToolArgumentsError):
        schema.validate({"a": 1, "ctx": {}})


def test_two_contexts_are_refused() -> None:
    def function(a: ToolContext, b: ToolContext) -> None: ...

    with pytest.raises(ToolDefinitionError, match="'a' and 'b' both take the ToolContext"):
        read(function)


def test_a_partial_keeps_its_presets_from_the_model() -> None:
    def search(query: str, key: str, limit: int = 3) -> str:
        """Search."""
        return f"{query} {key} {limit}"

    bound = functools.partial(search, key="secret")
    schema = read(bound)
    assert list(schema.json_schema["properties"]) == ["query", "limit"]
    assert schema.description == "Search."
    assert bound(**schema.validate({"query": "q"})) == "q secret 3"


def test_recorded_arguments_meet_the_same_rules_as_fresh_ones() -> None:
    class Strict(BaseModel):
        model_config = ConfigDict(strict=True)
        day: date

    schema = one(Strict)
    validated = schema.validate('{"x": {"day": "2026-01-02"}}')
    assert schema.validate(schema.to_plain(validated)) == validated


def test_python_values_are_taken_as_they_are() -> None:
    assert one(date).validate({"x": date(2026, 1, 2)}) == {"x": date(2026, 1, 2)}


class Hidden(BaseModel):
    model_config = ConfigDict(extra="forbid")
    shown: int = 1
    secret: int = Field(exclude=True)


class Area(BaseModel):
    model_config = ConfigDict(extra="forbid")
    side: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def area(self) -> int:
        return self.side**2


@pytest.mark.parametrize(
    ("hint", "given", "recorded"),
    [
        (Item, {"name": "n"}, {"name": "n", "price": 1.0}),
        (Annotated[int, AfterValidator(lambda value: value * 2)], 4, 4),
        (Hidden, {"secret": 5}, {"secret": 5}),
        (Area, {"side": 2}, {"side": 2}),
        (date, "2026-01-02", "2026-01-02"),
    ],
)
def test_what_is_recorded_gives_the_same_arguments_however_often(hint: Any, given: Any, recorded: Any) -> None:
    schema = one(hint)
    record = schema.to_record(json.dumps({"x": given}))
    assert record == {"x": recorded}
    assert schema.validate(record) == schema.validate({"x": given})
    assert schema.to_record(record) == record


def test_a_default_made_for_the_call_is_recorded_with_it() -> None:
    schema = one(UUID, Field(default_factory=uuid4))
    record = schema.to_record("{}")
    assert str(schema.validate(record)["x"]) == record["x"]


# --- refused definitions


def starred(*args: int) -> None: ...
def keywords(**options: int) -> None: ...
def positional(a: int, /) -> None: ...
def unserializable(client: Callable[[], None]) -> None: ...
def type_checking_only(x: NotAtRuntime) -> None: ...
def not_a_type(x: "3 +") -> None: ...  # type: ignore[valid-type]  # noqa: F722


class Client:
    pass


def takes_client(query: str, client: Client) -> None: ...
def odd_default(x: Any = Client()) -> None: ...  # noqa: B008


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (starred, r"takes \*args.*take one argument that is a list"),
        (keywords, r"takes \*\*options.*take one argument that is a dict"),
        (positional, "'a' is positional-only"),
        (unserializable, "argument 'client'"),
        (takes_client, "argument 'client'.*ToolContext.dependencies"),
        (type_checking_only, "'NotAtRuntime', which cannot be found.*TYPE_CHECKING"),
        (not_a_type, "'x' is not a type"),
        (odd_default, "default of its argument 'x' is a Client, which has no JSON form"),
    ],
)
def test_what_a_model_could_not_call_is_refused(function: Callable[..., Any], says: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ToolDefinitionError, match=says):
            read(function)


def test_a_local_type_in_a_text_annotation_is_refused_clearly() -> None:
    class Local(BaseModel):
        a: int

    def function(x: Local) -> None: ...

    with pytest.raises(ToolDefinitionError, match=r"'x' refers to 'Local'.*top level of the module"):
        read(function)


def test_a_return_annotation_that_cannot_be_found_does_not_matter() -> None:
    def function(x: int) -> NotAtRuntime: ...

    assert read(function).validate({"x": 1}) == {"x": 1}


@pytest.mark.parametrize(
    ("default", "advice"),
    [
        ([], r"Field\(default_factory=list\)"),
        ({}, r"Field\(default_factory=dict\)"),
        (set(), r"Field\(default_factory=set\)"),
        (bytearray(), r"Field\(default_factory=bytearray\)"),
        ([1, 2], "x = None"),
        (([],), "mutable tuple"),
        (Item(name="n"), r"Field\(default_factory=lambda: Item\(...\)\)"),
        (Point(1), "mutable Point"),
        (Field(default=[]), "mutable list"),
    ],
)
def test_mutable_defaults_are_refused_with_what_to_write(default: Any, advice: str) -> None:
    with pytest.raises(ToolDefinitionError, match=advice) as caught:
        one(Any, default)
    assert "shared by all calls" in str(caught.value)


@pytest.mark.parametrize("default", [None, 1, "a", (1, 2), frozenset({1}), Colour.RED, date(2026, 1, 2), 1.5, True])
def test_immutable_defaults_are_fine(default: Any) -> None:
    assert one(Any, default).validate({}) == {"x": default}


# --- refused arguments


def order(
    order_id: str, amount: Annotated[float, Field(gt=0)], items: list[Item], colour: Colour = Colour.RED
) -> None: ...


def even(number: int) -> int:
    if number % 2:
        raise ValueError("must be even")
    return number


GOOD = {"order_id": "a", "amount": 2, "items": []}


@pytest.mark.parametrize(
    ("change", "problems"),
    [
        ({"amount": "much"}, {"amount": ["valid number", 'got "much"']}),
        ({"amount": -1}, {"amount": ["greater than 0", "got -1"]}),
        ({"colour": "green"}, {"colour": ["'red' or 'blue'", 'got "green"']}),
        ({"items": [{"name": "n"}, {"price": 1}]}, {"items[1].name": ["required"]}),
        ({"items": [{"name": "n", "price": "x"}]}, {"items[0].price": ["valid number"]}),
        ({"color": "red"}, {"color": ["not a valid name", "Did you mean 'colour'?"]}),
        ({"amount": None, "items": 3}, {"amount": ["valid number", "null"], "items": ["valid array", "3"]}),
        ({"order_id": "x" * 5000, "amount": "y" * 5000}, {"amount": ["…"]}),
    ],
)
def test_the_model_is_told_what_to_mend(change: dict[str, Any], problems: dict[str, list[str]]) -> None:
    with pytest.raises(ToolArgumentsError) as caught:
        read(order).validate(json.dumps({**GOOD, **change}))
    error = caught.value
    assert set(error.problems) == set(problems)
    for path, words in problems.items():
        assert all(word in error.problems[path] for word in words), error.problems[path]
        assert f"- {path}: " in str(error)
    assert "was not run" in str(error)
    assert (
        "Its arguments are: order_id (string, required), amount (number, required), items (array of object, required), "
        'colour ("red" | "blue", optional).' in str(error)
    )
    assert len(str(error)) < 1000


def test_missing_arguments_are_errors_and_not_none() -> None:
    with pytest.raises(ToolArgumentsError) as caught:
        read(order).validate("{}")
    assert caught.value.problems == dict.fromkeys(("order_id", "amount", "items"), "is required and was not given")


def test_a_users_own_check_speaks_to_the_model() -> None:
    with pytest.raises(ToolArgumentsError, match="- x: must be even; got 3"):
        one(Annotated[int, AfterValidator(even)]).validate({"x": 3})


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ("{oops", "not valid JSON"),
        ('{"a": 1} trailing', "not valid JSON"),
        ("[1]", "one JSON object, not an array"),
        ("3", "one JSON object, not a bare value"),
        ('"text"', "one JSON object, not a bare value"),
        ("[" * 100_000, "not valid JSON"),
        ('{"order_id": "\\ud800"}', "surrogates not allowed"),
        ('{"amount": NaN}', "NaN is not a JSON number"),
    ],
)
def test_text_that_is_no_json_object(raw: str, says: str) -> None:
    with pytest.raises(ToolArgumentsError, match=says) as caught:
        read(order).validate(raw)
    assert caught.value.tool == "t"


def test_problems_of_a_union_name_the_argument_once() -> None:
    with pytest.raises(ToolArgumentsError) as caught:
        one(int | list[int]).validate({"x": "a"})
    assert list(caught.value.problems) == ["x"]
    assert "/ or: " in caught.value.problems["x"]
