"""The stay of a packed execution: it shares host actors with others, so its end, or trouble, must not be theirs.

Like any stay it goes from one take-over to the next. A host that dies takes many executions with it, and mostly one at
most is to blame. So a death counts towards `crashes` only for those that were at work, and the first step on record makes
it undone. Whoever is on a dying host for the second time in a row goes on in a process of its own: if it was the culprit it
harms nobody else any more and is given up in the end; if not, it is out of the culprit's reach. There it has its next step
recorded, which clears it, and goes back to a host, so that the few who may have a process of their own at a time are soon
others. Who comes under suspicion a second time stays.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from agentspan.actors.fleet import ActorGone
from agentspan.actors.givingup import give_up
from agentspan.actors.hosts import Host, Hosts, is_host
from agentspan.actors.shelf import Standby
from agentspan.actors.stay import BACKOFF_MAX_S, OVER, Stay, Surroundings
from agentspan.agents.results import Status
from agentspan.errors import StoreUnavailableError

log = logging.getLogger("agentspan.tenancy")

SUSPECT_AT = 2
"""So many crashes in a row without progress, and an execution gets a process of its own."""


class Apart(Stay):
    """A suspect's stay in a process of its own; over, too, when it was let go, to return to a host."""

    over = OVER | {"handed_over"}

    async def _rescuer(self) -> Standby | None:
        return None


class Tenancy(Stay):
    """Sees one packed execution through. `go` once, then `leave`."""

    def __init__(
        self,
        execution_id: str,
        around: Surroundings,
        hosts: Hosts,
        *,
        announce: Callable[[], None],
        tokens: bool = False,
        squeeze: bool = False,
    ) -> None:
        """`squeeze`: it has to have a seat, also where there is none left."""
        super().__init__(execution_id, around, announce=announce, tokens=tokens)
        self._hosts = hosts
        self._squeeze = squeeze
        self._host: Host | None = None
        self._host_died = False
        self._recovers = False
        self._alone: Apart | None = None
        self._suspected = 0

    async def leave(self) -> None:
        """Give up its seat; the host goes on."""
        self._hosts.vacate(self.execution_id)
        if self._alone is not None:
            await self._alone.leave()

    def tasks(self) -> list[asyncio.Task[Any]]:
        return super().tasks() + (self._alone.tasks() if self._alone is not None else [])

    async def ping(self) -> None:
        """Hosts are pinged once for all their executions (`Hosts.look_after`)."""
        if self._alone is not None:
            await self._alone.ping()
            await self._clear()

    async def _clear(self) -> None:
        """Have a suspect that has made progress return to a host, once."""
        actor = self._alone.actor if self._alone is not None else None
        if actor is None or self._suspected > 1:
            return
        try:
            row = await self._around.store.row(self.execution_id)
            if row.resident and row.crashes == 0:
                await actor.let_go(self.execution_id)
        except (ActorGone, StoreUnavailableError):
            pass  # The next ping looks again.

    async def _attach(self) -> dict[str, Any]:
        self._recovers = True
        row = await self._around.store.row(self.execution_id)
        name = str(row.host.get("actor") or "")
        host = self._hosts.rejoin(self.execution_id, name)
        if host is not None:
            assert host.actor is not None
            self._host, self.actor = host, host.actor
            self._announce()
            self._run = asyncio.create_task(host.actor.attach(self.execution_id))
            return await self._watch()
        if name and not is_host(name) and await self._around.fleet.find(name) is not None:
            return await self._on_its_own(attach=True)
        return {"ended": "died"}

    async def _rescuer(self) -> Standby | None:
        return None

    async def _one_life(self, standby: Standby | None) -> dict[str, Any]:
        around, execution_id = self._around, self.execution_id
        blame = self._died_running
        if self._recovers:
            row = await around.store.row(execution_id)
            blame = blame and not (self._host_died and row.status == Status.WAITING.value)
            if row.crashes + blame >= SUSPECT_AT:
                return await self._on_its_own(blame=blame)
        try:
            async with self._hosts.gate:
                host = await self._hosts.seat(execution_id, squeeze=self._squeeze)
                taken = await around.store.take_over(execution_id, host=host.where, blame=blame)
                self._died_running = self._host_died = False
                if taken.crashes > around.settings.recoveries_max:
                    await give_up(around.store, execution_id, taken, why=self._failure, now=around.clock())
                    return {"ended": "given_up"}
                assert host.actor is not None
                self._host, self.actor = host, host.actor
                self._run = asyncio.create_task(host.actor.run(execution_id, taken.epoch, taken.crashed, self.tokens))
        except ActorGone as problem:
            log.warning("host.not_there", extra={"execution_id": execution_id, "problem": str(problem)})
            self._not_started += 1
            self._recovers = True
            pause = around.settings.recovery_backoff_s * 2.0 ** (self._not_started - 1)
            await asyncio.sleep(min(BACKOFF_MAX_S, pause))
            return {"ended": "died"}
        self._not_started = 0
        self._announce()
        return await self._watch()

    async def _watch(self) -> dict[str, Any]:
        outcome = await super()._watch()
        if outcome.get("ended") == "died":
            self._recovers = True
            self._hosts.vacate(self.execution_id)
        return outcome

    def _on_gone(self) -> None:
        self._host_died = True
        if self._host is not None:
            self._hosts.lost(self._host)

    def _kill_actor(self) -> None:
        """The host is not this execution's to kill. What failed here has ended by itself, and its epoch is raised next."""

    def _come_home(self) -> None:
        """At home on any host."""

    async def _on_its_own(self, *, blame: bool = False, attach: bool = False) -> dict[str, Any]:
        """Go on as a dedicated execution does, until this stay is over."""
        self._hosts.vacate(self.execution_id)
        async with self._hosts.suspects:
            self._suspected += 1
            self._alone = alone = Apart(
                self.execution_id, self._around, announce=self._follow, tokens=self.tokens, blamed=blame
            )
            outcome = await alone.go(attach=attach)
            if outcome.get("ended") == "handed_over":
                await alone.leave()
                self._alone = self.actor = None
            return outcome

    def _follow(self) -> None:
        if self._alone is not None:
            self.actor = self._alone.actor
        self._announce()
