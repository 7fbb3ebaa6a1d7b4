"""Which executions need an actor, and seeing to it that they have one: the supervisor without Ray.

    QUEUED ──take over──▶ resident ──finished──▶ (terminal)
      ▲                    │  ▲  │
      │                  died │  └──hibernated──▶ at rest ──signal, timer──▶ take over again
      └── found by scan       └─recreated, epoch + 1

Each resident execution has a `Stay`, which sees it through, crashes included. What is held here is nothing that is not in
the store: a new supervisor finds the living actors by name, attaches to their runs, and treats whatever else the store
calls unfinished as crashed or due. Every public method may be delivered twice.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any
from weakref import WeakValueDictionary

from agentspan.actors.admission import Admission, Claim, Standing
from agentspan.actors.fleet import ActorGone, Fleet
from agentspan.actors.hearing import TO_END, hear
from agentspan.actors.hosts import Hosts, is_host
from agentspan.actors.intake import Intake
from agentspan.actors.queueing import claim_of, wants_place
from agentspan.actors.shelf import Shelf, Standby
from agentspan.actors.stay import Stay, SupervisionSettings, Surroundings
from agentspan.actors.tenancy import Tenancy
from agentspan.agents.results import Status
from agentspan.engine.admit import Signal
from agentspan.errors import (
    CorruptRecordError,
    ExecutionFinishedError,
    SequenceConflictError,
    StaleEpochError,
    StoreUnavailableError,
    UnknownExecutionError,
)
from agentspan.persistence.store import ExecutionRow, Store, runs_in_client

log = logging.getLogger("agentspan.supervision")

LOOK_EVERY_S = 0.05
"""How often the store is looked at for what runs in a client."""

ENDED = frozenset({"finished", "given_up"})
SETTLED = frozenset(status.value for status in Status if status.is_settled)


class Supervision:
    """Looks after every unfinished execution of a store."""

    def __init__(
        self,
        store: Store,
        fleet: Fleet,
        *,
        settings: SupervisionSettings,
        mint: Callable[[], str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._fleet = fleet
        self._settings = settings
        self.recoveries_max = settings.recoveries_max
        self._clock = clock
        self._starts = settings.starts_at_once or 1
        self._slots = asyncio.Semaphore(self._starts)
        self.shelf = Shelf(fleet, size=settings.standby, mint=mint, slots=self._slots)
        self._around = Surroundings(
            store=store, fleet=fleet, shelf=self.shelf, slots=self._slots, settings=settings, clock=clock
        )
        self.hosts = Hosts(
            fleet,
            hosts_max=settings.hosts_max or 1,
            capacity=settings.host_capacity,
            slots=self._slots,
            ping_timeout_s=settings.ping_timeout_s,
        )
        self._admission = Admission({False: settings.actors_max, True: self.hosts.places})
        self._intake = Intake(
            store,
            self._admission,
            self.shelf,
            self.hosts,
            mint=mint,
            clock=clock,
            care_for=self._care_for,
            wake_later=self._wake_later,
            let_next_in=self._let_next_in,
        )
        self._stays: dict[str, Stay] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        # Weak: an event lasts as long as somebody waits on it.
        self._changed: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._scanner: asyncio.Task[None] | None = None
        self._errands: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._starting = asyncio.Lock()

    # --- life cycle

    async def start(self) -> None:
        """Take up every unfinished execution: attach to those that run, recover the others. Idempotent."""
        async with self._starting:
            if self._scanner is not None:
                return
            self._stopping = False
            await self._fit()
            await self.refresh_limits()
            rows = await self._store.unfinished()
            known = {name for row in rows if row.resident for name in (row.execution_id, row.host.get("actor"))}
            names = await self._fleet.names()
            await self.hosts.adopt(name for name in {*names, *known} if name and is_host(name))
            for name in names:
                if name not in known and not is_host(name):
                    # A standby of the last supervisor, or an actor whose execution ended or rests: nobody waits for it.
                    actor = await self._fleet.find(name)
                    if actor is not None:
                        actor.kill()
            # Those that have a place first, so that nobody is let in beside them for whom there is no room.
            for row in sorted(rows, key=lambda row: not row.resident):
                self._hold(row)
            for row in sorted(rows, key=lambda row: not row.resident):
                self._consider(row)
            self.shelf.start()
            self._scanner = asyncio.create_task(self._scan())

    async def stop(self) -> None:
        """Let go of everything without ending any execution: what runs goes on by itself. Idempotent."""
        async with self._starting:
            self._stopping = True
            scanner, self._scanner = self._scanner, None
            tasks: list[asyncio.Task[Any]] = [scanner] if scanner is not None else []
            tasks += self._tasks.values()
            for stay in self._stays.values():
                tasks += stay.tasks()
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)
            while self._timers:
                self._timers.popitem()[1].cancel()
            await self.shelf.stop()
            await self.hosts.stop()

    async def _fit(self) -> None:
        """Where nobody said how many: have as many hosts, and starts at once, as the cluster has cores now."""
        cores = await self._fleet.cores()
        if self._settings.starts_at_once is None:
            for _ in range(cores - self._starts):  # Of a cluster that shrinks, the most it had is kept.
                self._slots.release()
            self._starts = max(self._starts, cores)
        if self._settings.hosts_max is None:
            self.hosts.resize(cores)
            self._admission.resize(packed=True, places=self.hosts.places)
            self._let_next_in()

    # --- what clients ask

    async def submit(self, new: dict[str, Any], *, tokens: bool = False) -> dict[str, Any]:
        """Accept an execution (`Intake.submit`). When this returns, P1 holds for it."""
        return await self._intake.submit(new, tokens=tokens)

    async def refresh_limits(self) -> None:
        """Read each agent's `max_concurrency` off its current deployment, and let in whom it lets in now."""
        await self._intake.refresh_limits()

    async def send(self, signal: Signal) -> dict[str, Any]:
        """Store a signal and see that it takes effect. When this returns, P5 holds for it."""
        accepted = await self._store.send(signal)
        await self._nudge(signal.execution_id)
        return {"is_new": accepted.is_new, "signal": accepted.signal}

    async def wake(self, execution_id: str) -> None:
        """See to an execution now, if there is anything to do for it."""
        await self._nudge(execution_id)

    def ring(self, execution_id: str) -> None:
        """Somebody stored a signal for an execution: look at its inbox soon. Unknown IDs are ignored."""
        self._run_errand(self._answer(execution_id))

    def _run_errand(self, errand: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(errand)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)

    async def _answer(self, execution_id: str) -> None:
        try:
            row = await self._store.row(execution_id)
        except (UnknownExecutionError, StoreUnavailableError):
            return
        if row.inbox:
            await self._nudge(execution_id)

    async def _nudge(self, execution_id: str) -> None:
        stay = self._stays.get(execution_id)
        if stay is None:
            # Resident, but not with us: its actor may be alive and at work, so it is attached to and not replaced.
            row = await self._store.row(execution_id)
            if row.status not in SETTLED and not runs_in_client(row.deployment_id):
                self._care_for(claim_of(row), attach=row.resident)
                await self._hear(row)
        elif stay.actor is not None:
            try:
                await stay.actor.poke(execution_id)
            except ActorGone:
                pass  # Its successor reads the inbox when it starts.

    async def poll(
        self, execution_id: str, after: int, after_token: int, timeout_s: float, tokens: bool
    ) -> dict[str, Any] | None:
        """Live events of a resident execution; None when the caller should read the store (and may ask again)."""
        stay = self._stays.get(execution_id)
        if stay is None or stay.actor is None:
            return None
        stay.tokens = stay.tokens or tokens
        try:
            return await stay.actor.poll(execution_id, after, after_token, timeout_s, tokens)
        except ActorGone:
            return None

    def ticket(self, execution_id: str) -> asyncio.Event:
        """Set when the execution next begins or ends a residence. Take it before looking, so that nothing is missed."""
        event = self._changed.get(execution_id)
        if event is None:
            event = self._changed[execution_id] = asyncio.Event()
        return event

    async def wait_settled(self, execution_id: str, timeout_s: float) -> bool:
        """Wait until the execution has ended (or is quarantined). False when `timeout_s` passed first."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            event = self.ticket(execution_id)
            row = await self._store.row(execution_id)
            if row.status in SETTLED:
                return True
            left = deadline - loop.time()
            if left <= 0:
                return False
            if runs_in_client(row.deployment_id):
                await asyncio.sleep(min(left, LOOK_EVERY_S))  # Nobody announces what another process does.
                continue
            try:
                async with asyncio.timeout(left):
                    await event.wait()
            except TimeoutError:
                return False

    def residents(self) -> list[str]:
        """The executions that have an actor, or are getting one."""
        return list(self._stays)

    def standing(self, execution_id: str) -> Standing | None:
        """Why an execution waits for a place and where in line it is; None when it does not."""
        return self._admission.standing(execution_id)

    @property
    def queued(self) -> int:
        """How many executions wait for a place."""
        return len(self._admission)

    # --- looking after one execution

    def _announce(self, execution_id: str) -> None:
        event = self._changed.pop(execution_id, None)
        if event is not None:
            event.set()

    def _care_for(
        self, claim: Claim, *, standby: Standby | None = None, attach: bool = False, to_end: bool = False
    ) -> None:
        execution_id = claim.execution_id
        if self._stopping or execution_id in self._stays:
            if standby is not None:
                standby.actor.kill()  # The scan was faster and has another actor for it.
            return
        # Who may run already is let in: it has a process, and is only looked for. Who is to end holds nobody up for long.
        if not self._admission.enter(claim, at_once=attach or to_end):
            if standby is not None:
                standby.actor.kill()
            return
        timer = self._timers.pop(execution_id, None)
        if timer is not None:
            timer.cancel()
        announce = functools.partial(self._announce, execution_id)
        if claim.packed:
            stay: Stay = Tenancy(
                execution_id,
                self._around,
                self.hosts,
                announce=announce,
                tokens=claim.tokens,
                squeeze=to_end or bool(claim.parent),
            )
        else:
            stay = Stay(execution_id, self._around, announce=announce, tokens=claim.tokens)
        self._stays[execution_id] = stay
        self._tasks[execution_id] = asyncio.create_task(self._see_through(stay, standby, attach))

    async def _see_through(self, stay: Stay, standby: Standby | None, attach: bool) -> None:
        execution_id = stay.execution_id
        outcome: dict[str, Any] = {}
        try:
            outcome = await stay.go(standby, attach=attach)
        finally:
            self._announce(execution_id)
            try:
                if not self._stopping:
                    # Before anybody else may care for it: two stays would fight over the actor's name.
                    await stay.leave()
            except Exception:
                log.exception("stay.not_left", extra={"execution_id": execution_id})
            finally:
                del self._stays[execution_id], self._tasks[execution_id]
                self._announce(execution_id)
                if outcome.get("ended") in ENDED:
                    self._admission.forget(execution_id)
                else:
                    self._admission.leave(execution_id)
                self._let_next_in()
        if outcome and outcome.get("ended") not in ENDED:
            await self._at_rest(execution_id, outcome)

    def _let_next_in(self) -> None:
        while not self._stopping and (claim := self._admission.next()) is not None:
            self._care_for(claim)

    async def _at_rest(self, execution_id: str, outcome: dict[str, Any]) -> None:
        """After a stay that was not the end: whatever came in while it was leaving wakes it again; else its timer does."""
        try:
            row = await self._store.row(execution_id)
        except (StoreUnavailableError, UnknownExecutionError):
            return  # The scan comes back to it.
        if row.status in SETTLED:
            self._admission.forget(execution_id)
            self._let_next_in()
        elif outcome.get("ended") == "hibernated":
            if row.inbox:
                self._care_for(claim_of(row))
            elif outcome.get("wake_at") is not None:
                self._wake_later(execution_id, outcome["wake_at"])

    async def _hear(self, row: ExecutionRow) -> None:
        """Have what was said to one in line take effect there, and its deadline."""
        execution_id = row.execution_id
        claim = self._admission.waiting(execution_id)
        if claim is None:
            return
        if row.wake_at is not None and row.wake_at > self._clock():
            self._wake_later(execution_id, row.wake_at)
        elif not row.inbox and row.wake_at is None:
            return
        try:
            status = await hear(self._store, execution_id, self._clock())
        except (StaleEpochError, ExecutionFinishedError, SequenceConflictError) as problem:
            log.info("line.left", extra={"execution_id": execution_id, "problem": str(problem)})
            return
        except CorruptRecordError as problem:
            await self._store.quarantine(execution_id, error=str(problem))
            status = Status.QUARANTINED.value
        if status == TO_END:
            self._care_for(claim, to_end=True)
        elif status in SETTLED:
            self._admission.forget(execution_id)
            self._announce(execution_id)
        elif status == Status.PAUSED.value:
            self._admission.withdraw(execution_id)
        self._let_next_in()

    def _wake_later(self, execution_id: str, wake_at: float) -> None:
        delay = wake_at - self._clock()
        if execution_id in self._stays or (execution_id in self._timers and delay > 0):
            return
        # A timer that is late all the same (the machine was suspended, the clock was set) is replaced by one due now.
        timer = self._timers.pop(execution_id, None)
        if timer is not None:
            timer.cancel()
        loop = asyncio.get_running_loop()
        self._timers[execution_id] = loop.call_later(max(0.0, delay), self._timer_due, execution_id)

    def _timer_due(self, execution_id: str) -> None:
        self._timers.pop(execution_id, None)
        self._run_errand(self._look_at(execution_id))

    async def _look_at(self, execution_id: str) -> None:
        try:
            await self._nudge(execution_id)
        except (UnknownExecutionError, StoreUnavailableError):
            pass  # The scan comes back to it.

    # --- the scan: catches what a message could miss

    async def _scan(self) -> None:
        while True:
            await asyncio.sleep(self._settings.scan_interval_s)
            try:
                await self._fit()
                await self.refresh_limits()
                known = set(self._admission.sessions())
                rows = await self._store.unfinished()
                for row in rows:
                    self._hold(row)
                for row in rows:
                    self._consider(row)
                    if row.inbox and row.execution_id in self._stays:
                        self._run_errand(self._nudge(row.execution_id))
                for gone in known.difference(row.execution_id for row in rows):
                    if gone not in self._stays:
                        self._admission.forget(gone)  # It ended where nobody told.
                self._let_next_in()
            except Exception:
                # Whatever it was, the next scan looks again; a scan that ended would end every rescue.
                log.exception("scan.failed")
            for stay in list(self._stays.values()):
                self._run_errand(stay.ping())
            self._run_errand(self.hosts.look_after())

    def _hold(self, row: ExecutionRow) -> None:
        if not runs_in_client(row.deployment_id):
            self._admission.hold(claim_of(row))

    def _consider(self, row: ExecutionRow) -> None:
        """Give an actor to an execution that should have one."""
        if row.execution_id in self._stays or runs_in_client(row.deployment_id):
            return
        if row.resident:
            self._care_for(claim_of(row), attach=True)
        elif wants_place(row):
            self._care_for(claim_of(row))
            if self._admission.waiting(row.execution_id) and (row.inbox or row.wake_at is not None):
                self._run_errand(self._look_at(row.execution_id))
        elif row.wake_at is not None:
            self._wake_later(row.execution_id, row.wake_at)
