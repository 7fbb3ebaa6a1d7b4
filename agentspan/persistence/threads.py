"""The port to threads: the checkpoints of a graph, beside the journal that native agents use.

A *thread* is what LangGraph keeps of one conversation: per namespace (the root graph is "", sub-graphs have their own)
a sequence of checkpoints, and for each the pending writes of the tasks that ran on it. The latest checkpoint is the one
that was stored last, never the one with the greatest ID: clocks go backwards. Bodies are plain data, as everywhere in
the store; what is in them is the business of `agentspan.frameworks.langgraph`.

A thread of an execution has the execution's ID and is written only by its commits (`Commit.thread`), under its epoch;
any other thread is written by `write_thread`.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from agentspan.engine import records as r


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRow:
    """One checkpoint."""

    ns: str = ""
    checkpoint_id: str
    parent_id: str | None = None
    body: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteRow:
    """One write of a task on a checkpoint."""

    ns: str = ""
    checkpoint_id: str
    task_id: str
    idx: int
    """Position within the task; negative for the kinds that have a fixed slot (error, interrupt, resume, …)."""
    task_path: str = ""
    channel: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadWrite:
    """What becomes durable together. Storing the same again changes nothing."""

    checkpoints: Sequence[CheckpointRow] = ()
    """In the order they were made. One that is there already is replaced and keeps its place."""
    writes: Sequence[WriteRow] = ()
    """One with a negative `idx` replaces what is there; any other is ignored when its place is taken."""
    forget: Sequence[tuple[str, str, str, int]] = ()
    """(ns, checkpoint_id, task_id, idx) of writes to remove, before the others are stored."""


def joined(writes: Sequence[ThreadWrite]) -> ThreadWrite | None:
    """Several writes, in their order, as one."""
    if len(writes) < 2:
        return writes[0] if writes else None
    rows: list[WriteRow] = []
    for write in writes:
        if write.forget:
            # All that is to be forgotten goes first in the whole, so what was written before it goes here.
            gone = frozenset(write.forget)
            rows = [row for row in rows if (row.ns, row.checkpoint_id, row.task_id, row.idx) not in gone]
        rows += write.writes
    return ThreadWrite(
        checkpoints=[row for write in writes for row in write.checkpoints],
        writes=rows,
        forget=[key for write in writes for key in write.forget],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadCheckpoint:
    """A checkpoint in a listing over threads."""

    thread_id: str
    row: CheckpointRow
    writes: Sequence[WriteRow] = field(default_factory=tuple)


class Report(Protocol):
    """Have something committed. Safe to call from any thread."""

    def __call__(
        self, records: Sequence[r.AnyRecord] = (), thread: ThreadWrite | None = None, *, within_s: float = 0.0
    ) -> Future[None]:
        """Have records and a part of the execution's thread committed together, in the order of the calls.

        Args:
            records: Told by the effect; they must fit whatever signals come in between.
            thread: Checkpoints and writes of the execution's thread.
            within_s: How long it may wait for more to share its commit.

        Returns:
            Done once it is committed; fails with what stops the driver (`StaleEpochError` among others).
        """
        ...


class ThreadStore(Protocol):
    """The part of a store that keeps threads. All methods may raise `StoreUnavailableError` (outcome unknown)."""

    async def write_thread(self, thread_id: str, write: ThreadWrite) -> int:
        """Store checkpoints and writes of a thread of its own; all or none.

        Returns the bytes of its bodies (also of those that were there already) and of their new large values.

        Raises:
            ThreadOwnedError: It is the thread of an execution, which only its own commits may write.
            UnstorableValueError: A body is not plain data; nothing was written.
        """
        ...

    async def checkpoint(
        self, thread_id: str, ns: str = "", checkpoint_id: str | None = None
    ) -> ThreadCheckpoint | None:
        """One checkpoint with its writes, sorted by (task_path, task_id, idx); without an ID the one stored last."""
        ...

    async def checkpoints(self, thread_id: str, ns: str, checkpoint_ids: Sequence[str]) -> list[CheckpointRow]:
        """Several checkpoints by ID, in the order asked for; those that are not there are left out."""
        ...

    async def list_checkpoints(
        self,
        thread_id: str | None = None,
        *,
        ns: str | None = None,
        before: str | None = None,
        skip: int = 0,
        limit: int = 100,
    ) -> list[ThreadCheckpoint]:
        """Checkpoints, the last stored first (without their writes).

        Args:
            thread_id: None lists all threads, an execution's too; damaged checkpoints are left out then (and logged).
            ns: None lists every namespace.
            before: Only those stored before this checkpoint (of the same thread and namespace; where that is not
                stored, those with a smaller ID).
            skip: Leave out so many of the first; they are not read.
            limit: The most to return.

        Raises:
            CorruptRecordError: A checkpoint of the thread fails its check.
        """
        ...

    async def places(self, thread_id: str, checkpoint_id: str) -> list[tuple[str, str]]:
        """Where the other namespaces of a thread stood when a checkpoint of its root ("") was stored.

        Returns (ns, ID of the checkpoint stored last before it) for each that had one, by name; nothing if the thread has
        no such checkpoint. No body is read.
        """
        ...

    async def checkpoint_writes(self, thread_id: str, ns: str, checkpoint_id: str) -> list[WriteRow]:
        """The writes on one checkpoint, sorted by (task_path, task_id, idx)."""
        ...

    async def delete_checkpoints(self, thread_id: str, checkpoint_ids: Sequence[tuple[str, str]]) -> None:
        """Remove checkpoints, by (ns, checkpoint_id), with their writes and the large values only they refer to.

        Those that are not there are ignored. That nobody runs on the thread meanwhile is the caller's business.

        Raises:
            ThreadOwnedError: It is the thread of an execution, which only its own commits may change.
        """
        ...

    async def delete_thread(self, thread_id: str) -> None:
        """Remove a thread with all that only it refers to. One that is not there is ignored.

        Raises:
            ThreadOwnedError: It is the thread of an execution; `gc` removes that.
        """
        ...

    async def copy_thread(self, source: str, target: str) -> None:
        """Make `target` a copy of all of `source`; checkpoints keep their IDs and their order.

        Raises:
            ThreadOwnedError: `target` is the thread of an execution.
            ConfigurationError: `target` holds something else already (its copy may be there: this may be sent again).
        """
        ...


@runtime_checkable
class InlineThreadStore(Protocol):
    """What a store can do besides whose loop serves nothing else."""

    def write_threads(self, writes: Sequence[tuple[str, ThreadWrite]]) -> list[BaseException | None]:
        """Store writes to several threads at once, before this returns; each all or none.

        Returns for each of them None, or what `ThreadStore.write_thread` would have raised.
        """
        ...
