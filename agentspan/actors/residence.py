"""Where incarnations live: the plain inside of an execution actor.

A residence opens the store once, keeps models and loaded agents warm, and runs drivers. The dedicated actor runs one
execution in it; nothing here is limited to one. Two kinds of callers: `run` and `attach` on the residence's own loop, the
control verbs (`poke`, `poll`, `let_go`) from any thread, so that they answer whatever a tool does.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from agentspan.actors.driver import Driver, Performer
from agentspan.actors.feed import NO_TOKENS, Feed
from agentspan.actors.gate import Ask, ModelGate
from agentspan.actors.performer import AgentPerformer, PerformerSettings
from agentspan.actors.toolcall import Elsewhere
from agentspan.agents.agent import Agent
from agentspan.errors import DeploymentError, StaleEpochError
from agentspan.limits import parse_limits
from agentspan.models.providers import canonical
from agentspan.models.registry import ModelRegistry
from agentspan.persistence.opening import open_store
from agentspan.persistence.store import DeploymentRow, Store
from agentspan.processes import whoami

if TYPE_CHECKING:
    from agentspan.frameworks.langgraph.running.graphloop import GraphLoop

log = logging.getLogger("agentspan.residence")

Unpack = Callable[[DeploymentRow, bytes], Any]
ToolsElsewhere = Callable[[DeploymentRow], Elsewhere]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostConfig:
    """What an actor needs to know of the settings; plain data, handed over at its creation. Times in seconds.

    By value, because an actor may be on another machine than the home. The secrets among it are in no `repr`.
    """

    store_url: str = field(repr=False)
    key: bytes = field(repr=False)
    """The key that signs stored code."""
    hibernate_after_s: float = 5.0
    model_retries_max: int = 6
    model_timeout_s: float = 600.0
    parallel_tools_max: int = 64
    model_limits: str = ""
    resources_wait_s: float = 30.0


@dataclass(slots=True)
class _Tenant:
    """One execution at home here."""

    driver: Driver
    done: asyncio.Future[dict[str, Any]]


class Residence:
    """Runs executions in this process."""

    def __init__(
        self,
        config: HostConfig,
        *,
        unpack: Unpack,
        actor_name: str,
        node: str,
        elsewhere: ToolsElsewhere | None = None,
        permits: Ask | None = None,
    ) -> None:
        """`elsewhere` runs the tools of a deployment that ask for resources; without it they run here. `permits` asks
        whoever knows what all processes together may call; None: there is nobody to ask.
        """
        self._config = config
        self._unpack = unpack
        self._elsewhere = elsewhere
        self._host = {"actor": actor_name, "node": node, **whoami()}
        self._executor = ThreadPoolExecutor(config.parallel_tools_max, thread_name_prefix="tool")
        limits = parse_limits(config.model_limits)
        client = f"{actor_name}-{secrets.token_hex(6)}"
        self._gate = ModelGate(limits, permits, client=client, canonical=canonical) if limits and permits else None
        self._models = ModelRegistry(timeout_s=config.model_timeout_s)
        self._agents: dict[str, Any] = {}
        self._tools_elsewhere: dict[str, Elsewhere] = {}
        self._tenants: dict[str, _Tenant] = {}
        self._feeds: dict[str, Feed] = {}
        self._running: set[str] = set()
        self._store: Store | None = None
        self._opening = asyncio.Lock()
        self._unpacking = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._graphs: GraphLoop | None = None

    @property
    def host(self) -> dict[str, Any]:
        """Actor name, node, and the process (`processes.whoami`), for the execution's row."""
        return self._host

    async def warm(self, deployments: tuple[str, ...] = ()) -> dict[str, Any]:
        """Do ahead of time what a start would wait for: imports, the store, TLS, and the agents most likely to be run."""
        await self._open()
        await self._models.warm()
        for deployment_id in deployments:
            try:
                await self._agent(deployment_id)
            except DeploymentError:
                log.exception("warm.failed", extra={"deployment_id": deployment_id})
        graphs = [agent for agent in self._agents.values() if not isinstance(agent, Agent)]
        if graphs:
            from agentspan.frameworks.langgraph.running.rehearsal import rehearse

            await rehearse(self._graph_loop(), graphs)
        return self._host

    async def run(self, execution_id: str, epoch: int, crashed: bool, *, tokens: bool = False) -> dict[str, Any]:
        """Run one incarnation to its end. Returns `Outcome` as a dict, or `{"ended": "stale"}` when it lost its epoch."""
        self._loop = asyncio.get_running_loop()
        store = await self._open()
        if execution_id in self._running:
            self._feeds[execution_id] = Feed(execution_id)  # The old one is closed by the run it belongs to.
        feed = self._feed(execution_id)
        feed.wants_tokens = feed.wants_tokens or tokens
        self._running.add(execution_id)
        try:
            return await self._run(execution_id, epoch, crashed, store, feed)
        finally:
            feed.close()
            if self._feeds.get(execution_id) is feed:  # A newer incarnation may have moved in.
                del self._feeds[execution_id]
                self._running.discard(execution_id)

    def _feed(self, execution_id: str) -> Feed:
        """The feed of the run that is on, or of the one that is about to begin: readers may come first."""
        return self._feeds.setdefault(execution_id, Feed(execution_id))

    async def _run(self, execution_id: str, epoch: int, crashed: bool, store: Store, feed: Feed) -> dict[str, Any]:
        row = await store.row(execution_id)
        if row.host != self._host:  # As a whole: processes on two nodes may have the same pid.
            await store.set_host(execution_id, epoch=epoch, host=self._host)
        agent = await self._agent(row.deployment_id)
        performer = self._performer(agent, row.deployment_id, store, feed)
        driver = Driver(
            execution_id=execution_id,
            epoch=epoch,
            crashed=crashed,
            store=store,
            performer=performer,
            feed=feed,
            hibernate_after_s=self._config.hibernate_after_s,
        )
        done: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        tenant = self._tenants[execution_id] = _Tenant(driver, done)
        outcome: dict[str, Any] = {"ended": "stale", "status": "", "wake_at": None}
        try:
            outcome = asdict(await driver.run())
        except StaleEpochError as stale:
            log.warning("epoch.stale", extra={"execution_id": execution_id, "offered": epoch, "held": stale.held})
        except BaseException as problem:
            done.set_exception(problem)
            done.exception()  # Taken note of: without an `attach` nobody else would.
            raise
        finally:
            if self._tenants.get(execution_id) is tenant:  # A newer incarnation may have moved in.
                del self._tenants[execution_id]
            if not done.done():
                done.set_result(outcome)
        return outcome

    def _performer(self, agent: Any, deployment_id: str, store: Store, feed: Feed) -> Performer:
        if isinstance(agent, Agent):
            return AgentPerformer(
                agent,
                model=self._models.get,
                store=store,
                feed=feed,
                executor=self._executor,
                gate=self._gate,
                elsewhere=self._tools_elsewhere.get(deployment_id),
                settings=PerformerSettings(model_retries_max=self._config.model_retries_max),
            )
        # Only here: a process that runs native agents does not pay for importing langgraph.
        from agentspan.frameworks.langgraph.running.running import GraphPerformer

        return GraphPerformer(
            agent, store=store, loop=self._graph_loop(), token=feed.token, wants_tokens=lambda: feed.wants_tokens
        )

    def _graph_loop(self) -> GraphLoop:
        if self._graphs is None:
            from agentspan.frameworks.langgraph.running.graphloop import GraphLoop

            self._graphs = GraphLoop()
        return self._graphs

    async def attach(self, execution_id: str) -> dict[str, Any]:
        """Wait for a run that somebody else started. `{"ended": "idle"}` when there is none: it never began or is over."""
        tenant = self._tenants.get(execution_id)
        if tenant is None:
            return {"ended": "idle", "status": "", "wake_at": None}
        return await asyncio.shield(tenant.done)

    def poke(self, execution_id: str) -> None:
        """Tell the driver that its inbox has something. From any thread; forgotten when nobody lives here."""
        tenant, loop = self._tenants.get(execution_id), self._loop
        if tenant is not None and loop is not None:
            loop.call_soon_threadsafe(tenant.driver.poke)

    def let_go(self, execution_id: str) -> None:
        """Ask the driver to leave at the next step border. From any thread."""
        tenant, loop = self._tenants.get(execution_id), self._loop
        if tenant is not None and loop is not None:
            loop.call_soon_threadsafe(tenant.driver.let_go)

    async def poll(
        self, execution_id: str, after: int, after_token: int, timeout_s: float, tokens: bool
    ) -> dict[str, Any] | None:
        """Events after number `after`, waiting for the first; None when they have to be read from the store."""
        feed = self._feed(execution_id)
        if tokens:
            feed.wants_tokens = True
        try:
            return await feed.wait(after, after_token if tokens else NO_TOKENS, timeout_s)
        finally:
            if execution_id not in self._running and self._feeds.get(execution_id) is feed:
                del self._feeds[execution_id]  # It does not run here (any more), and this process may live for long.

    async def _open(self) -> Store:
        async with self._opening:  # Many executions may be the first.
            if self._store is None:
                self._store = await open_store(self._config.store_url)
        return self._store

    async def _agent(self, deployment_id: str) -> Any:
        """The `Agent` or graph of a deployment."""
        agent = self._agents.get(deployment_id)
        if agent is not None:
            return agent
        async with self._unpacking:  # Many executions may be the first to need it.
            return await self._unpacked(deployment_id)

    async def _unpacked(self, deployment_id: str) -> Any:
        agent = self._agents.get(deployment_id)
        if agent is None:
            assert self._store is not None
            row = await self._store.deployment(deployment_id)
            if row is None:
                raise DeploymentError(
                    message=f"Deployment {deployment_id!r} is not in the store; deploy the agent again."
                )
            agent = self._unpack(row, self._config.key)
            if self._elsewhere is not None:
                self._tools_elsewhere[deployment_id] = self._elsewhere(row)
            self._agents[deployment_id] = agent
        return agent
