"""Lives of graphs without Ray: the real driver, performer, saver and store; only the actor around them is missing."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence
from functools import cache
from typing import Any

from agentspan.actors.driver import Driver, Outcome
from agentspan.actors.feed import Feed
from agentspan.agents.events import AgentEvent
from agentspan.engine import records as r
from agentspan.engine.admit import Signal
from agentspan.engine.events import events_of
from agentspan.engine.records import from_plain
from agentspan.engine.state import ExecutionState
from agentspan.frameworks.langgraph.app.graph import Graph
from agentspan.frameworks.langgraph.app.graphtypes import serde_of
from agentspan.frameworks.langgraph.running.graphloop import GraphLoop
from agentspan.frameworks.langgraph.running.running import GraphPerformer
from agentspan.persistence.loading import load_state
from agentspan.persistence.store import NewExecution, PendingRow, Store
from agentspan.submission import StartCall, graph_request

_numbers = itertools.count(1)


class GraphLife:
    """One execution of a graph over any number of incarnations."""

    def __init__(self, graph: Graph, store: Store, loop: GraphLoop, execution_id: str) -> None:
        self.graph = graph
        self.store = store
        self.loop = loop
        self.execution_id = execution_id
        self.driver: Driver | None = None
        self._run: asyncio.Task[Outcome] | None = None
        self._signals = 0

    def begin(self, *, hibernate_after_s: float = 0.0, tokens: list[str] | None = None) -> asyncio.Task[Outcome]:
        """Take over and run, in a task."""
        self._run = asyncio.create_task(self._live(hibernate_after_s, tokens))
        return self._run

    async def live(self, **how: Any) -> Outcome:
        """One incarnation to its end."""
        return await self.begin(**how)

    async def _live(self, hibernate_after_s: float, tokens: list[str] | None) -> Outcome:
        taken = await self.store.take_over(self.execution_id, host={"actor": self.execution_id})
        performer = GraphPerformer(
            self.graph,
            store=self.store,
            loop=self.loop,
            token=None if tokens is None else tokens.append,
            wants_tokens=lambda: tokens is not None,
        )
        self.driver = Driver(
            execution_id=self.execution_id,
            epoch=taken.epoch,
            crashed=taken.crashed,
            store=self.store,
            performer=performer,
            feed=Feed(self.execution_id),
            hibernate_after_s=hibernate_after_s,
        )
        return await self.driver.run()

    async def die(self) -> None:
        """End the incarnation as a crash would: nothing more of it is written."""
        assert self._run is not None
        self._run.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await self._run

    async def send(self, kind: str, **fields: Any) -> None:
        """Store a signal, and tell a driver that is up."""
        self._signals += 1
        await self.store.send(
            Signal(
                signal_id=f"s{self._signals}-{self.execution_id}", execution_id=self.execution_id, kind=kind, **fields
            )  # type: ignore[arg-type]
        )
        if self.driver is not None and self._run is not None and not self._run.done():
            self.driver.poke()

    async def answer(self, kind: str, **fields: Any) -> Outcome:
        """Store a decision and live on."""
        await self.send(kind, **fields)
        return await self.live()

    async def pending(self) -> list[PendingRow]:
        return await self.store.pending(self.execution_id)

    async def state(self) -> ExecutionState:
        return load_state(await self.store.load(self.execution_id))

    async def result(self) -> Any:
        """What `invoke` would have returned, when it completed."""
        state = await self.state()
        assert state.status.value == "COMPLETED", (state.status, state.error)
        assert state.root.graph is not None
        return serde_of(self.graph).loads(state.root.graph.state)

    async def records(self) -> list[r.AnyRecord]:
        return [from_plain(entry.kind, entry.body) for entry in await self.store.journal(self.execution_id)]

    async def events(self) -> list[AgentEvent]:
        events: list[AgentEvent] = []
        for record in await self.records():
            events += events_of(record, execution_id=self.execution_id, first=len(events) + 1)
        return events


async def started(
    app: Any,
    given: Any,
    store: Store,
    loop: GraphLoop,
    *,
    types: Sequence[type] = (),
    name: str | None = None,
    forked: dict[str, Any] | None = None,
    **call: Any,
) -> GraphLife:
    """Accept an execution of a graph, as the supervisor does."""
    graph = app if isinstance(app, Graph) else Graph.of(app, types=types, name=name)
    request = graph_request(graph.name, graph.spec(), graph, StartCall(prompt=given, **call))
    execution_id = f"x{next(_numbers)}"
    record = r.Started(
        at=1.0,
        agent=graph.name,
        prompt=request["prompt"],
        session_id=request["session_id"] or "",
        graph=request["graph"],
        **(forked or {}),
    )
    await store.create(
        NewExecution(
            execution_id=execution_id,
            request_id=execution_id,
            agent=graph.name,
            deployment_id="d",
            started=r.to_plain(record),
            session_id=record.session_id,
            created_at=float(next(_numbers)),
        )
    )
    return GraphLife(graph, store, loop, execution_id)


@cache
def _loop_of(process: int) -> GraphLoop:
    # Kept for all tests: a process has one too, and a loop holds file descriptors to its end.
    return GraphLoop()


@contextlib.asynccontextmanager
async def graph_loop(process: int = 0) -> AsyncIterator[GraphLoop]:
    """The loop of graphs of one process. A life that must go on while another's loop stands still is of another one."""
    yield _loop_of(process)
