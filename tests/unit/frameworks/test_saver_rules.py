"""What a LangGraph checkpointer has to keep and the conformance suite does not ask for."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agentspan.frameworks.langgraph.saving.saver import AgentSpanSaver
from tests.support.savers import STORES, Disk, Line, body_bytes, checkpoint, config, listed, rows
from tests.unit.frameworks.exactly import same


@pytest.fixture(params=STORES)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    return Disk(request.param, tmp_path)


@pytest.fixture
async def saver(disk: Disk) -> AsyncIterator[AgentSpanSaver]:
    async with disk.saver() as saver:
        yield saver


async def put(saver: AgentSpanSaver, at: Any, values: dict[str, Any] | None = None, **metadata: Any) -> Any:
    made = checkpoint(values or {})
    return await saver.aput(
        at, made, {"source": "loop", "step": 0, "parents": {}, **metadata}, dict.fromkeys(values or {}, 1)
    )


async def pending(saver: AgentSpanSaver, at: Any) -> list[Any]:
    found = await saver.aget_tuple(at)
    assert found is not None
    return list(found.pending_writes or ())


# --- writes


async def test_pending_writes_come_in_the_order_of_their_tasks_paths(saver: AgentSpanSaver) -> None:
    at = await put(saver, config())
    await saver.aput_writes(at, [("x", 1), ("y", 2)], "task-a", "~__pregel_pull, z")
    await saver.aput_writes(at, [("x", 3)], "task-b", "~__pregel_pull, a")
    await saver.aput_writes(at, [("x", 4)], "task-c")
    assert [write[2] for write in await pending(saver, at)] == [4, 3, 1, 2]
    assert [write[2] for write in (await listed(saver, at))[0].pending_writes or ()] == [4, 3, 1, 2]


async def test_a_regular_write_stays_and_a_special_one_is_replaced(saver: AgentSpanSaver) -> None:
    at = await put(saver, config())
    await saver.aput_writes(at, [("x", "first"), ("__interrupt__", "question 1")], "task")
    await saver.aput_writes(at, [("x", "second"), ("__interrupt__", "question 2"), ("y", "more")], "task")
    assert await pending(saver, at) == [
        ("task", "__interrupt__", "question 2"),
        ("task", "x", "first"),
        ("task", "y", "more"),
    ]


async def test_the_special_writes_of_a_task_have_a_place_each(saver: AgentSpanSaver) -> None:
    at = await put(saver, config())
    for channel in ("__resume__", "__interrupt__", "__error__", "__scheduled__"):
        await saver.aput_writes(at, [(channel, channel)], "task")
    assert {write[1] for write in await pending(saver, at)} == {
        "__resume__",
        "__interrupt__",
        "__error__",
        "__scheduled__",
    }


async def test_what_a_failed_task_wrote_is_not_stored(saver: AgentSpanSaver) -> None:
    at = await put(saver, config())
    await saver.aput_writes(
        at, [("x", 1), ("branch:to:b", None), ("__error__", ValueError("no")), ("__resume__", [1])], "t"
    )
    assert {write[1] for write in await pending(saver, at)} == {"__error__", "__resume__"}


async def test_what_a_task_wrote_whose_error_is_handled_is_stored(saver: AgentSpanSaver) -> None:
    at = await put(saver, config())
    await saver.aput_writes(at, [("x", 1), ("__error__", ValueError("no")), ("__error_source_node__", "n")], "t")
    assert {write[1] for write in await pending(saver, at)} == {"x", "__error__", "__error_source_node__"}


async def test_writes_may_come_before_their_checkpoint(saver: AgentSpanSaver) -> None:
    made = checkpoint({"x": 1})
    await saver.aput_writes(config(checkpoint_id=made["id"]), [("x", 2)], "task")
    await saver.aput(config(), made, {"source": "loop", "step": 0, "parents": {}}, {"x": 1})
    assert await pending(saver, config()) == [("task", "x", 2)]


# --- checkpoints


async def test_all_of_a_checkpoint_comes_back(saver: AgentSpanSaver) -> None:
    made = checkpoint(
        {
            "none": None,
            "bytes": b"\x00\xff",
            "tuple": (1, [2]),
            "big": 2**80,
            "text": "ä\ud800",
            "list": [],
            "dict": {},
        },
        {**dict.fromkeys(["none", "bytes", "tuple", "big", "text", "list", "dict"], 5), "empty": 7},
        versions_seen={"__input__": {}, "n": {"none": 5, "gone": 3}},
        updated_channels=["big", "none"],
    )
    metadata: Any = {"source": "loop", "step": 3, "parents": {"": "p"}, "counters_since_delta_snapshot": {"d": (1, 2)}}
    await saver.aput(config(), made, metadata, made["channel_versions"])
    found = await saver.aget_tuple(config())
    assert found is not None
    assert same(found.checkpoint, made)
    assert found.metadata == metadata
    assert type(found.metadata["counters_since_delta_snapshot"]["d"]) is tuple
    assert found.config == {"configurable": {"thread_id": "t", "checkpoint_ns": "", "checkpoint_id": made["id"]}}


async def test_odd_times_ids_and_keys_come_back(saver: AgentSpanSaver) -> None:
    made = checkpoint({}, id="not-a-uuid", ts="yesterday", pending_sends=[], v=2)
    await saver.aput(config(), made, {"step": -2}, {})
    child = checkpoint({}, ts="2026-01-02T03:04:05+01:00")
    await saver.aput(config(checkpoint_id="not-a-uuid"), child, {"source": "loop", "odd": {1: 2}}, {})  # type: ignore[typeddict-unknown-key]
    first, second = await saver.aget_tuple(config(checkpoint_id="not-a-uuid")), await saver.aget_tuple(config())
    assert first is not None
    assert second is not None
    assert same(first.checkpoint, made)
    assert first.metadata == {"step": -2}
    assert same(second.checkpoint, child)
    assert second.metadata == {"source": "loop", "odd": {1: 2}}
    assert second.parent_config is not None
    assert second.parent_config["configurable"]["checkpoint_id"] == "not-a-uuid"


async def test_the_latest_is_the_one_stored_last_whatever_the_clock_says(saver: AgentSpanSaver) -> None:
    late, early = checkpoint({"x": "first"}), checkpoint({"x": "second"})
    late["id"], early["id"] = early["id"], late["id"]
    at = await saver.aput(config(), late, {"source": "loop", "step": 0, "parents": {}}, {"x": 1})
    await saver.aput(at, early, {"source": "loop", "step": 1, "parents": {}}, {"x": 1})
    assert early["id"] < late["id"]
    found = await saver.aget_tuple(config())
    assert found is not None
    assert found.checkpoint["id"] == early["id"]
    assert [one.checkpoint["id"] for one in await listed(saver, config())] == [early["id"], late["id"]]
    before = await listed(saver, config(), before=config(checkpoint_id=early["id"]))
    assert [one.checkpoint["id"] for one in before] == [late["id"]]


async def test_versions_are_unique_and_count_up(saver: AgentSpanSaver) -> None:
    random.seed(1)
    first = saver.get_next_version(None)
    random.seed(1)
    assert saver.get_next_version(None) != first
    versions = [first]
    for _ in range(1000):
        versions.append(saver.get_next_version(versions[-1]))
    assert versions == sorted(set(versions))
    assert all(0 < version < 2**63 for version in versions)
    assert saver.get_next_version(41) > 41
    assert saver.get_next_version(41.5) > 41.5


async def test_versions_of_an_adopted_thread_go_on_in_its_form(saver: AgentSpanSaver) -> None:
    theirs = f"{7:032}.{0.123:016}"
    ours = saver.get_next_version(theirs)
    assert isinstance(ours, str)
    assert ours > theirs
    assert saver.get_next_version(ours) > ours


async def test_a_fork_does_not_change_the_other_branch(disk: Disk) -> None:
    async with disk.saver() as saver:
        line = Line(saver)
        await line.put(messages=["in" * 50], constant="c" * 100)
        fork_at = await line.put("messages", messages=["in" * 50, "a"], constant="c" * 100)
        leaf = await line.put("messages", messages=["in" * 50, "a", "b"], constant="c" * 100)
        assert (await line.read(fork_at))["messages"][-1] == "a"
        branch = Line(saver)
        branch.at, branch._versions = fork_at, dict(line._versions)
        await branch.put("messages", messages=["in" * 50, "a", "b:fork"], constant="c" * 100)
        end = await branch.put("messages", messages=["in" * 50, "a", "b:fork", "c:fork"], constant="c" * 100)
    async with disk.saver() as other:
        reading = Line(other)
        assert (await reading.read(leaf))["messages"] == ["in" * 50, "a", "b"]
        assert (await reading.read(end))["messages"] == ["in" * 50, "a", "b:fork", "c:fork"]
        assert (await reading.read(end))["constant"] == "c" * 100


# --- growth


async def test_a_conversation_is_stored_in_bytes_that_grow_with_what_changed(saver: AgentSpanSaver) -> None:
    line = Line(saver)
    manual, settings = "m" * 10_000, {f"key{number}": "v" * 90 for number in range(100)}
    messages: list[str] = []
    await line.put(messages=messages, manual=manual, settings=settings)
    for number in range(200):
        messages = [*messages, f"{number:200}"]
        await line.put("messages", messages=messages, manual=manual, settings=settings)
    sizes = await body_bytes(saver)
    assert sizes[0] < 23_000
    assert sum(sizes[1:]) < 200 * 700
    assert sorted(sizes)[100] < 420
    assert (await line.read())["messages"] == messages


async def test_a_run_that_is_resumed_elsewhere_stores_what_changed_from_the_first_step(disk: Disk) -> None:
    async with disk.saver() as saver:
        line = Line(saver)
        await line.put(messages=[f"{number:200}" for number in range(50)], state={"a": "x" * 5000, "n": 0})
    async with disk.saver() as saver:
        resumed = Line(saver)
        resumed.at, resumed._versions = line.at, line._versions
        values = await resumed.read()
        await resumed.put(messages=[*values["messages"], "more"], state={**values["state"], "n": 1})
        assert (await body_bytes(saver))[-1] < 300
        assert (await resumed.read())["state"] == {"a": "x" * 5000, "n": 1}


async def test_values_that_are_written_again_unchanged_are_not_stored_again(saver: AgentSpanSaver) -> None:
    line, values = Line(saver), {"text": "t" * 5000, "items": ["i" * 100] * 20, "entries": {"e": "e" * 2000}}
    await line.put(**values)
    for _ in range(3):
        await line.put(
            **{name: value if isinstance(value, str) else type(value)(value) for name, value in values.items()}
        )
    assert all(size < 300 for size in (await body_bytes(saver))[1:])
    assert await line.read() == values


# --- removing


def _tables(path: Path) -> dict[str, int]:
    db = sqlite3.connect(path)
    try:
        names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: db.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in names}
    finally:
        db.close()


async def test_deleting_a_thread_leaves_no_rows(tmp_path: Path) -> None:
    disk = Disk("sqlite", tmp_path)
    async with disk.saver() as saver:
        await put(saver, config("other"))
        before = _tables(tmp_path / "threads.db")
        at = await put(saver, config(), {"big": "b" * 50_000, "list": ["l" * 20_000]})
        await put(saver, config(ns="sub:1"), {"x": 1})
        await saver.aput_writes(at, [("big", "w" * 50_000)], "task")
        assert _tables(tmp_path / "threads.db") != before
        await saver.adelete_thread("t")
        assert _tables(tmp_path / "threads.db") == before
        assert await saver.aget_tuple(config()) is None
        assert await listed(saver, config()) == []


async def test_a_thread_can_be_deleted_and_begun_again(saver: AgentSpanSaver) -> None:
    line = Line(saver)
    await line.put(messages=["m" * 100])
    at = line.at
    await saver.adelete_thread("t")
    # A run that has not noticed goes on; what it stores stands alone.
    await line.put(messages=["m" * 100, "more"])
    assert (await line.read())["messages"] == ["m" * 100, "more"]
    assert await saver.aget_tuple(at) is None


# --- what may be seen


SECRETS: dict[str, Any] = {"api_key": "sk-secret", "user": "ann", "tries": 7, "ratio": 1.5, "on": True}


async def test_the_scalars_of_configurable_are_not_stored(saver: AgentSpanSaver) -> None:
    at = config(**SECRETS, run_id="run-1")
    at["metadata"] = {**SECRETS, "topic": "weather", "lc_agent_name": "a", "langgraph_step": 1}
    await put(saver, at)
    found = await saver.aget_tuple(config())
    assert found is not None
    assert found.metadata == {"source": "loop", "step": 0, "parents": {}, "run_id": "run-1", "topic": "weather"}
    assert "secret" not in str((await rows(saver))[0].row.body)
    assert len(await listed(saver, config(), filter={"run_id": "run-1", "topic": "weather"})) == 1


async def test_one_thread_may_be_kept_under_another_name(disk: Disk) -> None:
    async with disk.saver(thread_id="execution-1") as saver:
        at = await put(saver, config("theirs"), {"x": 1})
        await saver.aput_writes(at, [("x", 2)], "task")
        assert at["configurable"]["thread_id"] == "theirs"
        found = await saver.aget_tuple(config("theirs"))
        assert found is not None
        assert found.config["configurable"]["thread_id"] == "theirs"
        assert await pending(saver, config("any other")) == [("task", "x", 2)]
        assert [one.thread_id for one in await rows(saver, None)] == ["execution-1"]
