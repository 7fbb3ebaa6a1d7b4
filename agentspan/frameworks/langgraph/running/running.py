"""Runs the user's graph for the driver: one effect, `RunGraph`, from where its thread stands to where it ends or waits.

The graph itself runs on a loop of its own in a thread of its own (`graphloop`), so that a node that blocks does not keep
the driver from taking a cancellation; what it stores comes back through the driver's `report`, under the epoch, in the
commits that also carry the events. What a new incarnation does follows from the thread alone:

    no checkpoint of this execution      → run the input
    nothing left to do                   → ended
    interrupts, some answered on record  → go on with the answers (LangGraph itself does not store them)
    interrupts, and unfinished siblings  → go on: those that ask do not run, they ask what they have asked (`patches`)
    interrupts, not answered             → ask (again); never run: it would repeat the nodes' code before the question
    a breakpoint nobody let it pass      → ask
    otherwise                            → go on
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from agentspan.agents.spec import AgentSpec
from agentspan.engine import records as r
from agentspan.engine.decide import Effect, LoadFork, LoadSession, RunGraph
from agentspan.engine.state import ExecutionState
from agentspan.errors import ConfigurationError, CorruptRecordError, UnknownStateTypeError, UnstorableStateError
from agentspan.frameworks.langgraph.app.graph import Graph
from agentspan.frameworks.langgraph.app.graphtypes import serde_of
from agentspan.frameworks.langgraph.app.outputs import natural_output, output_keys, output_of
from agentspan.frameworks.langgraph.running.breakpoints import breakpoint_at
from agentspan.frameworks.langgraph.running.endings import finished, has_unfinished
from agentspan.frameworks.langgraph.running.execution import ExecutionPort, ExecutionSaver
from agentspan.frameworks.langgraph.running.fitting import missing_nodes
from agentspan.frameworks.langgraph.running.graphloop import GraphLoop
from agentspan.frameworks.langgraph.running.interrupts import planned_breakpoint, planned_interrupts, refused_again
from agentspan.frameworks.langgraph.running.origins import copied_state
from agentspan.frameworks.langgraph.running.starting import StartOptions
from agentspan.frameworks.langgraph.running.telling import Teller
from agentspan.frameworks.langgraph.saving import patches
from agentspan.persistence.threads import Report, ThreadStore

log = logging.getLogger("agentspan.langgraph")

ERROR_CHARS_MAX = 4000
EVENTS_WITHIN_S = 0.02
"""How long events wait for a checkpoint to share its commit."""


class GraphPerformer:
    """Performs the effects of a graph. One for each incarnation."""

    def __init__(
        self,
        graph: Graph,
        *,
        store: ThreadStore,
        loop: GraphLoop,
        token: Callable[[str], None] | None = None,
        wants_tokens: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`token` takes a piece of text as a model streams it; `wants_tokens` is asked when a run begins."""
        patches.apply()
        self.graph = graph
        self.spec = AgentSpec(name=graph.name, model="")
        self.notes: Mapping[Effect, str] = {}
        self._store = store
        self._graphs = loop
        self._token = token
        self._wants_tokens = wants_tokens
        self._clock = clock
        self._control: Any = None
        self._held = False

    async def perform(self, state: ExecutionState, effect: Effect, report: Report) -> r.AnyRecord:
        """Do one effect; see `driver.Performer`."""
        match effect:
            case RunGraph():
                run = _Run(self, state, effect, report)
                try:
                    return await asyncio.wrap_future(self._graphs.submit(run.go()))
                finally:
                    self._held = False  # It was for this run; the next one is not begun while it is to hold.
            case LoadSession():
                error = await self._copy(state, effect.execution_id, report)
                return r.SessionLoaded(at=self._clock(), messages=[], error=error)
            case LoadFork():
                error = await self._copy(state, effect.execution_id, report)
                return r.Forked(at=self._clock(), error=error)
            case _:
                raise AssertionError(f"a graph has no {effect}")

    async def _copy(self, state: ExecutionState, source: str, report: Report) -> str | None:
        """Have the state to go on from in this execution's thread; why it cannot be gone on from, if it cannot."""
        try:
            write = await copied_state(
                self._store,
                source,
                state.execution_id,
                app=self.graph.app,
                serde=serde_of(self.graph),
                step=state.forked_step,
                is_fork=state.forked_from is not None,
            )
        except (ConfigurationError, UnknownStateTypeError) as problem:
            return f"{type(problem).__name__}: {problem}"
        if write is not None:
            await asyncio.wrap_future(report((), write))
        return None

    def hold(self) -> None:
        """Ask a run that is on to stop at the next step border."""
        self._held = True
        if self._control is not None:
            self._control.request_drain("hold")

    async def on_start(self, state: ExecutionState) -> None:
        """Nothing: a graph has its own callbacks."""

    async def on_end(self, state: ExecutionState, record: r.Finished) -> None:
        """Nothing: a graph has its own callbacks."""


class _Run:
    """One run on the graph's loop."""

    def __init__(self, performer: GraphPerformer, state: ExecutionState, effect: RunGraph, report: Report) -> None:
        graph = state.frames[effect.path].graph
        assert graph is not None, "the engine only names frames that are graphs"
        self._performer = performer
        self._path, self._number = effect.path, effect.run
        self._execution_id = state.execution_id
        # What the driver's loop may change meanwhile is taken now.
        self._answers, self._passed = dict(graph.answers), graph.passed
        self._options = StartOptions.of(state.start)
        self._visible_thread = self._options.thread_id or state.session_id or state.execution_id
        self._is_fork, self._changes = state.forked_from is not None, state.forked_state
        self._told = Teller()
        self._serde = serde_of(performer.graph)
        self._port = ExecutionPort(
            state.execution_id, report, performer._store, self._told, clock=performer._clock, path=effect.path
        )
        # What died once may do so again, sooner than the start of its node is told on the way.
        self._saver = ExecutionSaver(
            self._port, state.execution_id, self._serde, self._told, is_careful=graph.attempt > 1
        )
        self._app = performer.graph.prepared(self._saver)

    async def go(self) -> r.AnyRecord:
        """Run it; returns how it stands after that. Raises only what is not the graph's doing."""
        try:
            return await self._outcome()
        finally:
            self._port.close()

    async def _outcome(self) -> r.AnyRecord:
        try:
            return await self._go()
        except asyncio.CancelledError:
            raise
        except Exception as problem:
            if isinstance(problem, CorruptRecordError) and problem.execution_id == self._execution_id:
                raise
            # The store, the epoch: not the graph's doing. Any other error is, of whatever class: a node may use AgentSpan.
            cause = self._port.failure
            if cause is not None and not isinstance(cause, UnstorableStateError):
                raise cause from problem
            refused = await self._refused_answer(problem)
            if refused is not None:
                return refused
            log.info("graph.failed", exc_info=True, extra={"execution_id": self._execution_id})
            text = str(problem) or repr(problem)
            error = f"{type(problem).__name__}: {text}"[:ERROR_CHARS_MAX]
            await self._port.flushed()
            return r.GraphFailed(
                at=self._now(), path=self._path, run=self._number, error=error, error_type=type(problem).__name__
            )

    async def _go(self) -> r.AnyRecord:
        config = self._config()
        given = await self._next_input(config)
        if isinstance(given, r.GraphWaits):
            return given
        last = await self._stream(given, config)
        await self._port.flushed()
        if last is _HELD:
            return r.GraphHeld(at=self._now(), path=self._path, run=self._number)
        self._saver.run_is_over()
        snapshot = await self._app.aget_state(config)
        head = self._saver.head
        waits = await self._waits(snapshot, head, config)
        if waits is not None:
            return waits
        if snapshot.tasks:
            raise RuntimeError(f"the graph stopped before {', '.join(snapshot.next) or 'its end'} without saying why")
        self._check_nodes(head)
        if last is None:
            last = output_of(self._performer.graph, snapshot.values)  # This run only found everything done.
        return r.GraphEnded(
            at=self._now(),
            path=self._path,
            run=self._number,
            output=natural_output(last),
            state=self._serde.dumps(last),
        )

    async def _next_input(self, config: Any) -> Any:
        """What to invoke the graph with; or what it waits for, if it must not run."""
        head = await self._saver.aget_tuple(config)
        if head is not None:
            for value in head.checkpoint["channel_values"].values():
                self._told.knows(_messages(value))
        if head is None or not (self._is_fork or head.metadata.get("run_id") == self._execution_id):
            return self._input()
        if self._is_fork and self._changes is not None and head.metadata.get("source") == "fork":
            # Not there twice after a crash: the update is a checkpoint of its own, and then the head.
            await self._app.aupdate_state(config, **self._serde.loads(self._changes))
            head = await self._saver.aget_tuple(config)
        snapshot = await self._app.aget_state(config)
        return await self._go_on(snapshot, head, config)

    async def _go_on(self, snapshot: Any, head: Any, config: Any) -> Any:
        """What to invoke a graph with that has run before; or what it waits for."""
        done = finished(head)
        asked = [one for task in snapshot.tasks if task.id not in done for one in task.interrupts]
        answers = {patches.resume_key(one.id): self._answers[one.id] for one in asked if one.id in self._answers}
        if not answers and not (asked and has_unfinished(snapshot, head)):
            return await self._waits(snapshot, head, config)
        if not answers:
            return None
        from langgraph.types import Command

        return Command(resume=answers)

    async def _waits(self, snapshot: Any, head: Any, config: Any) -> r.GraphWaits | None:
        """What it waits for, if it does."""
        asks = await self._asks(snapshot, config)
        checkpoint_id = ""
        if not asks and snapshot.tasks:
            bound, options = self._performer.graph.kwargs, self._options
            found = breakpoint_at(
                head,
                snapshot,
                before=_first(
                    options.interrupt_before, bound.get("interrupt_before"), self._app.interrupt_before_nodes
                ),
                after=_first(options.interrupt_after, bound.get("interrupt_after"), self._app.interrupt_after_nodes),
                passed=self._passed,
            )
            if found is not None:
                checkpoint_id = head.checkpoint["id"]
                asks = (planned_breakpoint(checkpoint_id, found.nodes, when=found.when),)
        if not asks:
            return None
        return r.GraphWaits(at=self._now(), path=self._path, run=self._number, asks=asks, checkpoint_id=checkpoint_id)

    async def _asks(self, snapshot: Any, config: Any) -> tuple[r.PlannedCall, ...]:
        """What its interrupts ask. Those of sub-graphs take another look, to name the node that asks."""
        if snapshot.interrupts and any(task.state is not None for task in snapshot.tasks):
            snapshot = await self._app.aget_state(config, subgraphs=True)
        done = finished(self._saver.head)
        return planned_interrupts(task for task in snapshot.tasks if task.id not in done)

    async def _refused_answer(self, problem: Exception) -> r.GraphWaits | None:
        """The graph's own validation refused an answer; nothing of it was stored, so the question is asked again."""
        try:
            from langgraph.errors import is_invalid_resume
        except ImportError:
            return None
        if not is_invalid_resume(problem):
            return None
        await self._port.flushed()
        config = self._config()
        # What took its answer has ended and asks no more.
        asks = refused_again(await self._asks(await self._app.aget_state(config), config), problem)
        return r.GraphWaits(at=self._now(), path=self._path, run=self._number, asks=asks) if asks else None

    # --- running

    async def _stream(self, given: Any, config: Any) -> Any:
        """Run the graph; returns what `invoke` would, or `_HELD`."""
        from langgraph.errors import GraphDrained

        tokens = self._performer._token if self._performer._wants_tokens() else None
        try:
            try:
                return await self._consume(given, config, tokens)
            except Exception as problem:
                if tokens is None or not _cannot_stream(problem):
                    raise
                # Streaming makes LangChain call another method of the model, which not every one has. Its task has
                # failed and left no result, so going on runs it again, this time without.
                log.info("graph.not_streaming", extra={"execution_id": self._execution_id, "problem": str(problem)})
                await self._port.flushed()
                again = await self._next_input(config)  # With the answers it was given, if it was.
                return None if isinstance(again, r.GraphWaits) else await self._consume(again, config, None)
        except GraphDrained:
            return _HELD
        finally:
            self._performer._control = None

    async def _consume(self, given: Any, config: Any, tokens: Callable[[str], None] | None) -> Any:
        from langgraph.runtime import RunControl

        control = self._performer._control = RunControl()
        if self._performer._held:
            control.request_drain("hold")
        modes: Any = ["values", "tasks", "custom", *(["messages"] if tokens else [])]
        bound, options = self._performer.graph.kwargs, self._options
        context = self._context()
        last = None
        streamed: Any = self._app.astream(
            given,
            config,
            context=bound.get("context") if context is None else context,
            stream_mode=modes,
            subgraphs=True,
            output_keys=output_keys(self._performer.graph),  # Else a stream gives all of the state.
            durability="sync",
            control=control,
            interrupt_before=_first(options.interrupt_before, bound.get("interrupt_before")),
            interrupt_after=_first(options.interrupt_after, bound.get("interrupt_after")),
        )
        async for ns, mode, data in streamed:
            if mode == "values":
                if not ns:
                    last = data
            elif mode == "tasks":
                if "triggers" in data:
                    self._told.start(ns, data)
                    self._port.told_within(EVENTS_WITHIN_S)
            elif mode == "custom":
                self._told.custom(ns, data)
                self._port.told_within(EVENTS_WITHIN_S)
            elif tokens is not None:
                _stream_text(data, tokens)
        return last

    # --- what it is run with

    def _config(self) -> Any:
        given = self._options.config
        bound = self._performer.graph.config or {}
        config = {**bound, **given}
        config["tags"] = [*bound.get("tags", ()), *given.get("tags", ())]
        config["metadata"] = {**bound.get("metadata", {}), **given.get("metadata", {}), "run_id": self._execution_id}
        config["configurable"] = {
            **bound.get("configurable", {}),
            **given.get("configurable", {}),
            "thread_id": self._visible_thread,
            # Answers that fit no question raise, instead of being taken for another one's.
            "__pregel_strict_resume": True,
        }
        return config

    def _input(self) -> Any:
        return self._serde.loads(self._options.input) if self._options.input else None

    def _context(self) -> Any:
        return self._serde.loads(self._options.context) if self._options.context else None

    def _check_nodes(self, head: Any) -> None:
        """A node that waits and is no longer part of the graph looks finished to LangGraph; the branch would be lost."""
        missing = missing_nodes(self._app, head.checkpoint["channel_values"]) if head is not None else []
        if missing:
            raise RuntimeError(
                f"the state waits for {', '.join(missing)}, which this version of the graph does not have; "
                "deploy a version that has it"
            )

    def _now(self) -> float:
        return self._performer._clock()


_HELD: Any = object()


def _first(*values: Any) -> Any:
    """The breakpoints that count. As in LangGraph, a run adds its own or has the graph's; an empty list takes none away."""
    return next((value for value in values if value), None)


def _messages(value: Any) -> Iterable[Any]:
    return [item for item in value if hasattr(item, "content")] if isinstance(value, list) else ()


def _cannot_stream(problem: Exception) -> bool:
    return isinstance(problem, NotImplementedError) or "No generations found in stream" in str(problem)


def _stream_text(data: Any, token: Callable[[str], None]) -> None:
    message, _ = data
    if type(message).__name__ == "AIMessageChunk" and isinstance(message.content, str) and message.content:
        token(message.content)
