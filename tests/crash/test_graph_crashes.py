"""Graphs die at every call to the store, before it lands and after, and in the middle of nodes. They end as if they had not.

`GRAPH_SEED=7 pytest tests/crash/test_graph_crashes.py` plays one seed of the random deaths; a failure names its own.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections import Counter
from itertools import count
from typing import Any

import pytest

from agentspan.errors import StaleEpochError
from agentspan.frameworks.langgraph.app.graphtypes import serde_of
from agentspan.persistence.memory import MemoryStore
from agentspan.testing.crash import CrashPoint, crash_at
from tests.support.graph_family import BY_NAME, FAMILY, RECENT, Member, normal
from tests.support.graph_lives import GraphLife, graph_loop
from tests.support.graph_runs import RUNS
from tests.support.graph_stories import Story, Witnessed, against, faults_of, stage

SEEDS = [int(os.environ["GRAPH_SEED"])] if "GRAPH_SEED" in os.environ else list(range(2))
LANDED = pytest.mark.parametrize("landed", [False, True], ids=["before it landed", "answer lost"])

EVERYWHERE = [
    "map-reduce",
    "called graph",
    "nested that remembers",
    "nested without a saver",
    "goto",
    "delta channel",
    "changes in place",
    "slow sibling",
    "functional",
    "functional, previous",
    "session",
    "interrupt",
    "two interrupts in one node",
    "breakpoints",
    "breakpoints of one run",
]
"""Those that die at every single call; the others at a few that the dice choose."""
SOMEWHERE = [member for member in FAMILY if member.name not in EVERYWHERE and not member.script]
TWICE = ["map-reduce", "nested that remembers", "interrupts in a fan", "breakpoints", "functional, interrupts"]


@LANDED
@pytest.mark.parametrize("name", EVERYWHERE)
async def test_a_graph_that_dies_at_any_call_ends_as_if_it_had_not(name: str, landed: bool) -> None:
    async with stage(BY_NAME[name]) as here:
        clean = await here.bare()
        for number in count():
            point = crash_at(number, landed=landed)
            story = await here.live(points=[point])
            if not point.fired:
                break
            assert against(clean, story) == [], f"{name}, {point}: {story.calls[: number + 1]}"
    assert number >= 8


@pytest.mark.parametrize("member", SOMEWHERE, ids=lambda member: member.name)
async def test_a_graph_that_dies_at_some_calls_ends_as_if_it_had_not(member: Member) -> None:
    dice = random.Random(member.name)
    async with stage(member) as here:
        clean = await here.bare()
        calls = len((await here.live()).calls)
        for number in sorted(dice.sample(range(2, calls), min(4, calls - 2))):
            point = crash_at(number, landed=dice.random() < 0.5)
            story = await here.live(points=[point])
            assert against(clean, story) == [], f"{member.name}, {point}: {story.calls}"


@pytest.mark.parametrize("name", TWICE)
async def test_a_recovery_that_dies_as_well_ends_as_if_nothing_had_happened(name: str) -> None:
    dice = random.Random(name)
    async with stage(BY_NAME[name]) as here:
        clean = await here.bare()
        calls = len((await here.live()).calls)
        for _ in range(12):
            points = [
                crash_at(dice.randrange(calls), landed=dice.random() < 0.5),
                crash_at(dice.randrange(8), landed=dice.random() < 0.5),
                crash_at(dice.randrange(8), landed=dice.random() < 0.5),
            ]
            story = await here.live(points=points)
            assert against(clean, story) == [], f"{name}, {points}: {story.calls}"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("member", [one for one in FAMILY if not one.script], ids=lambda member: member.name)
async def test_a_graph_that_dies_in_the_middle_of_nodes_runs_no_finished_node_again(member: Member, seed: int) -> None:
    dice = random.Random(f"{member.name} {seed}")
    async with stage(member) as here:
        clean = await here.bare()
        runs = range(1, clean.counts.total() + 2)
        kills = dice.sample(runs, min(len(runs), dice.choice([1, 1, 2, 3])))
        story = await here.live(kill_at=kills)
        assert against(clean, story) == [], f"{member.name}, GRAPH_SEED={seed}: killed in runs {sorted(kills)}"


FORKED: list[tuple[str, int, dict[str, Any]]] = [
    ("sequence", 1, {"topic": "changed", "log": ["fork"]}),
    # Before, LangGraph itself forgets the change.
    *([("delta channel", 4, {"log": ["fork"]})] if RECENT else []),
    ("nested that remembers", 2, {"log": ["fork"]}),
    ("interrupt in a subgraph", 0, {"log": ["fork"]}),
]


@pytest.mark.parametrize(("name", "step", "values"), FORKED, ids=lambda value: str(value))
async def test_a_fork_that_dies_at_any_call_ends_as_if_it_had_not(name: str, step: int, values: dict[str, Any]) -> None:
    disk = MemoryStore()
    async with stage(BY_NAME[name]) as here:
        RUNS.reset()
        origin = await here.start(disk)
        story = await here.play(origin, Story([], Counter()))
        kept = await left_behind(disk, origin)
        changes = serde_of(origin.graph).dumps({"values": values, "as_node": None})
        forked = {"forked_from": origin.execution_id, "forked_step": step, "forked_state": changes}

        async def fork(*points: CrashPoint) -> Story:
            RUNS.reset()
            return await here.play(
                await here.start(Witnessed(disk), forked=forked),
                Story([], Counter()),
                points=points,
            )

        clean = await here.bare_fork(step, values)
        assert clean.results != story.results
        assert against(clean, await fork()) == []
        for number in count():
            point = crash_at(number, landed=bool(number % 2))
            again = await fork(point)
            assert against(clean, again) == [], f"{name}, {point}: {again.calls[: number + 1]}"
            if not point.fired:
                break
        assert await left_behind(disk, origin) == kept


HAUNTED = [
    ("sequence", 1, ()),
    ("sequence", 2, ()),
    ("pydantic state", 2, ()),
    ("map-reduce", 1, ()),
    ("map-reduce", 2, ("work0", "work1", "work2", "work3")),
    ("blocking nodes", 3, ()),
    ("nested", 1, ()),
    ("nested", 3, ()),
    ("nested that remembers", 5, ()),
    ("called graph", 1, ("x",)),
    ("called graph, sync in async", 3, ()),
    ("functional", 1, ("square1", "square2", "square3")),
    ("interrupt", 2, ("ask", "beside")),
    ("interrupt in a subgraph", 3, ()),
    ("agent with a hook", 2, ()),
    ("agent with a hook", 3, ("weather Oslo", "mail kim", "mail lee")),
]
"""Which run of a node its incarnation is stopped in, and which others of the same step may begin when it wakes up."""


@pytest.mark.parametrize(("name", "at", "beside"), HAUNTED, ids=lambda value: str(value))
async def test_an_incarnation_that_was_taken_for_dead_writes_nothing(
    name: str, at: int, beside: tuple[str, ...]
) -> None:
    """Its whole loop of graphs stands still in a node, as under SIGSTOP, while another incarnation comes to the end."""
    member = BY_NAME[name]
    disk = MemoryStore()
    reached, released = asyncio.Event(), threading.Event()
    slept: list[bool] = []
    main = asyncio.get_running_loop()

    def hook(number: int, label: str) -> None:
        if number == at:
            main.call_soon_threadsafe(reached.set)
            slept.append(released.wait(20))

    async with stage(member) as here, graph_loop(process=1) as other_loop:
        clean = await here.bare()
        RUNS.reset()
        zombie = await here.start(Witnessed(disk))
        RUNS.on_enter = hook
        run = zombie.begin()
        await reached.wait()

        RUNS.life = 1
        winner = GraphLife(zombie.graph, disk, other_loop, zombie.execution_id)
        while (await winner.live()).ended != "finished":
            for row in await winner.pending():
                answer = member.answer_to([row.arguments, row.question])
                await winner.send(answer.kind, call_id=row.call_id, **answer.fields)
        assert normal(await winner.result()) == clean.results[-1]
        before = await left_behind(disk, winner)

        RUNS.life = 2
        released.set()
        with pytest.raises(StaleEpochError):
            await run
        await here.settled()
        assert all(slept), "it woke up by itself, before its successor had ended"
        late = [entry.label for entry in RUNS.log if entry.life == 2]
        assert set(late) <= set(beside), f"the zombie went on to {late}"
        assert await left_behind(disk, winner) == before
        assert normal(await winner.result()) == clean.results[-1]
        assert await faults_of(winner) == []


async def test_a_zombie_that_wakes_up_while_its_successor_works_is_refused_and_disturbs_nothing() -> None:
    disk = MemoryStore()
    gates = {1: threading.Event(), 2: threading.Event()}
    reached = {1: asyncio.Event(), 2: asyncio.Event()}
    slept: list[bool] = []
    main = asyncio.get_running_loop()

    def hook(number: int, label: str) -> None:
        if number in gates:
            main.call_soon_threadsafe(reached[number].set)
            slept.append(gates[number].wait(20))

    async with stage(BY_NAME["sequence"]) as here, graph_loop(process=1) as other_loop:
        clean = await here.bare()
        RUNS.reset()
        zombie = await here.start(disk)
        RUNS.on_enter = hook
        first = zombie.begin()
        await reached[1].wait()
        winner = GraphLife(zombie.graph, disk, other_loop, zombie.execution_id)
        second = winner.begin()
        await reached[2].wait()
        gates[1].set()
        with pytest.raises(StaleEpochError):
            await first
        assert RUNS.counts == {"a": 2}
        gates[2].set()
        assert (await second).ended == "finished"
        assert all(slept), "one of them woke up by itself"
        story = Story([normal(await winner.result())], RUNS.counts - clean.counts)
        assert (story.results, story.counts) == (clean.results, {"a": 1})
        assert await faults_of(winner) == []


async def left_behind(disk: MemoryStore, life: GraphLife) -> object:
    """All that the store has of an execution."""
    return (
        await disk.row(life.execution_id),
        await disk.journal(life.execution_id),
        await disk.list_checkpoints(life.execution_id, limit=10_000),
    )
