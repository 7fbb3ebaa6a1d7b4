"""Which executions need an actor, and seeing to it that they have one: the supervisor without Ray.

    QUEUED ──take over──▶ resident ──finished──▶ (terminal)
      ▲                    │  ▲  │
      │                  died │  └──hibernated──▶ at rest ──signal, timer──▶ take over again
      └── found by scan       └─recreated, epoch + 1

Each resident execution has one task here (`_look_after`) that lives from take-over to the end of residence: it raises the
epoch, creates or reuses the actor, awaits its long `run` call, and does so again when the actor dies. The task holds
nothing that is not in the store: a new supervisor finds the living actors by name, attaches to their runs, and treats
whatever else the store calls unfinished as crashed or due. Every public method may be delivered twice.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from agentspan.actors.fleet import ActorGone, ActorHandle, Fleet
from agentspan.actors.shelf import Shelf, Standby
from agentspan.agents.results import Status
from agentspan.engine import records as r
from agentspan.engine.admit import Signal
from agentspan.engine.apply import apply
from agentspan.errors import (
    AgentNotFoundError,
    CorruptRecordError,
    ExecutionFinishedError,
    StaleEpochError,
    StoreUnavailableError,
    UnknownExecutionError,
    UnstorableValueError,
)
from agentspan.persistence.loading import load_state
from agentspan.persistence.store import Commit, ExecutionRow, JournalEntry, NewExecution, RowChange, Store

log = logging.getLogger("agentspan.supervision")

BACKOFF_MAX_S = 30.0
SETTLED = frozenset(status.value for status in Status if status.is_settled)


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisionSettings:
    """Times in seconds; meanings as in `agentspan.config.Settings`."""

    standby: int = 2
    recoveries_max: int = 5
    recovery_backoff_s: float = 0.5
    scan_interval_s: float = 2.0
    ping_timeout_s: float = 15.0
    starts_at_once: int = 2


@dataclass(slots=True)
class _Resident:
    """One execution that has, or is getting, an actor."""

    task: asyncio.Task[None] | None = None
    actor: ActorHandle | None = None
    run: asyncio.Task[dict[str, Any]] | None = None
    hung: bool = False
    tokens: bool = False
    pinging: bool = False


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
        self._clock = clock
        self._mint = mint
        self._slots = asyncio.Semaphore(settings.starts_at_once)
        self.shelf = Shelf(fleet, size=settings.standby, mint=mint, slots=self._slots)
        self._residents: dict[str, _Resident] = {}
        # Weak: an event lasts as long as somebody waits on it.
        self._changed: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._scanner: asyncio.Task[None] | None = None
        self._failures: dict[str, str] = {}
        self._answers: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._starting = asyncio.Lock()

    # --- life cycle

    async def start(self) -> None:
        """Take up every unfinished execution: attach to those that run, recover the others. Idempotent."""
        async with self._starting:
            if self._scanner is not None:
                return
            self._stopping = False
            rows = await self._store.unfinished()
            unfinished = {row.execution_id for row in rows}
            for name in await self._fleet.names():
                if name not in unfinished:
                    # A standby of the last supervisor, or an actor whose execution ended: nobody waits for it.
                    actor = await self._fleet.find(name)
                    if actor is not None:
                        actor.kill()
            for row in rows:
                self._consider(row)
            self.shelf.start()
            self._scanner = asyncio.create_task(self._scan())

    async def stop(self) -> None:
        """Let go of everything without ending any execution: what runs goes on by itself. Idempotent."""
        async with self._starting:
            self._stopping = True
            scanner, self._scanner = self._scanner, None
            tasks: list[asyncio.Task[Any]] = [scanner] if scanner is not None else []
            for resident in self._residents.values():
                tasks += [task for task in (resident.task, resident.run) if task is not None]
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)
            while self._timers:
                self._timers.popitem()[1].cancel()
            await self.shelf.stop()

    # --- what clients ask

    async def submit(self, new: dict[str, Any], *, tokens: bool = False) -> dict[str, Any]:
        """Accept an execution. When this returns, P1 holds for it.

        `new` has `request_id, agent, prompt`, and may have `deployment_id` (else the agent's current version),
        `session_id, idempotency_key, timeout_s, metadata`.
        """
        deployment_id = new.get("deployment_id")
        if deployment_id is None:
            deployment = await self._store.current_deployment(new["agent"])
            if deployment is None:
                raise await self._not_found(new["agent"])
            deployment_id = deployment.deployment_id
        standby = self.shelf.take()
        execution_id = standby.actor.name if standby else self._mint()
        now = self._clock()
        started = r.Started(
            at=now,
            agent=new["agent"],
            prompt=new["prompt"],
            session_id=new.get("session_id") or "",
            timeout_s=new.get("timeout_s"),
            metadata=new.get("metadata") or {},
        )
        request = NewExecution(
            execution_id=execution_id,
            request_id=new["request_id"],
            agent=new["agent"],
            deployment_id=deployment_id,
            started=r.to_plain(started),
            session_id=started.session_id,
            idempotency_key=new.get("idempotency_key"),
            created_at=now,
            metadata=started.metadata,
        )
        try:
            created = await self._store.create(request)
        except UnstorableValueError:
            if standby is not None:
                self.shelf.put_back(standby)
            raise
        except BaseException:
            # It may be stored all the same; then a standby of that name would have every later start refused.
            if standby is not None:
                standby.actor.kill()
            raise
        if created.is_new:
            self.shelf.remember(deployment_id)
            self._care_for(execution_id, standby=standby, tokens=tokens)
        elif standby is not None:
            self.shelf.put_back(standby)
        return {"execution_id": created.execution_id, "is_new": created.is_new}

    async def _not_found(self, agent: str) -> AgentNotFoundError:
        known = [row.agent for row in await self._store.deployments()]
        hint = f"Deployed are: {', '.join(known[:20])}. " if known else ""
        return AgentNotFoundError(agent=agent, hint=hint)

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
        task = asyncio.create_task(self._answer(execution_id))
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    async def _answer(self, execution_id: str) -> None:
        try:
            row = await self._store.row(execution_id)
        except (UnknownExecutionError, StoreUnavailableError):
            return
        if row.inbox and row.status not in SETTLED:
            await self._nudge(execution_id)

    async def _nudge(self, execution_id: str) -> None:
        resident = self._residents.get(execution_id)
        if resident is None:
            self._care_for(execution_id)
        elif resident.actor is not None:
            try:
                await resident.actor.poke(execution_id)
            except ActorGone:
                pass  # Its successor reads the inbox when it starts.

    async def poll(
        self, execution_id: str, after: int, after_token: int, timeout_s: float, tokens: bool
    ) -> dict[str, Any] | None:
        """Live events of a resident execution; None when the caller should read the store (and may ask again)."""
        resident = self._residents.get(execution_id)
        if resident is None or resident.actor is None:
            return None
        resident.tokens = resident.tokens or tokens
        try:
            return await resident.actor.poll(execution_id, after, after_token, timeout_s, tokens)
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
            if (await self._store.row(execution_id)).status in SETTLED:
                return True
            left = deadline - loop.time()
            if left <= 0:
                return False
            try:
                async with asyncio.timeout(left):
                    await event.wait()
            except TimeoutError:
                return False

    def residents(self) -> list[str]:
        """The executions that have an actor, or are getting one."""
        return list(self._residents)

    # --- looking after one execution

    def _announce(self, execution_id: str) -> None:
        event = self._changed.pop(execution_id, None)
        if event is not None:
            event.set()

    def _care_for(
        self, execution_id: str, *, standby: Standby | None = None, attach: bool = False, tokens: bool = False
    ) -> None:
        if self._stopping or execution_id in self._residents:
            if standby is not None:
                standby.actor.kill()  # The scan was faster and has another actor for it.
            return
        timer = self._timers.pop(execution_id, None)
        if timer is not None:
            timer.cancel()
        resident = self._residents[execution_id] = _Resident(tokens=tokens)
        resident.task = asyncio.create_task(self._look_after(execution_id, resident, standby, attach))

    async def _look_after(self, execution_id: str, resident: _Resident, standby: Standby | None, attach: bool) -> None:
        outcome: dict[str, Any] = {}
        try:
            if attach:
                outcome = await self._attach(execution_id, resident)
            while outcome.get("ended") not in ("finished", "hibernated", "stale", "given_up"):
                outcome = await self._one_life(execution_id, resident, standby)
                standby = None
        except (ExecutionFinishedError, StaleEpochError) as problem:
            log.info("residence.over", extra={"execution_id": execution_id, "problem": str(problem)})
        except CorruptRecordError as problem:
            await self._store.quarantine(execution_id, error=str(problem))
        except Exception:
            # The scan comes back to it; nothing is lost, and an error that stays is one that operators must see.
            log.exception("residence.failed", extra={"execution_id": execution_id})
        finally:
            if not self._stopping:
                self._end_process(resident, standby)
            self._residents.pop(execution_id, None)
            self._failures.pop(execution_id, None)
            self._announce(execution_id)
        if outcome.get("ended") == "hibernated":
            await self._at_rest(execution_id, outcome.get("wake_at"))

    def _end_process(self, resident: _Resident, standby: Standby | None) -> None:
        if resident.actor is not None:
            resident.actor.kill()
        elif standby is not None:
            standby.actor.kill()

    async def _attach(self, execution_id: str, resident: _Resident) -> dict[str, Any]:
        """Await a run that the last supervisor started, if its actor lives."""
        actor = await self._fleet.find(execution_id)
        if actor is None:
            return {"ended": "died"}
        resident.actor = actor
        self._announce(execution_id)
        resident.run = asyncio.create_task(actor.attach(execution_id))
        return await self._watch(execution_id, resident)

    async def _one_life(self, execution_id: str, resident: _Resident, standby: Standby | None) -> dict[str, Any]:
        """One incarnation: raise the epoch, have an actor, run. The order is what makes it safe (P4)."""
        taken = await self._store.take_over(execution_id, host=standby.host if standby else {"actor": execution_id})
        if taken.crashes > self._settings.recoveries_max:
            await self._give_up(execution_id, taken.epoch, taken.crashes)
            return {"ended": "given_up"}
        if taken.crashes > 1:
            backoff = self._settings.recovery_backoff_s * 2.0 ** (taken.crashes - 2)
            await asyncio.sleep(min(BACKOFF_MAX_S, backoff))
        if taken.crashed:
            log.warning("execution.recovering", extra={"execution_id": execution_id, "epoch": taken.epoch})
        try:
            if standby is not None:
                resident.actor = standby.actor
            elif resident.actor is None:
                async with self._slots:
                    resident.actor = await self._fleet.create(execution_id)
        except ActorGone as problem:
            log.warning("actor.not_started", extra={"execution_id": execution_id, "problem": str(problem)})
            return {"ended": "died"}
        self._announce(execution_id)
        actor = resident.actor
        assert actor is not None
        resident.run = asyncio.create_task(actor.run(execution_id, taken.epoch, taken.crashed, resident.tokens))
        return await self._watch(execution_id, resident)

    async def _watch(self, execution_id: str, resident: _Resident) -> dict[str, Any]:
        assert resident.run is not None
        try:
            outcome = await resident.run
        except ActorGone as problem:
            log.warning("actor.died", extra={"execution_id": execution_id, "problem": str(problem)[:500]})
            resident.actor = None
            return {"ended": "died"}
        except asyncio.CancelledError:
            if not resident.hung:
                raise
            log.warning("actor.hung", extra={"execution_id": execution_id})
            if resident.actor is not None:
                resident.actor.kill()
            resident.actor = None
            return {"ended": "died"}
        except CorruptRecordError:
            raise
        except Exception as problem:
            # The driver itself failed (code that cannot be loaded, a broken invariant). The next life is a new process.
            log.warning("run.failed", extra={"execution_id": execution_id, "problem": repr(problem)[:2000]})
            if resident.actor is not None:
                resident.actor.kill()
            resident.actor = None
            self._failures[execution_id] = str(problem)[:2000]
            return {"ended": "died"}
        finally:
            resident.run = None
            resident.hung = False
        return outcome

    async def _give_up(self, execution_id: str, epoch: int, crashes: int) -> None:
        """End an execution that keeps killing its process, saying which step did (a clear error, not a loop)."""
        loaded = await self._store.load(execution_id)
        state = load_state(loaded)
        why = self._failures.pop(execution_id, "its process died each time")
        step = loaded.row.current_task or "its next step"
        error = (
            f"Gave up after {crashes} crashes in a row without progress in {step}: {why}. "
            f"The journal is intact; see `agent-span show {execution_id}`."
        )
        now, output = self._clock(), state.root.answer or None
        record = r.Finished(at=now, status="FAILED", finish_reason="error", error=error, output=output)
        apply(state, record)
        await self._store.commit(
            Commit(
                execution_id=execution_id,
                epoch=epoch,
                entries=[
                    JournalEntry(seq=state.seq, kind=record.KIND, body=r.to_plain(record), events_to=state.events)
                ],
                seq=state.seq,
                change=RowChange(
                    status="FAILED", updated_at=record.at, resident=False, finish_reason="error", error=error
                ),
            )
        )

    async def _at_rest(self, execution_id: str, wake_at: float | None) -> None:
        """After a hibernation: whatever came in while it was leaving wakes it again; else its timer does."""
        try:
            row = await self._store.row(execution_id)
        except StoreUnavailableError:
            return  # The scan comes back to it.
        if row.inbox:
            self._care_for(execution_id)
        elif wake_at is not None:
            self._wake_later(execution_id, wake_at)

    def _wake_later(self, execution_id: str, wake_at: float) -> None:
        if execution_id not in self._timers and execution_id not in self._residents:
            delay = max(0.0, wake_at - self._clock())
            loop = asyncio.get_running_loop()
            self._timers[execution_id] = loop.call_later(delay, self._timer_due, execution_id)

    def _timer_due(self, execution_id: str) -> None:
        self._timers.pop(execution_id, None)
        self._care_for(execution_id)

    # --- the scan: catches what a message could miss

    async def _scan(self) -> None:
        while True:
            await asyncio.sleep(self._settings.scan_interval_s)
            try:
                for row in await self._store.unfinished():
                    self._consider(row)
                    if row.inbox and row.execution_id in self._residents:
                        await self._nudge(row.execution_id)
            except StoreUnavailableError:
                log.exception("scan.failed")
            self._ping_all()

    def _consider(self, row: ExecutionRow) -> None:
        """Give an actor to an execution that should have one."""
        if row.execution_id in self._residents:
            return
        if row.resident:
            self._care_for(row.execution_id, attach=True)
        elif row.inbox or row.status in (Status.QUEUED.value, Status.RUNNING.value):
            if row.status == Status.RUNNING.value and row.wake_at is not None and not row.inbox:
                self._wake_later(row.execution_id, row.wake_at)
            else:
                self._care_for(row.execution_id)
        elif row.wake_at is not None:
            self._wake_later(row.execution_id, row.wake_at)

    def _ping_all(self) -> None:
        for execution_id, resident in list(self._residents.items()):
            if resident.actor is not None and resident.run is not None and not resident.pinging:
                resident.pinging = True
                asyncio.create_task(self._ping(execution_id, resident, resident.actor))  # noqa: RUF006

    async def _ping(self, execution_id: str, resident: _Resident, actor: ActorHandle) -> None:
        """An actor that leaves a ping unanswered for too long is hung: stopped, swapping, or on a lost node."""
        try:
            await actor.ping(self._settings.ping_timeout_s)
        except TimeoutError:
            if resident.actor is actor and resident.run is not None:
                resident.hung = True
                resident.run.cancel()
        except ActorGone:
            pass  # The run call says so too.
        finally:
            resident.pinging = False
