"""Threads between an event loop and a Postgres server: one that writes, and some that read.

A piece of work is a generator: it yields batches of statements, gets their answers, and returns a result. Everything
that waits when a thread becomes free shares one transaction (group commit), and each round of it is one message to the
server and one answer, however many callers take part: fifty steps cost about as many round trips as one.

Each piece still succeeds or fails by itself:

* One that refuses before it wrote anything (a stale epoch) just leaves.
* One that fails later, and a statement that the server refuses, undo the transaction; the others, who were told
  nothing yet, run again, each in a transaction of its own.
* Two that name the same key (an execution) are never in the same transaction, so what one reads the other cannot
  change; between processes the locks on rows do that.

Deadlines: the server stops statements that take too long, and a server that does not even do that has its connection
cut. When a connection breaks before COMMIT was sent, nothing was kept, and the transaction is tried once more.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import psycopg

from agentspan.errors import AgentspanError, ConfigurationError, StoreUnavailableError
from agentspan.persistence.postgres_session import Answer, Ask, LostError, PostgresSession
from agentspan.persistence.postgres_url import PostgresTarget

GROUP_MAX = 256
"""Pieces of work in one transaction."""
TRIES_MAX = 8
"""How often a piece runs that meets other processes (deadlocks, two that create the same)."""
GRACE_MAX_S = 5.0
"""How much longer than the server a caller waits before the connection is cut."""

_WRITE = "ISOLATION LEVEL READ COMMITTED, READ WRITE"
_READ = "ISOLATION LEVEL REPEATABLE READ, READ ONLY"
_COMMIT = Ask("COMMIT")
_MEETINGS = ("40001", "40P01", "23505", "23503")
"""Serialization failure, deadlock, and somebody else made the same row at the same time."""

T = TypeVar("T")


class Batch(list[Ask]):
    """Statements that are sent together."""

    is_last = False


class Last(Batch):
    """The last batch of a piece of work: it is sent with COMMIT if nobody else needs another round. Whoever yields it
    may refuse afterwards only if it wrote nothing."""

    is_last = True


Work = Generator[Batch, list[Answer], T]


@dataclass(slots=True, eq=False)
class Job(Generic[T]):
    """A piece of work and who waits for it."""

    make: Callable[[], Work[T]]
    """Starts it; again, if it has to run again."""
    future: asyncio.Future[T]
    keys: frozenset[str] = frozenset()
    """What it depends on. Jobs without keys may be in any group."""
    first: tuple[Ask, ...] = ()
    """Locks to take before anything else."""
    is_alone: bool = False
    """It gets a transaction of its own."""


@dataclass(slots=True, eq=False)
class _Run:
    """A job in a transaction."""

    job: Job[Any]
    work: Work[Any]
    batch: Batch
    wrote: bool = False


@dataclass(slots=True)
class _Outcomes:
    told: list[tuple[asyncio.Future[Any], Any, BaseException | None]] = field(default_factory=list)

    def done(self, job: Job[Any], result: Any) -> None:
        self.told.append((job.future, result, None))

    def failed(self, job: Job[Any], problem: BaseException) -> None:
        self.told.append((job.future, None, problem))


class _SpoiledError(Exception):
    """A job failed after it had written: the transaction has to go."""

    def __init__(self, job: Job[Any], problem: BaseException) -> None:
        super().__init__()
        self.job = job
        self.problem = problem


class _Worker:
    """A thread and its connection."""

    def __init__(self, link: PostgresLink, name: str) -> None:
        self.session = PostgresSession(link.target)
        self.bell: queue.SimpleQueue[Callable[[_Worker], None] | None] = queue.SimpleQueue()
        self.busy_with: frozenset[int] = frozenset()
        """The jobs (by id) that the thread waits for just now."""
        self._link = link
        self._ended: asyncio.Future[None] = link.loop.create_future()
        # A store that nobody closed must not keep its process alive; what was acknowledged is kept.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                call = self.bell.get(timeout=self._link.target.idle_s if self.session.is_open else None)
            except queue.Empty:
                self.session.drop()  # Many processes with little to do must not use up the server's connections.
                continue
            if call is None:
                break
            call(self)
        self.session.drop()
        with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits.
            self._link.loop.call_soon_threadsafe(self._ended.set_result, None)

    async def end(self) -> None:
        """Finish what is queued, then end the thread."""
        self.bell.put(None)
        await asyncio.wait_for(self._ended, self._link.patience_s)


class PostgresLink:
    """The connections of one store object. Belongs to the loop it was opened on."""

    def __init__(self, target: PostgresTarget) -> None:
        self.target = target
        self.patience_s = target.timeout_s + min(target.timeout_s, GRACE_MAX_S)
        self.loop = asyncio.get_running_loop()
        self.groups = 0
        """Write transactions begun; with group commit fewer than writes."""
        self._writes: deque[Job[Any]] = deque()
        self._reads: deque[Job[Any]] = deque()
        self._writer = _Worker(self, "agentspan-postgres-writer")
        names = [f"agentspan-postgres-reader-{number}" for number in range(1, target.max_connections)]
        self._readers = [_Worker(self, name) for name in names] or [self._writer]
        self._turn = 0
        self._is_open = True

    async def close(self) -> None:
        """Finish what is queued, then disconnect. Idempotent."""
        if not self._is_open:
            return
        self._is_open = False
        await asyncio.gather(*(worker.end() for worker in {self._writer, *self._readers}))

    async def write(
        self, make: Callable[[], Work[T]], *keys: str, first: tuple[Ask, ...] = (), is_alone: bool = False
    ) -> T:
        """Run a piece of work in a transaction that others may share; return once the server has kept it.

        Raises:
            StoreUnavailableError: The outcome is unknown, or the server cannot be reached.
            Exception: What the work raised; nothing of it was kept.
        """
        job = Job(make, self._future(), frozenset(keys), first, is_alone)
        self._writes.append(job)
        # One call for every job: the first to run takes all that is queued, the others find nothing and return.
        self._writer.bell.put(self._drain_writes)
        return await self._answer(job, (self._writer,))

    async def read(self, make: Callable[[], Work[T]]) -> T:
        """Run a piece of work in a read transaction: it sees one state of the store, whatever is written meanwhile."""
        job = Job(make, self._future())
        self._reads.append(job)
        self._turn += 1
        self._readers[self._turn % len(self._readers)].bell.put(self._drain_reads)
        return await self._answer(job, self._readers)

    async def off_loop(self, call: Callable[[], None]) -> None:
        """Run something slow on a reader's thread."""
        done = self._future()

        def run(_: _Worker) -> None:
            try:
                call()
            finally:
                with contextlib.suppress(RuntimeError):
                    self.loop.call_soon_threadsafe(_settle, [(done, None, None)])

        self._readers[0].bell.put(run)
        await done

    def _future(self) -> asyncio.Future[Any]:
        if not self._is_open:
            raise StoreUnavailableError(where=self.target.where, problem="this store object is closed")
        if asyncio.get_running_loop() is not self.loop:
            raise RuntimeError("A PostgresStore belongs to the event loop it was opened on; open another one here.")
        return self.loop.create_future()

    async def _answer(self, job: Job[T], workers: Sequence[_Worker]) -> T:
        alarm = self.loop.call_later(self.patience_s, self._overdue, job, workers)
        try:
            return await job.future
        finally:
            alarm.cancel()

    def _overdue(self, job: Job[Any], workers: Sequence[_Worker]) -> None:
        for worker in workers:
            if id(job) in worker.busy_with:
                worker.session.cut()
        if not job.future.done():
            problem = f"no answer within {self.target.timeout_s:g} s"
            job.future.set_exception(StoreUnavailableError(where=self.target.where, problem=problem))

    # --- on the threads

    def _drain_writes(self, worker: _Worker) -> None:
        group: list[Job[Any]] = []
        left: list[Job[Any]] = []
        taken: set[str] = set()
        while self._writes and len(group) < GROUP_MAX:
            if group and (group[0].is_alone or self._writes[0].is_alone):
                break
            job = self._writes.popleft()
            if taken.isdisjoint(job.keys):
                group.append(job)
            else:
                left.append(job)
            # Also of those that are left: none that comes later may overtake them.
            taken |= job.keys
        self._writes.extendleft(reversed(left))
        for _ in left:
            # Their own calls may have been used up by now.
            worker.bell.put(self._drain_writes)
        if group:
            self._perform(worker, group, _WRITE)
        if self._writes and not worker.bell.qsize():
            worker.bell.put(self._drain_writes)

    def _drain_reads(self, worker: _Worker) -> None:
        group: list[Job[Any]] = []
        with contextlib.suppress(IndexError):  # Another reader was faster.
            while len(group) < GROUP_MAX:
                group.append(self._reads.popleft())
        if group:
            self._perform(worker, group, _READ)

    def _perform(self, worker: _Worker, group: list[Job[Any]], mode: str) -> None:
        worker.busy_with = frozenset(map(id, group))
        try:
            self._try(worker.session, group, mode)
        finally:
            worker.busy_with = frozenset()

    def _try(self, session: PostgresSession, group: list[Job[Any]], mode: str) -> None:
        outcomes = _Outcomes()
        # Without those whose caller was cancelled, or told that it took too long.
        waiting, tries, was_lost = group, 0, False
        while waiting := [job for job in waiting if not job.future.done()]:
            tries += 1
            if mode is _WRITE:
                self.groups += 1
            try:
                session.ready()
                waiting = _transact(session, waiting, mode, outcomes)
            except _SpoiledError as spoiled:
                session.rollback()
                outcomes.failed(spoiled.job, spoiled.problem)
                waiting = [job for job in waiting if job is not spoiled.job]
            except LostError as lost:
                if (lost.was_decided and mode is _WRITE) or was_lost:
                    _fail_all(waiting, session.unavailable(lost.problem), outcomes)
                    break
                was_lost = True
            except psycopg.Error as problem:
                session.rollback()
                if len(waiting) > 1:
                    for job in waiting:
                        self._try(session, [job], mode)
                    break
                if problem.sqlstate not in _MEETINGS or tries >= TRIES_MAX:
                    _fail_all(waiting, session.unavailable(problem), outcomes)
                    break
            except (StoreUnavailableError, ConfigurationError) as refusal:
                # It worked when the store was opened, so whatever it is now may heal: callers are to try again.
                failure: AgentspanError = refusal
                if isinstance(refusal, ConfigurationError):
                    failure = StoreUnavailableError(where=self.target.where, problem=str(refusal))
                _fail_all(waiting, failure, outcomes)
                break
            except BaseException as fault:  # Handed to every caller; this thread must go on.
                session.drop()
                _fail_all(waiting, fault, outcomes)
                break
        with contextlib.suppress(RuntimeError):  # The loop was closed: nobody waits for the answer.
            self.loop.call_soon_threadsafe(_settle, outcomes.told)


def _transact(session: PostgresSession, group: Sequence[Job[Any]], mode: str, outcomes: _Outcomes) -> list[Job[Any]]:
    """Run a group in one transaction. Returns nobody: all have an outcome."""
    runs: list[_Run] = []
    results: list[tuple[Job[Any], Any]] = []
    refused: list[tuple[Job[Any], BaseException]] = []
    locks: dict[Ask, None] = {}
    for job in group:
        work = job.make()
        try:
            runs.append(_Run(job, work, next(work)))
        except StopIteration as stop:
            results.append((job, stop.value))
        except Exception as problem:
            refused.append((job, problem))
        else:
            locks |= dict.fromkeys(job.first)
    asks = session.begin(mode, *locks) if runs else []
    skip = len(asks)
    is_begun, is_committed = bool(runs), False
    while runs:
        ends = all(run.batch.is_last for run in runs)
        for run in runs:
            asks += run.batch
        if ends:
            asks.append(_COMMIT)
        answers = session.run(asks, committing=ends)
        is_committed = is_committed or ends
        going: list[_Run] = []
        for run in runs:
            given = answers[skip : skip + len(run.batch)]
            skip += len(run.batch)
            run.wrote = run.wrote or any(
                answer.changed > 0 and not ask.sql.startswith("SELECT")
                for ask, answer in zip(run.batch, given, strict=True)
            )
            try:
                run.batch = run.work.send(given)
                going.append(run)
            except StopIteration as stop:
                results.append((run.job, stop.value))
            except Exception as refusal:
                if run.wrote and not is_committed:
                    raise _SpoiledError(run.job, refusal) from None
                refused.append((run.job, refusal))
        assert not (ends and going), "who yields Last yields nothing more"
        runs, asks, skip = going, [], 0
    if is_begun and not is_committed:
        session.run([_COMMIT], committing=True)
    for job, result in results:
        outcomes.done(job, result)
    for job, reason in refused:
        outcomes.failed(job, reason)
    return []


def _fail_all(jobs: Sequence[Job[Any]], problem: BaseException, outcomes: _Outcomes) -> None:
    for job in jobs:
        # One each: every caller adds its own traceback.
        outcomes.failed(job, copy.copy(problem) if isinstance(problem, AgentspanError) else problem)


def _settle(told: Sequence[tuple[asyncio.Future[Any], Any, BaseException | None]]) -> None:
    for future, result, error in told:
        if future.done():
            continue  # Its caller was cancelled.
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
