"""Every graph of the family returns what it returns without AgentSpan, and runs no node more or less often."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentspan.persistence.sqlite import SqliteStore
from tests.support.graph_family import BY_NAME, FAMILY, Member
from tests.support.graph_stories import against, stage
from tests.support.graphs_plain import loop_of

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


async def test_a_long_loop() -> None:
    async with stage(Member(name="long loop", build=loop_of(200))) as here:
        clean = await here.bare()
        story = await here.live(kill_at=[50, 150])
        assert against(clean, story) == []
        assert (clean.counts["step"], story.counts["step"]) == (200, 202)


async def test_what_nodes_write_to_the_stream_is_told() -> None:
    member = BY_NAME["stream writer"]
    bare = member.build(None).astream(member.given[0], stream_mode="custom", subgraphs=True)
    written = [value async for _, value in bare]
    async with stage(member) as here:
        story = await here.live()
    told = [event.data["value"] for event in story.events if event.type == "custom"]
    assert told == written == [{"percent": 50}, {"percent": 100}] * 2
