"""Dying on purpose: at any call to the outside, before it lands, or after it landed with the answer lost.

SQLite is tested like this (sqlite.org/testing.html): try every point once, recover on the same disk, and demand the
result of an undisturbed run.

    for number in itertools.count():
        point = crash_at(number, landed=True)
        try:
            await run(CrashingStore(disk, point), CrashingModel(model, point))
        except Crash:
            await run(disk, model)              # a new incarnation on the same disk
        if not point.fired:
            break                               # the run has fewer calls than `number`: every point was tried

`Crash` is a `BaseException`, so that nothing on its way takes it for an error. Once it was raised the process is dead:
every later call through the same point raises it again, and nothing lands any more.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from agentspan.engine.admit import Signal
from agentspan.models.base import Model, ModelReply, ModelRequest, OnToken
from agentspan.persistence.store import (
    Accepted,
    Commit,
    Created,
    DeploymentRow,
    ExecutionRow,
    JournalEntry,
    Loaded,
    NewExecution,
    PendingRow,
    Receipt,
    Store,
    Sweep,
    TakenOver,
)
from agentspan.persistence.threads import CheckpointRow, ThreadCheckpoint, ThreadWrite, WriteRow

T = TypeVar("T")


class Crash(BaseException):
    """The process died. Only what plays the supervisor may catch it."""


class CrashPoint:
    """Counts the calls to the outside that go through it, and dies at one of them. Made by `crash_at`."""

    def __init__(self, number: int, *, landed: bool, error: Exception | None) -> None:
        self._number = number
        self._landed = landed
        self._error = error
        self.calls: list[str] = []
        """What was called so far, by name."""
        self.fired = False
        """The call with the number was reached."""
        self.dead = False
        """The process died. Stays False when the point raises an `error` of its own."""

    async def through(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call, and die before or after it if it is the one."""
        if self.dead:
            raise Crash(f"{name}: the process is dead")
        self.calls.append(name)
        if len(self.calls) - 1 != self._number:
            return await call()
        if self._landed:
            await call()
        if self.dead:
            raise Crash(f"{name}: the process died while it was under way")
        self.fired = True
        if self._error is not None:
            raise self._error
        self.dead = True
        raise Crash(f"{name}, call {self._number}, {'its answer lost' if self._landed else 'before it landed'}")

    def __repr__(self) -> str:
        return f"crash_at({self._number}, landed={self._landed}, error={self._error!r})"


def crash_at(number: int, *, landed: bool = False, error: Exception | None = None) -> CrashPoint:
    """A point that dies at the call with this number.

    Args:
        number: The call, counted from 0 over everything that shares the point.
        landed: Die after the call took effect, its answer lost; otherwise before it.
        error: Raise this instead of dying, and let the calls after it pass: a store whose answer got lost, say.
    """
    return CrashPoint(number, landed=landed, error=error)


class CrashingModel:
    """A `Model` every call of which goes through a point."""

    def __init__(self, model: Model, point: CrashPoint) -> None:
        self._model = model
        self._point = point

    async def complete(self, request: ModelRequest, *, on_token: OnToken | None = None) -> ModelReply:
        """See `Model.complete`."""
        return await self._point.through("model", lambda: self._model.complete(request, on_token=on_token))

    async def aclose(self) -> None:
        """See `Model.aclose`."""
        await self._model.aclose()


class CrashingStore:
    """A `Store` every call of which goes through a point. `close` always works: the disk outlives the process."""

    def __init__(self, store: Store, point: CrashPoint) -> None:
        self._store = store
        self._through = point.through

    async def close(self) -> None:
        """See `Store.close`."""
        await self._store.close()

    async def create(self, new: NewExecution) -> Created:
        """See `Store.create`."""
        return await self._through("create", lambda: self._store.create(new))

    async def take_over(
        self, execution_id: str, *, host: dict[str, Any], expected_epoch: int | None = None, blame: bool = True
    ) -> TakenOver:
        """See `Store.take_over`."""
        return await self._through(
            "take_over",
            lambda: self._store.take_over(execution_id, host=host, expected_epoch=expected_epoch, blame=blame),
        )

    async def set_host(self, execution_id: str, *, epoch: int, host: dict[str, Any]) -> None:
        """See `Store.set_host`."""
        await self._through("set_host", lambda: self._store.set_host(execution_id, epoch=epoch, host=host))

    async def load(self, execution_id: str) -> Loaded:
        """See `Store.load`."""
        return await self._through("load", lambda: self._store.load(execution_id))

    async def commit(self, commit: Commit) -> Receipt:
        """See `Store.commit`."""
        return await self._through("commit", lambda: self._store.commit(commit))

    async def quarantine(self, execution_id: str, *, error: str) -> None:
        """See `Store.quarantine`."""
        await self._through("quarantine", lambda: self._store.quarantine(execution_id, error=error))

    async def release(self, execution_id: str) -> bool:
        """See `Store.release`."""
        return await self._through("release", lambda: self._store.release(execution_id))

    async def row(self, execution_id: str) -> ExecutionRow:
        """See `Store.row`."""
        return await self._through("row", lambda: self._store.row(execution_id))

    async def find(self, prefix: str) -> str:
        """See `Store.find`."""
        return await self._through("find", lambda: self._store.find(prefix))

    async def rows(
        self,
        *,
        statuses: Sequence[str] | None = None,
        agent: str | None = None,
        session_id: str | None = None,
        limit: int = 100,
        before: float | None = None,
    ) -> list[ExecutionRow]:
        """See `Store.rows`."""
        return await self._through(
            "rows",
            lambda: self._store.rows(statuses=statuses, agent=agent, session_id=session_id, limit=limit, before=before),
        )

    async def unfinished(self) -> list[ExecutionRow]:
        """See `Store.unfinished`."""
        return await self._through("unfinished", self._store.unfinished)

    async def journal(self, execution_id: str, *, after_seq: int = -1, limit: int = 1000) -> list[JournalEntry]:
        """See `Store.journal`."""
        return await self._through(
            "journal", lambda: self._store.journal(execution_id, after_seq=after_seq, limit=limit)
        )

    async def journal_after_event(self, execution_id: str, *, event: int, limit: int = 1000) -> list[JournalEntry]:
        """See `Store.journal_after_event`."""
        return await self._through(
            "journal_after_event", lambda: self._store.journal_after_event(execution_id, event=event, limit=limit)
        )

    async def send(self, signal: Signal) -> Accepted:
        """See `Store.send`."""
        return await self._through("send", lambda: self._store.send(signal))

    async def inbox(self, execution_id: str) -> list[Signal]:
        """See `Store.inbox`."""
        return await self._through("inbox", lambda: self._store.inbox(execution_id))

    async def pending(self, execution_id: str | None = None, *, limit: int = 100) -> list[PendingRow]:
        """See `Store.pending`."""
        return await self._through("pending", lambda: self._store.pending(execution_id, limit=limit))

    async def save_deployment(self, deployment: DeploymentRow) -> bool:
        """See `Store.save_deployment`."""
        return await self._through("save_deployment", lambda: self._store.save_deployment(deployment))

    async def deployment(self, deployment_id: str) -> DeploymentRow | None:
        """See `Store.deployment`."""
        return await self._through("deployment", lambda: self._store.deployment(deployment_id))

    async def current_deployment(self, agent: str) -> DeploymentRow | None:
        """See `Store.current_deployment`."""
        return await self._through("current_deployment", lambda: self._store.current_deployment(agent))

    async def deployments(self) -> list[DeploymentRow]:
        """See `Store.deployments`."""
        return await self._through("deployments", self._store.deployments)

    async def write_thread(self, thread_id: str, write: ThreadWrite) -> int:
        """See `ThreadStore.write_thread`."""
        return await self._through("write_thread", lambda: self._store.write_thread(thread_id, write))

    async def checkpoint(
        self, thread_id: str, ns: str = "", checkpoint_id: str | None = None
    ) -> ThreadCheckpoint | None:
        """See `ThreadStore.checkpoint`."""
        return await self._through("checkpoint", lambda: self._store.checkpoint(thread_id, ns, checkpoint_id))

    async def checkpoints(self, thread_id: str, ns: str, checkpoint_ids: Sequence[str]) -> list[CheckpointRow]:
        """See `ThreadStore.checkpoints`."""
        return await self._through("checkpoints", lambda: self._store.checkpoints(thread_id, ns, checkpoint_ids))

    async def list_checkpoints(
        self,
        thread_id: str | None = None,
        *,
        ns: str | None = None,
        before: str | None = None,
        skip: int = 0,
        limit: int = 100,
    ) -> list[ThreadCheckpoint]:
        """See `ThreadStore.list_checkpoints`."""
        return await self._through(
            "list_checkpoints",
            lambda: self._store.list_checkpoints(thread_id, ns=ns, before=before, skip=skip, limit=limit),
        )

    async def places(self, thread_id: str, checkpoint_id: str) -> list[tuple[str, str]]:
        """See `ThreadStore.places`."""
        return await self._through("places", lambda: self._store.places(thread_id, checkpoint_id))

    async def checkpoint_writes(self, thread_id: str, ns: str, checkpoint_id: str) -> list[WriteRow]:
        """See `ThreadStore.checkpoint_writes`."""
        return await self._through(
            "checkpoint_writes", lambda: self._store.checkpoint_writes(thread_id, ns, checkpoint_id)
        )

    async def delete_checkpoints(self, thread_id: str, checkpoint_ids: Sequence[tuple[str, str]]) -> None:
        """See `ThreadStore.delete_checkpoints`."""
        await self._through("delete_checkpoints", lambda: self._store.delete_checkpoints(thread_id, checkpoint_ids))

    async def delete_thread(self, thread_id: str) -> None:
        """See `ThreadStore.delete_thread`."""
        await self._through("delete_thread", lambda: self._store.delete_thread(thread_id))

    async def copy_thread(self, source: str, target: str) -> None:
        """See `ThreadStore.copy_thread`."""
        await self._through("copy_thread", lambda: self._store.copy_thread(source, target))

    async def gc(self, *, finished_before: float, dry_run: bool = True, limit: int = 10_000) -> Sweep:
        """See `Store.gc`."""
        return await self._through(
            "gc", lambda: self._store.gc(finished_before=finished_before, dry_run=dry_run, limit=limit)
        )

    async def info(self) -> dict[str, Any]:
        """See `Store.info`."""
        return await self._through("info", self._store.info)


def _is_a_store(store: CrashingStore) -> Store:
    """Checked by mypy alone: a method that `Store` gains is missed here at once."""
    return store
