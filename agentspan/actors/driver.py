"""The driver of one execution: performs what the engine decides and commits what came of it.

One loop. After every commit the engine is asked what comes next; effects that are not under way are started; the loop
waits until one is done, a signal is poked in, or time changes something; all that happened becomes records in one
commit, together with what the engine can conclude from them. An effect is started only when the records it follows from
are committed, so on any line of this file the process may die and the next incarnation is told the same by `decide`.

What is true when it dies:

* before a commit lands: nothing of it happened; effects that ran are tried again with the same idempotency key (P3);
* after it landed, answer lost: the next incarnation finds the records and goes on behind them (P2);
* `StaleEpochError`: another incarnation owns the execution; this one stops without writing anything more (P4).

The state in memory runs ahead of the store by one commit while that is being written. Nobody else can see it: readers
are served from the store and from the feed, which is told after the commit.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from agentspan.actors.feed import Feed
from agentspan.actors.reports import Reported, Reports, settle
from agentspan.agents.context import INSIDE
from agentspan.agents.spec import AgentSpec
from agentspan.engine import records as r
from agentspan.engine.admit import admit
from agentspan.engine.apply import apply
from agentspan.engine.decide import Decision, Effect, LoadFork, LoadSession, decide, recover
from agentspan.engine.state import ExecutionState, to_snapshot
from agentspan.engine.view import current_task, status_of
from agentspan.errors import StoreUnavailableError
from agentspan.persistence.loading import load_state, pending_rows
from agentspan.persistence.sessions import session_source
from agentspan.persistence.store import Commit, JournalEntry, PendingRow, RowChange, Store
from agentspan.persistence.threads import Report, ThreadWrite, joined

log = logging.getLogger("agentspan.driver")
T = TypeVar("T")

SNAPSHOT_BYTES_MIN = 64 * 1024
"""Deltas below this are never worth a snapshot of their own."""
STORE_RETRY_S = 300.0
"""How long a commit is sent again while the store does not answer; then the incarnation gives up."""


class Performer(Protocol):
    """Does the effects: `perform` returns the record of what came of one, and raises only what must stop the driver."""

    spec: AgentSpec

    @property
    def notes(self) -> Mapping[Effect, str]:
        """What to say of effects that are under way, beside their names. An empty report has a change told."""
        ...

    async def perform(self, state: ExecutionState, effect: Effect, report: Report) -> r.AnyRecord: ...
    def hold(self) -> None:
        """Long effects are to end at their next step border, soon. Said again and again while it is so."""
        ...

    async def on_start(self, state: ExecutionState) -> None: ...
    async def on_end(self, state: ExecutionState, record: r.Finished) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Why `run` returned."""

    ended: str
    """`finished`, `hibernated` or `handed_over` (asked to let go)."""
    status: str
    wake_at: float | None = None


class Driver:
    """Runs one incarnation of one execution. Make a new one for the next incarnation."""

    def __init__(
        self,
        *,
        execution_id: str,
        epoch: int,
        crashed: bool,
        store: Store,
        performer: Performer,
        feed: Feed | None = None,
        hibernate_after_s: float = 5.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.execution_id = execution_id
        self._epoch = epoch
        self._crashed = crashed
        self._store = store
        self._performer = performer
        self._spec = performer.spec
        self._feed = feed or Feed(execution_id)
        self._hibernate_after_s = hibernate_after_s
        self._clock = clock
        self._state = ExecutionState(execution_id=execution_id)
        self._decision = Decision()
        self._wake = asyncio.Event()
        self._poked = True  # Read the inbox once at the start: signals may have come while nobody lived here.
        self._let_go = False
        self._flying: dict[Effect, asyncio.Task[r.AnyRecord]] = {}
        self._landed: list[tuple[Effect, asyncio.Task[r.AnyRecord]]] = []
        self._reports = Reports(self._wake.set)
        self._delta_bytes = 0
        self._snapshot_bytes = 0
        self._snapshot_seq = -1

    # --- what the shell calls

    def poke(self) -> None:
        """There is something in the inbox. Call it on the driver's loop."""
        self._poked = True
        self._wake.set()

    def let_go(self) -> None:
        """End this incarnation cleanly as soon as nothing is in flight. Call it on the driver's loop."""
        self._let_go = True
        self._wake.set()

    async def run(self) -> Outcome:
        """Go on with the execution until it ends, hibernates, or is asked to let go.

        Raises:
            StaleEpochError: Another incarnation owns it. Nothing more was written.
            CorruptRecordError: Its stored state fails a check.
            StoreUnavailableError: The store stayed away too long.
        """
        self._reports.open()
        await self._load()
        try:
            if self._crashed:
                record = recover(self._state, self._spec, epoch=self._epoch, now=self._clock())
                await self._commit([record], progress=False)
            else:
                self._decision = decide(self._state, self._spec, self._clock())
            if self._state.root.turn == 0:
                await self._performer.on_start(self._state)
            return await self._loop()
        except BaseException as problem:
            self._reports.close(problem)
            raise
        finally:
            self._feed.close()
            self._reports.close(RuntimeError("this incarnation has ended"))
            await self._drop_flying()

    # --- the loop

    async def _load(self) -> None:
        loaded = await self._patiently(lambda: self._store.load(self.execution_id))
        self._state = load_state(loaded)
        self._delta_bytes, self._snapshot_bytes = loaded.entries_bytes, loaded.snapshot_bytes
        self._snapshot_seq = loaded.snapshot_seq
        self._feed.open(self._state.events)

    async def _loop(self) -> Outcome:
        state = self._state
        while True:
            records, consumed = await self._take_signals()
            # What has landed comes after all that was reported on the way.
            reports = self._reports.take() if self._reports.are_due or self._landed else []
            landed = self._take_landed()
            if records or consumed or reports or landed or self._has_conclusions():
                # Signals first: what they say came before what is reported now can be heard.
                told = [record for report in reports for record in report.records]
                await self._commit([*records, *told, *landed], consumed, reports)
                continue
            if state.is_finished:
                return Outcome(ended="finished", status=state.status.value)
            if self._let_go and not self._flying:
                return await self._leave("handed_over")
            self._launch(self._decision.effects)
            if not await self._wait():
                return await self._leave("hibernated")

    def _has_conclusions(self) -> bool:
        decision = self._decision
        return bool(decision.records) and not (decision.drain and self._flying)

    async def _take_signals(self) -> tuple[list[r.AnyRecord], list[str]]:
        if not self._poked:
            return [], []
        self._poked = False
        records: list[r.AnyRecord] = []
        consumed: list[str] = []
        for signal in await self._patiently(lambda: self._store.inbox(self.execution_id)):
            record = admit(self._state, signal, self._clock())
            if record is not None and not self._clashes(record, records):
                records.append(record)
            consumed.append(signal.signal_id)
        return records, consumed

    def _clashes(self, record: r.AnyRecord, earlier: list[r.AnyRecord]) -> bool:
        """Two decisions on one call cannot both be admitted; the store lets only one through, this makes sure."""
        return isinstance(record, r.Decided) and any(
            isinstance(other, r.Decided) and other.call_id == record.call_id for other in earlier
        )

    def _take_landed(self) -> list[r.AnyRecord]:
        landed, self._landed = self._landed, []
        records = []
        for effect, task in landed:
            self._flying.pop(effect, None)
            if task.cancelled():
                # User code cancelled the task it runs in. Another life tries it again, and gives up in the end.
                raise RuntimeError(f"{effect} was cancelled from inside")
            records.append(task.result())  # A performer raises only what must stop the driver.
        return records

    def _launch(self, effects: Sequence[Effect]) -> None:
        if self._flying and (self._state.paused or self._state.stopping or self._let_go):
            self._performer.hold()
        for effect in effects:
            if effect not in self._flying:
                task = asyncio.create_task(self._perform(effect))
                self._flying[effect] = task
                task.add_done_callback(lambda done, effect=effect: self._land(effect, done))  # type: ignore[misc]

    async def _perform(self, effect: Effect) -> r.AnyRecord:
        # What user code starts in here, and waits for, must not wait for the place of this execution.
        INSIDE.set(self.execution_id)
        if isinstance(effect, LoadSession):
            source = await self._patiently(lambda: session_source(self._store, self._state))
            if source is None:
                return r.SessionLoaded(at=self._clock(), messages=[])
            effect = LoadSession(source)
        if isinstance(effect, LoadSession | LoadFork):
            return await self._patiently(lambda: self._performer.perform(self._state, effect, self._reports.add))
        return await self._performer.perform(self._state, effect, self._reports.add)

    def _land(self, effect: Effect, task: asyncio.Task[r.AnyRecord]) -> None:
        if effect in self._flying:  # Else it was dropped, and nobody waits for it.
            self._landed.append((effect, task))
            self._wake.set()

    async def _wait(self) -> bool:
        """Wait until something happened. False: nothing will for a while, so the process can go (P9)."""
        if self._landed or self._poked or self._reports.are_due or (self._let_go and not self._flying):
            return True
        now = self._clock()
        wake_at = self._decision.wake_at
        until_wake = None if wake_at is None else max(0.0, wake_at - now)
        idle = not self._flying and (until_wake is None or until_wake > self._hibernate_after_s)
        timeout = self._hibernate_after_s if idle else until_wake
        self._wake.clear()
        if timeout is None:
            await self._wake.wait()
        else:
            try:
                async with asyncio.timeout(timeout):
                    await self._wake.wait()
            except TimeoutError:
                if idle:
                    return False
                self._decision = decide(self._state, self._spec, self._clock())
        return True

    async def _drop_flying(self) -> None:
        tasks = list(self._flying.values())
        self._flying.clear()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)

    # --- writing

    async def _commit(
        self,
        records: list[r.AnyRecord],
        consumed: Sequence[str] = (),
        reports: Sequence[Reported] = (),
        *,
        progress: bool = True,
    ) -> None:
        """Apply records and all that the engine concludes from them, and write it in one transaction."""
        state = self._state
        now = self._clock()
        waiting = {call.call_id for _, call in state.open_asks()}
        applied: list[tuple[r.AnyRecord, int]] = []
        todo = list(records)
        if not todo and self._has_conclusions():
            todo = list(self._decision.records)
        while True:
            for record in todo:
                if state.is_finished:
                    break  # What lands in the same instant as the end has nobody left to hear it.
                if isinstance(record, r.Finished):
                    await self._performer.on_end(state, record)
                apply(state, record)
                applied.append((record, state.events))
            self._decision = decide(state, self._spec, now)
            if not self._has_conclusions():
                break
            todo = list(self._decision.records)
        if state.is_finished:
            await self._drop_flying()
        entries = self._entries(applied)
        opens = pending_rows(state, exclude=waiting)
        still = {call.call_id for _, call in state.open_asks()}
        thread = joined([report.thread for report in reports if report.thread is not None])
        # That a node started is no progress: one that kills its process would never be given up.
        progress = progress and (
            thread is not None or any(not isinstance(record, r.GraphTold) for record, _ in applied)
        )
        try:
            await self._write(entries, consumed, opens, sorted(waiting - still), thread=thread, progress=progress)
        except BaseException as problem:
            settle(reports, problem)
            raise
        settle(reports)
        self._feed.publish(applied)

    def _entries(self, applied: list[tuple[r.AnyRecord, int]]) -> list[JournalEntry]:
        first = self._state.seq - len(applied) + 1
        return [
            JournalEntry(seq=first + i, kind=record.KIND, body=r.to_plain(record), events_to=events_to)
            for i, (record, events_to) in enumerate(applied)
        ]

    async def _write(
        self,
        entries: Sequence[JournalEntry],
        consumed: Sequence[str],
        opens: Sequence[PendingRow],
        closes: Sequence[str],
        *,
        progress: bool,
        thread: ThreadWrite | None = None,
        resident: bool = True,
    ) -> None:
        state = self._state
        snapshot = None
        if self._delta_bytes > max(SNAPSHOT_BYTES_MIN, self._snapshot_bytes):
            snapshot = to_snapshot(state)
        change = RowChange(
            status=status_of(state).value,
            updated_at=state.updated_at if entries else self._clock(),
            wake_at=self._decision.wake_at,
            resident=resident and not state.is_finished,
            current_task=current_task(state, self._decision.effects, self._performer.notes),
            finish_reason=state.finish_reason.value if state.finish_reason else None,
            error=state.error,
        )
        commit = Commit(
            execution_id=self.execution_id,
            epoch=self._epoch,
            entries=entries,
            seq=state.seq,
            change=change,
            consumed=consumed,
            opens=opens,
            closes=closes,
            snapshot=snapshot,
            thread=thread,
            progress=progress and bool(entries or thread),
        )
        receipt = await self._patiently(lambda: self._store.commit(commit))
        self._delta_bytes += receipt.bytes_written
        if snapshot is not None:
            self._delta_bytes, self._snapshot_bytes = 0, receipt.snapshot_bytes

    async def _leave(self, ended: str) -> Outcome:
        # A signal that lands after this row change finds nobody resident and wakes a new incarnation; one that landed
        # before is in the inbox, which the supervisor looks at once this returns.
        if self._decision.effects:
            self._decision.wake_at = None  # Handed over with work to do: due now, whatever timer comes later.
        await self._write((), (), (), (), progress=False, resident=False)
        return Outcome(ended=ended, status=status_of(self._state).value, wake_at=self._decision.wake_at)

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Repeat an idempotent store call while its outcome is unknown."""
        deadline = time.monotonic() + STORE_RETRY_S
        pause = 0.05
        while True:
            try:
                return await call()
            except StoreUnavailableError as problem:
                if time.monotonic() > deadline:
                    raise
                log.warning("store.unavailable", extra={"execution_id": self.execution_id, "problem": str(problem)})
                await asyncio.sleep(pause)
                pause = min(pause * 2, 5.0)
