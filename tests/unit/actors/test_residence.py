"""Many executions in one process: tools that block have threads, so many and no more, and hold up nobody."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from agentspan.actors.residence import HostConfig, Residence
from agentspan.agents import Agent, tool
from agentspan.engine import records as r
from agentspan.models.registry import ModelRegistry
from agentspan.persistence.opening import open_store
from agentspan.persistence.store import DeploymentRow, NewExecution, Store
from agentspan.testing import ScriptedModel, call, say

THREADS = 2


class Workshop:
    """Tools of one process, and what they did."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.full = threading.Event()
        self.running = 0
        self.most = 0
        self.ran: list[str] = []
        self.lock = threading.Lock()

    def agent(self) -> Agent:
        @tool(retry_count=0)
        def block(n: int) -> str:
            """Block a thread."""
            with self.lock:
                self.ran.append(f"block {n}")
                self.running += 1
                self.most = max(self.most, self.running)
            if self.running == THREADS:
                self.full.set()
            assert self.gate.wait(30)
            with self.lock:
                self.running -= 1
            return "unblocked"

        @tool(retry_count=0, timeout_seconds=0.05)
        def hurry(n: int) -> None:
            """Block a thread, but not for long."""
            self.ran.append("hurry")

        @tool
        def burn(n: int) -> int:
            """Hold the GIL in one call of C."""
            return sum(range(2_000_000)) + n

        @tool
        async def look(n: int) -> str:
            """Wait on the loop."""
            await asyncio.sleep(0)
            return "seen"

        return Agent("worker", model="scripted/any", tools=[block, hurry, burn, look])


@asynccontextmanager
async def house(tmp_path: Path, shop: Workshop, monkeypatch: Any) -> AsyncIterator[House]:
    url = f"sqlite:///{tmp_path / 's.db'}"
    agent = shop.agent()
    config = HostConfig(store_url=url, key=b"k" * 32, parallel_tools_max=THREADS)
    store = await open_store(url)
    residence = Residence(config, unpack=lambda row, key: agent, actor_name="host", node="n")
    made = House(store, residence)
    monkeypatch.setattr(ModelRegistry, "get", lambda registry, name, url: made)
    await store.save_deployment(
        DeploymentRow(
            deployment_id="d1",
            agent="worker",
            kind="agent",
            source="value",
            reference=None,
            code=b"",
            signature="",
            spec={},
            python="3.11",
            created_at=0.0,
        )
    )
    try:
        yield made
    finally:
        shop.gate.set()
        await residence._store.close()  # type: ignore[union-attr]
        await store.close()


class House:
    """Starts executions in a residence; each has a script, by its prompt."""

    def __init__(self, store: Store, residence: Residence) -> None:
        self.store = store
        self.residence = residence
        self.scripts: dict[str, ScriptedModel] = {}

    async def complete(self, request: Any, *, on_token: Any = None) -> Any:
        prompt = next(message["content"] for message in request.messages if message["role"] == "user")
        return await self.scripts[prompt].complete(request)

    async def start(self, execution_id: str, name: str, n: int = 0) -> asyncio.Task[dict[str, Any]]:
        self.scripts[execution_id] = ScriptedModel([call(name, n=n), say("done")])
        started = r.Started(at=0.0, agent="worker", prompt=execution_id)
        await self.store.create(
            NewExecution(
                execution_id=execution_id,
                request_id=execution_id,
                agent="worker",
                deployment_id="d1",
                started=r.to_plain(started),
                created_at=0.0,
            )
        )
        taken = await self.store.take_over(execution_id, host={})
        return asyncio.create_task(self.residence.run(execution_id, taken.epoch, False))


async def test_blocking_tools_share_so_many_threads_the_rest_is_in_line_and_nobody_else_waits(
    tmp_path: Path, monkeypatch: Any
):
    shop = Workshop()
    async with house(tmp_path, shop, monkeypatch) as home:
        blocked = [await home.start(f"ex-b{n}", "block", n) for n in range(5)]
        async with asyncio.timeout(20):
            assert await asyncio.to_thread(shop.full.wait, 10)
            for n in range(3):
                assert (await (await home.start(f"ex-l{n}", "look")))["status"] == "COMPLETED"
            # What runs out of time in the line is never begun.
            assert (await (await home.start("ex-h", "hurry")))["status"] == "COMPLETED"
            assert not any(task.done() for task in blocked)
            shop.gate.set()
            assert {outcome["status"] for outcome in await asyncio.gather(*blocked)} == {"COMPLETED"}
    assert (shop.most, len(shop.ran)) == (THREADS, 5)
    assert "hurry" not in shop.ran


async def test_tools_that_hold_the_gil_slow_their_neighbours_down_and_stop_nobody(tmp_path: Path, monkeypatch: Any):
    shop = Workshop()
    async with house(tmp_path, shop, monkeypatch) as home:
        running = [await home.start(f"ex-{name}{n}", name, n) for n in range(4) for name in ("burn", "look")]
        async with asyncio.timeout(20):
            assert {outcome["status"] for outcome in await asyncio.gather(*running)} == {"COMPLETED"}
