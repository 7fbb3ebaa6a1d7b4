"""What AgentSpanSaver does when something cannot be stored, or is not what it was."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from agentspan.errors import CorruptRecordError, StoreUnavailableError, UnstorableStateError
from agentspan.frameworks.langgraph.saving.ports import StoreThreads
from agentspan.frameworks.langgraph.saving.saver import AgentSpanSaver
from agentspan.persistence.threads import CheckpointRow, ThreadWrite
from tests.support.savers import STORES, Disk, Line, checkpoint, config, rows


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


class Refusing(StoreThreads):
    """A port whose pushes fail as the test says."""

    refuses = staticmethod(lambda write: False)

    def push(self, thread_id: str, write: ThreadWrite) -> Future[None]:
        if self.refuses(write):
            refused: Future[None] = Future()
            refused.set_exception(StoreUnavailableError(where="here", problem="no"))
            return refused
        return super().push(thread_id, write)


@pytest.fixture
async def refusing(tmp_path: Path) -> AsyncIterator[Refusing]:
    port = Refusing(tmp_path / "threads.db")
    yield port
    await port.aclose()


async def test_after_task_writes_failed_the_next_checkpoint_fails(refusing: Refusing) -> None:
    saver = AgentSpanSaver(refusing)
    at = await put(saver, config())
    refusing.refuses = lambda write: bool(write.writes)  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailableError):
        await saver.aput_writes(at, [("x", 1)], "task")
    refusing.refuses = lambda write: False  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailableError):
        await put(saver, at)
    assert len(await rows(saver)) == 1
    await put(saver, at)


async def test_after_writes_that_cannot_be_stored_the_next_checkpoint_fails(refusing: Refusing) -> None:
    saver = AgentSpanSaver(refusing)
    at = await put(saver, config())
    with pytest.raises(UnstorableStateError) as caught:
        await saver.aput_writes(at, [("x", [1, {"deep": lambda: 0}])], "task")
    assert caught.value.path.startswith("$.x[1]")
    with pytest.raises(UnstorableStateError):
        await put(saver, at)


async def test_writes_that_succeed_at_last_are_forgiven(refusing: Refusing) -> None:
    saver = AgentSpanSaver(refusing)
    at = await put(saver, config())
    refusing.refuses = lambda write: bool(write.writes)  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailableError):
        await saver.aput_writes(at, [("x", 1)], "task")
    refusing.refuses = lambda write: False  # type: ignore[method-assign]
    await saver.aput_writes(at, [("x", 1)], "task")
    await put(saver, at)


async def test_nothing_builds_on_a_checkpoint_that_failed(refusing: Refusing) -> None:
    saver = AgentSpanSaver(refusing)
    line = Line(saver)
    await line.put(messages=["a" * 100])
    refusing.refuses = lambda write: bool(write.checkpoints)  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailableError):
        await line.put(messages=["a" * 100, "b" * 100])
    refusing.refuses = lambda write: False  # type: ignore[method-assign]
    await line.put(messages=["a" * 100, "b" * 100, "c" * 100])
    assert (await line.read())["messages"] == ["a" * 100, "b" * 100, "c" * 100]


async def test_a_checkpoint_whose_source_is_another_version_is_not_trusted(disk: Disk) -> None:
    async with disk.saver() as saver:
        line = Line(saver)
        first = await line.put(messages=["a" * 100], other="o")
        await line.put("messages", messages=["a" * 100, "b"], other="o")
        row = (await rows(saver))[1].row
        body = {**row.body, "x": [version + 1 for version in row.body["x"]]}
        forged = CheckpointRow(checkpoint_id=row.checkpoint_id, parent_id=row.parent_id, body=body)
        saver._port.push("t", ThreadWrite(checkpoints=[forged])).result()
        with pytest.raises(CorruptRecordError, match="another version of 'messages'"):
            await saver.aget_tuple(config())
        assert (await line.read(first))["messages"] == ["a" * 100]


async def test_a_checkpoint_whose_source_is_gone_is_not_trusted(disk: Disk) -> None:
    async with disk.saver() as saver:
        line = Line(saver)
        first = await line.put(messages=["a" * 100])
        await line.put(messages=["a" * 100, "b"])
        gone = [("", first["configurable"]["checkpoint_id"])]
        saver._port.read(lambda store: store.delete_checkpoints("t", gone)).result()
        with pytest.raises(CorruptRecordError, match="missing"):
            await saver.aget_tuple(config())


async def test_a_value_that_cannot_be_stored_is_named(saver: AgentSpanSaver) -> None:
    for values, path in (
        ({"messages": ["fine", object()]}, "$.messages[1]"),
        ({"state": {"a": {"b": object()}}}, "$.state.a"),
    ):
        with pytest.raises(UnstorableStateError) as caught:
            await put(saver, config(), values)
        assert caught.value.path.startswith(path)
    assert await saver.aget_tuple(config()) is None
