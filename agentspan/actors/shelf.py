"""The standby shelf: actors that already run, whose names are execution IDs nobody has been given yet.

Creating an actor costs a process (about 0.4 s and, with a model client loaded, twice that); taking one off the shelf
costs a call. An actor cannot be renamed, so it is named by the ID it will serve before anybody asks.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agentspan.actors.fleet import ActorHandle, Fleet

log = logging.getLogger("agentspan.shelf")

REFILL_PAUSE_S = 0.25
"""How long a start that was just handed out has the machine for itself, while there is another standby left."""
RETRY_S = 1.0
"""Pause after an actor did not come up."""
WARM_DEPLOYMENTS_MAX = 8
WARM_WAIT_S = 5.0
"""How long a deployment waits for a standby to load it."""


@dataclass(frozen=True, slots=True)
class Standby:
    """A warm actor: its name is the execution ID it is for."""

    actor: ActorHandle
    host: dict[str, Any]


class Shelf:
    """Keeps up to `size` standbys and refills in the background. `start` and `stop` are idempotent."""

    def __init__(self, fleet: Fleet, *, size: int, mint: Callable[[], str], slots: asyncio.Semaphore) -> None:
        """`slots` is shared with recoveries: it bounds how many processes start at once."""
        self._fleet = fleet
        self._size = size
        self._mint = mint
        self._slots = slots
        self._ready: deque[Standby] = deque()
        self._deployments: deque[str] = deque(maxlen=WARM_DEPLOYMENTS_MAX)
        self._wanted = asyncio.Event()
        self._filled = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._taken_at = 0.0

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._refill())

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        while self._ready:
            self._ready.popleft().actor.kill()

    def take(self) -> Standby | None:
        """A standby, or None when the shelf is empty. The caller owns it."""
        self._taken_at = asyncio.get_running_loop().time()
        self._filled.clear()
        self._wanted.set()
        return self._ready.popleft() if self._ready else None

    def put_back(self, standby: Standby) -> None:
        """Return a standby that was not used."""
        self._ready.append(standby)

    def remember(self, deployment_id: str) -> None:
        """Have future standbys load this deployment ahead of time."""
        if deployment_id in self._deployments:
            self._deployments.remove(deployment_id)
        self._deployments.append(deployment_id)

    async def warm(self, deployment_id: str) -> None:
        """Load a deployment into the standbys that are there already."""
        self.remember(deployment_id)
        for standby in list(self._ready):
            try:
                async with asyncio.timeout(WARM_WAIT_S):
                    await standby.actor.warm((deployment_id,))
            except Exception:
                # Dead, hung or slow: none of it is worth more waiting than a new one costs.
                log.warning("standby.dropped", extra={"actor": standby.actor.name}, exc_info=True)
                if standby in self._ready:
                    self._ready.remove(standby)
                    standby.actor.kill()
                self._wanted.set()

    async def wait_filled(self) -> None:
        """Return once the shelf is full."""
        await self._filled.wait()

    @property
    def count(self) -> int:
        return len(self._ready)

    async def _pause(self) -> None:
        loop = asyncio.get_running_loop()
        while self._ready and (left := self._taken_at + REFILL_PAUSE_S - loop.time()) > 0:
            self._wanted.clear()
            try:
                async with asyncio.timeout(left):
                    await self._wanted.wait()
            except TimeoutError:
                return

    async def _refill(self) -> None:
        while True:
            while len(self._ready) >= self._size:
                self._filled.set()
                self._wanted.clear()
                await self._wanted.wait()
            await self._pause()
            actor: ActorHandle | None = None
            try:
                async with self._slots:
                    actor = await self._fleet.create(self._mint())
                    host = await actor.warm(tuple(self._deployments))
            except Exception:
                # Whatever it was, executions start without a standby too; only slower. Try again, and say so.
                log.exception("standby.failed")
                if actor is not None:
                    actor.kill()
                await asyncio.sleep(RETRY_S)
            else:
                self._ready.append(Standby(actor, host))
