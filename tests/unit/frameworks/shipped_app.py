"""A script with graphs of every kind. Tests run it as `__main__` in a folder of its own: it packs what it made.

    shipped_app.py OUT

writes `{name: {"row": ..., "input": ..., "expected": ...}}` to OUT, what is expected being what the graph answers here.
"""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import functools
import json
import operator
import os
import sys
import threading
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, TypedDict

import typing_extensions
from helper import LIMIT, double, shout
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware, ModelCallLimitMiddleware
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, create_react_agent
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore
from langgraph.types import CachePolicy, Command, RetryPolicy, Send
from pydantic import BaseModel, PrivateAttr

from agentspan.actors.shipping import pack
from agentspan.frameworks.langgraph.app.graph import Graph


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Item(BaseModel):
    name: str
    colour: Colour = Colour.RED


@dataclasses.dataclass
class Point:
    x: int
    item: Item | None = None


class Typed(TypedDict):
    text: str
    log: Annotated[list[str], operator.add]


class Derived(Typed, total=False):
    more: int


class TypedExtension(typing_extensions.TypedDict, total=False):
    text: typing_extensions.Required[str]
    log: Annotated[list[str], operator.add]


class Model(BaseModel):
    text: str
    log: Annotated[list[str], operator.add] = []


@dataclasses.dataclass
class Data:
    text: str
    log: Annotated[list[str], operator.add] = dataclasses.field(default_factory=list)


class Custom(TypedDict):
    text: str
    best: Annotated[int, lambda old, new: max(old, new)]
    seen: Annotated[list[str], lambda old, new: sorted({*old, *new})]
    maybe: Optional[int]  # noqa: UP045  It is the form under test.


class Rich(TypedDict, total=False):
    text: str
    items: Annotated[list[Item], operator.add]
    point: Point
    colour: Colour


apps: dict[str, Any] = {}
inputs: dict[str, Any] = {}


def app(name: str, made: Any, given: Any) -> Any:
    apps[name], inputs[name] = made, given
    return made


# --- schemas -------------------------------------------------------------------------------------------------------


def read(state: Any, name: str) -> Any:
    return state[name] if isinstance(state, dict) else getattr(state, name)


def work(state: Any) -> dict[str, Any]:
    return {"log": [shout(read(state, "text"))]}


async def later(state: Any) -> dict[str, Any]:
    await asyncio.sleep(0)
    return {"log": [f"{len(read(state, 'log'))} of {LIMIT}"]}


def chain(schema: Any, *nodes: Any, **options: Any) -> Any:
    builder = StateGraph(schema)
    names = []
    for node in nodes:
        names.append(getattr(node, "__name__", "").strip("<>") + f"_{len(names)}")
        builder.add_node(names[-1], node)
    for before, after in zip([START, *names], [*names, END], strict=True):
        builder.add_edge(before, after)
    return builder.compile(**options)


for kind in (Typed, Derived, TypedExtension, Model, Data):
    app(kind.__name__, chain(kind, work, later), {"text": "hi", "log": ["begun"]})
app(
    "functional_schema",
    chain(TypedDict("Made", {"text": str, "log": Annotated[list, operator.add]}), work),
    {"text": "a"},
)
app(
    "custom_reducers",
    chain(Custom, lambda s: {"best": len(s["text"]), "seen": ["b", "a"], "maybe": None}),
    {"text": "four", "best": 2, "seen": ["a"]},
)
app(
    "messages",
    chain(MessagesState, lambda s: {"messages": [AIMessage(shout(s["messages"][-1].content), id="2")]}),
    {"messages": [{"role": "user", "content": "hello", "id": "1"}]},
)


def paint(state: Rich) -> Rich:
    item = Item(name=state["text"], colour=Colour.BLUE)
    return {"items": [item], "point": Point(double(2), item), "colour": Colour.RED}


def judge(state: Rich) -> Rich:
    assert isinstance(state["items"][0], Item)
    assert isinstance(state["point"], Point)
    assert state["colour"] is Colour.RED
    assert state["point"].item.colour is Colour.BLUE
    return {"text": f"{state['items'][0].name} {state['point'].x}"}


app("rich", chain(Rich, paint, judge), {"text": "pen"})

# --- functions -----------------------------------------------------------------------------------------------------


class Worker:
    def __init__(self, word: str) -> None:
        self.word = word

    def method(self, state: Typed) -> dict[str, Any]:
        return {"log": [self.word + state["text"]]}

    def __call__(self, state: Typed) -> dict[str, Any]:
        return {"log": [self.word * 2]}


def closed(word: str) -> Any:
    def inside(state: Typed) -> dict[str, Any]:
        return {"log": [word]}

    return inside


def partly(state: Typed, word: str) -> dict[str, Any]:
    return {"log": [word]}


@functools.lru_cache
def remembered(n: int) -> int:
    return n * LIMIT


app(
    "functions",
    chain(
        Typed,
        closed("closure"),
        Worker("m").method,
        Worker("c"),
        functools.partial(partly, word="p"),
        lambda s: {"log": [str(remembered(2))]},
    ),
    {"text": "x", "log": []},
)


def route(state: Typed) -> list[Send]:
    return [Send("each", {"text": word, "log": []}) for word in state["text"].split()]


def fan() -> Any:
    builder = StateGraph(Typed)
    builder.add_node("each", lambda s: {"log": [double(s["text"])]})
    builder.add_node("last", lambda s: {"text": "|".join(s["log"])})
    builder.add_conditional_edges(START, route, ["each"])
    builder.add_edge("each", "last")
    return builder.compile()


app("send", fan(), {"text": "a b c", "log": []})


def decide(state: Typed) -> Command[Literal["loop", "finish"]]:
    return Command(goto="loop" if len(state["log"]) < LIMIT else "finish", update={"log": ["decided"]})


def command() -> Any:
    builder = StateGraph(Typed)
    builder.add_node("decide", decide)
    builder.add_node("loop", lambda s: {"log": ["looped"]})
    builder.add_node("finish", lambda s: {"text": "done"})
    builder.add_edge(START, "decide")
    builder.add_edge("loop", "decide")
    return builder.compile()


app("command", command(), {"text": "x", "log": []})

inner = chain(Typed, lambda s: {"log": ["inner"]}, checkpointer=InMemorySaver())
app("nested", chain(Typed, chain(Typed, inner, work)), {"text": "x", "log": []})
app("called", chain(Typed, lambda s: {"log": inner.invoke({"text": "y", "log": []})["log"]}), {"text": "x", "log": []})

tries: list[int] = []


def flaky(state: Typed) -> dict[str, Any]:
    tries.append(1)
    if len(tries) % 3:
        raise ConnectionError("again")
    return {"log": [f"tried {len(tries)}"]}


def with_policies() -> Any:
    builder = StateGraph(Typed)
    retry = RetryPolicy(initial_interval=0.0, jitter=False)
    builder.add_node("flaky", flaky, retry_policy=retry, cache_policy=CachePolicy(ttl=60))
    builder.add_edge(START, "flaky")
    return builder.compile(cache=InMemoryCache(), store=InMemoryStore(), checkpointer=InMemorySaver())


app("policies", with_policies(), {"text": "x", "log": []})

# A saver that holds an open file, which must stay here.
import sqlite3  # noqa: E402

app(
    "own_saver",
    chain(Typed, work, checkpointer=SqliteSaver(sqlite3.connect(":memory:", check_same_thread=False))),
    {"text": "x", "log": []},
)


def remember(state: Typed, *, store: BaseStore) -> dict[str, Any]:
    return {"log": [store.get(("seeded",), "key").value["word"]]}


seeded = InMemoryStore()
seeded.put(("seeded",), "key", {"word": "from the store"})
app("store", chain(Typed, remember, store=seeded), {"text": "x", "log": []})

# --- functional API ------------------------------------------------------------------------------------------------


@task
def squared(n: int) -> int:
    return double(n) * n


@entrypoint()
def typed_entry(numbers: list[int]) -> int:
    return sum(future.result() for future in [squared(n) for n in numbers])


@entrypoint()
def untyped_entry(value):
    return {"got": value, "limit": LIMIT}


@entrypoint(checkpointer=InMemorySaver())
def final_entry(value: str, *, previous: Any = None) -> entrypoint.final[str, int]:
    return entrypoint.final(value=value + "!", save=1)


app("typed_entry", typed_entry, [1, 2])
app("untyped_entry", untyped_entry, "v")
app("final_entry", final_entry, "v")

# --- agents --------------------------------------------------------------------------------------------------------


class Scripted(BaseChatModel):
    """Calls the tool, then says what it heard. Its private attribute is lost if it is made anew from its fields."""

    prefix: str = "heard"
    _suffix: str = PrivateAttr(default="?")

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.bind(tools=[each.name for each in tools])

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        if isinstance(messages[-1], ToolMessage):
            message = AIMessage(f"{self.prefix} {messages[-1].content}{self._suffix}", id="4")
        else:
            message = AIMessage("", id="2", tool_calls=[{"name": kwargs["tools"][0], "args": {"at": "sky"}, "id": "c"}])
        return ChatResult(generations=[ChatGeneration(message=message)])


@tool
def look(at: str) -> str:
    """Look at something."""
    return shout(at)


def scripted() -> Scripted:
    model = Scripted(prefix="I heard")
    model._suffix = "!"
    return model


question = {"messages": [{"role": "user", "content": "look", "id": "1"}]}
app("create_agent", create_agent(scripted(), tools=[look], system_prompt="Be brief."), question)
app(
    "create_agent_middleware",
    create_agent(
        scripted(),
        tools=[look],
        middleware=[ModelCallLimitMiddleware(run_limit=5), HumanInTheLoopMiddleware({"other": True})],
    ),
    question,
)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    app("create_react_agent", create_react_agent(scripted(), [look], prompt="Be brief."), question)

real = ChatOpenAI(model="gpt-4o", base_url=os.environ["MODEL_URL"], temperature=0.25, max_retries=0)
app("openai_agent", create_agent(real, tools=[look], response_format=None), question)
app(
    "openai_in_node",
    chain(MessagesState, lambda s: {"messages": [real.bind_tools([look]).invoke(s["messages"])]}),
    question,
)
app(
    "openai_structured",
    chain(Typed, lambda s: {"log": [type(real.with_structured_output(Item)).__name__]}),
    {"text": "x", "log": []},
)
other_key = ChatOpenAI(model="gpt-4o", base_url=os.environ["MODEL_URL"], api_key=os.environ["SPECIAL_MODEL_KEY"])
app("openai_other_key", create_agent(other_key, tools=[look]), question)

embedding = OpenAIEmbeddings(model="e", base_url=os.environ["MODEL_URL"], dimensions=7)
app("embeddings", chain(Typed, lambda s: {"log": [str(embedding.dimensions)]}), {"text": "x", "log": []})


def call_tool(state: MessagesState) -> MessagesState:
    return {"messages": [AIMessage("", id="2", tool_calls=[{"name": "look", "args": {"at": "sea"}, "id": "c"}])]}


app("tool_node", chain(MessagesState, call_tool, ToolNode([look])), question)
app(
    "bound",
    chain(Typed, work, later).with_config(recursion_limit=9).bind(interrupt_before=["later_1"]),
    {"text": "x", "log": []},
)


def in_function() -> Any:
    """Classes of a function are stored under a name that has the function's in it."""
    connection = threading.Lock()  # pydantic remembers the locals around a model, and this one cannot travel.

    class Local(BaseModel):
        size: int

    @dataclasses.dataclass
    class Pair:
        left: int

    def make(state: Any) -> Any:
        return {"local": Local(size=2), "pair": Pair(3), "names": [Local.__qualname__, Pair.__qualname__]}

    assert connection
    # Not as a class: the names in its annotations are this function's, and nobody could resolve them.
    state: Any = TypedDict("State", {"local": Local, "pair": Pair, "names": list[str]}, total=False)  # type: ignore[misc]
    return StateGraph(state).add_node(make).add_edge(START, "make").compile()


app("in_function", in_function(), {"names": []})


def shown(value: Any) -> str:
    """An answer as text to compare: without message IDs that are made up anew for each run."""

    def stable(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: stable(each) for key, each in item.items()}
        if isinstance(item, list):
            return [stable(each) for each in item]
        if hasattr(item, "tool_calls") or isinstance(item, (HumanMessage, ToolMessage)):
            return [item.type, item.content, getattr(item, "tool_calls", None)]
        return item

    return repr(stable(value))


async def answer(graph: Any, given: Any) -> str:
    # As we run it: with a saver put in, which here is LangGraph's own.
    prepared = graph.prepared(InMemorySaver())
    config = {**graph.config, "configurable": {"thread_id": "t"}}
    return shown(await prepared.ainvoke(given, config, durability="sync", **graph.kwargs))


async def main() -> None:
    out = {}
    for name, made in apps.items():
        tries.clear()
        row = dataclasses.asdict(pack(graph := Graph.of(made, name=name), clock=lambda: 1.0))
        row["code"] = row["code"].hex()
        expected = await answer(graph, inputs[name])
        out[name] = {"row": row, "input": inputs[name], "expected": expected}
    Path(sys.argv[1]).write_text(json.dumps(out))


if __name__ == "__main__":
    asyncio.run(main())  # One loop: the clients of models keep to it.
