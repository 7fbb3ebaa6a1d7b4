"""Host actors: a few processes that run many packed executions each.

An execution is seated on the least loaded host that has room. Hosts come up on demand, up to one for each core, and go
when they have been empty for a while. A host is named `agentspan-host-N`; N is not used again while the supervisor lives,
so that a row never points to another process than the one it meant.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from agentspan.actors.fleet import ActorGone, ActorHandle, Fleet

log = logging.getLogger("agentspan.hosts")

HOST_PREFIX = "agentspan-host-"
SPREAD_AT = 8
"""So many executions share a host before another one is brought up."""
COMING_UP_COSTS = 16
"""A host that is still coming up is chosen when the others have so many more executions than it."""
KEEP_EMPTY_S = 60.0
"""How long a host without executions is kept."""
SUSPECTS_AT_ONCE = 16
"""So many executions whose hosts died again and again have processes of their own at a time."""
BEGINS_AT_ONCE = 64
"""So many executions are being taken over and handed to hosts at a time: a wave of them does not starve the rest."""
WARM_DEPLOYMENTS_MAX = 8


def is_host(name: str) -> bool:
    """Whether an actor of this name runs many executions."""
    return name.startswith(HOST_PREFIX)


@dataclass(eq=False, slots=True)
class Host:
    """One host actor, living or coming up."""

    name: str
    where: dict[str, Any]
    """For the rows of its executions: actor, pid, node, host name."""
    actor: ActorHandle | None = None
    """None while it comes up."""
    coming: asyncio.Task[None] | None = None
    tenants: set[str] = field(default_factory=set)
    empty_since: float = 0.0
    is_lost: bool = False
    is_pinging: bool = False

    @property
    def load(self) -> int:
        return len(self.tenants) + (COMING_UP_COSTS if self.actor is None else 0)


class Hosts:
    """All hosts of a supervisor, and who sits where. Every method runs on the supervisor's loop."""

    def __init__(
        self, fleet: Fleet, *, hosts_max: int, capacity: int, slots: asyncio.Semaphore, ping_timeout_s: float
    ) -> None:
        """`slots` is shared with all who start processes. `capacity` is for each host."""
        self._fleet = fleet
        self._hosts_max = hosts_max
        self._capacity = capacity
        self._slots = slots
        self._ping_timeout_s = ping_timeout_s
        self._hosts: dict[str, Host] = {}
        self._seats: dict[str, Host] = {}
        self._line: deque[asyncio.Future[None]] = deque()
        self._deployments: deque[str] = deque(maxlen=WARM_DEPLOYMENTS_MAX)
        self._last_number = 0
        self.gate = asyncio.Semaphore(BEGINS_AT_ONCE)
        self.suspects = asyncio.Semaphore(SUSPECTS_AT_ONCE)

    @property
    def places(self) -> int:
        """How many executions all hosts together can run."""
        return self._hosts_max * self._capacity

    def resize(self, hosts_max: int) -> None:
        """Another number of hosts at most. Those that are too many by now stay for as long as they are needed."""
        self._hosts_max = hosts_max
        self._serve_line()

    def describe(self) -> list[dict[str, Any]]:
        """Each host with its number of executions, for operators."""
        return [
            {**host.where, "executions": len(host.tenants), "up": host.actor is not None}
            for host in self._hosts.values()
        ]

    # --- coming and going

    async def adopt(self, names: Iterable[str]) -> None:
        """Take over hosts that the last supervisor had, as far as they live. One that hangs is found out by `look_after`."""
        for name in names:
            number = name.removeprefix(HOST_PREFIX)
            self._last_number = max(self._last_number, int(number) if number.isdigit() else 0)
            actor = await self._fleet.find(name)
            if actor is not None and name not in self._hosts:
                self._hosts[name] = Host(name, {"actor": name}, actor=actor, empty_since=self._now())

    async def stop(self) -> None:
        """Let go of the hosts; they and what they run go on. Those that are just coming up are ended."""
        coming = [host.coming for host in self._hosts.values() if host.actor is None and host.coming is not None]
        for task in coming:
            task.cancel()
        if coming:
            await asyncio.wait(coming)
        self._hosts.clear()
        self._seats.clear()

    def warm(self, deployment_id: str, *, all_hosts: bool = False) -> None:
        """Have hosts load a deployment ahead of time, and with `all_hosts` bring up all there may be."""
        if deployment_id in self._deployments:
            self._deployments.remove(deployment_id)
        self._deployments.append(deployment_id)
        while all_hosts and len(self._hosts) < self._hosts_max:
            self._bring_up()

    async def wait_up(self) -> None:
        """Return once no host is coming up."""
        coming = [host.coming for host in self._hosts.values() if host.actor is None and host.coming is not None]
        if coming:
            await asyncio.wait(coming)

    def _bring_up(self) -> None:
        self._last_number += 1
        name = f"{HOST_PREFIX}{self._last_number}"
        host = self._hosts[name] = Host(name, {"actor": name}, empty_since=self._now())
        host.coming = asyncio.create_task(self._come_up(host))
        host.coming.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _come_up(self, host: Host) -> None:
        actor: ActorHandle | None = None
        try:
            async with self._slots:
                actor = await self._fleet.create(host.name)
                host.where = {"actor": host.name, **await actor.warm(tuple(self._deployments))}
        except BaseException as problem:
            self.lost(host)
            if actor is not None:
                actor.kill()
            if isinstance(problem, asyncio.CancelledError):
                raise
            log.exception("host.not_started", extra={"host": host.name})
            raise ActorGone(f"{host.name} did not come up: {problem!r:.300}") from problem
        host.actor, host.empty_since = actor, self._now()
        log.info("host.up", extra={"host": host.name})

    def lost(self, host: Host) -> None:
        """This host is dead, for certain. Idempotent; its executions notice by themselves."""
        if not host.is_lost:
            host.is_lost = True
            self._hosts.pop(host.name, None)
            self._serve_line()

    async def look_after(self) -> None:
        """Ping every host, end those that hang, and let go of those that nobody has needed for a while."""
        for host in list(self._hosts.values()):
            if host.actor is None:
                continue
            if not host.tenants and self._now() - host.empty_since > KEEP_EMPTY_S:
                self.lost(host)
                host.actor.kill()
        await asyncio.gather(*(self._ping(host) for host in list(self._hosts.values())))

    async def _ping(self, host: Host) -> None:
        actor = host.actor
        if actor is None or host.is_pinging:
            return
        host.is_pinging = True
        try:
            host.where = {"actor": host.name, **await actor.ping(self._ping_timeout_s)}
        except TimeoutError:
            log.warning("host.hung", extra={"host": host.name, "executions": len(host.tenants)})
            self.lost(host)
            actor.kill()
        except ActorGone:
            self.lost(host)
        finally:
            host.is_pinging = False

    # --- seats

    async def seat(self, execution_id: str, *, squeeze: bool = False) -> Host:
        """The host an execution is to run on, once there is one with room; first come, first served.

        `squeeze`: if there is none, on the least loaded one.

        Raises:
            ActorGone: A new host did not come up.
        """
        self.vacate(execution_id)
        while True:
            host = self._choose(squeeze=squeeze) if squeeze or not self._line else None
            if host is None:
                host = await self._queue()
            if host is None:
                continue
            host.tenants.add(execution_id)
            self._seats[execution_id] = host
            try:
                if host.coming is not None:
                    await asyncio.shield(host.coming)
            except BaseException:
                self.vacate(execution_id)
                raise
            if not host.is_lost:
                return host
            self.vacate(execution_id)

    async def _queue(self) -> Host | None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        try:
            await turn
        finally:
            if turn in self._line:
                self._line.remove(turn)
        return self._choose()

    def rejoin(self, execution_id: str, name: str) -> Host | None:
        """The living host on which an execution is said to run, with it seated there."""
        host = self._hosts.get(name)
        if host is None or host.actor is None:
            return None
        host.tenants.add(execution_id)
        self._seats[execution_id] = host
        return host

    def vacate(self, execution_id: str) -> None:
        """Give up an execution's seat. Idempotent."""
        host = self._seats.pop(execution_id, None)
        if host is not None:
            host.tenants.discard(execution_id)
            if not host.tenants:
                host.empty_since = self._now()
            self._serve_line()

    def _choose(self, *, squeeze: bool = False) -> Host | None:
        """The least loaded host with room; brings up another when those there are have company already."""
        have_company = min(SPREAD_AT, self._capacity)
        if len(self._hosts) < self._hosts_max and all(len(h.tenants) >= have_company for h in self._hosts.values()):
            self._bring_up()
        with_room = [host for host in self._hosts.values() if squeeze or len(host.tenants) < self._capacity]
        return min(with_room, key=lambda host: host.load, default=None)

    def _serve_line(self) -> None:
        room = self.places - sum(len(host.tenants) for host in self._hosts.values())
        for turn in list(self._line)[: max(0, room)]:
            if not turn.done():
                turn.set_result(None)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
