"""What a client does with executions it runs itself, without Ray; whole programs are in tests/e2e/test_client_host.py."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypedDict

import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.graph import START, StateGraph

from agentspan.actors.clienthost import ClientHost, client_row
from agentspan.config import Settings
from agentspan.engine import records as r
from agentspan.errors import ConfigurationError, StoreUnavailableError
from agentspan.frameworks.langgraph.app.graph import Graph
from agentspan.persistence.opening import open_store
from agentspan.persistence.sqlite import SqliteStore
from agentspan.persistence.store import ExecutionRow, NewExecution
from agentspan.submission import StartCall, graph_request


class State(TypedDict, total=False):
    topic: str
    n: int


def graph(node: Any, name: str = "n") -> Graph:
    return Graph.of(StateGraph(State).add_node(name, node).add_edge(START, name).compile(name="hosted"))


class World:
    """A home with a store, and executions that somebody submitted."""

    def __init__(self, home: Path, store: SqliteStore) -> None:
        self.settings = Settings(home=home, recoveries_max=2, recovery_backoff_s=0.001)
        self.store = store
        self.hosts: list[ClientHost] = []

    def host(self) -> ClientHost:
        self.hosts.append(ClientHost(self.settings, self.settings.store_url))
        return self.hosts[-1]

    async def submit(self, graph: Graph, execution_id: str = "e1") -> None:
        row = client_row(graph)
        await self.store.save_deployment(row)
        request = graph_request(graph.name, graph.spec(), graph, StartCall(prompt={"topic": "t"}))
        started = r.Started(at=1.0, agent=graph.name, prompt="t", graph=request["graph"])
        await self.store.create(
            NewExecution(
                execution_id=execution_id,
                request_id=execution_id,
                agent=graph.name,
                deployment_id=row.deployment_id,
                started=r.to_plain(started),
                created_at=1.0,
            )
        )

    async def ends(self, execution_id: str = "e1") -> ExecutionRow:
        async with asyncio.timeout(20):
            while True:
                row = await self.store.row(execution_id)
                if row.status not in ("QUEUED", "RUNNING", "WAITING"):
                    return row
                await asyncio.sleep(0.001)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    store = await SqliteStore.connect(tmp_path / "agentspan.db")
    world = World(tmp_path, store)
    yield world
    for host in world.hosts:
        await host.close()
    await store.close()


async def test_what_was_submitted_is_run_where_its_graph_is(world: World) -> None:
    one = graph(lambda state: {"n": 1})
    await world.submit(one)
    await world.host().look_after(client_row(one).deployment_id, one)
    assert (await world.ends()).status == "COMPLETED"


class Broken:
    """A store whose threads cannot be read."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.reads = 0

    async def checkpoint(self, *args: Any, **more: Any) -> Any:
        self.reads += 1
        raise RuntimeError("a broken invariant")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


async def test_a_run_that_fails_each_time_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    async def opening(url: str) -> Any:
        opened.append(Broken(await open_store(url)))
        return opened[-1]

    monkeypatch.setattr("agentspan.actors.clienthost.open_store", opening)
    one = graph(lambda state: {"n": 1})
    await world.submit(one)
    await world.host().look_after(client_row(one).deployment_id, one)
    row = await world.ends()
    assert row.status == "FAILED"
    assert "Gave up after 3 crashes" in str(row.error)
    assert [store.reads for store in opened] == [3]


async def test_an_error_of_ours_that_a_node_raises_is_the_nodes(world: World) -> None:
    began = []

    def breaks(state: State) -> None:
        began.append(1)
        raise StoreUnavailableError(where="another store", problem="it is down")

    one = graph(breaks)
    await world.submit(one)
    await world.host().look_after(client_row(one).deployment_id, one)
    row = await world.ends()
    assert (row.status, began) == ("FAILED", [1])
    assert "another store" in str(row.error)


async def test_processes_that_ended_are_not_held_against_it(world: World) -> None:
    one = graph(lambda state: {"n": 1})
    await world.submit(one)
    for _ in range(5):
        host = world.host()
        await world.store.take_over("e1", host=host._host(), blame=False)  # A program that is killed at once.
        await host.close()
    await world.host().look_after(client_row(one).deployment_id, one)
    assert (await world.ends()).status == "COMPLETED"


async def test_a_damaged_execution_is_set_aside(world: World, tmp_path: Path) -> None:
    one = graph(lambda state: {"n": 1})
    await world.submit(one)
    with sqlite3.connect(tmp_path / "agentspan.db") as raw:
        raw.execute("UPDATE records SET body = zeroblob(length(body))")
    raw.close()
    await world.host().look_after(client_row(one).deployment_id, one)
    assert (await world.ends()).status == "QUARANTINED"


async def test_what_another_host_has_is_left_alone_until_that_one_leaves(world: World) -> None:
    entered, gate, main = asyncio.Event(), asyncio.Event(), asyncio.get_running_loop()
    began = []

    async def waits(state: State) -> dict[str, Any]:
        began.append(1)
        main.call_soon_threadsafe(entered.set)
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(gate.wait(), main))
        return {"n": len(began)}

    one = graph(waits)
    await world.submit(one)
    first, second = world.host(), world.host()
    await first.look_after(client_row(one).deployment_id, one)
    await entered.wait()
    await second.look_after(client_row(one).deployment_id, one)
    await second.run("e1", one)
    assert (await world.store.row("e1")).epoch == 1
    gate.set()
    assert (await world.ends()).epoch == 1
    assert began == [1]


async def test_a_graph_that_lost_a_node_does_not_take_up_what_may_wait_for_it(world: World) -> None:
    old, new = graph(lambda state: {"n": 1}, "old"), graph(lambda state: {"n": 2}, "new")
    await world.submit(old)
    await world.submit(new, "e2")
    await world.host().look_after(client_row(new).deployment_id, new)
    assert (await world.ends("e2")).status == "COMPLETED"
    assert (await world.store.row("e1")).status == "QUEUED"


async def test_a_store_without_the_deployment_is_another_one(world: World) -> None:
    one = graph(lambda state: {"n": 1})
    with pytest.raises(ConfigurationError, match="this process has another one"):
        await world.host().look_after(client_row(one).deployment_id, one)


async def test_closing_is_idempotent_and_takes_nothing_more(world: World) -> None:
    one = graph(lambda state: {"n": 1})
    host = world.host()
    await host.close()
    await host.close()
    await world.submit(one)
    assert (await world.store.row("e1")).status == "QUEUED"


async def test_tokens_are_heard_in_the_process_that_runs_it(world: World) -> None:
    model, is_heard = GenericFakeChatModel(messages=iter([AIMessage("one two three")])), threading.Event()

    async def says(state: State) -> None:
        await model.ainvoke("count")
        await asyncio.to_thread(is_heard.wait, 20)

    one, host = graph(says), world.host()
    await world.submit(one)
    assert await host.poll("e1", 0, 0, 0.0, True) is None, "it is not on here yet"
    await host.run("e1", one, tokens=True)
    text, after, after_token = "", 1, 0  # What was told before it came here is read from the store.
    async with asyncio.timeout(20):
        while (page := await host.poll("e1", after, after_token, 20.0, True)) is not None:
            text += "".join(page["tokens"])
            if text == "one two three":
                is_heard.set()
            after, after_token = page["next"], page["next_token"]
            if page["closed"]:
                break
    assert text == "one two three"
    assert (await world.ends()).status == "COMPLETED"
