"""Graphs packed by one process and run by another, which can import neither the script nor what lies beside it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentspan.actors.shipping import load, pack
from agentspan.errors import CodeMismatchError, CodeMissingError
from agentspan.frameworks.langgraph.app.graph import Graph
from agentspan.persistence.store import DeploymentRow
from tests.support.model_server import ModelServer, text, tool

HERE = Path(__file__).parent
REPO = HERE.parents[2]
KEY = "sk-of-the-default-variable-77"
SPECIAL_KEY = "sk-of-a-variable-of-its-own-88"

HELPER = """
LIMIT = 3

def shout(text):
    return text.upper()

def double(value):
    return value * 2
"""

LOAD = """
import asyncio, dataclasses, json, sys
from pathlib import Path
from agentspan.actors.shipping import load
from agentspan.persistence.store import DeploymentRow
from langgraph.checkpoint.memory import InMemorySaver

packed = json.loads(Path(sys.argv[1]).read_text())

def row_of(entry):
    return DeploymentRow(**entry["row"] | {"code": bytes.fromhex(entry["row"]["code"])})

def attempt(work):
    try:
        return work()
    except Exception as problem:
        return f"{type(problem).__name__}: {problem}"
"""

RUN = """
sys.path.append(sys.argv[3])
from agentspan.frameworks.langgraph.state.statetypes import graph_types

def shown(value):
    def stable(item):
        if isinstance(item, dict):
            return {key: stable(each) for key, each in item.items()}
        if isinstance(item, list):
            return [stable(each) for each in item]
        if hasattr(item, "type") and hasattr(item, "content"):
            return [item.type, item.content, getattr(item, "tool_calls", None)]
        return item
    return repr(stable(value))

async def run(entry):
    graph = load(row_of(entry))
    config = {**graph.config, "configurable": {"thread_id": "t"}}
    app = graph.prepared(InMemorySaver())
    try:
        return shown(await app.ainvoke(entry["input"], config, durability="sync", **graph.kwargs))
    except Exception as problem:
        return f"{type(problem).__name__}: {problem}"

async def run_all():
    return {name: await run(entry) for name, entry in packed.items()}

def spec_is_equal(entry):
    graph, spec = load(row_of(entry)), entry["row"]["spec"]
    return {key: [value, graph.spec()[key]] for key, value in spec.items() if graph.spec()[key] != value}

def rich_types():
    graph = load(row_of(packed["rich"]))
    item = graph.app.invoke({"text": "pen"})["items"][0]
    declared = {cls.__qualname__: cls for cls in graph_types(graph.app)}
    again = load(row_of(packed["rich"]))
    same = {cls.__qualname__: cls for cls in graph_types(again.app)}
    return {
        "declared": sorted(declared),
        "of_the_state": declared["Item"] is type(item) and declared["Colour"] is type(item.colour),
        "of_each_load": all(same[name] is cls for name, cls in declared.items()),
    }

from langchain_openai import ChatOpenAI

def model_of(name):
    def search(value, depth=0):
        if isinstance(value, ChatOpenAI):
            return value
        cells = [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()]
        for inner in cells if depth < 5 else ():
            if (found := search(inner, depth + 1)) is not None:
                return found
    graph = load(row_of(packed[name]))
    return search(graph.app.nodes["model"].bound.func) or search(graph.app.nodes["model"].bound.afunc)

answer = {
    "runs": asyncio.run(run_all()),
    "specs": {name: attempt(lambda: spec_is_equal(entry)) for name, entry in packed.items()},
    "types": attempt(rich_types),
    "keys": {
        name: model_of(name).openai_api_key.get_secret_value() for name in ("openai_agent", "openai_other_key")
    },
    "temperature": model_of("openai_agent").temperature,
    "modules": [name for name in ("helper", "shipped_app") if name in sys.modules],
    "savers": {name: repr(load(row_of(packed[name])).app.checkpointer) for name in ("own_saver", "policies", "typed_entry")},
}
Path(sys.argv[2]).write_text(json.dumps(answer))
"""


def python(folder: Path, *arguments: str, **env: str) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.endswith(("_KEY", "_TOKEN"))}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=clean | {"PYTHONPATH": str(REPO)} | env,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    with ModelServer([tool("look", {"at": "sky"}), text("a blue sky")], by="conversation") as running:
        yield running


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, server: ModelServer) -> dict[str, Any]:
    """What the script wrote when it ran as `__main__`: rows, inputs, and what its graphs answered there."""
    folder = tmp_path_factory.mktemp("here")
    (folder / "helper.py").write_text(HELPER)
    shutil.copy(HERE / "shipped_app.py", folder / "main.py")
    keys = {"OPENAI_API_KEY": KEY, "SPECIAL_MODEL_KEY": SPECIAL_KEY, "MODEL_URL": server.url}
    for out, seed in (("first.json", "1"), ("second.json", "2")):
        python(folder, "main.py", out, PYTHONHASHSEED=seed, **keys)
    first, second = (json.loads((folder / out).read_text()) for out in ("first.json", "second.json"))
    changed = [
        name for name, entry in first.items() if entry["row"]["deployment_id"] != second[name]["row"]["deployment_id"]
    ]
    return first | {"": {"changed": changed}}


@pytest.fixture(scope="module")
def there(packed: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What became of the graphs in a fresh process in another folder. Its default key is another one."""
    folder = tmp_path_factory.mktemp("there")
    (folder / "rows.json").write_text(json.dumps({name: entry for name, entry in packed.items() if name}))
    keys = {"OPENAI_API_KEY": "sk-another-on-the-cluster", "SPECIAL_MODEL_KEY": "sk-special-on-the-cluster"}
    python(folder, "-c", LOAD + RUN, "rows.json", "answer.json", str(REPO), **keys)
    answer: dict[str, Any] = json.loads((folder / "answer.json").read_text())
    return answer


NAMES = [
    "Typed",
    "Derived",
    "TypedExtension",
    "Model",
    "Data",
    "functional_schema",
    "custom_reducers",
    "messages",
    "rich",
    "functions",
    "send",
    "command",
    "nested",
    "called",
    "policies",
    "own_saver",
    "store",
    "typed_entry",
    "untyped_entry",
    "final_entry",
    "create_agent",
    "create_agent_middleware",
    "create_react_agent",
    "openai_agent",
    "openai_in_node",
    "openai_structured",
    "openai_other_key",
    "embeddings",
    "tool_node",
    "bound",
    "in_function",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_answers_the_same_in_another_process(packed: Any, there: Any, name: str) -> None:
    assert there["runs"][name] == packed[name]["expected"]
    assert packed[name]["row"]["kind"] == "langgraph"
    assert packed[name]["row"]["source"] == "value"


def test_every_graph_of_the_script_is_compared(packed: Any) -> None:
    assert sorted(NAMES) == sorted(name for name in packed if name)


def test_the_answers_are_not_all_alike(packed: Any) -> None:
    assert "a blue sky" in packed["openai_agent"]["expected"]
    assert "I heard SKY!" in packed["create_agent"]["expected"]
    assert "from the store" in packed["store"]["expected"]
    assert packed["typed_entry"]["expected"] == "10"


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_keeps_the_description_it_was_deployed_with(there: Any, name: str) -> None:
    assert there["specs"][name] == {}


def test_nothing_was_imported_from_where_the_script_lay(there: Any) -> None:
    assert there["modules"] == []


def test_a_script_that_runs_again_makes_no_new_version(packed: Any) -> None:
    # A store is its data, and that says when each item was put.
    assert packed[""]["changed"] == ["store"]


def test_the_classes_of_a_state_are_the_ones_its_schemas_declare(there: Any) -> None:
    assert there["types"] == {"declared": ["Colour", "Item", "Point"], "of_the_state": True, "of_each_load": True}


def test_keys_do_not_travel_and_are_read_where_the_graph_runs(packed: Any, there: Any) -> None:
    for name in NAMES:
        code = bytes.fromhex(packed[name]["row"]["code"])
        assert KEY.encode() not in code
        assert SPECIAL_KEY.encode() not in code
    assert there["keys"] == {
        "openai_agent": "sk-another-on-the-cluster",
        "openai_other_key": "sk-special-on-the-cluster",
    }
    assert there["temperature"] == 0.25


def test_savers_stay_where_they_are(there: Any) -> None:
    assert set(there["savers"].values()) == {"None"}


# --- what cannot travel --------------------------------------------------------------------------------------------

REFUSED = """
import contextvars, io, queue, sqlite3, sys, threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, TypedDict
import httpx
from langchain.agents import create_agent
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import START, StateGraph
from langgraph.store.sqlite import SqliteStore
from agentspan.actors.shipping import pack
from agentspan.errors import UnshippableCodeError
from agentspan.frameworks.langgraph.app.graph import Graph

class State(TypedDict):
    text: str

def build(node, **options):
    return StateGraph(State).add_node("work", node).add_edge(START, "work").compile(name="shop", **options)

lock = threading.Lock()
local = threading.local()
connection = sqlite3.connect(":memory:")
client = httpx.Client()
pool = ThreadPoolExecutor(1)
variable = contextvars.ContextVar("v")
file = open(sys.argv[0])
secret = "sk-in-the-script-itself-99"
model = {"api_key": "sk-dummy", "base_url": "http://127.0.0.1:9", "model": "m"}

def locked(state):
    with lock:
        return {}

def deep(state):
    return locked(state)

def holding(thing):
    return lambda state: {"text": str(thing)}

def reduce(old, new):
    with lock:
        return new

class Reduced(TypedDict):
    text: Annotated[str, reduce]

@tool
def guarded(x: str) -> str:
    "Look."
    with lock:
        return x

def late(state):
    import beside
    return {}

def agent(**fields):
    return create_agent(ChatOpenAI(**model | fields), tools=[], name="shop")

def router(state):
    return lock.locked() and "work"

routed = StateGraph(State).add_node("work", holding(1)).add_conditional_edges(START, router, ["work"]).compile()

graphs = {
    "lock": build(locked),
    "deep": build(deep),
    "reducer": StateGraph(Reduced).add_node("work", holding(1)).add_edge(START, "work").compile(name="shop"),
    "router": routed,
    "local": build(holding(local)),
    "sqlite": build(holding(connection)),
    "client": build(holding(client)),
    "pool": build(holding(pool)),
    "variable": build(holding(variable)),
    "file": build(holding(file)),
    "generator": build(holding(n for n in "ab")),
    "store": build(holding(1), store=SqliteStore(connection)),
    "tool": create_agent(ChatOpenAI(**model), tools=[guarded], name="shop"),
    "http_client": agent(http_client=client),
    "limiter": agent(rate_limiter=InMemoryRateLimiter()),
    "late": build(late),
    "secret": build(holding(secret)),
    "header": agent(default_headers={"X-Key": secret}),
    "factory": "beside:make",
    "key": create_agent(ChatOpenAI(model="m", api_key="my-own-service-0a1b2c3d4e"), tools=[], name="shop"),
    "key_in_node": build(lambda state: {"text": "sk-proj-0a1B2c3D4e5F6g7H8i9J"}),
    "stand_in": create_agent(ChatOpenAI(model="m", api_key="not-needed-by-this-local-server"), tools=[], name="shop"),
}

import json
said = {}
for name, app in graphs.items():
    try:
        pack(Graph.of(app, name="shop"))
        said[name] = "packed"
    except UnshippableCodeError as error:
        said[name] = [error.culprit, error.problem, error.remedy]
Path(sys.argv[1]).write_text(json.dumps(said))
"""

BESIDE = """
from typing import TypedDict
from langgraph.graph import START, StateGraph

def make():
    return StateGraph(dict).add_node("work", lambda state: {}).add_edge(START, "work").compile()
"""


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("refused")
    (folder / "main.py").write_text(REFUSED)
    (folder / "beside.py").write_text(BESIDE)
    python(folder, "main.py", "said.json", SHOP_API_KEY="sk-in-the-script-itself-99")
    said: dict[str, Any] = json.loads((folder / "said.json").read_text())
    return said


@pytest.mark.parametrize(
    ("name", "culprit"),
    [
        ("lock", "node 'work' refers to the global 'lock' (a _thread.lock)"),
        ("deep", "node 'work' refers to the global 'locked', which refers to the global 'lock' (a _thread.lock)"),
        ("reducer", "the reducer of 'text' refers to the global 'lock' (a _thread.lock)"),
        ("router", "the router after '__start__' refers to"),
        ("local", "(a _thread._local)"),
        ("sqlite", "node 'work' refers to the variable 'thing' of the function around it (a sqlite3.Connection)"),
        ("client", "node 'work' refers to the variable 'thing' of the function around it"),
        ("pool", "node 'work' refers to the variable 'thing' of the function around it"),
        (
            "variable",
            "node 'work' refers to the variable 'thing' of the function around it (a _contextvars.ContextVar)",
        ),
        ("file", "node 'work' refers to the variable 'thing' of the function around it (a _io.TextIOWrapper)"),
        ("generator", "node 'work' refers to the variable 'thing' of the function around it (a generator)"),
        ("store", "its store refers to its attribute"),
        ("tool", "tool 'guarded' refers to the global 'lock' (a _thread.lock)"),
        ("http_client", "its attribute 'http_client'"),
        ("limiter", "its attribute 'rate_limiter'"),
        ("late", "node 'work' cannot be shipped"),
        ("secret", "node 'work' refers to the variable 'thing' of the function around it (a str)"),
        ("header", "refers to"),
        ("factory", "the function that makes it, beside:make, is not in an installed module"),
    ],
)
def test_what_cannot_travel_is_named_with_the_way_to_it(refused: Any, name: str, culprit: str) -> None:
    assert refused[name] != "packed"
    assert culprit in refused[name][0]


def test_keys_in_the_code_are_refused_and_stand_ins_are_not(refused: Any) -> None:
    for name, begins in (("key", "my-own"), ("key_in_node", "sk-pro")):
        culprit, problem, remedy = refused[name]
        assert f"{begins}…" in problem
        assert "0a1" not in culprit + problem + remedy, "not the key itself"
        assert "where the server runs" in remedy
    assert "its attribute 'openai_api_key'" in refused["key"][0]
    assert refused["key_in_node"][0].startswith("node 'work'")
    assert refused["stand_in"] == "packed"


def test_the_remedy_speaks_of_nodes(refused: Any) -> None:
    assert refused["lock"][2] == (
        "Create it inside the node that uses it; or have a function of an installed module make the graph, and pass its "
        'place, "module:function"; or run the graph in this process with host="client".'
    )
    assert refused["file"][2] == "Open it inside the node."
    assert refused["late"][2] == "Import 'beside' at the top of the file, and it travels with the graph."
    assert refused["secret"][2].startswith("Read os.environ['SHOP_API_KEY'] inside the node")


# --- by reference --------------------------------------------------------------------------------------------------

INSTALLED = """
from typing import TypedDict
from langgraph.graph import START, StateGraph

class State(TypedDict):
    text: str

class Extra:
    pass

def work(state):
    return {"text": state["text"] + "!"}

builder = StateGraph(State)
builder.add_node("work", work)
builder.add_edge(START, "work")
flow = builder.compile()
bound = flow.with_config(recursion_limit=5)

def make():
    return builder.compile(name="made")
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module of an installed distribution; `rewrite(text)` makes it another version."""
    site = tmp_path / "site-packages"
    site.mkdir()
    info = site / "shopkit-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shopkit\nVersion: 1.0\n")
    (info / "top_level.txt").write_text("shopkit\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr("agentspan.actors.references._site_folders", lambda: [site.resolve()])

    def rewrite(source: str) -> Any:
        sys.modules.pop("shopkit", None)
        shutil.rmtree(site / "__pycache__", ignore_errors=True)
        (site / "shopkit.py").write_text(textwrap.dedent(source))
        import importlib

        importlib.invalidate_caches()
        return importlib.import_module("shopkit")

    yield rewrite
    sys.modules.pop("shopkit", None)


@pytest.mark.parametrize(
    ("given", "reference", "name"),
    [
        ("flow", "shopkit:flow", "flow"),
        ("builder", "shopkit:builder", "builder"),
        ("bound", "shopkit:bound", "bound"),
        ("shopkit:flow", "shopkit:flow", "flow"),
        ("shopkit:make", "shopkit:make", "made"),
    ],
)
def test_a_graph_of_an_installed_module_goes_by_its_name(installed: Any, given: str, reference: str, name: str) -> None:
    module = installed(INSTALLED)
    graph = Graph.of(given if ":" in given else getattr(module, given))
    row = pack(graph)
    # With its module in front where another test of this process holds a graph under the same name.
    name = row.agent if row.agent == f"shopkit_{name}" else name
    assert (row.source, row.reference, row.code, row.agent, row.kind) == (
        "reference",
        reference,
        None,
        name,
        "langgraph",
    )
    loaded = load(row)
    assert isinstance(loaded, Graph)
    assert (loaded.name, loaded.config) == (name, graph.config)
    assert loaded.app.invoke({"text": "x"}) == {"text": "x!"}


def test_a_name_given_at_deployment_is_kept(installed: Any) -> None:
    assert load(pack(Graph.of(installed(INSTALLED).flow, name="renamed"))).name == "renamed"


def test_types_that_an_installed_module_has_are_found_again(installed: Any) -> None:
    module = installed(INSTALLED)
    row = pack(Graph.of(module.flow, types=[module.Extra]))
    assert row.source == "reference"
    assert load(row).types == (module.Extra,)


def test_types_that_only_this_process_has_make_a_graph_go_by_value(installed: Any) -> None:
    class Local:
        pass

    row = pack(Graph.of(installed(INSTALLED).flow, types=[Local]))
    assert row.source == "value"


def test_a_later_version_with_more_nodes_is_taken(installed: Any) -> None:
    row = pack(Graph.of(installed(INSTALLED).flow))
    installed(INSTALLED.replace("flow = ", 'builder.add_node("more", work)\nbuilder.add_edge("work", "more")\nflow = '))
    assert load(row).app.invoke({"text": "x"}) == {"text": "x!!"}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (INSTALLED.replace('"work"', '"other"'), "no longer has the nodes work"),
        (INSTALLED.replace("text: str", "words: str"), "no longer has the fields text"),
        (
            INSTALLED.replace("flow = builder.compile()", "flow = builder.compile\nflow.name = 1")
            .replace("\nflow.name = 1", "")
            .replace("bound = flow", "bound = builder.compile()")
            .replace("flow = builder.compile\n", "flow = 7\n"),
            "is an int",
        ),
        (INSTALLED.replace("flow", "gone"), "shopkit:flow"),
    ],
)
def test_a_later_version_without_what_was_deployed_is_refused(installed: Any, source: str, words: str) -> None:
    row = pack(Graph.of(installed(INSTALLED).flow))
    installed(source)
    with pytest.raises(CodeMissingError, match=words):
        load(row)


def test_a_new_version_of_the_code_is_a_new_deployment(installed: Any) -> None:
    first = pack(Graph.of(installed(INSTALLED).flow))
    assert pack(Graph.of(installed(INSTALLED).flow)).deployment_id == first.deployment_id
    second = pack(Graph.of(installed(INSTALLED.replace('"!"', '"?"')).flow))
    assert second.deployment_id != first.deployment_id


# --- versions ------------------------------------------------------------------------------------------------------


def test_a_graph_by_value_of_another_version_of_langgraph_is_refused(packed: Any) -> None:
    entry = packed["Typed"]["row"]
    row = DeploymentRow(
        **entry | {"code": bytes.fromhex(entry["code"])} | {"spec": entry["spec"] | {"langgraph": "1.2.0.dev1"}}
    )
    with pytest.raises(CodeMismatchError, match=r"with langgraph 1\.2\.0\.dev1"):
        load(row)


def test_a_missing_key_is_named_when_the_graph_is_loaded(packed: Any, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps({"openai_agent": packed["openai_agent"]}))
    check = """
    from agentspan.errors import ConfigurationError
    try:
        load(row_of(packed["openai_agent"]))
    except ConfigurationError as problem:
        Path(sys.argv[2]).write_text(str(problem))
    """
    python(tmp_path, "-c", LOAD + textwrap.dedent(check), "rows.json", "said.txt")
    assert (
        "the environment variable OPENAI_API_KEY, which is not set where it runs" in (tmp_path / "said.txt").read_text()
    )
