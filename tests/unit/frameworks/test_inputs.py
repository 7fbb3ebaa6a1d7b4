"""What a graph takes: from every kind of schema to the value it is invoked with."""

from __future__ import annotations

import dataclasses
import json
import operator
import typing
import warnings
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NotRequired, Optional, TypedDict

import pytest
import typing_extensions
from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AnyMessage, BaseMessage, HumanMessage
from langgraph.func import entrypoint
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.message import add_messages
from langgraph.managed import RemainingSteps
from langgraph.types import Command
from pydantic import BaseModel, Field

from agentspan.errors import InvalidPromptError
from agentspan.frameworks.langgraph.app.inputs import describe_input, to_input


class Typed(TypedDict):
    question: str
    count: NotRequired[int]


class TypedExtension(typing_extensions.TypedDict, total=False):
    question: typing_extensions.Required[str]
    note: str


class Model(BaseModel):
    question: str
    count: int = 3
    tags: list[str] = Field(default_factory=list)


@dataclasses.dataclass
class Data:
    question: str
    count: int = 3


class Chat(TypedDict):
    topic: str
    chat: Annotated[list[AnyMessage], add_messages]


class OldChat(TypedDict):
    messages: Annotated[Sequence[BaseMessage], operator.add]


class BareChat(TypedDict):
    messages: Annotated[list, operator.add]


class DictChat(TypedDict):
    messages: list[dict[str, str]]


class OptionalOnly(TypedDict):
    query: Optional[str]  # noqa: UP045  It is the form under test.
    number: int


class AllOptional(TypedDict, total=False):
    hint: str


class Named(TypedDict):
    style: str
    topic: str


class Ambiguous(TypedDict):
    subject: str
    style: str


class Numbers(TypedDict):
    numbers: list[int]
    mode: Literal["fast", "slow"]


class Managed(TypedDict):
    question: str
    left: RemainingSteps


class Inner(MessagesState):
    extra: int


def graph(schema: Any, **schemas: Any) -> Any:
    builder = StateGraph(schema, **schemas)
    builder.add_node("node", lambda state: {})
    builder.add_edge(START, "node")
    return builder.compile()


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (Typed, {"question": "hi"}),
        (TypedExtension, {"question": "hi"}),
        (Model, {"question": "hi"}),
        (Data, {"question": "hi"}),
        (MessagesState, {"messages": [{"role": "user", "content": "hi"}]}),
        (Inner, {"messages": [{"role": "user", "content": "hi"}]}),
        (Chat, {"chat": [{"role": "user", "content": "hi"}]}),
        (OldChat, {"messages": [HumanMessage("hi")]}),
        (BareChat, {"messages": [HumanMessage("hi")]}),
        (DictChat, {"messages": [{"role": "user", "content": "hi"}]}),
        (OptionalOnly, {"query": "hi"}),
        (AllOptional, {"hint": "hi"}),
        (Named, {"topic": "hi"}),
        (Managed, {"question": "hi"}),
    ],
)
def test_a_text_goes_to_the_field_that_takes_one(schema: Any, expected: Any) -> None:
    described = describe_input(graph(schema))
    assert json.loads(json.dumps(described)) == described
    assert to_input(described, "a", "hi") == expected


@pytest.mark.parametrize("schema", [Typed, Model, Data, MessagesState, OldChat, OptionalOnly, Chat])
def test_what_a_text_becomes_is_what_the_graph_reads(schema: Any) -> None:
    app = graph(schema)
    state = app.invoke(to_input(describe_input(app), "a", "hi"))
    values = [value for value in state.values() if value == "hi" or isinstance(value, list)]
    assert values
    for value in values:
        assert value == "hi" or (isinstance(value[0], HumanMessage) and value[0].content == "hi")


def test_an_input_schema_of_its_own_is_the_one_that_counts() -> None:
    app = graph(Chat, input_schema=Typed)
    assert to_input(describe_input(app), "a", "hi") == {"question": "hi"}


def test_create_agent_takes_a_text_as_a_message() -> None:
    app = create_agent(GenericFakeChatModel(messages=iter([])), tools=[])
    assert to_input(describe_input(app), "a", "hi") == {"messages": [{"role": "user", "content": "hi"}]}


def test_of_several_texts_the_first_is_taken_and_that_is_said_once() -> None:
    described = describe_input(graph(Ambiguous))
    with pytest.warns(UserWarning, match="goes into the field 'subject' of its state; 'style' could take it"):
        assert to_input(described, "said once", "hi") == {"subject": "hi"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_input(described, "said once", "hi")


def test_a_text_that_fits_no_field_is_refused_with_the_fields() -> None:
    with pytest.raises(InvalidPromptError) as caught:
        to_input(describe_input(graph(Numbers)), "sums", "hi")
    text = str(caught.value)
    assert "'sums'" in text
    assert "numbers (list[int], required), mode (Literal['fast', 'slow'], required)" in text


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"qestion": "hi"}, "'qestion', which the graph's input does not have (did you mean 'question'?)"),
        ({"question": "hi", "x": 1}, "'x', which the graph's input does not have;"),
        ({1: 2}, "the key 1"),
        (7, "is an int"),
        (None, "is None"),
        (["hi"], "no field of the graph's state is for messages"),
        (Chat, "is a _TypedDictMeta"),
    ],
)
def test_what_fits_nothing_is_refused(given: Any, words: str) -> None:
    with pytest.raises(InvalidPromptError) as caught:
        to_input(describe_input(graph(Typed)), "a", given)
    assert words in str(caught.value)
    assert "question (str, required), count (int)" in str(caught.value)


def test_a_dict_and_a_command_stay_what_they_are() -> None:
    described = describe_input(graph(Typed))
    assert to_input(described, "a", {"question": "q", "count": 2}) == {"question": "q", "count": 2}
    command: Command[Any] = Command(update={"question": "q"})
    assert to_input(described, "a", command) is command


@pytest.mark.parametrize(("command", "words"), [(Command(resume="yes"), r"resume=\.\.\."), (Command(), "says nothing")])
def test_a_command_that_resumes_has_nothing_to_resume(command: Any, words: str) -> None:
    with pytest.raises(InvalidPromptError, match=words) as caught:
        to_input(describe_input(graph(Typed)), "a", command)
    assert "handle.respond(...)" in str(caught.value)


@pytest.mark.parametrize("schema", [Model, Data])
def test_an_instance_of_the_state_is_read_as_langgraph_reads_it(schema: Any) -> None:
    app = graph(schema)
    given = schema(question="q", count=5)
    assert app.invoke(to_input(describe_input(app), "a", given)) == app.invoke(given)


def test_an_instance_of_another_class_is_refused_by_its_fields() -> None:
    with pytest.raises(InvalidPromptError, match="the key 'tags'"):
        to_input(describe_input(graph(Typed)), "a", Model(question="q", tags=["x"]))


@pytest.mark.parametrize(
    "messages", [[("user", "hi")], [{"role": "user", "content": "hi"}], [HumanMessage("hi")], ["hi"]]
)
def test_a_list_of_messages_goes_to_their_field(messages: Any) -> None:
    app = graph(Chat)
    value = to_input(describe_input(app), "a", messages)
    assert value == {"chat": messages}
    assert app.invoke(value)["chat"][0].content == "hi"


# --- one value -----------------------------------------------------------------------------------------------------


@entrypoint()
def text_in(text: str) -> str:
    return text


@entrypoint()
def anything_in(value):  # type: ignore[no-untyped-def]
    return value


@entrypoint()
def typed_dict_in(value: Typed) -> Any:
    return value


@entrypoint()
def model_in(value: Model) -> Any:
    return value


@entrypoint()
def messages_in(value: list[AnyMessage]) -> Any:
    return value


@entrypoint()
def numbers_in(value: list[int]) -> Any:
    return value


def listed() -> Any:
    builder: Any = StateGraph(Annotated[list[AnyMessage], add_messages])  # type: ignore[type-var]
    builder.add_node("node", lambda state: [])
    builder.add_edge(START, "node")
    return builder.compile()


@pytest.mark.parametrize(
    ("app", "given", "expected"),
    [
        (text_in, "hi", "hi"),
        (anything_in, "hi", "hi"),
        (anything_in, {"any": 1}, {"any": 1}),
        (anything_in, None, None),
        (typed_dict_in, "hi", {"question": "hi"}),
        (typed_dict_in, {"question": "q"}, {"question": "q"}),
        (model_in, Model(question="q"), Model(question="q")),
        (messages_in, "hi", [HumanMessage("hi")]),
        (messages_in, [HumanMessage("a")], [HumanMessage("a")]),
        (numbers_in, [1, 2], [1, 2]),
    ],
)
def test_an_entrypoint_takes_its_argument(app: Any, given: Any, expected: Any) -> None:
    described = describe_input(app)
    assert json.loads(json.dumps(described)) == described
    assert to_input(described, "a", given) == expected


@pytest.mark.parametrize(("app", "words"), [(model_in, "a Model"), (numbers_in, r"a list\[int\]")])
def test_an_entrypoint_that_takes_no_text_says_what_it_takes(app: Any, words: str) -> None:
    with pytest.raises(InvalidPromptError, match=f"pass its input, {words}"):
        to_input(describe_input(app), "a", "hi")


def test_a_state_that_is_a_list_of_messages_takes_a_text() -> None:
    app = listed()
    assert app.invoke(to_input(describe_input(app), "a", "hi"))[0].content == "hi"


def test_a_schema_that_only_type_checkers_understand_is_still_listed() -> None:
    described = describe_input(graph(Typed))
    assert [field["name"] for field in described["fields"]] == ["question", "count"]
    assert typing.get_type_hints(Typed)["question"] is str
