"""Every graph of the family returns what it returns without AgentSpan, and runs no node more or less often."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentspan.persistence.sqlite import SqliteStore
from tests.support.graph_family import BY_NAME, FAMILY, Member
from tests.support.graph_stories import against, stage

ON_DISK = ["map-reduce", "pydantic state", "nested that remembers", "delta channel", "interrupts in a fan", "session"]


@pytest.mark.parametrize("member", FAMILY, ids=lambda member: member.name)
async def test_a_durable_graph_returns_what_a_bare_one_does(member: Member) -> None:
    async with stage(member) as here:
        clean = await here.bare()
        assert against(clean, await here.live()) == []


@pytest.mark.parametrize("name", ON_DISK)
async def test_the_same_on_a_real_disk(name: str, tmp_path: Path) -> None:
    store = await SqliteStore.connect(tmp_path / "s.db")
    try:
        async with stage(BY_NAME[name]) as here:
            clean = await here.bare()
            assert against(clean, await here.live(store)) == []
    finally:
        await store.close()
