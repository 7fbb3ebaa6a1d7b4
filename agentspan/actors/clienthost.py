"""Executions that run in the process that started them: for graphs whose code cannot travel.

The same driver and the same store, in a thread of the client instead of an actor. What is given up is the process: when
it dies, its executions wait until a process deploys the graph again (`host="client"`), and then go on. The supervisor
keeps out of them: their deployment's ID says so. Which process has an execution is in its row, as a mark that the kernel
takes away with the process (`presence.py`); two processes that both want one are kept apart by the epoch.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Coroutine
from hashlib import blake2b
from typing import Any, TypeVar

import uvloop

from agentspan.actors.driver import Driver
from agentspan.actors.feed import NO_TOKENS, Feed
from agentspan.actors.givingup import give_up
from agentspan.actors.presence import Presence
from agentspan.agents.results import Status
from agentspan.config import Settings
from agentspan.errors import (
    ConfigurationError,
    CorruptRecordError,
    ExecutionFinishedError,
    StaleEpochError,
    StoreUnavailableError,
)
from agentspan.frameworks.langgraph.app.graph import Graph
from agentspan.frameworks.langgraph.running.graphloop import GraphLoop
from agentspan.frameworks.langgraph.running.running import GraphPerformer
from agentspan.persistence.opening import open_store
from agentspan.persistence.store import CLIENT_PREFIX, DeploymentRow, ExecutionRow, Store, runs_in_client

log = logging.getLogger("agentspan.clienthost")
T = TypeVar("T")

LOOK_EVERY_S = 0.25
"""How often a driver looks for signals: nobody can call into this process."""
TAKE_UP_EVERY_S = 1.0
FOREVER_S = 10.0 * 365 * 86400
"""The process stays anyway, so there is nothing to hibernate for."""
LEAVE_TIMEOUT_S = 5.0
"""How long the end of the client waits for its executions to come to a step border."""
BACKOFF_MAX_S = 30.0


def client_row(graph: Graph) -> DeploymentRow:
    """The deployment of a graph whose code stays in this process. Another structure is another version."""
    digest = blake2b(f"{graph.name} {graph.spec()['fingerprint']}".encode(), digest_size=12).hexdigest()
    return DeploymentRow(
        deployment_id=f"{CLIENT_PREFIX}{digest}",
        agent=graph.name,
        kind=graph.kind,
        source="client",
        reference=None,
        code=None,
        signature="",
        spec=graph.spec(),
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        created_at=time.time(),
    )


class ClientHost:
    """Runs executions of this process's graphs. A daemon thread; made when first needed."""

    def __init__(self, settings: Settings, store_url: str) -> None:
        """`store_url` is where the server keeps its executions."""
        self._settings = settings
        self._store_url = store_url
        self._presence = Presence(settings.home.expanduser())
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="clienthost", daemon=True)
        self._thread.start()
        self._runs: GraphLoop | None = None
        self._store: Store | None = None
        self._opening = asyncio.Lock()
        self._graphs: dict[str, Graph] = {}
        """By deployment ID and by name; the last that was given counts."""
        self._lives: dict[str, asyncio.Task[None]] = {}
        self._drivers: dict[str, Driver] = {}
        self._feeds: dict[str, Feed] = {}
        """Of executions that are on here. Read from other threads."""
        self._watch: asyncio.Task[None] | None = None
        self._skipped: set[str] = set()
        self._leaving = False

    def _serve(self) -> None:
        self._loop.run_forever()
        self._loop.close()

    async def look_after(self, deployment_id: str, graph: Graph) -> None:
        """Run what was started of a graph and nobody runs: by name, or by a process that is gone. From now on.

        Raises:
            ConfigurationError: The deployment is not in the store that this process has.
        """
        await self._there(self._look_after(deployment_id, graph))

    async def run(self, execution_id: str, graph: Graph, *, tokens: bool = False) -> None:
        """Begin to run an execution that was submitted, with its models' text as it streams in, if `tokens`. Returns at once."""
        await self._there(self._begin(execution_id, graph, tokens=tokens))

    async def poll(
        self, execution_id: str, after: int, after_token: int, timeout_s: float, tokens: bool
    ) -> dict[str, Any] | None:
        """As `Residence.poll`: live events of an execution that is on in this process; None: ask the server."""
        feed = self._feeds.get(execution_id)
        if feed is None:
            return None
        feed.wants_tokens = feed.wants_tokens or tokens
        return await feed.wait(after, after_token if tokens else NO_TOKENS, timeout_s)

    async def close(self) -> None:
        """Let go of everything at the next step border. Idempotent.

        What does not come to one in time is cut off like in a crash: its node begins again where it is taken up.
        """
        if not self._leaving and self._thread.is_alive():
            self._leaving = True
            await self._there(self._leave())
            self._loop.call_soon_threadsafe(self._loop.stop)
            await asyncio.to_thread(self._thread.join, LEAVE_TIMEOUT_S)

    def _there(self, work: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    # --- on the thread's loop

    async def _opened(self) -> Store:
        async with self._opening:
            if self._store is None:
                self._store = await open_store(self._store_url)
                self._runs = GraphLoop()
            return self._store

    async def _look_after(self, deployment_id: str, graph: Graph) -> None:
        if await (await self._opened()).deployment(deployment_id) is None:
            raise ConfigurationError(
                problem="host='client' runs a graph on the server's store, and this process has another one. Give "
                "`AgentRuntime(store=...)` (or AGENTSPAN_STORE) the store that the server was started with."
            )
        is_new = self._graphs.get(deployment_id) is not graph
        self._graphs[deployment_id] = self._graphs[graph.name] = graph
        if is_new:
            await self._take_up()
        if self._watch is None:
            self._watch = asyncio.create_task(self._keep_watch())

    async def _keep_watch(self) -> None:
        while True:
            await asyncio.sleep(TAKE_UP_EVERY_S)
            try:
                await self._take_up()
            except Exception:
                # Whatever it was, the next look tries again; a watch that ended would leave them lying.
                log.exception("take_up.failed")

    async def _take_up(self) -> None:
        for row in await (await self._opened()).unfinished():
            if not runs_in_client(row.deployment_id) or row.execution_id in self._lives or self._is_held(row):
                continue
            graph = await self._graph_of(row)
            if graph is not None:
                await self._begin(row.execution_id, graph)

    async def _graph_of(self, row: ExecutionRow) -> Graph | None:
        """The graph to go on with: of the same structure, or a later one that has all that the state may refer to."""
        graph = self._graphs.get(row.deployment_id)
        if graph is not None or row.agent not in self._graphs:
            return graph
        later = self._graphs[row.agent]
        deployment = await (await self._opened()).deployment(row.deployment_id)
        assert deployment is not None, "an execution is of a deployment"
        lost = [name for what in ("nodes", "fields") for name in set(deployment.spec[what]) - set(later.spec()[what])]
        if not lost:
            return later
        if row.execution_id not in self._skipped:
            self._skipped.add(row.execution_id)
            log.warning("execution.skipped", extra={"execution_id": row.execution_id, "lost": sorted(lost)})
        return None

    def _is_held(self, row: ExecutionRow) -> bool:
        """Whether another process that is there has it."""
        mark = row.host.get("mark") if row.resident else None
        return mark is not None and mark != self._presence.mark and self._presence.is_there(mark)

    async def _begin(self, execution_id: str, graph: Graph, *, tokens: bool = False) -> None:
        if self._leaving:
            return
        if execution_id not in self._lives:
            self._feeds[execution_id] = Feed(execution_id)
            life = asyncio.create_task(self._live(execution_id, graph))
            self._lives[execution_id] = life
            life.add_done_callback(lambda _: self._end(execution_id))
        if tokens and (feed := self._feeds.get(execution_id)) is not None:
            feed.wants_tokens = True

    def _end(self, execution_id: str) -> None:
        self._lives.pop(execution_id, None)
        feed = self._feeds.pop(execution_id, None)
        if feed is not None:
            feed.close()

    def _next_feed(self, execution_id: str) -> Feed:
        """The feed of the incarnation that comes; that of the last one is closed."""
        last = self._feeds[execution_id]
        if not last.is_closed:
            return last
        feed = self._feeds[execution_id] = Feed(execution_id)
        feed.wants_tokens = last.wants_tokens
        return feed

    async def _live(self, execution_id: str, graph: Graph) -> None:
        failures = 0
        try:
            while not self._leaving and await self._one_life(execution_id, graph, failed=failures > 0):
                failures += 1
                if failures > 1:
                    await asyncio.sleep(min(BACKOFF_MAX_S, self._settings.recovery_backoff_s * 2.0 ** (failures - 2)))
        except (StaleEpochError, ExecutionFinishedError):
            log.info("execution.elsewhere", extra={"execution_id": execution_id})
        except CorruptRecordError as problem:
            await (await self._opened()).quarantine(execution_id, error=str(problem))
        except Exception:
            log.exception("execution.left", extra={"execution_id": execution_id})  # The watch comes back to it.

    async def _one_life(self, execution_id: str, graph: Graph, *, failed: bool) -> bool:
        """One incarnation; `failed` if the last one in this process did. True: it failed, and is to be tried again."""
        store = await self._opened()
        assert self._runs is not None
        row = await store.row(execution_id)
        if row.status == Status.QUARANTINED.value or self._is_held(row):
            return False
        # Processes of users end for many reasons. Only what failed before our eyes is held against an execution.
        taken = await store.take_over(execution_id, host=self._host(), expected_epoch=row.epoch, blame=failed)
        if taken.crashes > self._settings.recoveries_max:
            await give_up(store, execution_id, taken, why="its run failed each time", now=time.time())
            return False
        feed = self._next_feed(execution_id)
        driver = self._drivers[execution_id] = Driver(
            execution_id=execution_id,
            epoch=taken.epoch,
            crashed=taken.crashed,
            store=store,
            performer=GraphPerformer(
                graph, store=store, loop=self._runs, token=feed.token, wants_tokens=lambda: feed.wants_tokens
            ),
            feed=feed,
            hibernate_after_s=FOREVER_S,
        )
        if self._leaving:
            driver.let_go()
        looking = asyncio.create_task(_look(driver))
        try:
            await driver.run()
        except (StaleEpochError, ExecutionFinishedError, CorruptRecordError, StoreUnavailableError):
            raise
        except Exception:
            log.exception("run.failed", extra={"execution_id": execution_id})
            return True
        finally:
            looking.cancel()
            del self._drivers[execution_id]
        return False

    def _host(self) -> dict[str, Any]:
        pid = os.getpid()
        return {
            "actor": f"client-{pid}",
            "pid": pid,
            "hostname": socket.gethostname(),
            "mark": self._presence.mark,
        }

    async def _leave(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        for driver in self._drivers.values():
            driver.let_go()
        if self._lives:
            await asyncio.wait(list(self._lives.values()), timeout=LEAVE_TIMEOUT_S)
        for cut_off in (lives := list(self._lives.values())):
            cut_off.cancel()
        if lives:
            await asyncio.wait(lives)
        if self._store is not None:
            await self._store.close()
            self._store = None
        if self._runs is not None:
            self._runs.close()
            self._runs = None
        self._presence.leave()


async def _look(driver: Driver) -> None:
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        driver.poke()
