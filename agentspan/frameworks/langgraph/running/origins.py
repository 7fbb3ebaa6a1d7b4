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
from agentspan.frameworks.langgraph.running.fitting import misfit
from agentspan.frameworks.langgraph.saving.reads import RowPages
from agentspan.frameworks.langgraph.saving.saver import AgentSpanSaver
from agentspan.frameworks.langgraph.state.serde import StateSerde
from agentspan.persistence.threads import ThreadCheckpoint, ThreadStore, ThreadWrite

T = TypeVar("T")


async def copied_state(
    store: ThreadStore, source: str, target: str, *, app: Any, serde: StateSerde, step: int | None, is_fork: bool
) -> ThreadWrite | None:
    """What to store in the thread `target` for it to go on from `source`; None when that has no state.

    Args:
        store: Where both threads are.
        source: The thread to copy from.
        target: The thread to copy to.
        app: The graph that goes on.
        serde: Knows the types of the graph's state.
        step: The step whose state it is; None is the last.
        is_fork: Mark it as one, so that the target knows it has yet to run; what the graph would lose of it is refused.

    Raises:
        ConfigurationError: There is no such step, or a fork's state does not fit the graph.
        UnknownStateTypeError: The state holds a type that the graph does not declare.
    """
    collected = _Collecting(store)
    reading = AgentSpanSaver(collected, serde=serde)
    writing = AgentSpanSaver(collected, serde=serde)
    place = {"thread_id": source, "checkpoint_ns": ""}
    if step is not None:
        place["checkpoint_id"] = await find_step(store, source, step)
    found = await reading.aget_tuple({"configurable": place})
    if found is None:
        return None
    if is_fork:
        check_fit(app, source, found.checkpoint["channel_values"])
    chain = [found]
    while chain[0].metadata.get("counters_since_delta_snapshot") and chain[0].parent_config:
        # Values of a DeltaChannel are what its ancestors' writes add up to.
        parent = await reading.aget_tuple(chain[0].parent_config)
        if parent is None:
            break
        chain.insert(0, parent)
    for item in [*chain, *await _persistent(reading, store, source, found.checkpoint["id"])]:
        await _put(writing, target, item, as_fork=is_fork and item is found, with_writes=item is not found)
    return collected.write()


def check_fit(app: Any, execution_id: str, values: Any) -> None:
    """Refuse to go on from a state of which the graph would lose something.

    Raises:
        ConfigurationError: Says what.
    """
    problem = misfit(app, values)
    if problem is not None:
        raise ConfigurationError(
            problem=f"Execution {execution_id!r} cannot be forked with this graph: {problem}. Fork a step before, or "
            "bring it back."
        )


async def find_step(store: ThreadStore, thread_id: str, step: int) -> str:
    """The ID of the root graph's checkpoint of a step. Looks at few rows, and makes no values of them.

    Raises:
        ConfigurationError: There is no such step.
    """
    last = await store.list_checkpoints(thread_id, ns="", limit=1)
    if last and (back := _step(last[0]) - step) > 0:
        # Steps count up one by one, so it is mostly so far back.
        there = await store.list_checkpoints(thread_id, ns="", skip=back, limit=1)
        if there and _step(there[0]) == step:
            return there[0].row.checkpoint_id
    pages, seen = RowPages(thread_id, ""), list[int]()
    while not pages.is_done:
        for found in await pages.next(store):
            if _step(found) == step:
                return found.row.checkpoint_id
            seen.append(_step(found))
    steps = f"its steps are {min(seen)} to {max(seen)}" if seen else "it has no state yet"
    raise ConfigurationError(problem=f"Execution {thread_id!r} has no step {step}; {steps}.")


def _step(found: ThreadCheckpoint) -> int:
    return int(found.row.body["m"].get("step", -1))


async def _persistent(saver: AgentSpanSaver, store: ThreadStore, thread_id: str, root_id: str) -> list[Any]:
    """The states of sub-graphs that keep one over calls (`checkpointer=True`), as they were at that checkpoint."""
    found = []
    for ns, checkpoint_id in await store.places(thread_id, root_id):
        if ":" not in ns:
            place = {"thread_id": thread_id, "checkpoint_ns": ns, "checkpoint_id": checkpoint_id}
            found.append(await saver.aget_tuple({"configurable": place}))
    return [item for item in found if item is not None]


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
