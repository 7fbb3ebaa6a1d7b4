"""The soak's judge notices what must not be: each promise broken once, in a journal and a ledger made for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agentspan.persistence.memory import MemoryStore
from agentspan.persistence.store import ExecutionRow, JournalEntry
from agentspan.testing.store_rules.building import begin
from tests.soak.judge import Flight, Judge

FLIGHT = Flight("k", "talker", "packed", execution_id="ex-1")


async def row(**fields: Any) -> ExecutionRow:
    store = MemoryStore()
    await begin(store, "ex-1")
    return replace(await store.row("ex-1"), **{"status": "COMPLETED", "seq": 3, **fields})


def journal(*epochs: int, attempt: int = 1) -> list[JournalEntry]:
    """A talker's: started, an answer, a tool's result at 10, the end."""
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("started", {}),
        ("model", {}),
        ("tool", {"call_id": "call_0_0", "at": 10.0, "attempt": attempt}),
        ("finished", {"output": "heard you"}),
    ]
    return [
        JournalEntry(seq=seq, kind=kind, body=body, events_to=seq, epoch=epoch)
        for seq, ((kind, body), epoch) in enumerate(zip(bodies, epochs or (1, 1, 1, 1), strict=True))
    ]


def effect(at: float = 9.0, *, attempt: int = 1, call: str = "call_0_0", pid: int = 7) -> dict[str, Any]:
    return {"key": f"ex-1::{call}", "at": at, "attempt": attempt, "pid": pid}


async def judged(*effects: dict[str, Any], stopped: int = 0, late: bool = False, **more: Any) -> dict[str, int]:
    judge = Judge()
    if stopped:
        judge.stopped(stopped, 9.5)
    if not late:
        judge.hear(list(effects))
    flight, entries = more.pop("flight", FLIGHT), more.pop("journal", journal())
    judge.judge(flight, await row(**more), entries)
    if late:
        judge.hear(list(effects))
    return dict(judge.tally)


async def test_a_run_as_it_should_be_is_blamed_for_nothing() -> None:
    assert await judged(effect()) == {}
    assert await judged(effect(8.0), effect(attempt=2), journal=journal(1, 1, 2, 2, attempt=2)) == {}


@pytest.mark.parametrize("late", [False, True])
async def test_an_effect_after_its_record_is_a_step_run_twice(late: bool) -> None:
    more = {"lost": 1} if late else {}  # For then the ledger had heard of no effect at all.
    assert await judged(effect(11.0), late=late) == {"recorded steps run twice": 1, **more}
    assert await judged(effect(attempt=2), late=late) == {"recorded steps run twice": 1, **more}


async def test_an_effect_of_a_process_that_was_stopped_may_be_late() -> None:
    assert await judged(effect(), effect(11.0, pid=8, attempt=0), stopped=8) == {}
    assert await judged(effect(), effect(11.0, pid=8, attempt=0), stopped=9) == {"recorded steps run twice": 1}


async def test_one_attempt_made_twice_is_a_step_run_twice() -> None:
    assert await judged(effect(), effect()) == {"recorded steps run twice": 1}


async def test_an_effect_nobody_asked_for_has_no_record() -> None:
    assert await judged(effect(), effect(call="call_9_0")) == {"effects without a record": 1}


async def test_a_record_without_its_effect_and_a_gap_are_losses() -> None:
    assert await judged() == {"lost": 1}
    assert await judged(effect(), seq=4) == {"lost": 1}


async def test_an_older_epoch_behind_a_newer_one_is_a_second_writer() -> None:
    assert (await judged(effect(), journal=journal(1, 2, 1, 2)))["two writers"] == 1


async def test_an_end_that_is_none_is_a_failure() -> None:
    assert (await judged(effect(), status="FAILED")) == {"failed": 1}


async def test_a_decision_that_was_accepted_and_took_no_effect_is_lost() -> None:
    assert await judged(effect(), flight=replace(FLIGHT, acknowledged=["s1"])) == {"lost": 1}


async def test_a_turn_that_forgot_the_ones_before_is_a_loss() -> None:
    assert await judged(effect(), flight=replace(FLIGHT, turn=1)) == {"lost": 1}
