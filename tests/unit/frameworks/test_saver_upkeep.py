"""Copying, pruning and deleting checkpoints: what remains is whole, whatever it was a delta of."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from agentspan.errors import ConfigurationError
from agentspan.frameworks.langgraph.saving.saver import AgentSpanSaver
from tests.support.savers import STORES, Disk, Line, checkpoint, config, listed, rows


class Item(BaseModel):
    name: str


@pytest.fixture(params=STORES)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    return Disk(request.param, tmp_path)


@pytest.fixture
async def saver(disk: Disk) -> AsyncIterator[AgentSpanSaver]:
    async with disk.saver(types=[Item]) as saver:
        yield saver


async def talk(saver: AgentSpanSaver, thread_id: str = "t", steps: int = 40) -> list[Any]:
    """A conversation in deltas; returns the config of each checkpoint."""
    line = Line(saver, thread_id)
    items = [Item(name="first")]
    made = [await line.put(items=items, constant="c" * 500, state={"log": [], "n": 0, "x": "x" * 200})]
    log: list[str] = []
    for number in range(steps):
        items, log = [*items, Item(name=f"{number:50}")], [*log, f"{number:50}"]
        made.append(
            await line.put(
                "items", "state", items=items, constant="c" * 500, state={"log": log, "n": number, "x": "x" * 200}
            )
        )
    return made


async def values(saver: AgentSpanSaver, at: Any) -> dict[str, Any]:
    found = await saver.aget_tuple(at)
    assert found is not None
    return found.checkpoint["channel_values"]


async def test_pruning_leaves_the_latest_whole(disk: Disk) -> None:
    async with disk.saver(types=[Item]) as saver:
        made = await talk(saver)
        await saver.aput_writes(made[-1], [("x", [Item(name="pending")])], "task", "path")
        before = await saver.aget_tuple(made[-1])
    async with disk.saver() as keeper:  # It does not know the types in the state.
        await keeper.aprune(["t", "none"])
        assert len(await rows(keeper)) == 1
        assert "o" not in (await rows(keeper))[0].row.body
    async with disk.saver(types=[Item]) as saver:
        assert await saver.aget_tuple(config()) == before
        line = Line(saver)
        line.at = made[-1]
        after = await line.put(items=[Item(name="new")])
        assert (await values(saver, after))["items"] == [Item(name="new")]


async def test_pruning_keeps_one_of_each_namespace_and_other_threads(saver: AgentSpanSaver) -> None:
    await talk(saver, steps=3)
    other = await talk(saver, "other", steps=3)
    for number in range(3):
        made = checkpoint({"n": number})
        await saver.aput(config(ns="sub:1"), made, {"source": "loop", "step": number, "parents": {}}, {"n": 1})
    saver.prune(["t"])
    assert sorted(found.row.ns for found in await rows(saver, ns=None)) == ["", "sub:1"]
    assert (await values(saver, config(ns="sub:1"))) == {"n": 2}
    assert len(await rows(saver, "other")) == len(other)


async def test_pruning_with_delete_leaves_nothing(saver: AgentSpanSaver) -> None:
    await talk(saver, steps=3)
    await saver.aprune(["t"], strategy="delete")
    assert await rows(saver, None, None) == []


async def test_an_unknown_strategy_is_refused(saver: AgentSpanSaver) -> None:
    with pytest.raises(ConfigurationError, match="keep_some"):
        await saver.aprune(["t"], strategy="keep_some")


async def test_deleting_a_run_leaves_the_others_whole(saver: AgentSpanSaver) -> None:
    expected: dict[str, dict[str, Any]] = {}
    at: Any = config()
    items: list[Item] = []
    for run in ("one", "two", "three"):
        for number in range(10):
            items = [*items, Item(name=f"{run}{number:40}")]
            version = saver.get_next_version(None)
            made = checkpoint({"items": items, "constant": "c" * 300}, {"items": version, "constant": 1})
            metadata: Any = {"source": "loop", "step": number, "parents": {}, "run_id": run}
            at = await saver.aput(at, made, metadata, {"items": version})
            expected[made["id"]] = {"items": items, "constant": "c" * 300}
    await saver.adelete_for_runs(["two", "none"])
    kept = await listed(saver, config())
    assert len(kept) == 20
    assert {found.metadata["run_id"] for found in kept} == {"one", "three"}  # type: ignore[typeddict-item]
    for found in kept:
        assert found.checkpoint["channel_values"] == expected[found.checkpoint["id"]]
    saver.delete_for_runs([])
    saver.delete_for_runs(["one", "three"])
    assert await rows(saver, None, None) == []


async def test_a_copy_stands_alone(disk: Disk) -> None:
    async with disk.saver(types=[Item]) as saver:
        made = await talk(saver)
        await saver.aput_writes(made[-1], [("x", 1)], "task")
        saver.copy_thread("t", "copy")
        before = [found.checkpoint for found in await listed(saver, config())]
        await saver.adelete_thread("t")
    async with disk.saver(types=[Item]) as saver:
        copied = await listed(saver, config("copy"))
        assert [found.checkpoint for found in copied] == before
        assert copied[0].pending_writes == [("task", "x", 1)]
        assert await listed(saver, config()) == []


async def test_listings_over_threads_and_namespaces(saver: AgentSpanSaver) -> None:
    for thread_id in ("a", "b"):
        for number in range(70):
            made = checkpoint({"n": number})
            metadata: Any = {"source": "loop", "step": number, "parents": {}}
            await saver.aput(config(thread_id, ns="sub" if number % 2 else ""), made, metadata, {"n": 1})
    assert len(await listed(saver, None)) == 140
    assert len(await listed(saver, {"configurable": {"thread_id": "a"}})) == 70
    assert len(await listed(saver, config("a", ns="sub"))) == 35
    assert len(await listed(saver, None, filter={"step": 7})) == 2
    assert len(await listed(saver, None, limit=100)) == 100
    assert await listed(saver, None, limit=0) == []
    newest = await listed(saver, config("a", ns="sub"), limit=3)
    assert [found.metadata["step"] for found in newest] == [69, 67, 65]
    only = await listed(saver, newest[1].config)
    assert [found.checkpoint["id"] for found in only] == [newest[1].checkpoint["id"]]
    assert await listed(saver, newest[0].config, before=newest[1].config) == []
    assert len(await listed(saver, newest[2].config, before=newest[1].config)) == 1


async def test_a_config_without_a_thread_is_refused(saver: AgentSpanSaver) -> None:
    with pytest.raises(ValueError, match="thread_id"):
        saver.get_tuple({"configurable": {}})
