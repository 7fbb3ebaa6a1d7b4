"""What cannot be stored or loaded is told with its exact place, and nothing is run for it."""

from __future__ import annotations

import asyncio
import datetime as dt
import enum
import os
import pickle
import subprocess
import sys
import threading
from collections import OrderedDict, defaultdict, deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import ormsgpack
import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.types import Command, Interrupt, Send
from ormsgpack import Ext
from pydantic import BaseModel, ConfigDict, PrivateAttr, SecretStr

from agentspan.errors import UnknownStateTypeError, UnstorableStateError
from agentspan.frameworks.langgraph.state.serde import StateBytesError, StateSerde
from agentspan.frameworks.langgraph.state.wire import CHUNKS_MAX, NARROW_LEVELS, WIDE_CHUNKS


class Animal(BaseModel):
    name: Any = ""


class Dog(Animal):
    pass


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    _inner: Any = PrivateAttr(default=None)


@dataclass
class Box:
    held: Any
    odd: Any = None


@dataclass
class Undeclared:
    x: int = 1


class Pair(NamedTuple):
    left: Any
    right: Any


class Colour(enum.Enum):
    RED = 1


class Token(str):
    pass


class Session:
    pass


class Closing:
    def __del__(self) -> None:
        raise AssertionError("made only to be looked at")


_LEVELS = 254
SERDE = StateSerde([Animal, Box, Pair, Open])
LOCK = threading.Lock()


def refused(value: Any, serde: StateSerde = SERDE, path: str = "$") -> UnstorableStateError:
    with pytest.raises(UnstorableStateError) as caught:
        serde.dumps(value, path)
    return caught.value


def open_model() -> Open:
    return Open(more={"deep": [LOCK]})


def private_model() -> Open:
    model = Open()
    model._inner = {"lock": LOCK}
    return model


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (LOCK, "$"),
        ([1, LOCK], "$[1]"),
        ({"a": (1, {"b": [LOCK]})}, "$.a[1].b[0]"),
        ({"items": {"odd key": LOCK}}, '$.items["odd key"]'),
        ({"items": {3: LOCK}}, "$.items[3]"),
        ({"items": {(1, "x"): LOCK}}, "$.items[(1, 'x')]"),
        ({"items": {LOCK: 1}}, f"$.items (the key {LOCK!r})"),
        ({"half \ud83d": [LOCK]}, '$["half \ud83d"][0]'),
        (
            {"messages": [HumanMessage("x"), ToolMessage("x", tool_call_id="1", artifact=LOCK)]},
            "$.messages[1].artifact",
        ),
        ({"messages": [AIMessage("x", response_metadata={"raw": [LOCK]})]}, "$.messages[0].response_metadata.raw[0]"),
        ([HumanMessage("x", lock=LOCK)], "$[0].lock"),
        (Document("x", metadata={"m": LOCK}), "$.metadata.m"),
        (Send("n", {"arg": [LOCK]}), "$.arg.arg[0]"),
        (Command(update={"x": LOCK}), "$.update.x"),
        (Interrupt(value=(LOCK,), id="1"), "$.value[0]"),
        (Animal(name={"x": LOCK}), "$.name.x"),
        (open_model(), "$.more.deep[0]"),
        (private_model(), "$._inner.lock"),
        ([Box(1, odd=[LOCK])], "$[0].odd[0]"),
        (Pair(1, [LOCK]), "$.right[0]"),
        (deque([1, LOCK]), "$[1]"),
        (OrderedDict(a=LOCK), "$.a"),
        (defaultdict(list, a=LOCK), "$.a"),
        ({"tags": {LOCK}}, "$.tags[*]"),
        (slice(LOCK), "$.stop"),
        (memoryview(b"x"), "$"),
        ({"view": [memoryview(b"x")]}, "$.view[0]"),
        ({"zone": dt.datetime(2024, 1, 1, tzinfo=type("Zone", (dt.tzinfo,), {})())}, "$.zone"),
        ({"default": defaultdict(lambda: 1)}, "$.default"),
        ([[[LOCK], LOCK], LOCK], "$[0][0][0]"),
    ],
)
def test_the_path_of_what_is_refused_is_exact(value: Any, path: str) -> None:
    assert refused(value).path == path
    assert refused(value, path="$.channel").path == path.replace("$", "$.channel", 1)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (LOCK, "$ is a _thread.lock, which is not data. Keep it out of the state"),
        (print, "$ is the function print, and code is not data. Store its name"),
        (lambda: 1, "test_serde_errors.<lambda>, and code"),
        (Box(1).__init__, "test_serde_errors.Box.__init__"),
        (Box, "test_serde_errors.Box, and code is not data"),
        (sys, "the module sys, and code is not data"),
        ((n for n in ()), "a generator, which can be read only once. Store what comes out of it"),
        (iter([]), "a list_iterator, which can be read only once"),
        (Session(), "Session, which the graph's state does not declare. If it is data, make it a dataclass"),
        (Closing.__new__(type("Quiet", (Closing,), {"__del__": lambda self: None})), "which is not data"),
        (Undeclared(), "Undeclared, which the graph's state does not declare. Name it in the state's schema, or"),
        (Undeclared(), "types=[Undeclared]"),
        (Colour.RED, "Colour, which the graph's state does not declare. Name it"),
        (Token("x"), "Token, which the graph's state does not declare. Name it"),
        (Dog(), "Dog, which is a subclass of the declared Animal but not declared itself. Name it"),
        (SecretStr("x"), "a pydantic.types.SecretStr, and secrets do not belong into stored state. Keep it in the env"),
        (memoryview(b"x"), "a memoryview, a view of memory that may change. Store bytes(value)."),
        (defaultdict(lambda: 1), "a defaultdict whose default is made by"),
    ],
)
def test_what_is_refused_is_told_with_a_remedy(value: Any, text: str) -> None:
    assert text in str(refused(value))
    assert "x=1" not in str(refused(value))
    assert pickle.loads(pickle.dumps(refused(value))).facts == refused(value).facts


async def test_tasks_and_coroutines_are_refused() -> None:
    async def wait() -> None:
        return None

    coroutine = wait()
    assert "coroutine, which can be read only once" in str(refused([coroutine]))
    await coroutine
    task = asyncio.create_task(wait())
    assert refused({"t": task}).path == "$.t"
    await task


def test_an_open_file_is_refused(tmp_path: Path) -> None:
    with open(tmp_path / "f", "w") as file:
        assert "an open file (_io.TextIOWrapper), which is not data" in str(refused({"file": file}))


def test_a_secret_is_not_in_the_error() -> None:
    class Credentials(BaseModel):
        key: SecretStr

    error = refused({"creds": Credentials(key=SecretStr("hunter2"))}, StateSerde([Credentials, SecretStr]))
    assert error.path == "$.creds.key"
    assert "hunter2" not in str(error)


def test_a_subclass_is_stored_once_it_is_declared() -> None:
    serde = SERDE.with_types([Dog, Colour, Token, Session])
    for value in (Dog(name="rex"), Colour.RED, Token("x")):
        assert serde.loads(serde.dumps(value)) == value


def test_two_classes_of_one_name_are_neither_stored_nor_loaded() -> None:
    def make() -> Any:
        @dataclass
        class Item:
            x: int

        return Item

    first, second = make(), make()
    both = StateSerde([first, second])
    assert "declares two classes of that name" in str(refused([first(1)], both))
    with pytest.raises(UnknownStateTypeError):
        both.loads(StateSerde([first]).dumps(first(1)))
    assert "which has the name of a declared class but is another one" in str(refused(first(1), StateSerde([second])))


def a_loop(kind: str) -> Any:
    if kind == "list":
        items: list[Any] = [1]
        items.append(items)
        return items
    if kind == "dict":
        held: dict[str, Any] = {}
        held["self"] = {"again": held}
        return held
    box = Box(None)
    box.held = [box]
    return box


@pytest.mark.parametrize(
    ("kind", "path", "found"),
    [
        ("list", "$.x[1]", "a list that contains itself"),
        ("dict", "$.x.self.again", "a dict that contains itself"),
        ("object", "$.x.held[0]", "Box that contains itself"),
    ],
)
def test_what_contains_itself_is_told_and_not_a_recursion_error(kind: str, path: str, found: str) -> None:
    error = refused({"x": a_loop(kind)})
    assert error.path == path
    assert found in error.found


def nested(depth: int, wrap: Any) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = wrap(value)
    return value


@pytest.mark.parametrize("wrap", [lambda v: [v], lambda v: {"k": v}, lambda v: (v,), Box, lambda v: {1: v}])
def test_nesting_has_a_bound_with_a_clear_error(wrap: Any) -> None:
    value = nested(90, wrap)
    assert SERDE.loads(SERDE.dumps(value)) == value
    assert "nested too deep, and stored state has a bound" in str(refused(nested(3000, wrap)))


def test_the_deepest_value_there_can_be_does_not_end_the_process() -> None:
    # Each Box is a chunk of its own, with two levels of its own: [ref, {attributes}].
    value: Any = 1
    for chunk in range(CHUNKS_MAX - 1, 0, -1):
        value = Box(_around(value, chunk))
    data = SERDE.dumps(value)
    assert SERDE.dumps(SERDE.loads(data)) == data
    assert "nested too deep" in refused(Box(value)).found


def _around(value: Any, chunk: int) -> Any:
    for _ in range((_LEVELS if chunk < WIDE_CHUNKS else NARROW_LEVELS) - 3):
        value = [value]
    return value


def _named(code: int, *parts: Any) -> bytes:
    return b"\x01" + ormsgpack.packb({"messages": [1, {"odd key": Ext(code, ormsgpack.packb(list(parts)))}]})


@pytest.mark.parametrize(
    "data",
    [
        _named(41, "os:system", {"command": "touch {mark}"}, None, None, None),
        _named(42, "os:system", {"command": "touch {mark}"}),
        _named(42, "subprocess:Popen", {"args": ["touch", "{mark}"]}),
        _named(43, "subprocess:Popen", "touch {mark}", None),
        _named(44, "os:system", "touch {mark}"),
        _named(45, "builtins:eval", 1),
    ],
)
def test_a_name_that_is_not_declared_is_never_looked_up(
    data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("run")

    monkeypatch.setattr(os, "system", never)
    monkeypatch.setattr(subprocess.Popen, "__init__", never)
    with pytest.raises(UnknownStateTypeError) as caught:
        SERDE.loads(data)
    assert caught.value.path == '$.messages[1]["odd key"]'
    assert caught.value.found in ("os:system", "subprocess:Popen", "builtins:eval")


def test_a_module_is_not_imported_for_a_stored_name() -> None:
    for code in (41, 42, 43, 44, 46):
        data = _named(code, "antigravity:fly", "text", [], {})
        if code == 46:
            assert "fly" in str(SERDE.loads(data)["messages"][1]["odd key"])
        else:
            with pytest.raises(UnknownStateTypeError):
                SERDE.loads(data)
    assert "antigravity" not in sys.modules


def test_an_error_of_a_function_or_class_that_is_no_error_is_only_text() -> None:
    for name in (
        "os:system",
        "builtins:eval",
        "builtins:open",
        "builtins:int",
        "builtins:SystemExit",
        "langgraph.errors:Any",
    ):
        loaded = SERDE.loads(_named(46, name, "touch x", ["touch x"], None))["messages"][1]["odd key"]
        assert type(loaded).__name__ == "StoredError"


def test_an_unknown_type_is_told_with_its_path_in_objects() -> None:
    data = StateSerde([Box, Undeclared, Pair]).dumps(
        {"m": [AIMessage("x", response_metadata={"r": Pair(1, Undeclared())})]}
    )
    with pytest.raises(UnknownStateTypeError) as caught:
        SERDE.loads(data, "$.channel")
    assert caught.value.path == "$.channel.m[0].response_metadata.r.right"
    assert caught.value.found.endswith("test_serde_errors:Undeclared")


def test_a_class_that_became_another_kind_is_not_guessed_at() -> None:
    @dataclass
    class Thing:
        x: int

    stored = StateSerde([Thing]).dumps(Thing(1))
    model = type("Thing", (BaseModel,), {"__annotations__": {"x": int}, "__module__": Thing.__module__})
    model.__qualname__ = Thing.__qualname__
    with pytest.raises(UnknownStateTypeError, match="was another kind of class"):
        StateSerde([model]).loads(stored)


def test_a_member_that_is_gone_is_told() -> None:
    stored = StateSerde([Colour]).dumps(Colour.RED)
    other = enum.Enum("Colour", {"BLUE": 1}, module=Colour.__module__, qualname=Colour.__qualname__)
    with pytest.raises(UnknownStateTypeError, match=r"Colour.RED \(the enum has no such member any more\)"):
        StateSerde([other]).loads(stored)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "no bytes"),
        (b"\x02\xc0", "version byte 2 and this version reads 1"),
        (b"\x01", "not msgpack"),
        (b"\x01\xc1", "not msgpack"),
        (b"\x01\xc7\x00\x7f", "extension type 127"),
        (b"\x01" + ormsgpack.packb(Ext(12, b"\xc1")), "not"),
        (b"\x01" + ormsgpack.packb(Ext(18, b"\x00")), "does not fit its type"),
        (b"\x01" + b"\x91" * 5000 + b"\xc0", "not msgpack"),
    ],
)
def test_damaged_bytes_are_told(data: bytes, text: str) -> None:
    with pytest.raises(StateBytesError, match=text):
        SERDE.loads(data)
