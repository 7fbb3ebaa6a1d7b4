"""The bell between processes that only have the store and the supervisor."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest

from agentspan.actors.doorbell import bell_path, listen, ring


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("h")


async def test_a_ring_arrives_with_its_execution(home: Path) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    bell = await listen(home, heard.put_nowait)
    assert bell is not None
    assert ring(home, "ex-1")
    assert await asyncio.wait_for(heard.get(), 5) == "ex-1"
    bell.close()


async def test_only_the_owner_of_the_home_can_ring(home: Path) -> None:
    bell = await listen(home, lambda _: None)
    assert bell is not None
    assert stat.S_IMODE(bell_path(home).stat().st_mode) == 0o600
    bell.close()


async def test_nobody_listening_is_no_error(home: Path) -> None:
    assert not ring(home, "ex-1")


async def test_a_new_listener_takes_over_from_one_that_died(home: Path) -> None:
    first = await listen(home, lambda _: None)
    assert first is not None
    heard: asyncio.Queue[str] = asyncio.Queue()
    second = await listen(home, heard.put_nowait)
    assert second is not None
    assert ring(home, "ex-2")
    assert await asyncio.wait_for(heard.get(), 5) == "ex-2"
    first.close()
    second.close()


async def test_a_path_too_long_for_a_socket_leaves_it_to_the_scan(tmp_path: Path) -> None:
    home = tmp_path / ("long" * 40)
    home.mkdir()
    assert await listen(home, lambda _: None) is None
    assert not ring(home, "ex-1")
