"""The serializer of graph state: what comes back is what was there."""

from __future__ import annotations

import copy
import datetime as dt
import enum
import functools
import ipaddress
import pathlib
import re
import uuid
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any, Generic, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.agents import AgentAction, AgentFinish
from langchain_core.documents import Document
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    ChatMessage,
    ChatMessageChunk,
    FunctionMessage,
    FunctionMessageChunk,
    HumanMessage,
    HumanMessageChunk,
    RemoveMessage,
    SystemMessage,
    SystemMessageChunk,
    ToolMessage,
    ToolMessageChunk,
)
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, Generation, GenerationChunk, LLMResult
from langchain_core.prompt_values import ChatPromptValue, StringPromptValue
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.errors import GraphRecursionError, NodeError
from langgraph.store.base import Item, SearchItem
from langgraph.types import Command, Interrupt, Overwrite, PregelTask, Send
from pydantic import AnyUrl, BaseModel, ConfigDict, HttpUrl, PostgresDsn, PrivateAttr, RootModel, field_validator

from agentspan.errors import StaleEpochError, UnknownStateTypeError, UnstorableStateError
from agentspan.frameworks.langgraph.state.serde import StateBytesError, StateSerde, StoredError
from tests.unit.frameworks.exactly import same

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"
    PAIR = (1, 2)


class Level(enum.IntEnum):
    LOW = 1


class Mode(enum.StrEnum):
    FAST = "fast"


class Access(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()


class Point(NamedTuple):
    x: int
    y: float = 0.5


OldPoint = namedtuple("OldPoint", "x y")


@dataclass
class Job:
    name: str
    tags: list[str] = field(default_factory=list)
    runs: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.runs += 1
        self.note = "made by __post_init__"

    @functools.cached_property
    def slow(self) -> str:
        return self.name * 2


@dataclass(frozen=True, slots=True)
class Place:
    at: tuple[int, ...]
    when: dt.datetime | None = None


@dataclass
class Holder(Generic[T]):
    held: T


class Model(BaseModel):
    model_config = ConfigDict(extra="allow")
    number: int = 1
    items: list[Any] = []
    _secret_count: int = PrivateAttr(default=3)
    _unset: int = PrivateAttr()

    @field_validator("number")
    @classmethod
    def must_be_small(cls, value: int) -> int:
        assert value < 100, "too big"
        return value

    @functools.cached_property
    def slow(self) -> int:
        return self.number


class Plain(BaseModel):
    when: dt.datetime
    url: HttpUrl


class Root(RootModel[list[int]]):
    pass


class UserId(str):
    __slots__ = ("source",)


class Amounts(dict[str, int]):
    pass


class Ordered(OrderedDict[str, int]):
    pass


class Money(int):
    pass


class Session:
    """A plain class: only stored when it is declared."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.__hidden = {1: 2}


class Trouble(Exception):
    def __init__(self, code: int, *, detail: str) -> None:
        super().__init__(f"trouble {code}")
        self.code = code
        self.detail = detail


DECLARED: list[type] = [
    *(Colour, Level, Mode, Access, Point, OldPoint, Job, Place, Holder, Model, Plain, Root),
    *(UserId, Amounts, Ordered, Money, Session, Trouble),
]
SERDE = StateSerde(DECLARED)


def back(value: Any, serde: StateSerde = SERDE) -> Any:
    return serde.loads(serde.dumps(value))


def a_model() -> Model:
    model = Model.model_construct(number=500, items=[(1, 2)], other={"x": (1,)}, _fields_set={"number"})
    model._secret_count = 9
    assert model.slow == 500
    return model


def a_user_id() -> UserId:
    user = UserId("u\ud800")
    user.source = "sso"
    return user


PYTHON_VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    2**63,
    2**64,
    -(2**63) - 1,
    -(2**700),
    0.1,
    -0.0,
    float("nan"),
    float("-inf"),
    complex(float("nan"), -0.0),
    "",
    "ąę\U0001f600",
    "half \ud83d of",
    {"half \ud83d": "\udc00"},
    b"",
    b"\xc4\x00",
    bytearray(b"\x00\xc4"),
    [bytearray(b"x"), {"a": [bytearray(b"y")], "b": 2**80}],
    [],
    [[], [[]]],
    (),
    (1, (2, [3, (4,)])),
    {(1, ("a", None)): (1,), frozenset({1}): 2, None: 3, 4: 5, 1.5: 6, b"k": 7, True: 8},
    {1: {"two": {3: "x"}}},
    {"": {}, "a b": None},
    set(),
    {1, "a", (2, 3)},
    frozenset({frozenset({1}), 2}),
    deque([1, (2,)], maxlen=5),
    deque(),
    OrderedDict([("b", 1), ("a", (2,))]),
    OrderedDict([((1,), 1)]),
    defaultdict(list, {"a": [1], 2: []}),
    defaultdict(None, {"a": 1}),
    defaultdict(set),
    Counter("abba"),
    Counter({1: -2}),
    range(1, 2**70, 3),
    slice(None, (1, 2), "x"),
    Decimal("1.10"),
    Decimal("-0E-50"),
    Decimal("sNaN12"),
    Fraction(10**30, 7),
    uuid.UUID("12345678-1234-5678-1234-567812345678"),
    dt.datetime(2024, 10, 27, 2, 30, 0, 7, tzinfo=ZoneInfo("Europe/Berlin"), fold=1),
    dt.datetime(1, 1, 1),
    dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
    dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=-3, microseconds=5), "odd")),
    dt.date(9999, 12, 31),
    dt.time(23, 59, 59, 999999, fold=1),
    dt.time(1, tzinfo=dt.UTC),
    dt.timedelta(days=-5, microseconds=1),
    dt.UTC,
    dt.timezone(dt.timedelta(minutes=90)),
    ZoneInfo("America/New_York"),
    pathlib.Path("/tmp/../x y"),
    pathlib.PurePosixPath("a/b"),
    pathlib.PureWindowsPath("C:\\x"),
    re.compile(r"a(.)", re.IGNORECASE | re.DOTALL),
    re.compile(rb"\xff"),
    ipaddress.ip_address("10.0.0.1"),
    ipaddress.ip_address("fe80::1%eth0"),
    ipaddress.ip_interface("10.0.0.1/8"),
    ipaddress.ip_interface("::1/64"),
    ipaddress.ip_network("10.0.0.0/8"),
    ipaddress.ip_network("2001:db8::/32"),
]
DECLARED_VALUES: list[Any] = [
    Colour.RED,
    Colour.PAIR,
    {Level.LOW: Mode.FAST, Mode.FAST: Level.LOW},
    Access.READ | Access.WRITE,
    Access(0),
    Point(1, (2,)),  # type: ignore[arg-type]
    {Point(1): OldPoint(1, y=Point(2))},
    Place((1, 2), dt.datetime(2024, 1, 1)),
    [Place(()), Holder[int](held=(1,))],
    a_model(),
    Model(),
    Plain.model_validate_json('{"when": "2024-01-01T10:00:00+05:30", "url": "https://example.com/a?b=c"}'),
    Root([1, 2]),
    AnyUrl("mailto:x@example.com"),
    PostgresDsn("postgres://u:p@h1,h2/db"),
    a_user_id(),
    {a_user_id(): 1},
    Amounts(a=1),
    Ordered(b=1, a=2),
    Money(2**100),
    Session("s"),
]
FRAMEWORK_VALUES: list[Any] = [
    HumanMessage("hi"),
    HumanMessage([{"type": "text", "text": "hi"}, "x"], id="1", name="bob"),
    HumanMessage("x", colour="blue"),
    SystemMessage("s", additional_kwargs={"a": (1,)}),
    AIMessage(""),
    AIMessage([]),
    AIMessage(
        "x",
        id="run-1",
        tool_calls=[{"name": "f", "args": {"a": [1, {"b": None}]}, "id": "c1"}],
        invalid_tool_calls=[{"name": "g", "args": "{", "id": "c2", "error": "bad", "type": "invalid_tool_call"}],
        usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
        response_metadata={"logprobs": None, "when": dt.date(2024, 1, 1)},
    ),
    AIMessage("x", id=None, name=None, tool_calls=[]),
    AIMessage.model_construct(content="not validated", id=7),
    ToolMessage("r", tool_call_id="c1", artifact={"rows": [(1, 2)], "p": Point(1)}, status="error", name="f"),
    ToolMessage("", tool_call_id=""),
    RemoveMessage(id="1"),
    ChatMessage("c", role="critic"),
    FunctionMessage("f", name="fn"),
    AIMessageChunk("ab", tool_call_chunks=[{"name": "f", "args": "{", "id": "c", "index": 0}], chunk_position="last"),
    HumanMessageChunk("h"),
    SystemMessageChunk("s"),
    ToolMessageChunk("t", tool_call_id="c", artifact=b"x"),
    ChatMessageChunk("c", role="r"),
    FunctionMessageChunk("f", name="n"),
    AIMessage("the text").text,
    {AIMessage("the text").text: 1},
    Document("page", id="d1", metadata={"score": 0.5}),
    StringPromptValue(text="p"),
    ChatPromptValue(messages=[HumanMessage("x")]),
    Generation(text="g", generation_info={"a": 1}),
    GenerationChunk(text="g"),
    ChatGeneration(message=AIMessage("x")),
    ChatGenerationChunk(message=AIMessageChunk("x")),
    LLMResult(generations=[[Generation(text="g")]]),
    AgentAction("tool", {"a": 1}, "log"),
    AgentFinish({"output": 1}, "log"),
    Send("node", {"x": (1, 2)}),
    Send("node", None, timeout=dt.timedelta(seconds=3)),
    Command(goto=[Send("a", 1), "b"], update={"x": [HumanMessage("x")]}, resume={"id": True}, graph=Command.PARENT),
    Interrupt(value={"ask": Place(())}, id="i1", response_schema={"type": "object"}),
    Overwrite([1]),
    _DeltaSnapshot([HumanMessage("x"), (1,)]),
    _DeltaSnapshot(None),
    PregelTask("id", "name", ("__pregel_pull", "name"), interrupts=(Interrupt(1, id="i"),)),
    Item(
        value={"a": (1,)},
        key="k",
        namespace=("a", "b"),
        created_at=dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
        updated_at=dt.datetime(2024, 1, 2, tzinfo=dt.UTC),
    ),
    SearchItem(("a",), "k", {}, dt.datetime(2024, 1, 1), dt.datetime(2024, 1, 1), score=0.5),
    NodeError(node="n", error=ValueError("x")),
]


@pytest.mark.parametrize(
    "value", [*PYTHON_VALUES, *DECLARED_VALUES, *FRAMEWORK_VALUES], ids=lambda value: repr(value)[:40]
)
def test_a_value_comes_back_in_type_and_content(value: Any) -> None:
    for wrapped in (value, [value, value], {"k": (value,)}, Send("n", [value])):
        assert same(back(wrapped), wrapped)


def test_values_of_the_framework_need_no_declaration() -> None:
    bare = StateSerde()
    for value in FRAMEWORK_VALUES:
        if "Point" not in repr(value) and "Place" not in repr(value):
            assert same(back(value, bare), value)


_atoms = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers()
    | st.text(st.characters(codec=None))  # Lone surrogates too.
    | st.binary()
    | st.decimals().filter(lambda value: not value.is_snan())  # They cannot be hashed.
    | st.fractions()
    | st.uuids()
    | st.datetimes(timezones=st.none() | st.timezones())
    | st.timedeltas()
    | st.ip_addresses()
)
_hashables = st.recursive(
    _atoms, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=5
)
_values = st.recursive(
    _atoms | _hashables | st.binary().map(bytearray),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(_hashables, inner, max_size=4)
        | st.dictionaries(st.text(), inner, max_size=4)
        | st.dictionaries(_hashables, inner, max_size=3).map(OrderedDict)
        | st.lists(inner, max_size=3).map(lambda items: deque(items, maxlen=7))
        | inner.map(lambda value: AIMessage("x", response_metadata={"v": value}))
        | inner.map(lambda value: Job("j", [value]))
    ),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(_values)
def test_plain_data_round_trips(value: Any) -> None:
    assert same(back(value), value)


@settings(max_examples=300, deadline=None)
@given(st.binary())
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        SERDE.loads(b"\x01" + data)
    except (StateBytesError, UnknownStateTypeError):
        pass


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from([*PYTHON_VALUES, *DECLARED_VALUES, *FRAMEWORK_VALUES, KeyError("k")]).map(SERDE.dumps),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), min_size=1, max_size=3),
)
def test_damaged_bytes_are_read_or_refused(data: bytes, damage: list[tuple[int, int]]) -> None:
    damaged = bytearray(data)
    for place, byte in damage:
        damaged[1 + place % (len(data) - 1)] = byte
    try:
        SERDE.loads(bytes(damaged))
    except (StateBytesError, UnknownStateTypeError):
        pass


def test_numpy_arrays_and_scalars_come_back() -> None:
    numpy = pytest.importorskip("numpy")
    arrays = [
        numpy.arange(6.0).reshape(2, 3),
        numpy.asfortranarray(numpy.ones((2, 3))),
        numpy.zeros((0, 3)),
        numpy.array("x"),
    ]
    for array in arrays:
        loaded = back({"a": [array]})["a"][0]
        assert (loaded.dtype, loaded.shape, loaded.flags.writeable) == (array.dtype, array.shape, True)
        assert (loaded == array).all()
    assert same(back(numpy.float32(1.5)), numpy.float32(1.5))
    with pytest.raises(UnstorableStateError, match="dtype object"):
        SERDE.dumps(numpy.array([object()]))


def test_rebuilding_runs_no_code_of_the_class() -> None:
    job = Job("j", ["a"])
    job.note = "changed"
    assert job.slow == "jj"
    loaded = back(job)
    assert (loaded.runs, loaded.note) == (1, "changed")  # __post_init__ would add a run
    assert "slow" not in loaded.__dict__  # computed again when asked for
    assert loaded.slow == "jj"
    assert back(Model.model_construct(number=500)).number == 500  # the validator would refuse it


def test_what_is_set_is_kept_apart_from_defaults() -> None:
    assert back(Model(number=1)).model_fields_set == {"number"}
    assert back(AIMessage("x", name=None)).model_fields_set == AIMessage("x", name=None).model_fields_set
    loaded = back(AIMessage("x"))
    loaded.tool_calls.append({"name": "f", "args": {}, "id": "1"})
    assert back(AIMessage("x")).tool_calls == []  # no default is shared


def test_fields_a_class_got_since_then_have_their_defaults() -> None:
    def module_of(version: int) -> tuple[type, type, type]:
        @dataclass
        class Thing:
            a: int
            if version > 1:
                b: list[int] = field(default_factory=lambda: [7])

        class Entry(BaseModel):
            a: int
            if version > 1:
                b: list[int] = [8]
                _c: int = PrivateAttr(default=9)
            else:
                gone: int = 0

        class Pair(NamedTuple):
            a: int
            if version > 1:
                b: int = 9

        return Thing, Entry, Pair

    old, new = module_of(1), module_of(2)
    stored = StateSerde(old).dumps([cls(a=1) for cls in old])
    thing, entry, pair = StateSerde(new).loads(stored)
    assert (thing.a, thing.b) == (1, [7])
    assert (entry.a, entry.b, entry.model_dump()) == (1, [8], {"a": 1, "b": [8]})
    assert pair == (1, 9)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x", (1, 2)),
        KeyError("k"),
        FileNotFoundError(2, "No such file", "/x"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        ExceptionGroup("several", [ValueError(1), TypeError()]),
        GraphRecursionError("limit"),
        StaleEpochError(execution_id="e", offered=1, held=2),
        Trouble(4, detail="d"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_a_known_class_comes_back(error: Exception) -> None:
    loaded = back(error)
    assert type(loaded) is type(error)
    assert str(loaded) == str(error)
    assert repr(loaded.args) == repr(error.args)
    for name, item in vars(error).items():
        assert getattr(loaded, name) == item
    assert getattr(loaded, "filename", None) == getattr(error, "filename", None)


def test_an_error_is_never_refused() -> None:
    class Local(Exception):
        def __str__(self) -> str:
            raise RuntimeError("cannot say")

    error = Local(print)
    error.lock = lambda: None  # type: ignore[attr-defined]
    loaded = back(error)
    assert type(loaded) is StoredError
    assert str(loaded) == "Local: <Local that could not be printed>"

    loaded = back({"e": Trouble(4, detail="d")}, StateSerde())["e"]
    assert str(loaded) == "Trouble: trouble 4"
    assert loaded.stored_type.endswith("test_serde:Trouble")
    # Kept a second time, it is still what it was; where its class is declared it is that again.
    assert str(back(loaded, StateSerde())) == "Trouble: trouble 4"
    assert type(SERDE.loads(StateSerde().dumps(ValueError(print)))) is StoredError


def test_equal_sets_have_equal_bytes() -> None:
    # 8 and 16 fall into one slot of a small set, so their order is that of their coming.
    assert list({8, 16}) != list({16, 8})
    assert SERDE.dumps({8, 16}) == SERDE.dumps({16, 8})


def test_the_two_names_of_a_script_are_one() -> None:
    def script(module: str) -> type:
        return dataclass(
            type("Item", (), {"__module__": module, "__annotations__": {"x": int}, "__qualname__": "Item"})
        )

    main, spawned = script("__main__"), script("__mp_main__")
    stored = StateSerde([main]).dumps(main(1))
    loaded = StateSerde([spawned]).loads(stored)
    assert type(loaded) is spawned
    assert loaded.x == 1
    assert StateSerde([spawned]).dumps(loaded) == stored


def test_with_types_knows_the_old_and_the_new() -> None:
    serde = StateSerde([Place]).with_types([Point])
    assert serde.types == (Place, Point)
    assert back([Place(()), Point(1)], serde) == [Place(()), Point(1)]


def test_it_serves_as_langgraphs_serializer_also_when_copied() -> None:
    serde: SerializerProtocol = copy.copy(SERDE)
    tag, data = serde.dumps_typed((1, Place(())))
    assert tag == "agentspan"
    assert data[0] == 1
    assert serde.loads_typed((tag, data)) == (1, Place(()))
    with pytest.raises(StateBytesError, match="another serializer"):
        serde.loads_typed(("msgpack", data))


def test_a_message_is_small() -> None:
    assert len(SERDE.dumps(HumanMessage("hello", id="1"))) < 20
