"""The verbs without a server: read the store, and store signals, from any process and without Ray.

What has to be *live* (starting an execution, text as it streams in) is refused. Waiting for an execution that a server
works on is done by looking at the store, so it outlasts a restart of the server, and of the Ray cluster with it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from agentspan.actors.desk import POLL_MAX_S, Desk, unpack_error
from agentspan.actors.doorbell import ring
from agentspan.actors.lease import Lease
from agentspan.config import Settings
from agentspan.errors import ServerTimeoutError, ServerUnavailableError
from agentspan.persistence.opening import open_store, sqlite_path
from agentspan.persistence.store import Store

LOOK_EVERY_S = 0.05
"""How often a wait looks at the store. A look is one indexed read, about 0.3 ms."""
LEASE_EVERY_S = 1.0
"""How often a wait asks whether a server is up."""
UNSERVED_MAX_S = 30.0
"""How long a wait goes on while a server that was up is not: about the time it takes to start it again."""

NEED_KEY = frozenset({"deploy", "code"})
"""Verbs that sign code or check a signature. Only they import Ray (for its pickler), and none connects to it."""

OpenStore = Callable[[str], Awaitable[Store]]


class StoreConnection:
    """Answers the verbs from the store of a home. A `Connection` of the runtime; usable from any event loop.

    A home without a store file reads as an empty store; nothing is made on disk until something is written.
    """

    def __init__(
        self, settings: Settings, *, opening: OpenStore = open_store, is_served: Callable[[], bool] | None = None
    ) -> None:
        """
        Args:
            settings: Says which store, and which key signs code.
            opening: Makes a store from its URL.
            is_served: Whether a server works on this store; by default, whether one holds the home's lease.
        """
        self._settings = settings
        self._opening = opening
        self._is_served = is_served or Lease(settings.home.expanduser()).is_held
        self._stores: dict[asyncio.AbstractEventLoop, Store] = {}
        self._served_at: float | None = None
        self._asked_lease_at: float | None = None

    async def call(self, verb: str, args: dict[str, Any], timeout_s: float) -> Any:
        """Perform a verb.

        Raises:
            AgentspanError: What the verb raised.
            ServerTimeoutError: The store took longer than `timeout_s`.
            ServerUnavailableError: It needs a server, or waits for an execution that nobody works on.
        """
        try:
            async with asyncio.timeout(timeout_s):
                if verb in ("events", "result") and args["timeout_s"] > 0:
                    return await self._wait(verb, args)
                return await self._ask(verb, args)
        except TimeoutError as problem:
            raise ServerTimeoutError(
                what=f"The store's answer to {verb!r}", timeout_s=timeout_s, execution_id=args.get("execution_id", "")
            ) from problem

    async def close(self) -> None:
        """Let go of the store opened on this event loop. Idempotent; the next call opens it again."""
        store = self._stores.pop(asyncio.get_running_loop(), None)
        if store is not None:
            await store.close()

    async def _wait(self, verb: str, args: dict[str, Any]) -> Any:
        """A long poll: look until there is something to tell, the wait is over, or nobody is left to wait for."""
        until = time.monotonic() + min(args["timeout_s"], POLL_MAX_S)
        while True:
            page = await self._ask(verb, {**args, "timeout_s": 0.0})
            is_worked_on = self._is_worked_on()  # Asked at every look, so that a server that goes away is missed.
            if page["settled"] or page.get("events") or time.monotonic() >= until:
                return page
            if not is_worked_on:
                raise ServerUnavailableError(
                    where=str(self._settings.home),
                    problem=f"no server is up, so execution {args['execution_id']!r} does not go on for now. Its state "
                    "is safe. Start one with `agent-span server start`.",
                )
            await asyncio.sleep(LOOK_EVERY_S)

    def _is_worked_on(self) -> bool:
        """Whether a server is up, or was until a moment ago and may be on its way back."""
        now = time.monotonic()
        if self._asked_lease_at is None or now >= self._asked_lease_at + LEASE_EVERY_S:
            if self._is_served():
                self._served_at = self._asked_lease_at = now
            else:
                # Without a server there is nothing to wait for, so the next wait asks anew.
                self._asked_lease_at = None if self._served_at is None else now
        return self._served_at is not None and now <= self._served_at + UNSERVED_MAX_S

    async def _ask(self, verb: str, args: dict[str, Any]) -> Any:
        desk = Desk(await self._store(verb), None, key=self._key(verb), where=str(self._settings.home))
        envelope = await desk.call(verb, args)
        if "error" in envelope:
            raise unpack_error(envelope["error"])
        if verb == "send":
            ring(self._settings.home.expanduser(), args["signal"]["execution_id"])
        return envelope["value"]

    def _key(self, verb: str) -> bytes:
        if verb not in NEED_KEY:
            return b""
        from agentspan.actors.shipping import load_key

        return load_key(self._settings.key_path)

    async def _store(self, verb: str) -> Store:
        loop = asyncio.get_running_loop()
        store = self._stores.get(loop)
        if store is None:
            url = self._settings.store_url
            if verb != "deploy" and self._opening is open_store and not _exists(url):
                from agentspan.persistence.memory import MemoryStore  # Rarely needed, and 14 ms to import.

                return MemoryStore()
            store = self._stores[loop] = await self._opening(url)
        return store


def _exists(url: str) -> bool:
    if "://" in url and not url.startswith("sqlite:"):
        return True  # A database server: opening it makes nothing.
    return sqlite_path(url).expanduser().exists()
