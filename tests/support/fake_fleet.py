"""Actors without Ray: objects that run real drivers on one disk, and die or hang when told to.

A dead actor writes nothing more, however far its driver had come; a caller learns of the death as `ActorGone`. A hung
one stops as a process does that was sent SIGSTOP: nothing it does goes on until it is killed or `resume`d.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from agentspan.actors.driver import Driver
from agentspan.actors.feed import Feed
from agentspan.actors.fleet import ActorGone
from agentspan.actors.performer import AgentPerformer
from agentspan.agents.agent import Agent
from agentspan.errors import StaleEpochError
from agentspan.models.base import Model
from agentspan.persistence.store import Store
from agentspan.testing.crash import Crash, CrashingModel, CrashingStore, CrashPoint
from tests.support.virtual_time import clock

CREATE_S = 0.4
T = TypeVar("T")


class _Process(CrashPoint):
    """A crash point that dies when the actor does, and stands still while it hangs."""

    def __init__(self) -> None:
        super().__init__(10**9, landed=False, error=None)
        self.goes_on = asyncio.Event()
        self.goes_on.set()

    async def through(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        await self.goes_on.wait()
        result = await super().through(name, call)
        await self.goes_on.wait()
        if self.dead:
            raise Crash(name)
        return result


@dataclass
class _Tenant:
    driver: Driver
    feed: Feed
    task: asyncio.Task[dict[str, Any]]


class FakeActor:
    """An `ActorHandle`, and the process behind it."""

    def __init__(self, fleet: FakeFleet, name: str) -> None:
        self.name = name
        self.fleet = fleet
        self.process = _Process()
        self.gone = asyncio.get_running_loop().create_future()
        self.tenants: dict[str, _Tenant] = {}
        self.warmed: list[str] = []

    @property
    def alive(self) -> bool:
        return not self.gone.done()

    # --- what befalls it

    def die(self) -> None:
        """As `kill -9` does."""
        if self.gone.done():
            return
        self.process.dead = True
        self.process.goes_on.set()
        self.gone.set_result(None)
        for tenant in self.tenants.values():
            tenant.task.cancel()

    def hang(self) -> None:
        """As `kill -STOP` does."""
        self.process.goes_on.clear()

    def resume(self) -> None:
        self.process.goes_on.set()

    # --- ActorHandle

    async def _remote(self, work: Awaitable[T]) -> T:
        """A call whose answer is the death of the actor if that comes first."""
        task = asyncio.ensure_future(work)
        await asyncio.wait([task, self.gone], return_when=asyncio.FIRST_COMPLETED)
        if self.gone.done():
            task.cancel()
            raise ActorGone(f"{self.name} died")
        return task.result()

    async def _control(self) -> None:
        await self.process.goes_on.wait()

    async def warm(self, deployments: tuple[str, ...]) -> dict[str, Any]:
        await self._remote(self._control())
        self.warmed += deployments
        return self.host

    @property
    def host(self) -> dict[str, Any]:
        return {"actor": self.name}

    async def run(self, execution_id: str, epoch: int, crashed: bool, tokens: bool) -> dict[str, Any]:
        self.fleet.runs.append((execution_id, epoch, crashed))
        if not self.alive:
            raise ActorGone(self.name)
        feed = Feed(execution_id)
        feed.wants_tokens = tokens
        store: Store = CrashingStore(self.fleet.store, self.process)
        model = CrashingModel(self.fleet.model, self.process)
        performer = AgentPerformer(self.fleet.agent, model=lambda name, url: model, store=store, feed=feed, clock=clock)
        driver = Driver(
            execution_id=execution_id,
            epoch=epoch,
            crashed=crashed,
            store=store,
            performer=performer,
            feed=feed,
            hibernate_after_s=self.fleet.hibernate_after_s,
            clock=clock,
        )
        task = asyncio.create_task(self._incarnation(execution_id, driver))
        self.tenants[execution_id] = _Tenant(driver, feed, task)
        return await self._wait_for(task)

    async def _incarnation(self, execution_id: str, driver: Driver) -> dict[str, Any]:
        try:
            return asdict(await driver.run())
        except StaleEpochError:
            return {"ended": "stale", "status": "", "wake_at": None}
        except Crash:
            return {"ended": "dead"}
        finally:
            del self.tenants[execution_id]

    async def _wait_for(self, task: asyncio.Task[dict[str, Any]]) -> dict[str, Any]:
        # Shielded: the run goes on when whoever asked for it is gone.
        return await self._remote(asyncio.shield(task))

    async def attach(self, execution_id: str) -> dict[str, Any]:
        if not self.alive:
            raise ActorGone(self.name)
        tenant = self.tenants.get(execution_id)
        if tenant is None:
            return {"ended": "idle", "status": "", "wake_at": None}
        return await self._wait_for(tenant.task)

    async def ping(self, timeout_s: float) -> dict[str, Any]:
        async with asyncio.timeout(timeout_s):
            await self._remote(self._control())
        return self.host

    async def poke(self, execution_id: str) -> None:
        if not self.alive:
            raise ActorGone(self.name)
        if execution_id in self.tenants:
            self.tenants[execution_id].driver.poke()

    async def let_go(self, execution_id: str) -> None:
        if not self.alive:
            raise ActorGone(self.name)
        if execution_id in self.tenants:
            self.tenants[execution_id].driver.let_go()

    async def poll(
        self, execution_id: str, after: int, after_token: int, timeout_s: float, tokens: bool
    ) -> dict[str, Any] | None:
        tenant = self.tenants.get(execution_id)
        if tenant is None:
            return None
        return await self._remote(tenant.feed.wait(after, after_token, timeout_s))

    def kill(self) -> None:
        self.fleet.killed.append(self.name)
        self.die()


class FakeFleet:
    """A `Fleet`. Everything it did is written down."""

    def __init__(self, store: Store, agent: Agent, model: Model, *, hibernate_after_s: float = 5.0) -> None:
        self.store = store
        self.agent = agent
        self.model = model
        self.hibernate_after_s = hibernate_after_s
        self.actors: list[FakeActor] = []
        """All there ever were, oldest first."""
        self.created: list[tuple[str, int]] = []
        """Names, and the epoch the store held when the actor was created (-1: no such execution)."""
        self.runs: list[tuple[str, int, bool]] = []
        """Every `run` call: execution, epoch, crashed."""
        self.killed: list[str] = []
        self.failures = 0
        """So many of the next creations fail."""
        self.cores_now = 2
        self.born_dead = 0
        """So many of the next actors die as soon as they run."""

    async def create(self, name: str) -> FakeActor:
        await asyncio.sleep(CREATE_S)
        if self.failures > 0:
            self.failures -= 1
            raise ActorGone(f"{name} did not come up")
        holder = await self.find(name)
        if holder is not None:
            holder.kill()
        self.created.append((name, await self._epoch(name)))
        actor = FakeActor(self, name)
        self.actors.append(actor)
        return actor

    async def _epoch(self, name: str) -> int:
        return next((row.epoch for row in await self.store.rows(limit=1000) if row.execution_id == name), -1)

    async def find(self, name: str) -> FakeActor | None:
        return next((actor for actor in self.actors if actor.name == name and actor.alive), None)

    async def cores(self) -> int:
        return self.cores_now

    async def names(self) -> list[str]:
        return [actor.name for actor in self.actors if actor.alive]

    def living(self, name: str) -> FakeActor:
        (actor,) = [actor for actor in self.actors if actor.name == name and actor.alive]
        return actor
