"""One execution's stay in actors: from a take-over until it ends or hibernates, through any number of deaths.

    take over (epoch + 1) ──▶ run ──finished, hibernated──▶ over
          ▲                    │
          └──── died ──────────┤ (recover: on a standby if there is one, else on a new actor)
          └──── handed over ───┘ (from that standby to an actor of the execution's own name)

A start gets a standby that is named by the execution's ID. A recovery cannot: names are fixed at creation. So it goes on
at once on whatever standby there is (milliseconds instead of a process start), while an actor with the right name comes up
behind it, and moves there at the next step border, cleanly: nothing is in flight then, so no attempt is lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agentspan.actors.fleet import ActorGone, ActorHandle, Fleet
from agentspan.actors.givingup import give_up
from agentspan.actors.shelf import Shelf, Standby
from agentspan.errors import CorruptRecordError, ExecutionFinishedError, StaleEpochError, StoreUnavailableError
from agentspan.persistence.store import Store

log = logging.getLogger("agentspan.stay")

BACKOFF_MAX_S = 30.0
STORE_AWAY_MAX = 10
"""Doublings of a pause, so that it stays a number."""
OVER = frozenset({"finished", "hibernated", "stale", "given_up", "failed"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisionSettings:
    """Times in seconds; meanings as in `agentspan.config.Settings`."""

    standby: int = 2
    recoveries_max: int = 5
    recovery_backoff_s: float = 0.5
    scan_interval_s: float = 2.0
    ping_timeout_s: float = 15.0
    starts_at_once: int | None = 2
    """None: one for each core of the cluster, as nodes come and go; so with `hosts_max`."""
    hosts_max: int | None = 2
    host_capacity: int = 500
    actors_max: int | None = None
    retention_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What every stay works with; shared by all of them."""

    store: Store
    fleet: Fleet
    shelf: Shelf
    slots: asyncio.Semaphore
    """Bounds how many processes start at once."""
    settings: SupervisionSettings
    clock: Callable[[], float]


class Stay:
    """Sees one execution through. `go` once, then `leave`."""

    over = OVER
    """Outcomes that end it."""

    def __init__(
        self,
        execution_id: str,
        around: Surroundings,
        *,
        announce: Callable[[], None],
        tokens: bool = False,
        blamed: bool = False,
    ) -> None:
        """`announce` is called whenever readers should look again where it is; `blamed`: its last death counts."""
        self.execution_id = execution_id
        self.actor: ActorHandle | None = None
        """Where it runs, or is about to."""
        self.tokens = tokens
        self._around = around
        self._announce = announce
        self._run: asyncio.Task[dict[str, Any]] | None = None
        self._is_hung = False
        self._is_pinging = False
        self._homecoming: asyncio.Task[None] | None = None
        self._home: ActorHandle | None = None
        self._died_running = blamed
        self._not_started = 0
        self._store_away = 0
        self._failure = "its process died each time"

    async def go(self, standby: Standby | None = None, *, attach: bool = False) -> dict[str, Any]:
        """Live until it is over; returns the last outcome. With `attach`, join a run that goes on already, if one does.

        Never raises but for cancellation (which ends nothing: what runs goes on by itself).
        """
        outcome: dict[str, Any] = {}
        try:
            if attach:
                outcome = await self._attach()
            while outcome.get("ended") not in self.over:
                if outcome.get("ended") == "died":
                    standby = await self._rescuer()
                elif outcome.get("ended") == "handed_over":
                    self._move_home()
                outcome = await self._one_life(standby)
                standby = None
        except (ExecutionFinishedError, StaleEpochError) as problem:
            log.info("stay.over", extra={"execution_id": self.execution_id, "problem": str(problem)})
            outcome = {"ended": "stale"}
        except CorruptRecordError as problem:
            await self._around.store.quarantine(self.execution_id, error=str(problem))
            outcome = {"ended": "failed"}
        except Exception:
            # The scan comes back to it; nothing is lost, and an error that stays is one that operators must see.
            log.exception("stay.failed", extra={"execution_id": self.execution_id})
            outcome = {"ended": "failed"}
        if standby is not None and self.actor is None:
            standby.actor.kill()
        return outcome

    async def leave(self) -> None:
        """End the processes of a stay that is over."""
        if self.actor is not None:
            self.actor.kill()
        if self._homecoming is not None:
            # Not cancelled: an actor that is just coming up would be left holding the execution's name.
            await asyncio.wait([self._homecoming])
        if self._home is not None:
            self._home.kill()

    def tasks(self) -> list[asyncio.Task[Any]]:
        """What is under way here, for a supervisor that goes."""
        return [task for task in (self._run, self._homecoming) if task is not None]

    async def ping(self) -> None:
        """An actor that leaves a ping unanswered for too long is hung: stopped, swapping, or on a lost node."""
        actor = self.actor
        if actor is None or self._run is None or self._is_pinging:
            return
        self._is_pinging = True
        try:
            await actor.ping(self._around.settings.ping_timeout_s)
            if self._home is not None and self.actor is actor:
                await actor.let_go(self.execution_id)  # Said before, perhaps lost.
        except TimeoutError:
            if self.actor is actor and self._run is not None:
                self._is_hung = True
                self._run.cancel()
        except ActorGone:
            pass  # The run call says so too.
        finally:
            self._is_pinging = False

    # --- one life after the other

    async def _attach(self) -> dict[str, Any]:
        """Await a run that the last supervisor started, if its actor lives."""
        row = await self._around.store.row(self.execution_id)
        actor = await self._around.fleet.find(row.host.get("actor") or self.execution_id)
        if actor is None:
            return {"ended": "died"}
        self.actor = actor
        self._announce()
        self._run = asyncio.create_task(actor.attach(self.execution_id))
        self._come_home()
        return await self._watch()

    async def _rescuer(self) -> Standby | None:
        """A standby for the first recovery in a row. What crashes again and again gets a process of its own, with pauses."""
        if self._homecoming is not None:
            await asyncio.wait([self._homecoming])
            self._homecoming = None
        if self._home is not None:
            self._move_home()
            return None
        if (await self._around.store.row(self.execution_id)).crashes > 0:
            return None
        return self._around.shelf.take()

    async def _one_life(self, standby: Standby | None) -> dict[str, Any]:
        """One incarnation: raise the epoch, have an actor, run. The order is what makes it safe (P4)."""
        around = self._around
        host = standby.host if standby else {"actor": self.execution_id}
        # Only a death that was seen to follow from its running is held against it: not a restart of the server, nor a
        # machine that cannot start processes for a while.
        taken = await around.store.take_over(self.execution_id, host=host, blame=self._died_running)
        self._died_running = False
        if taken.crashes > around.settings.recoveries_max:
            if standby is not None:
                standby.actor.kill()
            await give_up(around.store, self.execution_id, taken, why=self._failure, now=around.clock())
            return {"ended": "given_up"}
        in_a_row = max(taken.crashes, self._not_started)
        if in_a_row > 1:
            await asyncio.sleep(min(BACKOFF_MAX_S, around.settings.recovery_backoff_s * 2.0 ** (in_a_row - 2)))
        if taken.crashed:
            log.warning("execution.recovering", extra={"execution_id": self.execution_id, "epoch": taken.epoch})
        if standby is not None:
            self.actor = standby.actor
        elif self.actor is None:
            try:
                async with around.slots:
                    self.actor = await around.fleet.create(self.execution_id)
            except ActorGone as problem:
                log.warning("actor.not_started", extra={"execution_id": self.execution_id, "problem": str(problem)})
                self._not_started += 1
                return {"ended": "died"}
        self._not_started = 0
        actor = self.actor
        assert actor is not None
        self._run = asyncio.create_task(actor.run(self.execution_id, taken.epoch, taken.crashed, self.tokens))
        self._announce()
        self._come_home()
        return await self._watch()

    async def _watch(self) -> dict[str, Any]:
        assert self._run is not None
        try:
            return await self._run
        except ActorGone as problem:
            log.warning("actor.died", extra={"execution_id": self.execution_id, "problem": str(problem)[:500]})
            self._on_gone()
        except asyncio.CancelledError:
            if not self._is_hung:
                raise
            log.warning("actor.hung", extra={"execution_id": self.execution_id})
            self._kill_actor()
        except CorruptRecordError:
            raise
        except StoreUnavailableError as problem:
            log.warning("run.store_away", extra={"execution_id": self.execution_id, "problem": str(problem)[:500]})
            self._kill_actor()
            return await self._without_store()
        except Exception as problem:
            # The driver itself failed (code that cannot be loaded, a broken invariant). The next life is a new process.
            log.warning("run.failed", extra={"execution_id": self.execution_id, "problem": repr(problem)[:2000]})
            self._failure = str(problem)[:2000]
            self._kill_actor()
        finally:
            self._run = None
            self._is_hung = False
        self._died_running = True
        self._store_away = 0
        self.actor = None
        return {"ended": "died"}

    async def _without_store(self) -> dict[str, Any]:
        """Its store was away for too long, or when it began. That is held against nobody, so it may go on for ever, slowly."""
        self.actor = None
        self._store_away = min(self._store_away + 1, STORE_AWAY_MAX)
        await asyncio.sleep(
            min(BACKOFF_MAX_S, self._around.settings.recovery_backoff_s * 2.0 ** (self._store_away - 1))
        )
        return {"ended": "died"}

    def _on_gone(self) -> None:
        """Its process is dead."""

    def _kill_actor(self) -> None:
        if self.actor is not None:
            self.actor.kill()

    # --- back to an actor of its own name

    def _come_home(self) -> None:
        if self.actor is not None and self.actor.name != self.execution_id and self._homecoming is None:
            self._homecoming = asyncio.create_task(self._prepare_home())

    async def _prepare_home(self) -> None:
        home: ActorHandle | None = None
        try:
            async with self._around.slots:
                home = await self._around.fleet.create(self.execution_id)
                await home.warm(())
            self._home = home
            if self.actor is not None:
                await self.actor.let_go(self.execution_id)
        except Exception:
            # It stays where it is, under that actor's name, which its row says.
            log.exception("homecoming.failed", extra={"execution_id": self.execution_id})
            if home is not None and self._home is None:
                home.kill()

    def _move_home(self) -> None:
        """Go on in the actor that was made ready, if it is; the one before is let go."""
        if self._home is not None:
            self._kill_actor()
            self.actor, self._home, self._homecoming = self._home, None, None
