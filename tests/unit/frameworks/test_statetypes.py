"""Which classes a graph declares."""

from __future__ import annotations

import enum
import operator
import threading
import typing
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass
from typing import (
    Annotated,
    Any,
    ClassVar,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    NotRequired,
    Optional,
    Required,
    TypeVar,
    Union,
)

import pytest
import typing_extensions
from langchain.agents import create_agent
from langchain.agents.structured_output import ToolStrategy
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AnyMessage
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, Send
from pydantic import BaseModel, Field
from typing_extensions import ReadOnly, TypeAliasType

from agentspan.frameworks.langgraph.state.statetypes import declared_types, graph_types

if typing.TYPE_CHECKING:
    from somewhere import Missing

T = TypeVar("T")


class Colour(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    LOW = 1


class Point(NamedTuple):
    x: int
    colour: Colour


@dataclass
class Leaf:
    points: list[Point]
    again: Leaf | None = None
    shared: ClassVar[int] = 1
    given: InitVar[int] = 0


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    level: Level = Level.LOW


class Puppy(Dog):
    """Declared nowhere."""


class Owner(BaseModel):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    friends: list[Owner] = []


class Node(BaseModel, Generic[T]):
    value: T


@dataclass
class Holder(Generic[T]):
    held: T


class UserId(str):
    pass


class Trouble(Exception):
    pass


class Session:
    lock: threading.Lock


class Other(BaseModel):
    x: int = 0


class Third(BaseModel):
    x: int = 0


Bound = TypeVar("Bound", bound=Other)
Ident = NewType("Ident", UserId)
Alias = TypeAliasType("Alias", "dict[str, Other]")


class Base(typing.TypedDict, total=False):
    base: Required[Annotated[Optional[Other], "meta"]]  # noqa: UP045


class Whole(Base):
    leaf: NotRequired[Leaf]
    odd: Missing
    owner: Owner


class Extended(typing_extensions.TypedDict):
    cat: ReadOnly[Cat]


def names(found: list[type]) -> set[str]:
    assert len(found) == len(set(found))
    return {cls.__name__ for cls in found}


@pytest.mark.parametrize(
    ("hint", "found"),
    [
        (Leaf, {"Leaf", "Point", "Colour"}),
        (Owner, {"Owner", "Cat", "Dog", "Level"}),
        (Whole, {"Other", "Leaf", "Point", "Colour", "Owner", "Cat", "Dog", "Level"}),
        (Extended, {"Cat"}),
        (Annotated[list[Cat], operator.add], {"Cat"}),
        (Optional[Cat], {"Cat"}),  # noqa: UP045
        (Union[Cat, None, "int"], {"Cat"}),
        (Cat | Other, {"Cat", "Other"}),
        (dict[Colour, tuple[Cat, ...]], {"Colour", "Cat"}),
        (Mapping[str, Sequence[set[Point]]], {"Point", "Colour"}),
        (deque[Cat], {"Cat"}),
        (Literal[Colour.RED, "x", Level.LOW], {"Colour", "Level"}),
        (Alias, {"Other"}),
        (Bound, {"Other"}),
        (TypeVar("C", Cat, Other), {"Cat", "Other"}),
        (Ident, {"UserId"}),
        (Node[Cat], {"Node[Cat]", "Node", "Cat"}),
        (Holder[list[Other]], {"Holder", "Other"}),
        (Trouble, {"Trouble"}),
        (AnyMessage, set()),
        (list[AIMessage], set()),
        (type[Cat], set()),
        (Session, set()),
        (typing.Callable[[Cat], Other], {"Cat", "Other"}),
        (Any, set()),
        (None, set()),
        (int, set()),
        (BaseModel, set()),
        ("no type", set()),
    ],
    ids=str,
)
def test_classes_are_found_through_hints_of_every_kind(hint: Any, found: set[str]) -> None:
    assert names(declared_types(hint)) == found


def test_a_subclass_that_is_named_nowhere_is_not_declared() -> None:
    assert Puppy not in declared_types(Owner, Dog)


def test_one_name_that_cannot_be_resolved_does_not_hide_the_others() -> None:
    @dataclass
    class Local:
        a: Missing
        b: Other

    class LocalModel(BaseModel):
        inner: Local | None = None

    assert names(declared_types(Local)) == {"Local", "Other"}
    assert names(declared_types(Local, Cat)) == {"Local", "Other", "Cat"}


class Private(typing.TypedDict):
    secret: Third


class State(typing.TypedDict):
    leaf: Annotated[list[Leaf], operator.add]
    private: int


class Input(typing.TypedDict):
    cat: Cat


class Output(typing.TypedDict):
    trouble: Trouble


@dataclass
class Context:
    user: UserId


class Inner(typing.TypedDict):
    dog: Dog


def test_every_schema_of_a_graph_counts() -> None:
    def first(state: State) -> Command[Literal["second"]]:
        return Command(goto=Send("second", {}))

    def second(state: Private) -> dict[str, Other]:
        return {}

    inner = StateGraph(Inner).add_node("noop", lambda state: None).add_edge(START, "noop").compile()
    builder = StateGraph(State, Context, input_schema=Input, output_schema=Output)
    builder.add_node(first).add_node(second).add_node("inner", inner)  # type: ignore[arg-type]
    builder.add_edge(START, "first").add_edge("second", "inner").add_edge("inner", END)
    found = names(graph_types(builder.compile()))
    assert found == {
        *("Leaf", "Point", "Colour"),  # state
        *("Cat", "Trouble", "Context", "UserId"),  # input, output, context
        *("Third", "Other"),  # a node's own input, and what it says it returns
        *("Dog", "Level"),  # the sub-graph
    }


@pytest.mark.parametrize("kind", [BaseModel, "dataclass"])
def test_a_state_that_is_a_class_is_declared_itself(kind: Any) -> None:
    if kind == "dataclass":

        @dataclass
        class Whole:
            x: int = 0

    else:

        class Whole(BaseModel):  # type: ignore[no-redef]
            x: int = 0

    app = StateGraph(Whole).add_node("n", lambda state: None).add_edge(START, "n").compile()
    assert graph_types(app) == [Whole]


def test_messages_declare_nothing() -> None:
    app = StateGraph(MessagesState).add_node("n", lambda state: None).add_edge(START, "n").compile()
    assert graph_types(app) == []


class FakeModel(GenericFakeChatModel):
    def bind_tools(self, *_: Any, **__: Any) -> FakeModel:
        return self


@pytest.mark.parametrize("response_format", [Other, ToolStrategy(Other), ToolStrategy(Other | Cat)], ids=str)
def test_what_an_agent_answers_in_is_declared(response_format: Any) -> None:
    app = create_agent(FakeModel(messages=iter([])), tools=[], response_format=response_format)
    assert Other in graph_types(app)
    assert "FakeModel" not in names(graph_types(app))


@task
def inner_task() -> Third:
    return Third()


@task
def outer_task() -> list[Other]:
    return [Other(x=inner_task().result().x)]


def test_a_functional_graph_declares_its_values_and_those_of_its_tasks() -> None:
    @entrypoint()
    def workflow(given: Cat, *, previous: Owner | None = None) -> entrypoint.final[Dog, Owner]:
        return entrypoint.final(value=Dog(), save=Owner(pet=given, friends=[outer_task().result()]))

    assert names(graph_types(workflow)) >= {"Cat", "Dog", "Level", "Owner", "Other", "Third"}
