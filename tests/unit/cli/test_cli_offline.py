"""The connection over the store alone: what it waits for, what it refuses, and whose loops it serves."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from agentspan.actors import offline
from agentspan.actors.offline import StoreConnection
from agentspan.bridge import run_sync
from agentspan.errors import ServerTimeoutError, ServerUnavailableError, UnknownExecutionError
from agentspan.persistence.memory import MemoryStore
from agentspan.persistence.store import Store
from agentspan.runtime import AgentRuntime
from tests.unit.cli.world import World


def wait(connection: StoreConnection, execution_id: str, timeout_s: float) -> Any:
    async def ask() -> Any:
        try:
            return await connection.call("result", {"execution_id": execution_id, "timeout_s": timeout_s}, 60.0)
        finally:
            await connection.close()

    return asyncio.run(ask())


def test_a_wait_lasts_as_long_as_it_was_told_to(world: World) -> None:
    full = world.create("echo")
    began = time.monotonic()
    assert wait(StoreConnection(world.settings, is_served=lambda: True), full, 0.2) == {"settled": False}
    assert time.monotonic() - began >= 0.2


def test_a_server_that_is_started_again_in_time_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline, "LEASE_EVERY_S", 0.0)
    full = world.create("echo")
    asked: list[bool] = []

    def is_served() -> bool:
        asked.append(len(asked) not in (1, 2, 3))  # Up, away for three looks, and up again.
        return asked[-1]

    assert wait(StoreConnection(world.settings, is_served=is_served), full, 0.4) == {"settled": False}
    assert asked.count(False) == 3


def test_a_server_that_stays_away_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline, "LEASE_EVERY_S", 0.0)
    monkeypatch.setattr(offline, "UNSERVED_MAX_S", 0.2)
    full = world.create("echo")
    answers = iter([True])
    with pytest.raises(ServerUnavailableError, match=full):
        wait(StoreConnection(world.settings, is_served=lambda: next(answers, False)), full, 20.0)


def test_looking_needs_no_server(world: World) -> None:
    full = world.create("echo")
    assert wait(StoreConnection(world.settings, is_served=lambda: False), full, 0.0) == {"settled": False}


def test_a_store_that_takes_too_long_is_a_timeout(world: World) -> None:
    async def never(url: str) -> Store:
        await asyncio.sleep(60)
        raise AssertionError("it was waited for")

    connection = StoreConnection(world.settings, opening=never)
    with pytest.raises(ServerTimeoutError):
        asyncio.run(connection.call("rows", {}, 0.05))


def test_each_loop_gets_a_store_of_its_own(world: World) -> None:
    opened: list[Store] = []

    async def opening(url: str) -> Store:
        opened.append(MemoryStore())
        return opened[-1]

    connection = StoreConnection(world.settings, opening=opening)

    async def twice() -> None:
        await connection.call("rows", {}, 5.0)
        await connection.call("rows", {}, 5.0)

    asyncio.run(twice())
    asyncio.run(twice())
    assert len(opened) == 2


def test_an_offline_runtime_reads_and_signals_but_starts_nothing(world: World) -> None:
    full = world.started("support")
    runtime = AgentRuntime.offline(world.settings)
    assert runtime.get_status(full).is_waiting
    runtime.handle(full).approve(by="ann")
    with pytest.raises(UnknownExecutionError):
        runtime.get_status("ex-beef")
    with pytest.raises(ServerUnavailableError, match="server start"):
        runtime.start("support", "Hi")
    run_sync(runtime._connection.close())  # type: ignore[union-attr]
    runtime.shutdown()
