"""Going on from another execution's state: a session's last one, or a fork from any step.

The state is copied into the thread of the new execution, so that each stands alone; large values are stored once anyway.
Pending writes are left behind: a fork in the middle of a step runs its tasks again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from agentspan.errors import ConfigurationError
from agentspan.frameworks.langgraph.saving.saver import AgentSpanSaver
from agentspan.frameworks.langgraph.state.serde import StateSerde
from agentspan.persistence.threads import ThreadStore, ThreadWrite

T = TypeVar("T")

CHECKPOINTS_MAX = 100_000
"""The most that is looked through for a step."""


async def copied_state(
    store: ThreadStore, source: str, target: str, *, serde: StateSerde, step: int | None = None, as_fork: bool = False
) -> ThreadWrite | None:
    """What to store in the thread `target` for it to go on from `source`; None when that has no state.

    Args:
        store: Where both threads are.
        source: The thread to copy from.
        target: The thread to copy to.
        serde: Knows the types of the graph's state.
        step: The step whose state it is; None is the last.
        as_fork: Mark it as one, so that the target knows it has yet to run.

    Raises:
        ConfigurationError: There is no such step.
    """
    collected = _Collecting(store)
    reading = AgentSpanSaver(collected, serde=serde)
    writing = AgentSpanSaver(collected, serde=serde)
    found = await _checkpoint(reading, source, step)
    if found is None:
        return None
    chain = [found]
    while chain[0].metadata.get("counters_since_delta_snapshot") and chain[0].parent_config:
        # Values of a DeltaChannel are what its ancestors' writes add up to.
        parent = await reading.aget_tuple(chain[0].parent_config)
        if parent is None:
            break
        chain.insert(0, parent)
    for item in [*chain, *await _persistent(reading, store, source, found)]:
        await _put(writing, target, item, as_fork=as_fork and item is found, with_writes=item is not found)
    return collected.write()


async def _checkpoint(saver: AgentSpanSaver, thread_id: str, step: int | None) -> Any:
    config: Any = {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}
    if step is None:
        return await saver.aget_tuple(config)
    seen: list[int] = []
    async for item in saver.alist(config, limit=CHECKPOINTS_MAX):
        found = int(item.metadata.get("step", -1))
        if found == step:
            return item
        seen.append(found)
    if not seen:
        return None
    raise ConfigurationError(
        problem=f"Execution {thread_id!r} has no step {step}; its steps are {min(seen)} to {max(seen)}."
    )


async def _persistent(saver: AgentSpanSaver, store: ThreadStore, thread_id: str, root: Any) -> list[Any]:
    """The states of sub-graphs that keep one over calls (`checkpointer=True`), as they were at that checkpoint."""
    found: dict[str, Any] = {}
    passed = False
    for listed in await store.list_checkpoints(thread_id, limit=CHECKPOINTS_MAX):
        row = listed.row
        if row.ns == "" and row.checkpoint_id == root.checkpoint["id"]:
            passed = True
        elif passed and row.ns and ":" not in row.ns and row.ns not in found:
            config: Any = {
                "configurable": {
                    "thread_id": thread_id,
                    "checkpoint_ns": row.ns,
                    "checkpoint_id": row.checkpoint_id,
                }
            }
            found[row.ns] = await saver.aget_tuple(config)
    return [item for item in found.values() if item is not None]


async def _put(saver: AgentSpanSaver, thread_id: str, item: Any, *, as_fork: bool, with_writes: bool) -> None:
    place: Any = {"thread_id": thread_id, "checkpoint_ns": item.config["configurable"].get("checkpoint_ns", "")}
    if item.parent_config:
        place["checkpoint_id"] = item.parent_config["configurable"]["checkpoint_id"]
    metadata: Any = {**item.metadata, "source": "fork"} if as_fork else item.metadata
    stored = await saver.aput({"configurable": place}, item.checkpoint, metadata, item.checkpoint["channel_versions"])
    if not with_writes:
        return
    by_task: dict[str, list[tuple[str, Any]]] = {}
    for task_id, channel, value in item.pending_writes or ():
        by_task.setdefault(task_id, []).append((channel, value))
    for task_id, writes in by_task.items():
        await saver.aput_writes(stored, writes, task_id)


class _Collecting:
    """A `ThreadPort` that reads the store and keeps what is pushed."""

    def __init__(self, store: ThreadStore) -> None:
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._pushed: list[ThreadWrite] = []

    def push(self, thread_id: str, write: ThreadWrite) -> Future[None]:
        self._pushed.append(write)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def read(self, call: Callable[[ThreadStore], Awaitable[T]]) -> Future[T]:
        async def reading() -> T:
            return await call(self._store)

        return asyncio.run_coroutine_threadsafe(reading(), self._loop)

    def close(self) -> None:
        """Nothing to do: the store is the caller's."""

    def write(self) -> ThreadWrite:
        return ThreadWrite(
            checkpoints=[row for write in self._pushed for row in write.checkpoints],
            writes=[row for write in self._pushed for row in write.writes],
        )
