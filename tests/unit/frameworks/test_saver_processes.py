"""AgentSpanSaver across processes: killed, never closed, in strict mode, and where its store is by default."""

from __future__ import annotations

import operator
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated, TypedDict

import pytest
from langgraph.graph import START, StateGraph

from agentspan.errors import StoreUnavailableError
from agentspan.frameworks.langgraph.saving.saver import AgentSpanSaver
from tests.support.savers import config


class Log(TypedDict):
    log: Annotated[list[str], operator.add]


STRICT = """
import copy, operator, sys
from typing import Annotated, TypedDict
from pydantic import BaseModel
from langgraph.graph import START, StateGraph
from agentspan.frameworks.langgraph.saving.saver import AgentSpanSaver

class Inner(BaseModel):
    n: int

class Item(BaseModel):
    inner: Inner

class State(TypedDict):
    items: Annotated[list[Item], operator.add]

graph = StateGraph(State)
graph.add_node("a", lambda state: {"items": [Item(inner=Inner(n=len(state["items"])))]})
graph.add_edge(START, "a")
app = graph.compile()
with AgentSpanSaver(sys.argv[1]) as saver:
    ours = copy.copy(app)
    ours.checkpointer = saver
    at = {"configurable": {"thread_id": "t"}}
    for _ in range(2):
        ours.invoke({"items": []}, at, durability="sync")
    assert ours.get_state(at).values["items"] == [Item(inner=Inner(n=0)), Item(inner=Inner(n=1))]
print("ok")
"""


def test_strict_msgpack_mode_declares_the_types_of_the_graph(tmp_path: Path) -> None:
    environment = {**os.environ, "LANGGRAPH_STRICT_MSGPACK": "true"}
    told = subprocess.run(
        [sys.executable, "-c", STRICT, tmp_path / "threads.db"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert told.stdout == "ok\n", told.stderr


KILLED = """
import asyncio, operator, os, signal, sys
from typing import Annotated, TypedDict
from langgraph.graph import START, StateGraph
from agentspan.frameworks.langgraph.saving.saver import AgentSpanSaver

class Log(TypedDict):
    log: Annotated[list[str], operator.add]

at = {"configurable": {"thread_id": "t"}}
ran = open(sys.argv[2], "a", buffering=1)

def node(name, last=False):
    async def work(state):
        ran.write(name + "\\n")
        if last and len(sys.argv) > 3:
            async with AgentSpanSaver(sys.argv[1]) as other:
                # Once what its neighbours wrote is durable, though this step is not over.
                while len({write[0] for write in (await other.aget_tuple(at)).pending_writes}) < 2:
                    pass
            os.kill(os.getpid(), signal.SIGKILL)
        return {"log": [name]}
    return work

graph = StateGraph(Log)
for name in ("a", "p1", "p2", "killer", "z"):
    graph.add_node(name, node(name, name == "killer"))
graph.add_edge(START, "a")
for name in ("p1", "p2", "killer"):
    graph.add_edge("a", name)
graph.add_edge(["p1", "p2", "killer"], "z")

async def main():
    async with AgentSpanSaver(sys.argv[1]) as saver:
        app = graph.compile(checkpointer=saver)
        found = await saver.aget_tuple(at)
        print((await app.ainvoke({"log": []} if found is None else None, at, durability="sync"))["log"])

asyncio.run(main())
"""


def test_a_kill_in_a_parallel_step_repeats_only_what_had_not_finished(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "threads.db"), str(tmp_path / "ran")]
    killed = subprocess.run([*command, "kill"], capture_output=True, text=True, timeout=60)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    again = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert again.stdout == "['a', 'killer', 'p1', 'p2', 'z']\n", again.stderr
    ran = (tmp_path / "ran").read_text().split()
    assert sorted(ran[1:4]) == ["killer", "p1", "p2"]
    assert [ran[0], *ran[4:]] == ["a", "killer", "z"]


UNCLOSED = """
import sys
from agentspan.frameworks.langgraph.saving.saver import AgentSpanSaver
saver = AgentSpanSaver(sys.argv[1])
made = {"v": 4, "id": "1", "ts": "now", "channel_values": {}, "channel_versions": {}, "versions_seen": {}}
saver.put({"configurable": {"thread_id": "t", "checkpoint_ns": ""}}, made, {"source": "input"}, {})
saver._put_writes({"configurable": {"thread_id": "t", "checkpoint_ns": "", "checkpoint_id": "1"}}, [("x", 1)], "task", "")
"""


def test_a_program_that_never_closes_its_saver_ends_and_loses_nothing(tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-W", "error", "-c", UNCLOSED, tmp_path / "threads.db"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (told.returncode, told.stderr) == (0, "")
    with AgentSpanSaver(tmp_path / "threads.db") as saver:
        found = saver.get_tuple(config())
        assert found is not None
        assert found.pending_writes == [("task", "x", 1)]


def test_the_default_store_is_the_one_of_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTSPAN_HOME", str(tmp_path))
    with AgentSpanSaver() as saver:
        graph = StateGraph(Log)
        graph.add_node("a", lambda _: {"log": ["a"]})
        graph.add_edge(START, "a")
        graph.compile(checkpointer=saver).invoke({"log": []}, config(), durability="sync")
    assert (tmp_path / "agentspan.db").exists()
    with AgentSpanSaver(f"sqlite:///{tmp_path}/agentspan.db") as again:
        assert again.get_tuple(config()) is not None
    with pytest.raises(StoreUnavailableError, match="closed"):
        again.get_tuple(config())
