"""AgentSpanSaver beside AsyncSqliteSaver: steps per second, many graphs at once, bytes written.

Both keep a file on the same disk, with `durability="sync"`, in one process, in turn. The byte counts are of what the
process hands to the kernel (log, file, everything), so they need Linux.
"""

from __future__ import annotations

import asyncio
import contextlib
import operator
import queue
import sqlite3
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph

from agentspan.frameworks.langgraph.saving.saver import AgentSpanSaver
from agentspan.persistence.sqlite_file import PAGE_BYTES
from agentspan.persistence.threads import ThreadWrite
from benchmarks.commit_cost import bare_commit, bare_database
from benchmarks.common import line, p50, ratio

STEPS = 1000
GRAPHS, GRAPH_STEPS = 50, 20
TALK_STEPS, TEXT_BYTES, CONSTANT_BYTES = 200, 200, 10_000
BODY_BYTES = 500
"""What a step of the trivial graph comes to."""
ROUNDS = 5

OUR_PAYLOAD = "SELECT (SELECT total(length(body)) FROM thread_rows) + (SELECT total(length(body)) FROM blobs)"
THEIR_PAYLOAD = (
    "SELECT (SELECT total(length(checkpoint) + length(metadata)) FROM checkpoints) "
    "+ (SELECT total(length(value)) FROM writes)"
)

Opening = Callable[[Path], contextlib.AbstractAsyncContextManager[Any]]


class Count(TypedDict):
    n: int
    until: int


class Talk(TypedDict):
    messages: Annotated[list[str], operator.add]
    manual: str
    settings: dict[str, Any]


def counter() -> StateGraph[Any]:
    """A loop of one trivial node."""

    async def count(state: Count) -> dict[str, int]:
        return {"n": state["n"] + 1}

    graph = StateGraph(Count)
    graph.add_node("count", count)
    graph.add_edge(START, "count")
    graph.add_conditional_edges("count", lambda state: "count" if state["n"] < state["until"] else END)
    return graph


def talk() -> StateGraph[Any]:
    """A loop whose node says something."""

    async def say(state: Talk) -> dict[str, list[str]]:
        said = len(state["messages"])
        return {"messages": [f"{said:8}" + chr(97 + said % 26) * (TEXT_BYTES - 8)]}

    graph = StateGraph(Talk)
    graph.add_node("say", say)
    graph.add_edge(START, "say")
    graph.add_conditional_edges("say", lambda state: "say" if len(state["messages"]) < TALK_STEPS else END)
    return graph


def config(thread_id: str) -> Any:
    return {"configurable": {"thread_id": thread_id}, "recursion_limit": 10 * STEPS}


@contextlib.asynccontextmanager
async def theirs(folder: Path) -> AsyncIterator[Any]:
    async with AsyncSqliteSaver.from_conn_string(str(folder / "theirs.db")) as saver:
        await saver.setup()
        yield saver


class Floor:
    """A port that keeps nothing to read: what a bare commit for each step, on another thread, costs at least."""

    def __init__(self, path: Path) -> None:
        self._queue: queue.SimpleQueue[list[Future[None]]] = queue.SimpleQueue()
        self._waiting: list[Future[None]] = []
        self._path = path
        threading.Thread(target=self._run, daemon=True).start()

    def push(self, thread_id: str, write: ThreadWrite) -> Future[None]:
        done: Future[None] = Future()
        self._waiting.append(done)
        if write.checkpoints:
            self.close()
            self._waiting = []
        return done

    def read(self, call: Callable[[Any], Any]) -> Future[Any]:
        nothing: Future[Any] = Future()
        nothing.set_result(None)
        return nothing

    def close(self) -> None:
        self._queue.put(self._waiting)

    def _run(self) -> None:
        db = bare_database(self._path, PAGE_BYTES)
        for number in range(1, 2**63):
            waiting = self._queue.get()
            bare_commit(db, number, bytes(BODY_BYTES))
            for done in waiting:
                done.set_result(None)


@contextlib.asynccontextmanager
async def floor(folder: Path) -> AsyncIterator[Any]:
    yield AgentSpanSaver(Floor(folder / "floor.db"))


@contextlib.asynccontextmanager
async def ours(folder: Path) -> AsyncIterator[Any]:
    async with AgentSpanSaver(folder / "ours.db") as saver:
        await saver.aget_tuple(config("none"))
        yield saver


async def one_graph(saver: Any) -> None:
    app = counter().compile(checkpointer=saver)
    result = await app.ainvoke({"n": 0, "until": STEPS}, config("one"), durability="sync")
    assert result["n"] == STEPS


async def many_graphs(saver: Any) -> None:
    app = counter().compile(checkpointer=saver)
    start = {"n": 0, "until": GRAPH_STEPS}
    async with asyncio.TaskGroup() as group:
        for number in range(GRAPHS):
            group.create_task(app.ainvoke(start, config(f"many-{number}"), durability="sync"))


async def one_talk(saver: Any) -> None:
    app = talk().compile(checkpointer=saver)
    start = {
        "messages": [],
        "manual": "m" * CONSTANT_BYTES,
        "settings": {f"key-{number}": "v" * 90 for number in range(CONSTANT_BYTES // 100)},
    }
    result = await app.ainvoke(start, config("talk"), durability="sync")
    assert len(result["messages"]) == TALK_STEPS


async def seconds(opening: Opening, work: Callable[[Any], Any]) -> float:
    """How long the work takes with a saver on a file of its own."""
    with tempfile.TemporaryDirectory() as folder:
        async with opening(Path(folder)) as saver:
            began = time.perf_counter()
            await work(saver)
            return time.perf_counter() - began


async def written(opening: Opening, work: Callable[[Any], Any], payload: str) -> tuple[int, int]:
    """The bytes that the process writes meanwhile, and on closing; and those of what is stored, as a query says."""
    with tempfile.TemporaryDirectory() as folder:
        async with opening(Path(folder)) as saver:
            before = _written_bytes()
            await work(saver)
        in_all = _written_bytes() - before
        (file,) = Path(folder).glob("*.db")
        with contextlib.closing(sqlite3.connect(file)) as db:
            return in_all, int(db.execute(payload).fetchone()[0])


def _written_bytes() -> int:
    for entry in Path("/proc/self/io").read_text().splitlines():
        if entry.startswith("wchar:"):
            return int(entry.split()[1])
    raise OSError("/proc/self/io does not say what was written")


async def measure() -> None:
    for name, work, steps, target in (
        (f"{STEPS} steps of one graph", one_graph, STEPS, "≥ 1.6 × the steps/s"),
        (f"{GRAPHS} graphs of {GRAPH_STEPS} steps at once", many_graphs, GRAPHS * GRAPH_STEPS, "≥ 3 × the steps/s"),
    ):
        mine, other, least = [], [], []
        for _ in range(ROUNDS):
            other.append(await seconds(theirs, work))
            mine.append(await seconds(ours, work))
            if work is one_graph:
                least.append(await seconds(floor, work))
        print(line(f"{name}, AgentSpanSaver", mine) + f"   {steps / p50(mine):6.0f} steps/s")
        print(line(f"{name}, AsyncSqliteSaver", other) + f"   {steps / p50(other):6.0f} steps/s")
        print(ratio("steps/s, ours over theirs", other, mine, target), flush=True)
        if least:
            print(line("the same, and nothing but a bare commit", least) + f"   {steps / p50(least):6.0f} steps/s")
    mine_bytes = await written(ours, one_talk, OUR_PAYLOAD)
    other_bytes = await written(theirs, one_talk, THEIR_PAYLOAD)
    for name, at in ((f"bytes written, {TALK_STEPS} steps of a conversation", 0), ("of these, what is stored", 1)):
        print(
            f"  {name:<44} {mine_bytes[at]:>10,} and {other_bytes[at]:>10,}: 1/{other_bytes[at] / mine_bytes[at]:.0f}",
            end="",
        )
        print("  (first target ≤ 1/20)")


def main() -> None:
    asyncio.run(measure())


if __name__ == "__main__":
    main()
