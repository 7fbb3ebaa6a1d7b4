"""The supervisor actor and the Ray side of the fleet. Detached, restarted by Ray, holds nothing that is not in the store."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections import Counter
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakSet

import ray
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    ActorUnschedulableError,
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from agentspan.actors.desk import Desk
from agentspan.actors.doorbell import listen
from agentspan.actors.execution import ExecutionActor, HostActor
from agentspan.actors.fate import share_fate_with_raylet
from agentspan.actors.fleet import ActorGone
from agentspan.actors.heap import lasting
from agentspan.actors.hosts import HOST_PREFIX, is_host
from agentspan.actors.nodes import Node, Nodes, choose, cores
from agentspan.actors.permitdesk import PermitDesk
from agentspan.actors.residence import HostConfig
from agentspan.actors.retention import Retention
from agentspan.actors.stay import SupervisionSettings
from agentspan.actors.supervision import Supervision
from agentspan.config import NAMESPACE
from agentspan.limits import parse_limits
from agentspan.models.permits import Permits
from agentspan.models.providers import canonical
from agentspan.persistence.opening import open_store
from agentspan.persistence.postgres_url import without_password

log = logging.getLogger("agentspan.supervisor")

EXECUTION_PREFIX = "ex-"
CREATE_TIMEOUT_S = 60.0
CONTROL_TIMEOUT_S = 10.0
UNAVAILABLE_PAUSE_S = 0.05
NAME_TRIES = 40
REOPEN_PAUSE_S = 1.0
T = TypeVar("T")

_killing = ThreadPoolExecutor(1, thread_name_prefix="killing")


def mint_execution_id() -> str:
    """A new execution ID: 80 random bits, so that a few characters are enough to tell executions apart."""
    return EXECUTION_PREFIX + secrets.token_hex(10)


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorConfig:
    """Everything the supervisor is told; plain data, kept by Ray for its restarts."""

    host: HostConfig
    settings: SupervisionSettings
    home: str
    """Where the bell is, on the machine that has this folder."""
    is_bound: bool
    """The store is a file of this node, so nothing may run on another one."""


class RayActor:
    """`ActorHandle` over a Ray handle."""

    def __init__(self, handle: Any, name: str, node: str | None = None) -> None:
        self._handle = handle
        self.name = name
        self.node = node
        """The node it is on, as far as it is known."""

    async def warm(self, deployments: tuple[str, ...]) -> dict[str, Any]:
        return await _settle(self._handle.warm.remote(deployments), CREATE_TIMEOUT_S)

    async def run(self, execution_id: str, epoch: int, crashed: bool, tokens: bool) -> dict[str, Any]:
        try:
            return await _settle(self._handle.run.remote(execution_id, epoch, crashed, tokens))
        except ActorUnavailableError:
            return await self.attach(execution_id)

    async def attach(self, execution_id: str) -> dict[str, Any]:
        while True:
            try:
                return await _settle(self._handle.attach.remote(execution_id))
            except ActorUnavailableError:
                # Unknown, not dead: its run may go on. Ask again until it answers or is known to be dead.
                await asyncio.sleep(UNAVAILABLE_PAUSE_S)

    async def ping(self, timeout_s: float) -> dict[str, Any]:
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    host: dict[str, Any] = await _settle(self._handle.ping.remote())
                    self.node = host["node"]
                    return host
                except ActorUnavailableError:
                    # A lost connection is not a hung actor yet; it has until the deadline to come back.
                    await asyncio.sleep(UNAVAILABLE_PAUSE_S)

    async def poke(self, execution_id: str) -> None:
        try:
            await _settle(self._handle.poke.remote(execution_id), CONTROL_TIMEOUT_S)
        except (ActorUnavailableError, TimeoutError):
            pass  # The scan pokes again while the inbox has something.

    async def let_go(self, execution_id: str) -> None:
        try:
            await _settle(self._handle.let_go.remote(execution_id), CONTROL_TIMEOUT_S)
        except (ActorUnavailableError, TimeoutError):
            pass  # It stays where it is until it dies or rests.

    async def poll(
        self, execution_id: str, after: int, after_token: int, timeout_s: float, tokens: bool
    ) -> dict[str, Any] | None:
        ref = self._handle.poll.remote(execution_id, after, after_token, timeout_s, tokens)
        try:
            return await _settle(ref, timeout_s + CONTROL_TIMEOUT_S)
        except (ActorUnavailableError, TimeoutError):
            return None

    def kill(self) -> None:
        # Ray's call waits for an answer, and meanwhile nobody else would get one from this loop.
        _killing.submit(self._kill)

    def _kill(self) -> None:
        try:
            ray.kill(self._handle)
        except Exception as problem:  # Mostly that it is gone; and if not, its epoch is stale or its work is over.
            log.info("actor.not_killed", extra={"actor": self.name, "problem": repr(problem)[:300]})


async def _settle(ref: Awaitable[T], timeout_s: float | None = None) -> T:
    """Await a Ray call, with what it raises sorted: `ActorGone` for certain death, the actor's own errors as themselves."""
    try:
        async with asyncio.timeout(timeout_s):
            return await ref
    except ActorUnavailableError:
        raise
    except (ActorDiedError, ActorUnschedulableError, OutOfMemoryError, NodeDiedError, WorkerCrashedError) as problem:
        raise ActorGone(str(problem)[:500]) from problem
    except RayTaskError as problem:
        cause = problem.cause
        raise cause if isinstance(cause, Exception) else RuntimeError(str(problem)[:2000]) from problem
    except RayActorError as problem:
        raise ActorGone(str(problem)[:500]) from problem


def living_nodes() -> list[Node]:
    """The nodes of the connected cluster that live, as Ray knows them now. Blocks."""
    return [
        Node(
            node_id=node["NodeID"],
            cores=float(node["Resources"].get("CPU", 0.0)),
            is_head="node:__internal_head__" in node["Resources"],
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def placed(node: str | None, *, bound: bool) -> dict[str, Any]:
    """Ray's options for a place: that node, and with `bound` no other even when it is gone.

    The byte of memory is asked for because Ray (2.60, measured) ignores a preference of actors that ask for nothing.
    """
    if node is None:
        return {}
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=not bound), "memory": 1}


class RayFleet:
    """`Fleet` over Ray: detached actors in our namespace, spread over the nodes."""

    def __init__(self, config: HostConfig, *, bound_to: str | None = None) -> None:
        """`bound_to`: the one node on which actors may be."""
        self._config = config
        self._bound_to = bound_to
        self._nodes = Nodes(living_nodes)
        # Weak: what nobody holds any more is dead, or about to be.
        self._actors: WeakSet[RayActor] = WeakSet()

    async def create(self, name: str) -> RayActor:
        kind: Any = HostActor if is_host(name) else ExecutionActor
        for _ in range(NAME_TRIES):
            node = self._bound_to or choose(await self._nodes.living(), self._load(hosts=is_host(name)))
            try:
                options = kind.options(
                    name=name,
                    namespace=NAMESPACE,
                    lifetime="detached",
                    **placed(node, bound=self._bound_to is not None),
                )
                handle = options.remote(name, self._config)
            except ValueError:
                # The name is taken by an incarnation that is dying or has to: its epoch is stale already.
                holder = await self.find(name)
                if holder is not None:
                    holder.kill()
                await asyncio.sleep(UNAVAILABLE_PAUSE_S)
                continue
            actor = RayActor(handle, name, node)
            self._actors.add(actor)
            try:
                await actor.ping(CREATE_TIMEOUT_S)
            except TimeoutError as problem:
                actor.kill()
                raise ActorGone(f"it did not start within {CREATE_TIMEOUT_S:g} s") from problem
            return actor
        raise ActorGone(f"the name {name!r} stays taken")

    async def find(self, name: str) -> RayActor | None:
        try:
            actor = RayActor(ray.get_actor(name, namespace=NAMESPACE), name)
        except ValueError:
            return None
        self._actors.add(actor)
        return actor

    async def cores(self) -> int:
        nodes = await self._nodes.living()
        return cores([node for node in nodes if self._bound_to in (None, node.node_id)])

    def _load(self, *, hosts: bool) -> Counter[str]:
        return Counter(actor.node for actor in self._actors if actor.node is not None and is_host(actor.name) == hosts)

    async def names(self) -> list[str]:
        named = ray.util.list_named_actors(all_namespaces=True)
        return [
            entry["name"]
            for entry in named
            if entry["namespace"] == NAMESPACE and entry["name"].startswith((EXECUTION_PREFIX, HOST_PREFIX))
        ]


def _permit_desk(model_limits: str, *, others_live: bool) -> PermitDesk | None:
    limits = parse_limits(model_limits)
    if not limits:
        return None
    is_successor = others_live or ray.get_runtime_context().was_current_actor_reconstructed
    now = asyncio.get_running_loop().time()
    permits = Permits(limits, now=now, canonical=canonical, is_successor=is_successor)
    return PermitDesk(permits, boot=secrets.token_hex(6))


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, max_concurrency=10_000)
class SupervisorActor:
    """One per store. Every call goes through `call`, as data; see `Desk` for the verbs."""

    def __init__(self, config: SupervisorConfig) -> None:
        share_fate_with_raylet()
        self._config = config
        self._bell: asyncio.BaseTransport | None = None
        self._retention: Retention | None = None
        self._desk: asyncio.Task[Desk] = asyncio.get_event_loop().create_task(self._open())

    async def _open(self) -> Desk:
        try:
            return await self._open_once()
        except Exception:
            # Ray restarts the supervisor; one that stayed like this would answer everybody with the same error for ever.
            log.exception("supervisor.not_opened")
            await asyncio.sleep(REOPEN_PAUSE_S)
            os._exit(1)

    async def _open_once(self) -> Desk:
        config = self._config
        with lasting():
            store = await open_store(config.host.store_url)
        fleet = RayFleet(config.host, bound_to=ray.get_runtime_context().get_node_id() if config.is_bound else None)
        supervision = Supervision(store, fleet, settings=config.settings, mint=mint_execution_id)
        others_live = bool(await fleet.names())  # They outlived another supervisor, which had let them call models.
        await supervision.start()
        if config.settings.retention_s is not None:
            self._retention = Retention(store, keep_s=config.settings.retention_s)
            self._retention.start()
        self._bell = await listen(Path(config.home), supervision.ring)
        return Desk(
            store,
            supervision,
            key=config.host.key,
            where=without_password(config.host.store_url),
            permits=_permit_desk(config.host.model_limits, others_live=others_live),
        )

    async def call(self, verb: str, args: dict[str, Any]) -> dict[str, Any]:
        if verb == "alive":  # Also while it is still taking up its executions.
            return {"value": True}
        return await (await asyncio.shield(self._desk)).call(verb, args)
