"""Two threads between an event loop and a SQLite file: one that writes, one that reads.

A loop that serves nothing but the store is such a thread itself, and may do the writing (`InlineLink`).

Group commit: every write is a function that gets the connection inside a transaction. What is queued while the
writer's thread is busy becomes one transaction, each function inside a savepoint of its own, so that one that is
refused (a stale epoch) fails alone. A lone write crosses to the thread once and back once, and pays for no savepoint.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from agentspan.errors import StoreUnavailableError
from agentspan.persistence.sqlite_file import open_reader, open_writer, patiently

GROUP_MAX = 256
"""Writes in one transaction."""

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]
Outcome = tuple[Any, BaseException | None]
"""What a function returned, or why nothing of it was written."""
_Queued = tuple["asyncio.Future[Any]", Work[Any]]


class _Connection(aiosqlite.Connection):
    """aiosqlite's connection and thread, for whole functions instead of single statements."""

    def __init__(self, connector: Callable[[], sqlite3.Connection]) -> None:
        super().__init__(connector, iter_chunk_size=64)
        # A store that nobody closed must not keep its process alive; what was acknowledged is on disk.
        self._thread.daemon = True
        self._stopped: asyncio.Future[Any] | None = None

    async def open(self) -> None:
        """Start the thread and connect."""
        try:
            await self
        except BaseException:
            # aiosqlite tells the thread to stop but does not wait for it; its answer could meet a closed loop.
            if self._stopped is not None:
                await self._stopped
            raise

    def stop(self) -> asyncio.Future[Any] | None:
        """End the thread."""
        self._stopped = super().stop()
        return self._stopped

    def post(self, call: Callable[[], None]) -> None:
        """Run a function on the thread. It hands over its results itself."""
        self._tx.put_nowait((None, call))

    async def ask(self, work: Work[T]) -> T:
        """Run a function on the thread and wait for its result."""
        result: T = await self._execute(work, self._conn)  # type: ignore[no-untyped-call]
        return result


class SqliteLink:
    """The connections of one store object. Belongs to the loop it was opened on."""

    def __init__(self, given: str | Path, deadline_s: float) -> None:
        path = Path(given).expanduser().absolute()
        self.path = path
        self.groups = 0
        """Transactions begun; with group commit fewer than writes."""
        self._deadline_s = deadline_s
        self._loop = asyncio.get_running_loop()
        self._queue: deque[_Queued] = deque()
        self._writer = _Connection(lambda: open_writer(path, deadline_s))
        self._reader = _Connection(lambda: open_reader(path))
        self._is_open = False

    async def open(self) -> None:
        """Connect. Raises as `open_writer` does."""
        await self._writer.open()
        try:
            await self._reader.open()
        except BaseException:
            await self._writer.close()
            raise
        self._is_open = True

    async def close(self) -> None:
        """Finish what is queued, then disconnect. Idempotent."""
        if not self._is_open:
            return
        self._is_open = False
        try:
            await self._reader.close()
        finally:
            await self._writer.close()  # The last one to leave moves the log into the file.

    async def write(self, work: Work[T]) -> T:
        """Run `work` in a transaction that others may share; return once it is on disk.

        Raises:
            StoreUnavailableError: The outcome is unknown, or the file stayed locked.
            Exception: What `work` raised; nothing of it was written.
        """
        self._check_usable()
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.append((future, work))
        # One post for every write: the first to run takes all that is queued, the others find nothing and return.
        self._post(self._drain)
        return await future

    async def read(self, work: Work[T]) -> T:
        """Run `work` in a read transaction: it sees one state of the file, whatever is written meanwhile."""
        self._check_usable()
        try:
            return await self._reader.ask(lambda db: _reading(db, work))
        except sqlite3.Error as problem:
            raise self._unavailable(problem) from problem

    async def off_loop(self, call: Callable[[], T]) -> T:
        """Run something slow on the reader's thread."""
        self._check_usable()
        return await self._reader.ask(lambda _: call())

    def _post(self, call: Callable[[], None]) -> None:
        self._writer.post(call)

    @property
    def _db(self) -> sqlite3.Connection:
        return self._writer._conn

    def _check_usable(self) -> None:
        if not self._is_open:
            raise StoreUnavailableError(where=str(self.path), problem="this store object is closed")
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("A SqliteStore belongs to the event loop it was opened on; open another one here.")

    def _unavailable(self, problem: BaseException) -> StoreUnavailableError:
        failure = StoreUnavailableError(where=str(self.path), problem=str(problem))
        failure.__cause__ = problem
        return failure

    # --- on the writer's thread

    def _drain(self) -> None:
        group: list[_Queued] = []
        while self._queue and len(group) < GROUP_MAX:
            group.append(self._queue.popleft())
        if group:
            outcomes = self._transact([work for _, work in group])
            with contextlib.suppress(RuntimeError):  # The loop was closed: nobody waits for the answer.
                self._loop.call_soon_threadsafe(_settle, [future for future, _ in group], outcomes)

    def _transact(self, group: Sequence[Work[Any]]) -> list[Outcome]:
        db = self._db
        outcomes: list[Outcome] = []
        try:
            patiently(lambda: db.execute("BEGIN IMMEDIATE"), time.monotonic() + self._deadline_s)
            self.groups += 1
            run = self._alone if len(group) == 1 else self._apart
            for work in group:
                outcomes.append(run(db, work))  # noqa: PERF401  What was done before one of them raises counts.
            if db.in_transaction:
                db.execute("COMMIT")
        except BaseException as problem:  # Handed to every caller; this thread must go on.
            with contextlib.suppress(sqlite3.Error):
                if db.in_transaction:
                    db.execute("ROLLBACK")
            failure = self._unavailable(problem)
            # Who was refused before the transaction was lost stays refused; the others do not know.
            refused = [error for _, error in outcomes] + [None] * (len(group) - len(outcomes))
            return [(None, error or failure) for error in refused]
        return outcomes

    def _alone(self, db: sqlite3.Connection, work: Work[Any]) -> Outcome:
        try:
            return work(db), None
        except BaseException as problem:
            if db.in_transaction:
                db.execute("ROLLBACK")
            return None, self._named(problem)

    def _apart(self, db: sqlite3.Connection, work: Work[Any]) -> Outcome:
        db.execute("SAVEPOINT one")
        try:
            result = work(db)
        except BaseException as problem:
            if not db.in_transaction:
                raise  # SQLite gave up the whole transaction (disk full, I/O error): nobody's work is in it any more.
            db.execute("ROLLBACK TO one")
            db.execute("RELEASE one")
            return None, self._named(problem)
        db.execute("RELEASE one")
        return result, None

    def _named(self, problem: BaseException) -> BaseException:
        return self._unavailable(problem) if isinstance(problem, sqlite3.Error) else problem


class InlineLink(SqliteLink):
    """Writes on the thread of the loop itself, which nothing else may need meanwhile: nothing crosses to a thread."""

    _inline: sqlite3.Connection

    async def open(self) -> None:
        """Connect. Raises as `open_writer` does."""
        self._inline = open_writer(self.path, self._deadline_s)
        try:
            await self._reader.open()
        except BaseException:
            self._inline.close()
            raise
        self._is_open = True

    async def close(self) -> None:
        """Finish what is queued, then disconnect. Idempotent."""
        if not self._is_open:
            return
        self._is_open = False
        while self._queue:
            self._drain()
        try:
            await self._reader.close()
        finally:
            self._inline.close()

    def write_now(self, works: Sequence[Work[Any]]) -> list[Outcome]:
        """Run several functions in one transaction, each apart; they are on disk when this returns."""
        self._check_usable()
        groups = [works[start : start + GROUP_MAX] for start in range(0, len(works), GROUP_MAX)]
        return [outcome for group in groups for outcome in self._transact(group)]

    def _post(self, call: Callable[[], None]) -> None:
        self._loop.call_soon(call)

    @property
    def _db(self) -> sqlite3.Connection:
        return self._inline


def _settle(futures: Sequence[asyncio.Future[Any]], outcomes: Sequence[Outcome]) -> None:
    for future, (result, error) in zip(futures, outcomes, strict=True):
        if future.done():
            continue  # Its caller was cancelled.
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


def _reading(db: sqlite3.Connection, work: Work[T]) -> T:
    db.execute("BEGIN")
    try:
        return work(db)
    finally:
        if db.in_transaction:
            db.execute("COMMIT")
