"""Lives of the graph family: run by AgentSpan to their end, over any number of deaths, and what must hold of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from agentspan.agents.events import AgentEvent, EventType
from agentspan.engine import records as r
from agentspan.frameworks.langgraph.app.graph import Graph
from agentspan.frameworks.langgraph.running.graphloop import GraphLoop
from agentspan.persistence.memory import MemoryStore
from agentspan.persistence.store import Commit, Receipt, Store
from agentspan.testing.crash import Crash, CrashingStore, CrashPoint, crash_at
from tests.support.graph_family import Member, bare, bare_fork, normal
from tests.support.graph_lives import GraphLife, graph_loop, started
from tests.support.graph_runs import RUNS
from tests.support.model_server import ModelServer

NEVER = 10**9
LIVES_MAX = 100


class Witnessed:
    """A disk that tells the witness which tasks have ended on record, as soon as it is so."""

    def __init__(self, disk: Store) -> None:
        self._disk = disk

    async def commit(self, commit: Commit) -> Receipt:
        receipt = await self._disk.commit(commit)
        for entry in commit.entries:
            for told in entry.body.get("told", ()) if entry.kind == r.GraphTold.KIND else ():
                if told["type"] == "node_end" and "error" not in told["data"]:
                    RUNS.ended.add(told["data"]["task_id"])
        return receipt

    def __getattr__(self, name: str) -> Any:
        return getattr(self._disk, name)


@dataclass
class Story:
    """What is left of a member that was run."""

    results: list[Any]
    """What each turn returned, `normal`."""
    counts: Counter[str]
    repeatable: Counter[str] = field(default_factory=Counter)
    """Label → how many of its runs were in flight when an incarnation died."""
    deaths: int = 0
    calls: list[str] = field(default_factory=list)
    """The calls to the store of the last turn that went through crash points."""
    faults: list[str] = field(default_factory=list)
    events: list[AgentEvent] = field(default_factory=list)
    """Of the last turn."""


@dataclass
class Stage:
    """A loop for graphs, and a model behind HTTP if the member wants one."""

    member: Member
    loop: GraphLoop
    url: str | None
    graph: Graph | None = None

    async def bare(self) -> Story:
        """Run it without AgentSpan, on the same loop, as HTTP clients live on one."""
        RUNS.reset()
        results = await asyncio.wrap_future(self.loop.submit(bare(self.member, self.url)))
        return Story(results, RUNS.counts)

    async def bare_fork(self, step: int, values: dict[str, Any]) -> Story:
        """Fork a bare run of it."""

        async def run() -> Any:
            fork = await bare_fork(self.member, step, values)
            RUNS.reset()
            return await fork()

        result = await asyncio.wrap_future(self.loop.submit(run()))
        return Story([result], RUNS.counts)

    async def start(self, disk: Store, turn: int = 0, forked: dict[str, Any] | None = None) -> GraphLife:
        """Accept one turn."""
        member = self.member
        session: Any = {"session_id": "s"} if len(member.given) > 1 else {}
        if self.graph is None or member.afresh:
            self.graph = Graph.of(member.app(None, self.url), types=member.types)
        return await started(
            self.graph,
            member.given[turn],
            disk,
            self.loop,
            config=member.config or None,
            context=member.context,
            forked=forked,
            **member.how,
            **session,
        )

    async def live(
        self, disk: Store | None = None, *, points: Sequence[CrashPoint] = (), kill_at: Sequence[int] = ()
    ) -> Story:
        """Run it durably to its end.

        Args:
            disk: Where.
            points: Deaths of the last turn at calls of the store, one a life; the lives after are undisturbed.
            kill_at: Numbers of runs of nodes, counted over all lives of the last turn: in each the incarnation dies.
        """
        RUNS.reset(dict(self.member.gates))
        witnessed = Witnessed(disk or MemoryStore())
        story = Story([], Counter())
        *turns, last = range(len(self.member.given))
        for turn in turns:
            await self.play(await self.start(witnessed, turn), story)
        life = await self.start(witnessed, last)
        return await self.play(life, story, points=points, kill_at=kill_at)

    async def play(
        self, life: GraphLife, story: Story, *, points: Sequence[CrashPoint] = (), kill_at: Sequence[int] = ()
    ) -> Story:
        """Let one execution come to its end, and add to the story how."""
        play = _Play(self, life, story, list(points))
        if kill_at:
            play.kill_at(kill_at)
        await play.to_the_end()
        story.results.append(normal(await life.result()))
        story.counts = RUNS.counts
        story.events = await life.events()
        story.faults = [*RUNS.faults, *await faults_of(life)]
        return story

    async def settled(self) -> None:
        """Return when nothing runs on the graphs' loop any more: what an incarnation leaves behind there is over."""

        async def others() -> None:
            me = asyncio.current_task()
            while left := [task for task in asyncio.all_tasks() if task is not me]:
                await asyncio.wait(left)

        await asyncio.wait_for(asyncio.wrap_future(self.loop.submit(others())), 20)


class _Play:
    """One execution, by incarnations."""

    def __init__(self, stage: Stage, life: GraphLife, story: Story, points: list[CrashPoint]) -> None:
        self._stage = stage
        self._life = life
        self._disk = life.store
        self._story = story
        self._points = points
        self._undisturbed = crash_at(NEVER)
        self._killed = False

    async def to_the_end(self) -> None:
        for _ in range(LIVES_MAX):
            outcome = await self._incarnation()
            if (await self._disk.row(self._life.execution_id)).status in ("COMPLETED", "FAILED"):
                return
            if outcome is None:
                continue
            assert outcome.ended == "hibernated", outcome
            await self._answer()
        raise AssertionError(f"{self._stage.member.name}: not over after {LIVES_MAX} lives")

    async def _incarnation(self) -> Any:
        """One life; None if it died."""
        point = self._points.pop(0) if self._points else self._undisturbed
        self._life.store = CrashingStore(self._disk, point)
        RUNS.life += 1
        try:
            return await self._life.live()
        except (Crash, asyncio.CancelledError):
            if not point.fired and not self._killed:
                raise
            self._killed = False
            self._story.deaths += 1
            await self._stage.settled()
            # What began while the news of the death was on its way is as lost as what was in flight.
            self._story.repeatable += RUNS.in_flight(self._stage.member.opaque)
            return None
        finally:
            self._life.store = self._disk
            if point.fired or point is self._undisturbed:
                self._story.calls += point.calls
            else:
                self._points.insert(0, point)  # This life was too short for it: it counts on in the next.

    async def _answer(self) -> None:
        pending = await self._life.pending()
        assert pending, "it sleeps, and nobody is asked anything"
        for row in pending:
            if row.ask == "breakpoint":
                await self._life.send("approve", call_id=row.call_id)
            else:
                answer = self._stage.member.answer_to([row.arguments, row.question])
                await self._life.send(answer.kind, call_id=row.call_id, **answer.fields)
            RUNS.approvals += 1

    def kill_at(self, numbers: Sequence[int]) -> None:
        """Die in the middle of these runs of nodes. The body stays where it is until its incarnation is gone."""
        main, run, wanted = asyncio.get_running_loop(), self._life, set(numbers)

        def hook(number: int, label: str) -> None:
            if number not in wanted:
                return
            wanted.discard(number)
            self._killed = True
            asyncio.run_coroutine_threadsafe(run.die(), main).result(20)

        RUNS.on_enter = hook


async def faults_of(life: GraphLife) -> list[str]:
    """Broken promises in what an execution left behind."""
    faults = []
    events = await life.events()
    if [event.seq for event in events] != list(range(1, len(events) + 1)):
        faults.append(f"events with gaps: {[event.seq for event in events]}")
    started_tasks: set[str] = set()
    ended: Counter[str] = Counter()
    for event in events:
        if event.type is EventType.NODE_START:
            started_tasks.add(event.data["task_id"])
        elif event.type is EventType.NODE_END:
            ended[event.data["task_id"]] += 1
            if event.data["task_id"] not in started_tasks:
                faults.append(f"{event.data['node']} ended before it started")
    faults += [f"task {task} ended {count} times" for task, count in ended.items() if count > 1]
    records = await life.records()
    decided = Counter(record.call_id for record in records if isinstance(record, r.Decided))
    faults += [f"{call} was decided {count} times" for call, count in decided.items() if count > 1]
    asked = Counter(ask.call_id for record in records if isinstance(record, r.GraphWaits) for ask in record.asks)
    faults += [f"{call} was asked {count} times" for call, count in asked.items() if count > 1]
    if set(decided) != set(asked):
        faults.append(f"asked {sorted(asked)}, decided {sorted(decided)}")
    row = await life.store.row(life.execution_id)
    if row.resident or row.pending or row.status != "COMPLETED":
        faults.append(f"an ended execution leaves something behind: {row}")
    return faults


def against(clean: Story, story: Story) -> list[str]:
    """What is wrong with a story, in itself and against a bare run."""
    faults = list(story.faults)
    if story.results != clean.results:
        faults.append(f"returned {story.results}\ninstead of {clean.results}")
    for label in clean.counts | story.counts:
        more = story.counts[label] - clean.counts[label]
        if more < 0 or more > story.repeatable[label]:
            faults.append(
                f"{label} ran {story.counts[label]} times, bare {clean.counts[label]}; "
                f"{story.repeatable[label]} were in flight in {story.deaths} deaths"
            )
    return faults


@asynccontextmanager
async def stage(member: Member) -> AsyncIterator[Stage]:
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(ModelServer(member.script, by="conversation")).url if member.script else None
        async with graph_loop() as loop:
            yield Stage(member, loop, url)
