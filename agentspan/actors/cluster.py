"""Bringing Ray up, joining it, and talking to the supervisor: the client's end of every verb.

Imports Ray, so `environment.prepare` has to have run first.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, GetTimeoutError, RayActorError, RayTaskError

from agentspan.actors.desk import unpack_error
from agentspan.actors.environment import token_source
from agentspan.actors.execution import SUPERVISOR
from agentspan.actors.network import check_entry, is_on_loopback_alone, loopback
from agentspan.actors.nodes import Node
from agentspan.actors.residence import HostConfig
from agentspan.actors.shipping import load_key, verify
from agentspan.actors.stay import SupervisionSettings
from agentspan.actors.supervisor import SupervisorActor, SupervisorConfig, living_nodes, placed
from agentspan.bridge import run_sync
from agentspan.config import NAMESPACE, Settings
from agentspan.errors import (
    AgentspanError,
    AuthenticationError,
    ConfigurationError,
    ServerGoneError,
    ServerTimeoutError,
    ServerUnavailableError,
    UntrustedCodeError,
)
from agentspan.persistence.opening import open_store
from agentspan.persistence.postgres_url import is_postgres, without_password
from agentspan.persistence.store import DeploymentRow

log = logging.getLogger("agentspan.cluster")

RETRY_PAUSE_S = 0.1
KEY_TRIES = 20
"""So many agents are looked at for one that this server's key has signed."""
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


def start_local(settings: Settings, *, num_cpus: int | None = None, only_loopback: bool = True) -> str:
    """Start a Ray cluster in this process's care and the supervisor in it. Returns the cluster's address.

    With `only_loopback` it listens on loopback alone, unless RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER says otherwise.
    """
    _hush()
    with loopback(only_loopback):
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


def join(address: str) -> str:
    """Connect this process to a running cluster and return its address. Does nothing if it is connected already.

    Raises:
        ConfigurationError, ServerUnavailableError, AuthenticationError: As `check_entry`, without delay.
    """
    if ray.is_initialized():
        return address
    _hush()
    try:
        with loopback(is_on_loopback_alone(address)):
            check_entry(address)
            if address.startswith("ray://"):
                ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
                return address
            context = ray.init(
                address=address,
                namespace=NAMESPACE,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=False,
            )
    except AgentspanError:
        raise
    except ray.exceptions.AuthenticationError as problem:
        raise AuthenticationError(where=address, source=token_source()) from problem
    except (ConnectionError, RuntimeError, OSError) as problem:
        if "Unauthenticated" in str(problem) or "InvalidAuthToken" in str(problem):
            raise AuthenticationError(where=address, source=token_source()) from problem
        raise ServerUnavailableError(where=address, problem=f"{str(problem)[:500]}.") from problem
    return str(context.address_info["gcs_address"])


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
    """Have a supervisor in the connected cluster. One that is there already keeps its settings.

    Raises:
        ConfigurationError: The store cannot be used by this cluster, or is of a server with another key. Nothing was done.
        StoreUnavailableError: The store does not answer.
    """
    try:
        ray.get_actor(SUPERVISOR, namespace=NAMESPACE)
        return
    except ValueError:
        pass
    check_store(settings, living_nodes())
    create_supervisor(settings)


def create_supervisor(settings: Settings, *, node: str | None = None) -> None:
    """Create the supervisor, on the head while there is one, or on a given node.

    With a SQLite store it stays on this process's node, where the file is, and so does all that it starts.
    """
    is_bound = not is_postgres(settings.store_url)
    config = SupervisorConfig(
        host=_host_config(settings),
        settings=_supervision_settings(settings),
        home=str(settings.home.expanduser().absolute()),
        is_bound=is_bound,
    )
    if is_bound:
        node = ray.get_runtime_context().get_node_id()
    elif node is None:
        # A cluster without its head is lost anyway, so there the supervisor shares nobody else's fate.
        node = next((one.node_id for one in living_nodes() if one.is_head), None)
    SupervisorActor.options(  # type: ignore[attr-defined]
        name=SUPERVISOR,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        **placed(node, bound=is_bound),
    ).remote(config)


def restart_supervisor() -> None:
    """Kill a supervisor that hangs; Ray starts it again, and it finds everything in the store."""
    try:
        ray.kill(ray.get_actor(SUPERVISOR, namespace=NAMESPACE), no_restart=False)
    except (ValueError, RayActorError):
        pass  # It is gone already.


def check_store(settings: Settings, nodes: Sequence[Node]) -> None:
    """Refuse a store that would lose executions in this cluster. Changes nothing.

    Raises:
        ConfigurationError: SQLite on several nodes, or a store whose agents another key has signed.
        StoreUnavailableError: Postgres does not answer.
    """
    if not is_postgres(settings.store_url):
        if len(nodes) > 1:
            raise ConfigurationError(
                problem=f"This cluster has {len(nodes)} nodes, and a SQLite store is a file on one of them. Use a Postgres "
                "store (AGENTSPAN_STORE=postgresql://…) for clusters of more than one node."
            )
        return
    run_sync(_check_key(settings))


async def _check_key(settings: Settings) -> None:
    """A supervisor with another key would refuse the code of every execution there is, and give them up one by one."""
    path = settings.key_path.absolute()
    key = load_key(path) if path.exists() else None
    store = await open_store(settings.store_url)
    try:
        known = sorted(await store.deployments(), key=lambda row: row.created_at, reverse=True)[:KEY_TRIES]
        for row in known:
            signed = await store.deployment(row.deployment_id)
            if key is not None and signed is not None and _is_signed(signed, key):
                return
    finally:
        await store.close()
    if known:
        raise ConfigurationError(
            problem=f"The agents in {without_password(settings.store_url)} were signed with another key than "
            f"{path}{'' if key else ', which is not there'}. Start the server from the home it had before, or copy that "
            "home's `server.key` here."
        )


def _is_signed(row: DeploymentRow, key: bytes) -> bool:
    """Whether a deployment is signed with this key."""
    try:
        verify(row, key)
    except UntrustedCodeError:
        return False
    return True


def _host_config(settings: Settings) -> HostConfig:
    return HostConfig(
        store_url=settings.store_url,
        key=load_key(settings.key_path.absolute()),
        hibernate_after_s=settings.hibernate_after_s,
        model_retries_max=settings.model_retries_max,
        model_timeout_s=settings.model_timeout_s,
        parallel_tools_max=settings.parallel_tools_max,
        model_limits=settings.model_limits,
        resources_wait_s=settings.resources_wait_s,
    )


def _supervision_settings(settings: Settings) -> SupervisionSettings:
    return SupervisionSettings(
        standby=settings.standby,
        recoveries_max=settings.recoveries_max,
        recovery_backoff_s=settings.recovery_backoff_s,
        scan_interval_s=settings.scan_interval_s,
        ping_timeout_s=settings.ping_timeout_s,
        starts_at_once=None,
        hosts_max=settings.hosts_max,
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
