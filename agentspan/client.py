"""The client's end of a server: a connection, and the verbs that take an execution's ID and no agent.

Async first; every sync verb is a twin over the bridge. A client holds a connection and nothing else: executions do not
depend on it.
"""

from __future__ import annotations

import asyncio
import getpass
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from agentspan.actors.environment import prepare
from agentspan.agents.results import AgentStatus
from agentspan.bridge import run_sync, twin
from agentspan.config import Settings, check_placement
from agentspan.errors import RuntimeClosedError, ServerGoneError
from agentspan.handle import new_id, read_back

if TYPE_CHECKING:
    from agentspan.actors.link import Link

READY_WAIT_S = 60.0
"""How long to wait for the standby shelf to fill."""

_ray_thread = ThreadPoolExecutor(1, thread_name_prefix="agentspan-ray")
"""Starts and leaves clusters. One thread for the life of the process: the kernel ends an embedded cluster's processes
when the thread that started them ends."""


class Connection(Protocol):
    """Whoever answers the verbs."""

    async def call(self, verb: str, args: dict[str, Any], timeout_s: float) -> Any: ...

    async def close(self) -> None: ...


class Client:
    """A connection to the server of a home, or to the store alone, and what can be asked by execution ID."""

    def __init__(
        self,
        *,
        address: str | None = None,
        home: str | Path | None = None,
        store: str | None = None,
        placement: str | None = None,
        settings: Settings | None = None,
    ) -> None:
        """
        Args:
            address: `host:port` of a Ray cluster or `ray://host:port` of its client port.
            home: Directory of the store and the server's files; `$AGENTSPAN_HOME` or `~/.agentspan`.
            store: Store URL for a server this runtime starts; by default a SQLite file in `home`.
            placement: Where what is started runs: `"dedicated"`, each execution in a process of its own, or `"packed"`,
                many together in a few. A deployment's own placement and that of a call win over it.
            settings: All of it; those above win over it.

        Raises:
            ConfigurationError: A setting cannot be used; names all that cannot.
        """
        given = {"address": address, "home": home, "store": store, "placement": check_placement(placement)}
        if settings is None:
            self.settings = Settings.from_env(**given)
        else:
            self.settings = settings.model_copy(
                update={name: value for name, value in given.items() if value is not None}
            )
        self._connection: Connection | None = None
        self._link: Link | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._deployed: dict[str, Any] = {}
        """What this process has deployed, by deployment ID."""
        self._terms: dict[str, dict[str, Any]] = {}
        """The placement and the limit it was deployed with, by the deployment ID it would have without."""

    @classmethod
    def offline(cls, settings: Settings | None = None) -> Self:
        """A runtime over the store alone, without a server and without Ray: reads, decides, signals and deploys.

        What it stores takes effect when a server is up; starting an execution is refused with `ServerUnavailableError`.
        """
        from agentspan.actors.offline import StoreConnection

        runtime = cls(settings=settings)
        runtime._connection = StoreConnection(runtime.settings)
        return runtime

    # --- life cycle

    def __enter__(self) -> Self:
        run_sync(self._connected())
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    async def __aenter__(self) -> Self:
        await self._connected()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.shutdown_async()

    async def shutdown_async(self) -> None:
        """Let go of the connection, and end an embedded server. Idempotent. Executions are not affected.

        Those of `host="client"` wait until a process deploys their graph again.
        """
        await self._before_leaving()
        if self._connection is not None:
            await self._connection.close()
        try:
            leaving = _ray_thread.submit(self._disconnect)
        except RuntimeError:
            self._disconnect()  # The interpreter is ending and has ended the thread; nothing else can run now anyway.
        else:
            await asyncio.wrap_future(leaving)

    async def _before_leaving(self) -> None:
        """What a subclass has to end first."""

    def _disconnect(self) -> None:
        with self._lock:
            self._closed = True
            self._connection = None
            link, self._link = self._link, None
            if link is not None:
                from agentspan.actors.link import leave

                leave(link)

    async def _connected(self) -> Connection:
        if self._connection is None:
            # Ray starts and connects blockingly; off the loop, so that a notebook or a server stays responsive.
            return await asyncio.wrap_future(_ray_thread.submit(self._connect, None))
        return self._connection

    def _connect(self, gone: Connection | None) -> Connection:
        """Have a connection, and another one than `gone`."""
        with self._lock:
            if self._closed:
                raise RuntimeClosedError()
            if self._connection is None or self._connection is gone:
                prepare(self.settings.home.expanduser())
                from agentspan.actors.link import enter

                self._connection, lost = None, self._link
                self._link = enter(self.settings, lost=lost)
                self._connection = self._link.connection
            return self._connection

    def _store_url(self) -> str:
        """Where the server that this is connected to keeps its executions, as far as it says so."""
        descriptor = self._link.descriptor if self._link is not None else None
        return self.settings.store_url if descriptor is None else descriptor.store_url

    async def _call(self, verb: str, *, timeout_s: float = 0.0, wait_s: float | None = None, **args: Any) -> Any:
        """Ask the server. `timeout_s` is how long the verb itself may take; every call has a deadline on top of it."""
        connection = await self._connected()
        if wait_s is not None:
            args["timeout_s"] = wait_s
        while True:
            try:
                return await connection.call(verb, args, timeout_s + self.settings.call_timeout_s)
            except ServerGoneError:
                # Every verb is idempotent, so it can be asked again of the next server of this home.
                connection = await asyncio.wrap_future(_ray_thread.submit(self._connect, connection))

    # --- reading

    async def get_status_async(self, execution_id: str) -> AgentStatus:
        """How an execution stands now."""
        status: AgentStatus = read_back(AgentStatus, await self._call("status", execution_id=execution_id))
        return status

    async def find_async(self, short_id: str) -> str:
        """The full execution ID for its first characters.

        Raises:
            UnknownExecutionError, AmbiguousExecutionError: None or several fit.
        """
        found: str = await self._call("find", prefix=short_id)
        return found

    async def executions_async(
        self, *, statuses: Sequence[str] | None = None, agent: str | None = None, limit: int = 100
    ) -> list[dict[str, Any]]:
        """Executions, newest first, as plain rows."""
        rows: list[dict[str, Any]] = await self._call("rows", statuses=statuses, agent=agent, limit=limit)
        return rows

    async def show_async(self, execution_id: str) -> dict[str, Any]:
        """All about one execution: row, actor, pid, node, epoch, attempts, deployment, steps."""
        shown: dict[str, Any] = await self._call("show", execution_id=execution_id)
        return shown

    async def server_info_async(self) -> dict[str, Any]:
        """The server's version, residents and standby, and the store's facts."""
        return {**await self._call("ping"), "store": await self._call("info")}

    async def ready_async(self) -> None:
        """Return once the standby shelf is full."""
        await self._call("ready", timeout_s=READY_WAIT_S)

    async def gc_async(self, *, older_than_s: float, dry_run: bool = True) -> dict[str, Any]:
        """Remove executions that ended more than `older_than_s` ago. Shows only what it would do unless told otherwise."""
        swept: dict[str, Any] = await self._call(
            "gc", finished_before=time.time() - older_than_s, dry_run=dry_run, timeout_s=600.0
        )
        return swept

    # --- signals

    async def _send(self, execution_id: str, kind: str, *, by: str | None = None, **fields: Any) -> dict[str, Any]:
        signal = {
            "signal_id": new_id(),
            "execution_id": execution_id,
            "kind": kind,
            "by": by if by is not None else _login(),
            "at": time.time(),
            **fields,
        }
        sent: dict[str, Any] = await self._call("send", signal=signal)
        return sent

    get_status = twin(get_status_async)
    find = twin(find_async)
    executions = twin(executions_async)
    show = twin(show_async)
    server_info = twin(server_info_async)
    ready = twin(ready_async)
    gc = twin(gc_async)
    shutdown = twin(shutdown_async)


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""  # A container without a user database.
