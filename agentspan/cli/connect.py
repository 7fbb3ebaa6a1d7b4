"""How a command reaches executions: the store when it can be opened here, the server when the command needs it.

Reading and signalling open the store: no Ray, about 10 ms. Starting something, and text as it streams in, join the
server's Ray cluster: about 1 s. Where `AGENTSPAN_ADDRESS` names a cluster, its store may be anywhere, so everything
joins.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from agentspan.actors.environment import prepare
from agentspan.actors.lease import Descriptor, Lease
from agentspan.actors.offline import StoreConnection
from agentspan.bridge import run_sync
from agentspan.cli.output import guard_stdout
from agentspan.config import Settings
from agentspan.errors import ServerUnavailableError, UnknownExecutionError
from agentspan.runtime import AgentRuntime

START_HINT = "no server is up. Start one with `agent-span server start`."


class Session:
    """One command's access, for a `with` block. Nothing is opened before it is used; what was is closed at the end."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings.from_env()
        self.lease = Lease(self.settings.home.expanduser())
        self._runtimes: list[AgentRuntime] = []

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        for runtime in self._runtimes:
            connection = runtime._connection
            if isinstance(connection, StoreConnection):
                run_sync(connection.close())
            runtime.shutdown()

    @cached_property
    def descriptor(self) -> Descriptor | None:
        """The server of this home, if one is up."""
        return self.lease.read()

    @property
    def is_served(self) -> bool:
        """Whether somebody will act on what this command stores."""
        return self.settings.address is not None or self.descriptor is not None or self.lease.is_held()

    @cached_property
    def runtime(self) -> AgentRuntime:
        """For reading and signalling."""
        if self.settings.address is not None:
            return self.live()
        settings = self.settings
        if self.descriptor is not None:  # The server's store counts, not what this shell's environment says.
            settings = settings.model_copy(update={"store": self.descriptor.store_url})
        return self._kept(AgentRuntime.offline(settings))

    def live(self, *, embedded: bool = False) -> AgentRuntime:
        """Joined to the server.

        Args:
            embedded: Without a server, start one inside this process.

        Raises:
            ServerUnavailableError: No server is up.
        """
        if not embedded and not self.is_served:
            raise ServerUnavailableError(where=str(self.settings.home), problem=START_HINT)
        self.prepare()
        return self._kept(AgentRuntime(settings=self.settings))

    def _kept(self, runtime: AgentRuntime) -> AgentRuntime:
        self._runtimes.append(runtime)
        return runtime

    def prepare(self) -> None:
        """Make this process ready for importing Ray and user code: quiet, and with this home's token."""
        guard_stdout()
        prepare(self.settings.home.expanduser())

    def ask(self, verb: str, *, timeout_s: float = 0.0, **args: Any) -> Any:
        """Perform a verb, as plain data."""
        return run_sync(self.runtime._call(verb, timeout_s=timeout_s, **args))

    def send(self, execution_id: str, kind: str, *, by: str | None = None, **fields: Any) -> dict[str, Any]:
        """Store a signal: `{"is_new": bool, "signal": the one that counts}`."""
        return run_sync(self.runtime._send(execution_id, kind, by=by, **fields))

    def find(self, short: str) -> str:
        """The full ID for a short one, with or without its `ex-`."""
        try:
            return str(self.ask("find", prefix=short))
        except UnknownExecutionError:
            if short.startswith("ex-"):
                raise
            try:
                return str(self.ask("find", prefix=f"ex-{short}"))
            except UnknownExecutionError:
                raise UnknownExecutionError(execution_id=short) from None
