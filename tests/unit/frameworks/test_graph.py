"""A graph before it runs: what is accepted, what it is called, how it is described, what is said about it."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import types
from pathlib import Path
from typing import Any, Literal, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.func import entrypoint
from langgraph.graph import END, START, StateGraph
from langgraph.pregel.remote import RemoteGraph
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command, Send
from pydantic import BaseModel

from agentspan.errors import ConfigurationError
from agentspan.frameworks.langgraph.app.graph import Graph, is_graph

REPO = Path(__file__).parents[3]


class State(TypedDict, total=False):
    text: str
    count: int


def builder(*names: str) -> StateGraph[Any, Any, Any, Any]:
    made: Any = StateGraph(State)
    for name in names or ("work",):
        made.add_node(name, lambda state: {"count": 1})
    nodes = list(names or ("work",))
    for before, after in zip([START, *nodes], [*nodes, END], strict=True):
        made.add_edge(before, after)
    return made


def model() -> GenericFakeChatModel:
    return GenericFakeChatModel(messages=iter([AIMessage("hello")]))


module_graph = builder("one", "two").compile()


@entrypoint()
def module_entrypoint(text: str) -> str:
    return text


# --- what is accepted ----------------------------------------------------------------------------------------------


def test_looking_for_graphs_imports_nothing() -> None:
    text = (
        "import sys\nfrom agentspan.frameworks.langgraph.app.graph import Graph, is_graph\n"
        "assert not is_graph(object()) and not is_graph('text')\n"
        "print([name for name in sys.modules if name.partition('.')[0] in ('langgraph', 'langchain_core')])"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, cwd=REPO, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("obj", [module_graph, module_entrypoint, builder(), module_graph.bind(), model()])
def test_what_langgraph_or_langchain_runs_is_recognised(obj: Any) -> None:
    assert is_graph(obj)


def test_agents_functions_and_classes_are_no_graphs() -> None:
    assert not any(map(is_graph, (None, "module:app", StateGraph, print, {"a": 1})))


def test_bindings_are_opened_and_the_outermost_wins() -> None:
    bound = module_graph.with_types(input_type=dict).with_config(recursion_limit=7, tags=["inner"])
    graph = Graph.of(bound.bind(interrupt_before=["two"]).with_config(recursion_limit=9, tags=["outer"]))
    assert graph.app is module_graph
    assert graph.config["recursion_limit"] == 9
    assert graph.config["tags"] == ["outer"]  # As LangChain has it.
    assert graph.kwargs == {"interrupt_before": ["two"]}
    assert graph.spec()["recursion_limit"] == 9
    assert graph.spec()["interrupt_before"] == ["two"]


def test_an_uncompiled_graph_is_compiled() -> None:
    graph = Graph.of(builder("a", "b"))
    assert graph.app.invoke({"text": "x"}) == {"text": "x", "count": 1}


def test_a_graph_that_does_not_compile_says_why() -> None:
    broken: Any = StateGraph(State)
    broken.add_edge("nowhere", END)
    with pytest.raises(ConfigurationError, match=r"cannot be compiled: .*nowhere"):
        Graph.of(broken)


@pytest.mark.parametrize(
    ("obj", "words"),
    [
        (module_graph.with_retry(), "RetryPolicy"),
        (module_graph.with_config(tags=["x"]).with_retry(), "RetryPolicy"),
        (module_graph.with_fallbacks([RunnableLambda(dict)]), "with_fallbacks"),
        (module_graph | RunnableLambda(dict), "make f its last node"),
        (module_graph.with_listeners(on_end=print), "with_listeners"),
        (RemoteGraph("there", url="http://127.0.0.1:9"), "call it inside a node"),
        (model(), "A GenericFakeChatModel is not a graph"),
        ("no.such.module:app", "names no graph"),
        ("json:nothing", "names no graph"),
        ("json:", "names no graph"),
        ("json", "names no graph"),
        ("json:dumps", "makes no graph: missing a required argument: 'obj'"),
        ("sys:path", "is a list; give a graph"),
        ("os:getcwd", "returned a str"),
    ],
)
def test_what_cannot_be_made_durable_is_refused_with_the_way_out(obj: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Graph.of(obj)


def test_the_place_of_a_graph_or_of_what_makes_one_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("placed_graphs")
    monkeypatch.setitem(sys.modules, "placed_graphs", module)
    module.__dict__.update(app=module_graph, make=lambda: builder("made").compile(name="made"))
    assert Graph.of("placed_graphs:app").app is module_graph
    made = Graph.of("placed_graphs:make")
    assert (made.name, made.is_made_by_factory) == ("made", True)


def test_a_graph_stays_the_graph_it_is() -> None:
    graph = Graph.of(module_graph)
    assert Graph.of(graph) is graph


def test_preparing_leaves_the_users_graph_alone() -> None:
    app = builder().compile(store=InMemoryStore(), cache=InMemoryCache(), checkpointer=InMemorySaver())
    saver = InMemorySaver()
    prepared = Graph.of(app).prepared(saver)
    assert prepared.checkpointer is saver
    assert app.checkpointer is not saver
    assert (prepared.store, prepared.cache, prepared.nodes) == (app.store, app.cache, app.nodes)
    assert {*vars(app)} == {*vars(prepared)}


# --- names ---------------------------------------------------------------------------------------------------------


def test_the_name_that_the_author_gave_comes_first() -> None:
    assert Graph.of(builder().compile(name="billing")).name == "billing"
    assert Graph.of(create_agent(model(), tools=[], name="helper")).name == "helper"
    assert Graph.of(module_graph, name="explicit").name == "explicit"


@pytest.mark.parametrize(
    ("given", "name"),
    [("My Agent", "My_Agent"), ("2nd", "_2nd"), ("a.b/c", "a_b_c"), ("-x-", "x")],
)
def test_a_name_that_is_no_agents_name_becomes_one(given: str, name: str) -> None:
    assert Graph.of(builder().compile(name=given)).name == name


def test_a_name_without_letters_still_names() -> None:
    assert Graph.of(builder().compile(name="代理")).name.startswith("graph-")


@pytest.mark.parametrize("name", ["has space", "", "1st", 7])
def test_a_name_for_the_deployment_must_be_one(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="cannot name a graph"):
        Graph.of(module_graph, name=name)


def test_an_unnamed_graph_is_called_after_its_variable() -> None:
    assert Graph.of(module_graph).name == "module_graph"
    assert Graph.of(module_entrypoint).name == "module_entrypoint"
    assert Graph.of(module_graph.with_config(tags=["x"])).name != "LangGraph"


def test_a_graph_in_no_variable_is_called_after_its_nodes() -> None:
    names = [Graph.of(builder(*nodes).compile()).name for nodes in (("plan", "write"), ("plan", "write"), ("plan",))]
    assert names[0].startswith("plan_write-")
    assert names[0] == names[1] != names[2]


def test_the_same_nodes_with_other_functions_have_another_name() -> None:
    def first(state: State) -> State:
        return {}

    def second(state: State) -> State:
        return {}

    def graph(function: Any) -> Any:
        return StateGraph(State).add_node("n", function).add_edge(START, "n").compile()  # type: ignore[type-var]

    assert Graph.of(graph(first)).name != Graph.of(graph(second)).name


def test_two_unnamed_graphs_in_variables_of_one_name_do_not_collide(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = {name: types.ModuleType(name) for name in ("shop.billing", "shop.search", "shop.later")}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    modules["shop.billing"].__dict__["workflow_app"] = first = builder("a").compile()
    modules["shop.search"].__dict__["workflow_app"] = second = builder("a").compile()
    assert Graph.of(first).name == "shop_billing_workflow_app"
    assert Graph.of(second).name == "shop_search_workflow_app"
    assert Graph.of(first).name == "shop_billing_workflow_app"

    # One that came alone keeps the short name, also when its cell or module is run again.
    modules["shop.later"].__dict__["lonely_app"] = builder("a").compile()
    assert Graph.of(modules["shop.later"].__dict__["lonely_app"]).name == "lonely_app"
    modules["shop.later"].__dict__["lonely_app"] = builder("b").compile()
    assert Graph.of(modules["shop.later"].__dict__["lonely_app"]).name == "lonely_app"
    modules["shop.search"].__dict__["lonely_app"] = builder("c").compile(name="named")
    assert Graph.of(modules["shop.search"].__dict__["lonely_app"]).name == "named"
    modules["shop.later"].__dict__.pop("lonely_app")
    modules["shop.search"].__dict__["lonely_app"] = builder("c").compile()
    assert Graph.of(modules["shop.search"].__dict__["lonely_app"]).name == "shop_search_lonely_app"


# --- the description -----------------------------------------------------------------------------------------------


def test_the_description_is_plain_and_complete() -> None:
    app = builder("one", "two").compile(name="described", interrupt_before=["two"], interrupt_after="*")
    spec = Graph.of(app).spec()
    assert json.loads(json.dumps(spec, allow_nan=False)) == spec
    assert (spec["kind"], spec["name"], spec["nodes"], spec["fields"]) == (
        "langgraph",
        "described",
        ["one", "two"],
        ["count", "text"],
    )
    assert {(edge["source"], edge["target"]) for edge in spec["edges"]} == {
        ("__start__", "one"),
        ("one", "two"),
        ("two", "__end__"),
    }
    assert "one --> two" in spec["mermaid"].replace("two&nbsp;", "two")
    assert spec["output"] == ["count", "text"]
    assert (spec["interrupt_before"], spec["interrupt_after"]) == (["two"], "*")
    assert spec["input"]["form"] == "fields"
    assert spec["timeout_seconds"] is None
    assert spec["output_schema"] is None
    assert spec["checkpointer"] is None
    assert len(spec["fingerprint"]) == 32


def test_an_agent_tells_its_tools_and_its_limit() -> None:
    def look(at: str) -> str:
        """Look at something."""
        return at

    spec = Graph.of(create_agent(model(), tools=[look], checkpointer=InMemorySaver())).spec()
    assert (spec["tools"], spec["recursion_limit"], spec["checkpointer"]) == (["look"], 9999, "InMemorySaver")


def test_a_graph_in_a_graph_is_drawn() -> None:
    inner = builder("deep").compile()
    outer: Any = StateGraph(State)
    outer.add_node("inner", inner)
    outer.add_edge(START, "inner")
    spec = Graph.of(outer.compile()).spec()
    assert spec["subgraphs"] == ["inner"]
    assert "deep" in spec["mermaid"]


def test_a_remote_graph_inside_is_not_asked_for_its_drawing() -> None:
    outer: Any = StateGraph(State)
    outer.add_node("remote", RemoteGraph("there", url="http://127.0.0.1:9"))
    outer.add_edge(START, "remote")
    assert "remote" in Graph.of(outer.compile()).spec()["mermaid"]


def test_what_langgraph_cannot_draw_is_drawn_from_its_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    app = builder('sa"y', "b").compile()
    monkeypatch.setattr(type(app), "get_graph", lambda self, **_: 1 / 0)
    spec = Graph.of(app).spec()
    assert 'n1["sa&quot;y"];' in spec["mermaid"]
    assert "n1 --> n2;" in spec["mermaid"]
    assert {"source": "b", "target": "__end__", "conditional": False, "label": None} in spec["edges"]


def test_an_app_is_drawn_once_however_often_it_is_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    app = builder("a", "b").compile()
    first = Graph.of(app).spec()
    monkeypatch.setattr(type(app), "get_graph", lambda self, **_: pytest.fail("drawn again"))
    again = Graph.of(app).spec()
    assert again == first
    app.interrupt_before_nodes = ["b"]
    assert Graph.of(app).spec()["interrupt_before"] == ["b"]


def fan(targets: tuple[str, ...] = ("work",)) -> Any:
    def route(state: State) -> list[Send]:
        return [Send("work", state)]

    def decide(state: State) -> Command[Literal["last"]]:
        return Command(goto="last")

    made: Any = StateGraph(State)
    made.add_node("work", lambda state: {})
    made.add_node("decide", decide)
    made.add_node("last", lambda state: {})
    made.add_conditional_edges(START, route, list(targets))
    made.add_edge("work", "decide")
    return made.compile()


class ModelState(BaseModel):
    text: str
    count: int


def test_the_fingerprint_tells_structures_apart() -> None:
    prints = [
        Graph.of(app).spec()["fingerprint"]
        for app in (
            builder("a").compile(),
            builder("a").compile(name="other", interrupt_before="*"),
            builder("b").compile(),
            builder("a", "b").compile(),
            builder("b", "a").compile(),
            fan(),
            fan(("work", "last")),
            module_entrypoint,
            StateGraph(ModelState).add_node("a", lambda state: {}).add_edge(START, "a").compile(),  # type: ignore[type-var]
        )
    ]
    assert prints[0] == prints[1]
    assert len(set(prints)) == len(prints) - 1


# --- what is said about it -----------------------------------------------------------------------------------------


def test_an_ordinary_graph_gets_no_warning() -> None:
    assert Graph.of(module_graph).warnings() == []
    assert Graph.of(builder().compile(checkpointer=InMemorySaver())).warnings() == []


def test_past_threads_of_a_saver_in_memory_are_not_carried_over() -> None:
    app = builder().compile(checkpointer=InMemorySaver())
    app.invoke({"text": "x"}, {"configurable": {"thread_id": "1"}})
    (warning,) = Graph.of(app).warnings()
    assert "The threads that its InMemorySaver holds now are not carried over" in warning


def test_the_threads_of_a_saver_on_disk_are_left_alone() -> None:
    connection = sqlite3.connect(":memory:")
    try:
        (warning,) = Graph.of(builder().compile(checkpointer=SqliteSaver(connection))).warnings()
    finally:
        connection.close()
    assert "SqliteSaver holds are neither read nor written" in warning


def test_what_lives_in_memory_is_named_also_in_an_inner_graph() -> None:
    inner = builder("deep").compile(store=InMemoryStore())
    outer: Any = StateGraph(State)
    outer.add_node("inner", inner)
    outer.add_edge(START, "inner")
    store, cache = sorted(Graph.of(outer.compile(cache=InMemoryCache())).warnings(), reverse=True)
    assert "InMemoryStore is gone when the process" in store
    assert "InMemoryCache is gone when the process" in cache
