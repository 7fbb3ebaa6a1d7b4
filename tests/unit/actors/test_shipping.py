"""Code leaves one process and is loaded by another that cannot import its modules."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
import sys
import tempfile
import textwrap
import threading
import types
from pathlib import Path
from typing import Any, NewType

import pytest
from ray import cloudpickle

from agentspan.actors import localcode, locality, refusing
from agentspan.actors.shipping import load_key, pack, sign, unpack, verify
from agentspan.agents.agent import Agent
from agentspan.agents.callbacks import CallbackHandler
from agentspan.agents.tools import tool
from agentspan.credentials import keys_in
from agentspan.errors import (
    CodeMismatchError,
    CodeMissingError,
    ConfigurationError,
    UnshippableCodeError,
    UntrustedCodeError,
)
from agentspan.persistence.store import DeploymentRow

BARE = functools._NOT_FOUND  # type: ignore[attr-defined]
ABSENT = object()
REPO = Path(__file__).parents[3]
KEY = b"k" * 32

PACK = """
import dataclasses, json, sys
from pathlib import Path
from agentspan.actors.shipping import pack, sign
row = dataclasses.asdict(sign(pack(agent, clock=lambda: 12.0), b"k" * 32))
row["code"] = row["code"] and row["code"].hex()
Path(sys.argv[1]).write_text(json.dumps(row))
"""

LOAD = """
import asyncio, inspect, json, os, sys, time
from pathlib import Path
from agentspan.actors.shipping import unpack
from agentspan.persistence.store import DeploymentRow
from agentspan.errors import AgentspanError

row = json.loads(Path(sys.argv[1]).read_text())
row["code"] = row["code"] and bytes.fromhex(row["code"])
row = DeploymentRow(**row)

def use(agent, name, raw):
    definition = agent.tool_defs[name]
    result = definition.func(**definition.validate_arguments(raw))
    return asyncio.run(result) if inspect.iscoroutine(result) else result

def attempt(work):
    try:
        return work()
    except Exception as problem:
        return {"error": type(problem).__name__, "text": str(problem)}
"""


def run(folder: Path, *arguments: str, python: str = sys.executable, **env: str) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.endswith(("_KEY", "_TOKEN"))}
    done = subprocess.run(
        [python, *arguments],
        cwd=folder,
        env=clean | {"PYTHONPATH": str(REPO)} | env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def write(folder: Path, **files: str) -> Path:
    """Write files; `a__b` is `a/b.py`."""
    for name, text in files.items():
        path = folder / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return folder


def packed_by(project: Path, out: Path, *, python: str = sys.executable, **env: str) -> DeploymentRow:
    script = project / "main.py"
    if PACK not in script.read_text():
        script.write_text(script.read_text() + PACK)
    run(project, "main.py", str(out), python=python, **env)
    row = json.loads(out.read_text())
    return DeploymentRow(**row | {"code": row["code"] and bytes.fromhex(row["code"])})


def loaded_by(folder: Path, row_file: Path, text: str, *, python: str = sys.executable, **env: str) -> Any:
    write(folder, load=LOAD + textwrap.dedent(text) + "\nPath(sys.argv[2]).write_text(json.dumps(answer))")
    run(folder, "load.py", str(row_file), str(folder / "answer.json"), python=python, **env)
    return json.loads((folder / "answer.json").read_text())


# --- by value, in another process ----------------------------------------------------------------------------------

MAIN = """
import asyncio, enum, functools, os
from dataclasses import dataclass
from typing import Callable, Generic, NewType, ParamSpec, TypeVar
from pydantic import BaseModel, RootModel, field_validator
from typing_extensions import TypedDict
import helper
from pkg.inner import shout
from agentspan.agents.agent import Agent
from agentspan.agents.callbacks import CallbackHandler
from agentspan.agents.tools import tool
from orders import Order, price

Euros = NewType("Euros", int)

class Colour(enum.Enum):
    RED = "red"

class Line(BaseModel):
    text: str
    colour: Colour = Colour.RED

    @field_validator("text")
    @classmethod
    def strip(cls, value):
        return value.strip()

class Note(BaseModel):
    lines: list[Line]

P = ParamSpec("P")
R = TypeVar("R")
ABSENT = object()

def typed(function: Callable[P, R]) -> Callable[P, R]:
    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        return function(*args, **kwargs)
    return wrapper

class Page(BaseModel, Generic[R]):
    items: list[R]

class Numbers(RootModel[list[int]]):
    pass

def first(numbers, default=ABSENT):
    return "absent" if default is ABSENT else default

@dataclass
class Point:
    x: int
    y: int = 2

class Box(TypedDict):
    point: Point

def twice(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs) * 2
    return wrapper

def plus(amount):
    def decorate(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            return function(*args, **kwargs) + amount
        return wrapper
    return decorate

@functools.lru_cache(maxsize=7)
def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)

@tool
def plain(text: str) -> str:
    return helper.greet(text)

@tool
async def later(n: int) -> int:
    await asyncio.sleep(0)
    return await helper.increase(n)

@tool
@twice
@plus(1)
def decorated(n: int) -> int:
    return n

def make(offset):
    seen = {"offset": offset}

    @tool
    def closed(n: int) -> int:
        return n + seen["offset"]
    return closed

@tool
def cached(n: int) -> int:
    return fib(n) + helper.cached_square(n)

@tool
def noted(note: Note, money: Euros, box: Box) -> str:
    assert isinstance(note, Note) and isinstance(note.lines[0].colour, Colour)
    return f"{note.lines[0].text}|{money}|{box['point'].x + box['point'].y}"

@tool
@typed
def generic(page: Page[int], numbers: Numbers) -> list:
    return [page.items, numbers.root, first(numbers)]

@tool
def ordered(order: Order) -> int:
    assert isinstance(order, Order)
    return price(order)

@tool
def shouted(text: str) -> str:
    return shout(text)

@tool
def from_environment() -> str:
    return os.environ["WHERE"] + helper.environ["WHERE"]

@tool
def chosen(word: str) -> bool:
    return word in {"alpha", "beta", "gamma", "delta", "epsilon"}

class Shop:
    def __init__(self, stock): self.stock = stock
    @tool
    def count(self, item: str) -> int:
        return self.stock[item]

class Listener(CallbackHandler):
    def __init__(self): self.heard = []
    def on_tool_end(self, **kwargs): self.heard.append(helper.greet(kwargs["tool_name"]))

def write_instructions():
    return helper.greet("instructions")

agent = Agent(
    "support", "openai/gpt-4o", write_instructions,
    tools=[plain, later, decorated, generic, make(40), cached, noted, ordered, shouted, from_environment, chosen,
           Shop({"pen": 3}).count],
    output_type=Note, dependencies={"shop": Shop({"ink": 9})}, callbacks=[Listener()],
    stop_when=lambda context: helper.greet("stop") == "hello stop",
)
"""

HELPER = """
import functools
from os import environ
from deeper import WORD

def greet(name):
    return f"{WORD} {name}"

async def increase(n):
    return n + 1

@functools.lru_cache
def cached_square(n):
    return n * n
"""

ORDERS = """
from __future__ import annotations
from pydantic import BaseModel

class Item(BaseModel):
    name: str
    cents: int

class Order(BaseModel):
    items: list[Item]
    parent: Order | None = None

def price(order: Order) -> int:
    return sum(item.cents for item in order.items)
"""


def write_project(folder: Path) -> Path:
    return write(
        folder,
        main=MAIN,
        helper=HELPER,
        deeper="WORD = 'hello'",
        orders=ORDERS,
        pkg____init__="",
        pkg__inner="from . import sounds\ndef shout(text): return sounds.loud(text)",
        pkg__sounds="def loud(text): return text.upper()",
    )


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory) -> tuple[DeploymentRow, dict[str, Any]]:
    """The project packed in one process, and what became of it in another."""
    here, there = write_project(tmp_path_factory.mktemp("here")), tmp_path_factory.mktemp("there")
    row = packed_by(here, there / "row.json", WHERE="here ", OTHER_SECRET_THING="not to be shipped")
    answer = loaded_by(
        there,
        there / "row.json",
        """
        assert attempt(lambda: __import__("helper"))["error"] == "ModuleNotFoundError"
        first = time.perf_counter()
        agent = unpack(row, b"k" * 32)
        times = [time.perf_counter() - first]
        for _ in range(9):
            started = time.perf_counter()
            unpack(row, b"k" * 32)
            times.append(time.perf_counter() - started)
        note = '{"lines": [{"text": " hi "}]}'
        agent.callbacks[0].on_tool_end(tool_name="t")
        answer = {
            "plain": attempt(lambda: use(agent, "plain", {"text": "you"})),
            "later": attempt(lambda: use(agent, "later", {"n": 1})),
            "decorated": attempt(lambda: use(agent, "decorated", {"n": 4})),
            "closed": attempt(lambda: use(agent, "closed", {"n": 2})),
            "cached": attempt(lambda: use(agent, "cached", {"n": 10})),
            "noted": attempt(lambda: use(agent, "noted",
                '{"note": %s, "money": 5, "box": {"point": {"x": 1}}}' % note)),
            "ordered": attempt(lambda: use(agent, "ordered", {"order": {"items": [{"name": "a", "cents": 7}]}})),
            "generic": attempt(lambda: use(agent, "generic", {"page": {"items": [1]}, "numbers": [2]})),
            "refused": attempt(lambda: use(agent, "ordered", {"order": {"items": 1}})),
            "shouted": attempt(lambda: use(agent, "shouted", {"text": "hey"})),
            "from_environment": attempt(lambda: use(agent, "from_environment", {})),
            "chosen": attempt(lambda: use(agent, "chosen", {"word": "beta"})),
            "count": attempt(lambda: use(agent, "count", {"item": "pen"})),
            "instructions": attempt(lambda: agent.instructions()),
            "stop": attempt(lambda: agent.stop_when(None)),
            "dependency": attempt(lambda: agent.dependencies["shop"].stock["ink"]),
            "heard": agent.callbacks[0].heard,
            "output": attempt(lambda: agent.parse_output(note)[1].lines[0].text),
            "bad_output": attempt(lambda: agent.parse_output("{}")),
            "spec_is_equal": json.loads(json.dumps(__import__("dataclasses").asdict(agent.spec()))) == row.spec,
            "times": times,
        }
        """,
        WHERE="there ",
    )
    return row, answer


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain", "hello you"),
        ("later", 2),
        ("decorated", 10),
        ("closed", 42),
        ("cached", 155),
        ("noted", "hi|5|3"),
        ("generic", [[1], [2], "absent"]),
        ("ordered", 7),
        ("shouted", "HEY"),
        ("from_environment", "there there "),
        ("chosen", True),
        ("count", 3),
        ("instructions", "hello instructions"),
        ("stop", True),
        ("dependency", 9),
        ("heard", ["hello t"]),
        ("output", "hi"),
        ("spec_is_equal", True),
    ],
)
def test_local_code_runs_in_a_process_that_cannot_import_it(journey: Any, name: str, expected: Any) -> None:
    assert journey[1][name] == expected


def test_shipped_models_still_validate(journey: Any) -> None:
    assert journey[1]["refused"]["error"] == "ToolArgumentsError"
    assert journey[1]["bad_output"]["error"] == "OutputFormatError"


def test_unpacking_takes_milliseconds(journey: Any) -> None:
    assert sorted(journey[1]["times"])[5] < 0.1


def test_the_row_says_how_it_was_made(journey: Any) -> None:
    row = journey[0]
    assert (row.agent, row.kind, row.source, row.reference) == ("support", "agent", "value", None)
    assert row.python == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert row.created_at == 12.0
    assert len(row.deployment_id) == 32
    assert row.spec["tools"]["plain"]["kind"] == "function"


def test_a_librarys_sentinels_stay_themselves() -> None:
    assert _copy(dataclasses.MISSING) is dataclasses.MISSING
    assert _copy([BARE])[0] is BARE
    assert _copy([ABSENT, ABSENT])[0] is not ABSENT


def _copy(value: Any) -> Any:
    return cloudpickle.loads(localcode.pickle_by_value(value).code)


def test_the_environment_does_not_travel(journey: Any) -> None:
    assert b"not to be shipped" not in journey[0].code


def test_the_id_is_the_same_in_every_run_and_another_for_other_code(tmp_path: Path) -> None:
    project = write_project(tmp_path / "p")
    ids = {packed_by(project, tmp_path / "row", PYTHONHASHSEED=seed).deployment_id for seed in ("1", "2", "3")}
    (project / "deeper.py").write_text("WORD = 'hallo'")
    ids.add(changed := packed_by(project, tmp_path / "row").deployment_id)
    assert len(ids) == 2
    assert changed in ids


# --- refusals, before anything is deployed -------------------------------------------------------------------------

lock = threading.Lock()
log_file = None
ApiKey = NewType("ApiKey", str)


class Client:
    def __init__(self) -> None:
        self.guard = threading.Lock()


class Sentinel:
    def __reduce__(self) -> str:
        return "MISSING"


MISSING = Sentinel()
client = Client()
secret = ""


def charge() -> None:
    client.guard.acquire()


def agent_of(*functions: Any, **options: Any) -> Agent:
    return Agent("support", "openai/gpt-4o", tools=[tool(function) for function in functions], **options)


def refusal(agent: Agent) -> UnshippableCodeError:
    with pytest.raises(UnshippableCodeError) as caught:
        pack(agent)
    assert caught.value.agent == "support"
    return caught.value


def test_a_global_that_cannot_be_pickled_is_named() -> None:
    def refund() -> None:
        lock.acquire()

    error = refusal(agent_of(refund))
    assert error.culprit == "tool 'refund' refers to the global 'lock' (a _thread.lock)"
    assert str(error) == (
        "Agent 'support' cannot be deployed: tool 'refund' refers to the global 'lock' (a _thread.lock). It cannot be "
        "pickled (cannot pickle '_thread.lock' object). Create it inside the tool, or put the agent into an installed "
        "module so that it is deployed by reference."
    )


def test_the_way_to_the_culprit_is_told() -> None:
    def refund() -> None:
        charge()

    assert refusal(agent_of(refund)).culprit == (
        "tool 'refund' refers to the global 'charge', which refers to the global 'client', which refers to its "
        "attribute 'guard' (a _thread.lock)"
    )


def test_a_closure_variable_and_a_default_are_named() -> None:
    guard = threading.Lock()

    def closed() -> None:
        guard.acquire()

    def preset(text: str) -> None: ...

    preset.__defaults__ = (threading.Lock(),)
    closed_over = refusal(agent_of(closed)).culprit
    assert closed_over == "tool 'closed' refers to the variable 'guard' of the function around it (a _thread.lock)"
    partly = functools.partial(preset, threading.Lock())
    assert "'stop_when'" not in (told := refusal(Agent("support", "m/x", stop_when=partly)).culprit)
    assert told.startswith("stop_when refers to its function, which refers to the default of 'text' (a _thread.lock)")


def test_instructions_callbacks_and_dependencies_are_named() -> None:
    class Listener(CallbackHandler):
        def __init__(self) -> None:
            self.guard = threading.Lock()

    def instructions() -> str:
        return str(lock)

    cases = {
        "instructions refers to the global 'lock' (a _thread.lock)": {"instructions": instructions},
        'dependencies["db"] is a _thread.lock': {"dependencies": {"db": threading.Lock()}},
        "callbacks[0] refers to its attribute 'guard' (a _thread.lock)": {"callbacks": [Listener()]},
    }
    for culprit, options in cases.items():
        assert refusal(Agent("support", "m/x", **options)).culprit == culprit


def test_an_open_file_is_refused_rather_than_copied(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("private")
    with (tmp_path / "log").open() as file, (tmp_path / "log").open("rb") as binary:

        def read() -> str:
            return file.read()

        def read_bytes() -> bytes:
            return binary.read()

        assert refusal(agent_of(read)).problem == "It is an open file"
        assert refusal(agent_of(read_bytes)).problem == "It is an open file"
    with tempfile.NamedTemporaryFile() as temporary:

        def read_temporary() -> Any:
            return temporary.read()

        assert "open file" in str(refusal(agent_of(read_temporary)))


def test_standard_output_is_taken_by_name() -> None:
    out = sys.stdout

    def shout() -> bool:
        return out is not None

    assert unpack(sign(pack(agent_of(shout)), KEY), KEY).tool_defs["shout"].func() is True


def test_an_import_of_a_local_module_inside_a_tool_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, lazy_helper="def answer(): return 42", lazy_pkg____init__="", lazy_pkg__deep="X = 1")
    monkeypatch.syspath_prepend(str(tmp_path))

    def look_up() -> int:
        def inner() -> int:
            from lazy_helper import answer  # type: ignore[import-not-found]

            return int(answer())

        return inner()

    def look_deeper() -> int:
        import lazy_pkg.deep  # type: ignore[import-not-found]

        return int(lazy_pkg.deep.X)

    error = refusal(agent_of(look_up))
    assert error.culprit == "tool 'look_up' cannot be shipped"
    assert "imports the local module 'lazy_helper' when it runs" in error.problem
    assert error.remedy == "Import 'lazy_helper' at the top of the file, and it travels with the agent."
    assert "'lazy_pkg.deep'" in refusal(agent_of(look_deeper)).problem


def test_imports_of_installed_and_absent_modules_inside_a_tool_are_fine() -> None:
    def look_up() -> str:
        import json

        import pydantic

        try:
            import no_such_module_anywhere  # type: ignore[import-not-found]
        except ImportError:
            no_such_module_anywhere = None
        return json.dumps([pydantic.__name__, no_such_module_anywhere])

    assert pack(agent_of(look_up)).source == "value"


def test_what_pickles_only_by_a_local_name_is_refused() -> None:
    def find() -> bool:
        return MISSING is None  # type: ignore[comparison-overlap]

    error = refusal(agent_of(find))
    assert error.culprit.startswith("tool 'find' refers to the global 'MISSING' (a")
    assert "can only be pickled by name" in error.problem


def test_the_value_of_a_key_is_refused_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_API_KEY", "sk-0123456789")
    monkeypatch.setenv("SHOP_TOKEN", "short")
    monkeypatch.setitem(globals(), "secret", "Bearer sk-0123456789")

    def search() -> str:
        return secret

    def literal() -> str:
        return "sk-0123456789"

    def harmless() -> str:
        return "short"

    error = refusal(agent_of(harmless, search))
    assert error.culprit == "tool 'search' refers to the global 'secret' (a str)"
    assert "SHOP_API_KEY" in error.problem
    assert "sk-0123456789" not in str(error)
    assert error.remedy.startswith("Read os.environ['SHOP_API_KEY'] inside the tool")
    assert refusal(agent_of(literal)).culprit == "tool 'literal' cannot be shipped"
    assert 'metadata["key"]' in refusal(agent_of(metadata={"key": "sk-0123456789"})).culprit
    assert pack(agent_of(harmless)).source == "value"


def test_what_has_the_form_of_a_key_is_refused_whatever_holds_it() -> None:
    key = "-".join(["sk", "proj", "0a1B2c3D4e5F6g7H8i9J"])  # Not in one piece: this module is shipped, too.

    def search() -> str:
        return key

    error = refusal(agent_of(search))
    assert error.culprit == "tool 'search' refers to the variable 'key' of the function around it (a str)"
    assert error.problem == "It holds what looks like a key, sk-pro…, and keys do not travel with code"
    assert error.remedy.startswith(
        "Put it into an environment variable where the server runs, and read os.environ inside"
    )
    assert 'metadata["key"]' in refusal(agent_of(metadata={"key": key})).culprit


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("ChatOpenAI(api_key='sk-ant-api03-0a1B2c3D4e5F6g7H8i9J')", 1),
        ("AKIAABCDEFGHIJKLMNOP and AIza" + "Sy0123456789_0123456789_0123456789a", 2),
        ("ghp_" + "a1" * 18, 1),
        ("-----BEGIN RSA PRIVATE KEY-----\n" + "MIIEpAIBAAKCAQEA" * 4, 1),
        ("sk-xxxxxxxxxxxxxxxxxxxxxxxxxxxx", 0),
        ("a task-force-with-a-very-long-name-1-2-3", 0),
        ("sk-your-key-goes-here-please, hf_hub, 'AKIA', -----BEGIN CERTIFICATE-----", 0),
    ],
)
def test_keys_are_known_by_their_form(text: str, count: int) -> None:
    assert len(list(keys_in(text.encode()))) == count


def test_code_beyond_the_limit_is_refused_by_its_largest_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusing, "CODE_BYTES_MAX", 1024 * 1024)
    table = "x" * 2 * 1024 * 1024

    def look_up() -> int:
        return len(table)

    error = refusal(agent_of(look_up))
    assert error.culprit == "tool 'look_up' refers to the variable 'table' of the function around it (a str)"
    assert error.problem == "It takes 2 MiB, and the code of an agent at most 1 MiB"


def test_a_refusal_survives_the_trip_between_processes() -> None:
    def refund() -> None:
        lock.acquire()

    error = refusal(agent_of(refund))
    copy = cloudpickle.loads(cloudpickle.dumps(error))
    assert (type(copy), copy.facts, str(copy)) == (type(error), error.facts, str(error))


# --- the registry --------------------------------------------------------------------------------------------------


def test_modules_are_registered_only_while_packing_and_the_users_own_stay(tmp_path: Path) -> None:
    module = types.ModuleType("registered_by_user")
    module.__file__ = str(tmp_path / "registered_by_user.py")
    sys.modules[module.__name__] = module
    cloudpickle.register_pickle_by_value(module)
    before = cloudpickle.list_registry_pickle_by_value()
    try:
        with locality.local_modules_by_value():
            during = cloudpickle.list_registry_pickle_by_value()
        assert __name__ in during
        assert not {"json", "pytest", "ray", "agentspan.errors"} & during
        assert cloudpickle.list_registry_pickle_by_value() == before
        assert module.__name__ in before
        with pytest.raises(UnshippableCodeError):
            pack(agent_of(charge))
        assert cloudpickle.list_registry_pickle_by_value() == before
    finally:
        cloudpickle.unregister_pickle_by_value(module)
        del sys.modules[module.__name__]


def test_many_threads_can_pack_at_once() -> None:
    def answer() -> int:
        return 42

    agent, ids = agent_of(answer), []
    threads = [threading.Thread(target=lambda: ids.append(pack(agent).deployment_id)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 8
    assert len(set(ids)) == 1


# --- trust ---------------------------------------------------------------------------------------------------------


class Bomb:
    def __reduce__(self) -> Any:
        return pytest.fail, ("unsigned code was loaded",)


def answer() -> int:
    return 42


@pytest.fixture
def row() -> DeploymentRow:
    return sign(pack(agent_of(answer)), KEY)


@pytest.mark.parametrize(
    "changes",
    [
        {"signature": ""},
        {"signature": "ü"},
        {"deployment_id": "other"},
        {"agent": "other"},
        {"kind": "langgraph"},
        {"source": "reference", "reference": "antigravity:fly"},
        {"python": "3.99"},
        {"spec": {}},
        {"code": None},
        {"code": cloudpickle.dumps(Bomb())},
    ],
)
def test_altered_code_is_refused_before_it_is_loaded(row: DeploymentRow, changes: dict[str, Any]) -> None:
    assert unpack(row, KEY).tool_defs["answer"].func() == 42
    with pytest.raises(UntrustedCodeError):
        unpack(dataclasses.replace(row, **changes), KEY)


def test_another_servers_signature_is_refused(row: DeploymentRow) -> None:
    with pytest.raises(UntrustedCodeError):
        verify(row, b"o" * 32)


def test_an_empty_key_signs_nothing(row: DeploymentRow) -> None:
    with pytest.raises(AssertionError):
        sign(row, b"")


def test_a_signature_survives_the_store(row: DeploymentRow) -> None:
    stored = dataclasses.replace(row, spec=json.loads(json.dumps(row.spec, sort_keys=True)), created_at=99.0)
    verify(stored, KEY)


def test_code_by_value_of_another_python_is_refused(row: DeploymentRow) -> None:
    bomb = cloudpickle.dumps(Bomb())
    with pytest.raises(CodeMismatchError) as caught:
        unpack(sign(dataclasses.replace(row, python="3.99", code=bomb), KEY), KEY)
    assert caught.value.made_by == "3.99"


def test_a_package_that_is_missing_here_is_named(row: DeploymentRow) -> None:
    code = b"\x80\x05\x8c\x0dno_such_thing\x8c\x01x\x93."
    with pytest.raises(CodeMissingError, match=r"refers to no_such_thing, .* Install it on every node"):
        unpack(sign(dataclasses.replace(row, code=code), KEY), KEY)


# --- the key -------------------------------------------------------------------------------------------------------


def test_a_key_is_made_once_and_only_for_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "new" / "key"
    key = load_key(path)
    assert len(key) == 32
    assert load_key(path) == key
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["key"]


def test_processes_that_race_for_a_key_get_the_same(tmp_path: Path) -> None:
    keys: list[bytes] = []
    barrier = threading.Barrier(8)

    def load() -> None:
        barrier.wait()
        keys.append(load_key(tmp_path / "key"))

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 8
    assert len(set(keys)) == 1


def test_a_key_that_all_can_read_is_closed_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "key"
    key = load_key(path)
    path.chmod(0o644)
    assert load_key(path) == key
    assert path.stat().st_mode & 0o777 == 0o600
    assert "key.readable_by_all" in caplog.text


def test_a_file_that_is_no_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"")
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(ConfigurationError, match="has 0 bytes"):
        load_key(tmp_path / "key")


# --- by reference --------------------------------------------------------------------------------------------------

INSTALLED = """
import threading
from agentspan.agents.agent import Agent
from agentspan.agents.tools import tool

lock = threading.Lock()

@tool
def guarded() -> str:
    with lock:
        return "by reference"

agent = Agent("installed", "openai/gpt-4o", tools=[guarded])
"""


class Environment:
    """A virtual environment of its own that also sees this one's packages."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        self.python = str(folder / "bin" / "python")
        self.packages = next(folder.glob("lib/python*/site-packages"))
        (self.packages / "shared.pth").write_text(str(Path(pytest.__file__).parents[1]))

    def record(self, name: str, version: str, **direct_url: Any) -> None:
        info = self.packages / f"{name}-{version}.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "top_level.txt").write_text(f"{name}\n")
        if direct_url:
            (info / "direct_url.json").write_text(json.dumps(direct_url))


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("environment"))


def test_an_agent_of_an_installed_module_goes_by_name(environment: Environment, tmp_path: Path) -> None:
    environment.record("supportpack", "1.2")
    write(environment.packages, supportpack____init__="", supportpack__bots=INSTALLED)
    here = write(tmp_path / "here", main="from supportpack.bots import agent\n")
    row = packed_by(here, tmp_path / "row", python=environment.python)
    assert (row.source, row.reference, row.code) == ("reference", "supportpack.bots:agent", None)

    text = """
    answer = attempt(lambda: use(unpack(row, b"k" * 32), "guarded", {}))
    """
    assert loaded_by(tmp_path / "there", tmp_path / "row", text, python=environment.python) == "by reference"
    elsewhere = loaded_by(tmp_path / "there", tmp_path / "row", text)
    assert elsewhere["error"] == "CodeMissingError"
    assert "refers to supportpack.bots:agent, which cannot be imported here: No module named" in elsewhere["text"]

    environment.record("supportpack", "1.2")
    (environment.packages / "supportpack" / "bots.py").write_text(INSTALLED.replace("by reference", "changed"))
    assert packed_by(here, tmp_path / "row", python=environment.python).deployment_id != row.deployment_id


def test_a_renamed_agent_is_not_mistaken_for_the_deployed_one(environment: Environment, tmp_path: Path) -> None:
    environment.record("renamed", "1")
    write(environment.packages, renamed=INSTALLED)
    here = write(tmp_path / "here", main="from renamed import agent\n")
    packed_by(here, tmp_path / "row", python=environment.python)
    (environment.packages / "renamed.py").write_text(INSTALLED.replace('"installed"', '"another"'))
    text = 'answer = attempt(lambda: unpack(row, b"k" * 32))'
    answer = loaded_by(tmp_path / "there", tmp_path / "row", text, python=environment.python)
    assert answer["error"] == "CodeMissingError"
    assert "now called 'another'" in answer["text"]


def test_a_file_in_site_packages_without_a_distribution_goes_by_value(environment: Environment, tmp_path: Path) -> None:
    write(environment.packages, stray_bots=INSTALLED.replace("with lock:", "if True:"))
    here = write(tmp_path / "here", main="from stray_bots import agent\n")
    assert packed_by(here, tmp_path / "row", python=environment.python).source == "value"


def test_an_editable_install_goes_by_name_and_a_script_beside_it_by_value(
    environment: Environment, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    write(project, src__editpack____init__="", src__editpack__bots=INSTALLED)
    here = write(project / "scripts", main="from editpack.bots import agent\n")
    (environment.packages / "editpack.pth").write_text(str(project / "src"))
    environment.record("editpack", "0.1", url=project.as_uri(), dir_info={"editable": True})
    row = packed_by(here, tmp_path / "row", python=environment.python)
    assert (row.source, row.reference) == ("reference", "editpack.bots:agent")

    write(project / "scripts", beside=INSTALLED.replace("with lock:", "if True:"), main="from beside import agent\n")
    assert packed_by(here, tmp_path / "row", python=environment.python).source == "value"


def test_a_folder_on_the_path_that_nobody_installed_goes_by_value(environment: Environment, tmp_path: Path) -> None:
    write(tmp_path / "src", pathpack=INSTALLED.replace("with lock:", "if True:"))
    (environment.packages / "pathpack.pth").write_text(str(tmp_path / "src"))
    here = write(tmp_path / "here", main="from pathpack import agent\n")
    assert packed_by(here, tmp_path / "row", python=environment.python).source == "value"


def test_types_that_only_a_text_annotation_names_travel_along(tmp_path, monkeypatch):
    import importlib
    import typing

    from ray import cloudpickle

    from agentspan.actors.localcode import pickle_by_value

    (tmp_path / "annotated_by_text.py").write_text(
        "from __future__ import annotations\n"
        "from decimal import Decimal\n"
        "def price(of: Decimal, note: str | None = None) -> str:\n"
        "    return 'free'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    function = importlib.import_module("annotated_by_text").price
    travelled = cloudpickle.loads(pickle_by_value(function).code)
    monkeypatch.delitem(sys.modules, "annotated_by_text")
    assert travelled is not function
    assert typing.get_type_hints(travelled) == typing.get_type_hints(function)
