"""Executions that run in the process that started them: for graphs whose code cannot travel.

The same driver and the same store, in a thread of the client instead of an actor. What is given up is the process: when
it dies, its executions wait until a process deploys the graph again (`host="client"`), and then go on. The supervisor
keeps out of them: their deployment's ID says so.
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
from concurrent.futures import Future
from hashlib import blake2b
from typing import Any, TypeVar

import uvloop

from agentspan.actors.driver import Driver
from agentspan.actors.feed import Feed
from agentspan.actors.givingup import give_up
from agentspan.config import Settings
from agentspan.errors import AgentspanError, ExecutionFinishedError, StaleEpochError
from agentspan.frameworks.langgraph.graph import Graph
from agentspan.frameworks.langgraph.graphloop import GraphLoop
from agentspan.frameworks.langgraph.running import GraphPerformer
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

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="clienthost", daemon=True)
        self._thread.start()
        self._graphs: GraphLoop | None = None
        self._store: Store | None = None
        self._lives: dict[str, asyncio.Task[None]] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._drivers: dict[str, Driver] = {}
        self._leaving = False

    async def run(self, execution_id: str, graph: Graph) -> None:
        """Begin to run an execution that was submitted. Returns at once."""
        await self._there(self._begin(execution_id, graph))

    async def look_after(self, graph: Graph) -> None:
        """Run what was started of a graph and nobody runs: by name, or by a process that is gone. From now on."""
        await self._there(self._look_after(graph))

    async def close(self) -> None:
        """Let go of everything at the next step border. Idempotent; what does not come to one in time is left as it is."""
        if self._thread.is_alive():
            await self._there(self._leave())
            self._loop.call_soon_threadsafe(self._loop.stop)

    def _there(self, work: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
        return asyncio.wrap_future(self._submit(work))

    def _submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    # --- on the thread's loop

    async def _opened(self) -> Store:
        if self._store is None:
            self._store = await open_store(self._settings.store_url)
            self._graphs = GraphLoop()
        return self._store

    async def _begin(self, execution_id: str, graph: Graph) -> None:
        if execution_id not in self._lives and not self._leaving:
            life = asyncio.create_task(self._live(execution_id, graph))
            self._lives[execution_id] = life
            life.add_done_callback(lambda _: self._lives.pop(execution_id, None))

    async def _look_after(self, graph: Graph) -> None:
        if graph.name not in self._watches:
            await self._take_up(graph)
            self._watches[graph.name] = asyncio.create_task(self._watch(graph))

    async def _watch(self, graph: Graph) -> None:
        while True:
            await asyncio.sleep(TAKE_UP_EVERY_S)
            try:
                await self._take_up(graph)
            except AgentspanError:
                log.exception("take_up.failed", extra={"agent": graph.name})

    async def _take_up(self, graph: Graph) -> None:
        store = await self._opened()
        rows = [
            row
            for row in await store.unfinished()
            if row.agent == graph.name and runs_in_client(row.deployment_id) and not _is_held(row)
        ]
        for row in rows:
            await self._begin(row.execution_id, graph)

    async def _live(self, execution_id: str, graph: Graph) -> None:
        try:
            while not self._leaving and await self._one_life(execution_id, graph):
                pass
        except (StaleEpochError, ExecutionFinishedError):
            log.info("execution.elsewhere", extra={"execution_id": execution_id})
        except Exception:
            log.exception("execution.left", extra={"execution_id": execution_id})

    async def _one_life(self, execution_id: str, graph: Graph) -> bool:
        """One incarnation. True: it is to be tried again."""
        store = await self._opened()
        assert self._graphs is not None
        row = await store.row(execution_id)
        host = {"actor": f"client-{os.getpid()}", "pid": os.getpid(), "hostname": socket.gethostname()}
        taken = await store.take_over(execution_id, host=host, expected_epoch=row.epoch)
        if taken.crashes > self._settings.recoveries_max:
            await give_up(store, execution_id, taken, why="its run failed each time", now=time.time())
            return False
        feed = Feed(execution_id)
        driver = self._drivers[execution_id] = Driver(
            execution_id=execution_id,
            epoch=taken.epoch,
            crashed=taken.crashed,
            store=store,
            performer=GraphPerformer(graph, store=store, loop=self._graphs),
            feed=feed,
            hibernate_after_s=FOREVER_S,
        )
        looking = asyncio.create_task(_look(driver))
        try:
            await driver.run()
        except (StaleEpochError, asyncio.CancelledError):
            raise
        except AgentspanError:
            raise
        except Exception:
            log.exception("run.failed", extra={"execution_id": execution_id})
            return True
        finally:
            looking.cancel()
            del self._drivers[execution_id]
        return False

    async def _leave(self) -> None:
        self._leaving = True
        for watch in self._watches.values():
            watch.cancel()
        for driver in self._drivers.values():
            driver.let_go()
        if self._lives:
            await asyncio.wait(list(self._lives.values()), timeout=LEAVE_TIMEOUT_S)
        for life in list(self._lives.values()):
            life.cancel()
        if self._store is not None:
            await self._store.close()
            self._store = None
        if self._graphs is not None:
            self._graphs.close()
            self._graphs = None


async def _look(driver: Driver) -> None:
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        driver.poke()


def _is_held(row: ExecutionRow) -> bool:
    """Whether a process that is alive has it. Of another machine nobody can tell, so that counts as alive."""
    pid = row.host.get("pid")
    if not row.resident or pid is None:
        return False
    if row.host.get("hostname") != socket.gethostname():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
