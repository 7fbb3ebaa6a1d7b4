"""Every run dies at every call to the outside, and ends as if it had not."""

from __future__ import annotations

import random
from itertools import count, product

import pytest

from agentspan.engine import records as r
from agentspan.errors import StoreUnavailableError
from agentspan.testing.crash import crash_at
from tests.crash.plays import BY_NAME, PLAYS
from tests.support.lives import Play, Story, essence, faults_of, live, signals_of
from tests.support.virtual_time import run_virtual


@pytest.fixture(autouse=True)
def _same_jitter() -> None:
    random.seed(20)


def faults_against(clean: Story, story: Story) -> list[str]:
    """What is wrong with a story, in itself and against the undisturbed one."""
    faults = faults_of(story)
    lost = [lost for record in story.records if isinstance(record, r.Recovered) for lost in record.calls]
    # A call whose outcome a person settled says who did; one that was given up says so.
    asked = any(one.action == "ask" for one in lost)
    without = frozenset({"decided_by", "approved"}) if asked else frozenset()
    failed = {one.call_id for one in lost if one.action == "fail"}
    if failed:
        faults += [] if story.state.status == clean.state.status else ["it ended otherwise"]
        results = {m["tool_call_id"]: m["content"] for m in story.state.root.messages if m["role"] == "tool"}
        faults += [f"{one} is not given up: {results[one]}" for one in failed if "unknown" not in results[one]]
    elif essence(story.state, without=without) != essence(clean.state, without=without):
        faults.append(f"another end:\n{essence(story.state)}\ninstead of\n{essence(clean.state)}")
    if signals_of(story) != signals_of(clean) and not asked:
        faults.append(f"P5: signals {signals_of(story)} took effect, not {signals_of(clean)}")
    return faults


async def enumerate_points(play: Play, *, landed: bool, snapshots: int = 0) -> int:
    clean = await live(play)
    assert faults_of(clean) == []
    for number in count():
        point = crash_at(number, landed=landed)
        story = await live(play, points=[point], snapshots=snapshots)
        if not point.fired:
            return number
        assert faults_against(clean, story) == [], f"{play.name}, {point}: {story.calls[number]}, {story.outcomes}"
    raise AssertionError


@pytest.mark.parametrize("landed", [False, True], ids=["before it landed", "answer lost"])
@pytest.mark.parametrize("play", PLAYS, ids=lambda play: play.name)
def test_a_run_that_dies_at_any_point_ends_as_if_it_had_not(play: Play, landed: bool) -> None:
    points = run_virtual(enumerate_points(play, landed=landed))
    assert points >= 5


@pytest.mark.parametrize("landed", [False, True], ids=["before it landed", "answer lost"])
@pytest.mark.parametrize("play", PLAYS, ids=lambda play: play.name)
def test_a_snapshot_at_any_step_changes_nothing(play: Play, landed: bool) -> None:
    run_virtual(enumerate_points(play, landed=landed, snapshots=1 + landed))


@pytest.mark.parametrize("landed", [False, True], ids=["before it landed", "answer lost"])
@pytest.mark.parametrize("play", PLAYS, ids=lambda play: play.name)
def test_a_store_that_does_not_answer_is_asked_again(play: Play, landed: bool) -> None:
    async def main() -> None:
        clean = await live(play)
        for number, name in enumerate(clean.calls):
            if name not in ("load", "commit", "inbox"):
                continue
            unknown = StoreUnavailableError(where="disk", problem="no answer")
            story = await live(play, points=[crash_at(number, landed=landed, error=unknown)])
            assert faults_against(clean, story) == [], f"{play.name}: {name}, call {number}"
            assert story.lives == clean.lives, f"{play.name}: {name}, call {number}: {story.outcomes}"

    run_virtual(main())


DOUBLE = ["parallel tools", "approved, then lost", "crash asks", "pause and resume", "failing tool"]


@pytest.mark.parametrize("name", DOUBLE)
def test_a_recovery_that_dies_as_well_ends_as_if_nothing_had_happened(name: str) -> None:
    play = BY_NAME[name]

    async def main() -> None:
        clean = await live(play)
        for first, second, landed in product(range(len(clean.calls)), range(6), range(4)):
            points = [crash_at(first, landed=bool(landed & 1)), crash_at(second, landed=bool(landed & 2))]
            story = await live(play, points=points)
            assert faults_against(clean, story) == [], f"{name}: {points}, {story.outcomes}"

    run_virtual(main())
