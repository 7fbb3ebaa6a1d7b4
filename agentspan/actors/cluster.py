"""Bringing Ray up, joining it, and talking to the supervisor: the client's end of every verb.

Imports Ray, so `environment.prepare` has to have run first.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, GetTimeoutError, RayActorError, RayTaskError

from agentspan.actors.desk import unpack_error
from agentspan.actors.residence import HostConfig
from agentspan.actors.shipping import load_key
from agentspan.actors.stay import SupervisionSettings
from agentspan.actors.supervisor import SUPERVISOR, SupervisorActor, SupervisorConfig
from agentspan.config import NAMESPACE, Settings
from agentspan.errors import (
    AgentspanError,
    ConfigurationError,
    ServerGoneError,
    ServerTimeoutError,
    ServerUnavailableError,
)

log = logging.getLogger("agentspan.cluster")

RETRY_PAUSE_S = 0.1
CONNECT_MAX_S = 10.0
CHECK_UP_S = 0.5
"""How often a call that waits asks whether the server is still up."""


class RayConnection:
    """Talks to the supervisor over Ray, natively or through Ray Client. Safe to use from any event loop."""

    def __init__(self, *, where: str, is_up: Callable[[], bool] = lambda: True) -> None:
        """`is_up` says whether the server is still there: calls to one that is gone would hang until Ray gives up."""
        self.where = where
        self._is_up = is_up
        self._supervisor: Any = None

    async def close(self) -> None:
        """Nothing to let go of: the connection to Ray is the process's (see `link`)."""

    async def call(self, verb: str, args: dict[str, Any], timeout_s: float) -> Any:
        """Ask the supervisor; asks again while it restarts, because every verb is idempotent.

        Raises:
            AgentspanError: What the verb raised.
            ServerTimeoutError: No answer within `timeout_s`; the outcome is unknown.
            ServerGoneError: The server has ended.
            ServerUnavailableError: There is no supervisor in this cluster.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            left = deadline - time.monotonic()
            try:
                async with asyncio.timeout(max(0.001, left)):
                    envelope = await self._while_up(self._ask(verb, args))
            except (ActorUnavailableError, ActorDiedError) as problem:
                self._supervisor = None
                self._check_up()
                if time.monotonic() + RETRY_PAUSE_S > deadline:
                    raise ServerUnavailableError(where=self.where, problem=str(problem)[:300]) from problem
                await asyncio.sleep(RETRY_PAUSE_S)
                continue
            except (TimeoutError, GetTimeoutError) as problem:
                execution_id = args.get("execution_id") or args.get("signal", {}).get("execution_id", "")
                raise ServerTimeoutError(
                    what=f"The server's answer to {verb!r}", timeout_s=timeout_s, execution_id=execution_id
                ) from problem
            except ServerUnavailableError:
                raise
            except (RayActorError, RayTaskError, ConnectionError) as problem:
                raise ServerUnavailableError(where=self.where, problem=str(problem)[:300]) from problem
            if "error" in envelope:
                raise unpack_error(envelope["error"])
            return envelope["value"]

    async def _while_up(self, asking: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
        task = asyncio.ensure_future(asking)
        try:
            while not (await asyncio.wait({task}, timeout=CHECK_UP_S))[0]:
                self._check_up()
            return task.result()
        finally:
            task.cancel()

    def _check_up(self) -> None:
        if not self._is_up():
            raise ServerGoneError(where=self.where, problem="it has ended.")

    async def _ask(self, verb: str, args: dict[str, Any]) -> dict[str, Any]:
        if self._supervisor is None:
            try:
                # Off the loop: without a head it would block for a minute.
                self._supervisor = await asyncio.to_thread(ray.get_actor, SUPERVISOR, namespace=NAMESPACE)
            except ValueError as problem:
                raise ServerUnavailableError(
                    where=self.where, problem="this Ray cluster has no AgentSpan supervisor."
                ) from problem
        envelope: dict[str, Any] = await self._supervisor.call.remote(verb, args)
        return envelope


def start_local(settings: Settings, *, num_cpus: int | None = None) -> str:
    """Start a Ray cluster in this process's care and the supervisor in it. Returns the cluster's address."""
    _hush()
    context = ray.init(
        address="local",
        namespace=NAMESPACE,
        num_cpus=num_cpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        configure_logging=False,
    )
    ensure_supervisor(settings)
    return str(context.address_info["gcs_address"])


def join(address: str) -> None:
    """Connect this process to a running cluster. Does nothing if it is connected already."""
    if ray.is_initialized():
        return
    _hush()
    try:
        if address.startswith("ray://"):
            _check_listening(address)
            ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
        else:
            ray.init(
                address=address,
                namespace=NAMESPACE,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=False,
            )
    except AgentspanError:
        raise
    except (ConnectionError, RuntimeError, OSError) as problem:
        raise ServerUnavailableError(
            where=address,
            problem=f"{str(problem)[:500]}. If a server is up there, this process may hold another token than it does: "
            "copy `ray.token` from the server's home to this one's, or set RAY_AUTH_TOKEN.",
        ) from problem


def _check_listening(address: str) -> None:
    """Fail at once where nobody listens; Ray Client would try for half a minute."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_MAX_S).close()
    except ValueError:
        raise ConfigurationError(problem=f"{address!r} is no address; give ray://host:port.") from None
    except OSError as problem:
        raise ServerUnavailableError(where=address, problem=f"nobody listens there ({problem}).") from problem


def leave() -> None:
    """Disconnect; ends the cluster if this process started it."""
    ray.shutdown()


def is_broken() -> bool:
    """Whether a process has ended that the cluster started here cannot do without: Ray does not bring it back."""
    import ray._private.worker as worker

    node = getattr(worker, "_global_node", None)
    if node is None or not hasattr(node, "dead_processes"):  # Private, so a Ray without it is never called broken.
        return False
    return any(kind in ("raylet", "gcs_server") for kind, _ in node.dead_processes())


def is_connected() -> bool:
    """Whether this process is connected to a Ray cluster."""
    return bool(ray.is_initialized())


def ensure_supervisor(settings: Settings) -> None:
    """Have a supervisor in the connected cluster. One that is there already keeps its settings."""
    try:
        ray.get_actor(SUPERVISOR, namespace=NAMESPACE)
        return
    except ValueError:
        pass
    _check_store(settings)
    key_path = settings.key_path.absolute()
    load_key(key_path)
    config = SupervisorConfig(host=_host_config(settings, key_path), settings=_supervision_settings(settings))
    SupervisorActor.options(  # type: ignore[attr-defined]
        name=SUPERVISOR, namespace=NAMESPACE, lifetime="detached", get_if_exists=True
    ).remote(config)


def restart_supervisor() -> None:
    """Kill a supervisor that hangs; Ray starts it again, and it finds everything in the store."""
    try:
        ray.kill(ray.get_actor(SUPERVISOR, namespace=NAMESPACE), no_restart=False)
    except (ValueError, RayActorError):
        pass  # It is gone already.


def _check_store(settings: Settings) -> None:
    nodes = sum(1 for node in ray.nodes() if node["Alive"])
    if nodes > 1 and settings.store_url.startswith("sqlite:"):
        raise ConfigurationError(
            problem=f"This cluster has {nodes} nodes, and SQLite is a file on one of them. Use a Postgres store "
            "(AGENTSPAN_STORE=postgresql://…) for clusters of more than one node."
        )


def _host_config(settings: Settings, key_path: Path) -> HostConfig:
    return HostConfig(
        store_url=settings.store_url,
        key_path=str(key_path),
        hibernate_after_s=settings.hibernate_after_s,
        model_retries_max=settings.model_retries_max,
        model_timeout_s=settings.model_timeout_s,
        parallel_tools_max=settings.parallel_tools_max,
    )


def _supervision_settings(settings: Settings) -> SupervisionSettings:
    return SupervisionSettings(
        standby=settings.standby,
        recoveries_max=settings.recoveries_max,
        recovery_backoff_s=settings.recovery_backoff_s,
        scan_interval_s=settings.scan_interval_s,
        ping_timeout_s=settings.ping_timeout_s,
        starts_at_once=os.cpu_count() or 2,
        hosts_max=settings.hosts_max or 0,
        host_capacity=settings.host_capacity,
        actors_max=settings.actors_max,
        retention_s=settings.retention,
    )


def _hush() -> None:
    """Ray prints notices about dead workers to the driver's stdout whatever its settings say (measured, 2.60); our
    command line promises clean JSON there. The switch is private, so a Ray without it is left as it is."""
    import ray._private.worker as worker

    logging.getLogger("ray").setLevel(logging.ERROR)
    if hasattr(worker, "_worker_logs_enabled"):
        worker._worker_logs_enabled = False
