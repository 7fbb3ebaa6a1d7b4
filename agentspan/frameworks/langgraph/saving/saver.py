"""`AgentSpanSaver`: a LangGraph checkpointer on AgentSpan's store.

It stores what changed, not the whole state; a step of a sequential graph is one transaction; and several graphs share
transactions. It is usable on its own, from any thread and any event loop, sync and async:

    with AgentSpanSaver("sqlite:///threads.db") as saver:
        app = builder.compile(checkpointer=saver)
        app.invoke(..., {"configurable": {"thread_id": "1"}}, durability="sync")

The latest checkpoint of a thread is the one that was stored last, whatever the clock said. Each method is written once,
as steps that yield the futures they wait for (`steps.py`); the sync and the async form only wait in their own way.
"""

from __future__ import annotations

import asyncio
import copy
import os
import sys
import threading
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Self

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    get_checkpoint_id,
)

from agentspan.frameworks.langgraph.saving import upkeep
from agentspan.frameworks.langgraph.saving.channels import LIST, Serde, pack_run
from agentspan.frameworks.langgraph.saving.checkpoints import encode_checkpoint
from agentspan.frameworks.langgraph.saving.failures import Failures
from agentspan.frameworks.langgraph.saving.ports import StoreThreads, ThreadPort
from agentspan.frameworks.langgraph.saving.reads import Reads
from agentspan.frameworks.langgraph.saving.redacting import stored_metadata
from agentspan.frameworks.langgraph.saving.shelf import Memory
from agentspan.frameworks.langgraph.saving.steps import run_async, run_sync, settled
from agentspan.frameworks.langgraph.state.serde import StateSerde
from agentspan.persistence.threads import CheckpointRow, ThreadWrite, WriteRow

_ERROR, _HANDLED = "__error__", "__error_source_node__"
_CONTROL = frozenset({*WRITES_IDX_MAP, _HANDLED})
# One of our own, because a program that seeds the common one would get the same versions in two branches; and not the
# same one in a forked child.
_random = Random()
os.register_at_fork(after_in_child=_random.seed)


class AgentSpanSaver(BaseCheckpointSaver[Any]):
    """A checkpointer on an AgentSpan store.

    Args:
        store: A store URL or the path of a SQLite file; or a port that somebody else closes. None is the store of
            `AGENTSPAN_HOME`.
        types: Classes in the state beside LangChain's and Python's own. See `StateSerde`.
        serde: A serializer that is there already, instead of `types`.
        thread_id: Keep whatever thread a config names under this one. What callers see is the name they gave.

    A write that fails raises where LangGraph waits for it, and LangGraph does not wait for task writes: so after one has
    failed, the next `put` on the same checkpoint fails with the same error.
    """

    def __init__(
        self,
        store: str | Path | ThreadPort | None = None,
        *,
        types: Iterable[type] = (),
        serde: StateSerde | None = None,
        thread_id: str | None = None,
    ) -> None:
        super().__init__(serde=serde or StateSerde(types))
        if store is None:
            from agentspan.config import Settings

            store = Settings.from_env().store_url
        self._own_port = StoreThreads(store) if isinstance(store, (str, Path)) else None
        self._port: ThreadPort = store if not isinstance(store, (str, Path)) else self._own_port  # type: ignore[assignment]
        self._thread_id = thread_id
        self._memory = Memory()
        self._failures = Failures()
        self._serdes: dict[frozenset[type], StateSerde] = {}
        self._serdes_lock = threading.Lock()

    # --- life

    def close(self) -> None:
        """Finish what is queued and close the store, unless a port was given. Idempotent."""
        if self._own_port is not None:
            self._own_port.close()

    async def aclose(self) -> None:
        """`close`, without blocking the loop."""
        await asyncio.to_thread(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def with_types(self, types: Iterable[type]) -> Self:
        """This saver, for a graph that has these classes in its state too: same store, same memory."""
        wanted = frozenset(types)
        with self._serdes_lock:
            serde = self._serdes.get(wanted)
            if serde is None:
                serde = self._serdes[wanted] = self._serde.with_types(wanted)
        clone = copy.copy(self)
        clone.serde = serde
        clone._serdes = {}
        return clone

    def with_allowlist(self, extra_allowlist: Collection[tuple[str, ...]]) -> BaseCheckpointSaver[Any]:
        """What LangGraph calls in its strict mode, with the (module, class) names the graph's schemas declare."""
        return self.with_types(_classes(extra_allowlist))

    @property
    def _serde(self) -> StateSerde:
        serde = self.serde
        assert isinstance(serde, StateSerde)
        return serde

    # --- writing

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint; it is durable when this returns."""
        done, stored = self._put(config, checkpoint, metadata, new_versions)
        done.result()
        return stored

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Async `put`."""
        done, stored = self._put(config, checkpoint, metadata, new_versions)
        await settled(done)
        return stored

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Store what a task wrote; it is durable when this returns."""
        self._put_writes(config, writes, task_id, task_path).result()

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Async `put_writes`."""
        await settled(self._put_writes(config, writes, task_id, task_path))

    def _put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> tuple[Future[None], RunnableConfig]:
        thread_id, ns, parent_id = self._place(config)
        kept = stored_metadata(config, metadata)
        row, known = encode_checkpoint(
            checkpoint,
            kept,
            ns=ns,
            parent_id=parent_id,
            known=self._memory.get(thread_id, ns, parent_id),
            changed=new_versions,
            serde=self._serde,
        )
        # Only now: a value that cannot be stored has just been named by its place in the state, instead of that in the
        # writes of a task.
        self._failures.raise_for(thread_id, ns, parent_id)
        self._memory.keep(thread_id, ns, row.checkpoint_id, known, instead_of=parent_id)
        done = self._push_checkpoint(thread_id, ns, checkpoint, kept, row)
        done.add_done_callback(lambda future: self._settled(thread_id, future))
        return done, _config(config["configurable"]["thread_id"], ns, row.checkpoint_id)

    def _settled(self, thread_id: str, future: Future[None]) -> None:
        if future.exception() is not None:
            self._memory.forget(thread_id)  # Nothing may build on a checkpoint that is not there.

    def _put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str
    ) -> Future[None]:
        thread_id, ns, checkpoint_id = self._place(config)
        assert checkpoint_id is not None, "LangGraph names the checkpoint that a task ran on"
        place = (thread_id, ns, checkpoint_id, task_id)
        try:
            rows = _write_rows(ns, checkpoint_id, writes, task_id, task_path, self._serde)
            done = self._push_task_writes(thread_id, ns, checkpoint_id, task_id, task_path, writes, rows)
        except Exception as problem:
            self._failures.note(place, problem)
            raise
        done.add_done_callback(lambda future: self._failures.note(place, future.exception()))
        return done

    # A subclass may push more than the row (a journal entry, under the same commit), somewhere else, or say it aloud.

    def _push_checkpoint(
        self, thread_id: str, ns: str, checkpoint: Checkpoint, metadata: Mapping[str, Any], row: CheckpointRow
    ) -> Future[None]:
        """Hand a checkpoint to the port. `metadata` is as it is stored. Called in order for each thread."""
        return self._port.push(thread_id, ThreadWrite(checkpoints=(row,)))

    def _push_task_writes(
        self,
        thread_id: str,
        ns: str,
        checkpoint_id: str,
        task_id: str,
        task_path: str,
        writes: Sequence[tuple[str, Any]],
        rows: Sequence[WriteRow],
    ) -> Future[None]:
        """Hand the writes of a task to the port; `rows` is what of `writes` is stored."""
        return self._port.push(thread_id, ThreadWrite(writes=rows))

    def get_next_version(self, current: Any, channel: None = None) -> Any:
        """A number that counts up, and 32 random bits: unique, so that a version says what the value is in any branch."""
        if isinstance(current, str):  # A thread adopted from another saver goes on in its form.
            return f"{int(current.split('.')[0]) + 1:032}.{_random.random():016}"
        return (int(current or 0) >> 32) + 1 << 32 | _random.getrandbits(32)

    # --- reading

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """A checkpoint with its writes; the latest, if the config names none."""
        return run_sync(self._reads(config).tuple(get_checkpoint_id(config)))

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Async `get_tuple`."""
        return await run_async(self._reads(config).tuple(get_checkpoint_id(config)))

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Checkpoints, the last stored first. Nothing is locked while the caller looks at one."""
        pages = self._reads(config).pages(config, filter, before, limit)
        while (page := run_sync(pages.next())) is not None:
            yield from page

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Async `list`."""
        pages = self._reads(config).pages(config, filter, before, limit)
        while (page := await run_async(pages.next())) is not None:
            for one in page:
                yield one

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """What `DeltaChannel`s are rebuilt from, in one walk along the parents."""
        return run_sync(self._reads(config).delta_history(get_checkpoint_id(config), channels))

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Async `get_delta_channel_history`."""
        return await run_async(self._reads(config).delta_history(get_checkpoint_id(config), channels))

    def _reads(self, config: RunnableConfig | None) -> Reads:
        given = None if config is None else config["configurable"].get("thread_id")
        ns = "" if config is None else config["configurable"].get("checkpoint_ns") or ""
        return Reads(
            self._port,
            self._serde,
            self._memory,
            self._failures,
            thread_id=self._thread_id or (None if given is None else str(given)),
            shown_as=given,
            ns=ns,
        )

    # --- upkeep. Not for threads a graph is running on.

    def delete_thread(self, thread_id: str) -> None:
        """Remove a thread and all it refers to."""
        run_sync(self._upkeep().delete_thread(self._stored(thread_id)))

    async def adelete_thread(self, thread_id: str) -> None:
        """Async `delete_thread`."""
        await run_async(self._upkeep().delete_thread(self._stored(thread_id)))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy a thread with all its checkpoints and writes; they keep their IDs."""
        run_sync(self._upkeep().copy_thread(source_thread_id, target_thread_id))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Async `copy_thread`."""
        await run_async(self._upkeep().copy_thread(source_thread_id, target_thread_id))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Remove the checkpoints that some runs made; what remains is rewritten so that it needs none of them."""
        run_sync(self._upkeep().delete_for_runs(run_ids, self._thread_id))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Async `delete_for_runs`."""
        await run_async(self._upkeep().delete_for_runs(run_ids, self._thread_id))

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Keep the latest checkpoint of each namespace (and what its `DeltaChannel`s need), or with "delete" nothing."""
        run_sync(self._upkeep().prune([self._stored(one) for one in thread_ids], strategy))

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Async `prune`."""
        await run_async(self._upkeep().prune([self._stored(one) for one in thread_ids], strategy))

    def _upkeep(self) -> upkeep.Upkeep:
        return upkeep.Upkeep(self._port, self._serde, self._memory)

    # --- places

    def _stored(self, thread_id: str) -> str:
        return self._thread_id or str(thread_id)

    def _place(self, config: RunnableConfig) -> tuple[str, str, str | None]:
        given = config["configurable"]
        return self._stored(given["thread_id"]), given.get("checkpoint_ns") or "", get_checkpoint_id(config) or None


def _config(thread_id: str, ns: str, checkpoint_id: str) -> RunnableConfig:
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": ns, "checkpoint_id": checkpoint_id}}


def _write_rows(
    ns: str, checkpoint_id: str, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str, serde: Serde
) -> list[WriteRow]:
    channels = {channel for channel, _ in writes}
    # A router that raises does so after the node has returned, so the writes of the node come with the error, and would
    # tell a resumed run that the task had finished: the branch would be lost without a word. With a handler for the
    # error the task does count as finished, and the run that was not interrupted has applied its writes.
    has_failed = _ERROR in channels and _HANDLED not in channels
    rows = []
    for position, (channel, value) in enumerate(writes):
        if has_failed and channel not in _CONTROL:
            continue
        path = f"$.{channel}"
        encoded = [LIST, pack_run(value, serde, path)[0]] if type(value) is list else serde.dumps(value, path)
        rows.append(
            WriteRow(
                ns=ns,
                checkpoint_id=checkpoint_id,
                task_id=task_id,
                idx=WRITES_IDX_MAP.get(channel, position),
                task_path=task_path,
                channel=channel,
                body={"v": encoded},
            )
        )
    return rows


def _classes(names: Iterable[tuple[str, ...]]) -> set[type]:
    found = set()
    for module, name, *_ in names:
        here: Any = sys.modules.get(module)
        for part in name.split("."):
            here = getattr(here, part, None)
        if isinstance(here, type):
            found.add(here)
    return found
