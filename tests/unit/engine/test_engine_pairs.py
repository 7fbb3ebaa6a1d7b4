"""Every situation meets a record of every kind: it fits, or is refused and changes nothing.

What comes of each pair is written down in `tests/transcripts/engine_pairs.txt`, to be read by people. When the engine
is changed on purpose, write it anew (`REWRITE_TRANSCRIPTS=1 pytest tests/unit/engine/test_engine_pairs.py`) and review
the difference.
"""

from __future__ import annotations

import copy
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, assert_never

import pytest

from agentspan.engine.apply import apply
from agentspan.engine.decide import CallModel, CallTool, CheckStop, Decision, LoadFork, LoadSession, RunGraph, decide
from agentspan.engine.records import KINDS
from agentspan.engine.state import ExecutionState, to_snapshot
from agentspan.engine.view import status_of
from agentspan.errors import UnexpectedRecordError
from tests.support.situations import RECORDS, SITUATIONS, SPEC, T0, situation

TRANSCRIPT = Path(__file__).parents[2] / "transcripts" / "engine_pairs.txt"
SPEC_WITH_STOP = replace(SPEC, has_stop_when=True)


def next_of(state: ExecutionState) -> str:
    """What the engine would do next, in a few words."""
    if not state.frames:
        return "nothing"
    decision = decide(state, SPEC_WITH_STOP, T0)
    parts = [*_effects(decision), *(f"commit {_record(record)}" for record in decision.records)]
    if decision.drain:
        parts.append("(after what is under way)")
    if decision.wake_at is not None:
        parts.append(f"wake at +{decision.wake_at - T0:g} s")
    return ", ".join(parts) or "nothing"


def _effects(decision: Decision) -> list[str]:
    told = []
    for effect in decision.effects:
        match effect:
            case CallModel():
                told.append(f"call model, turn {effect.turn}, attempt {effect.attempt}")
            case CallTool():
                told.append(f"call {effect.call_id}, attempt {effect.attempt}")
            case CheckStop():
                told.append(f"check stop, turn {effect.turn}")
            case LoadSession():
                told.append(f"load session {effect.execution_id}")
            case LoadFork():
                told.append(f"load fork of {effect.execution_id}")
            case RunGraph():
                told.append(f"run graph, run {effect.run}, attempt {effect.attempt}")
            case _:
                assert_never(effect)
    return told


def _record(record: object) -> str:
    kind = getattr(record, "KIND", "")
    if kind == "finished":
        return f"finished {getattr(record, 'status', '')} ({getattr(record, 'finish_reason', '')})"
    return f"{kind} {getattr(record, 'call_id', '')} {getattr(record, 'messages', '')}"


def meet(name: str, record_name: str) -> str:
    """Apply a record to a situation and say what came of it; a refusal must leave the state as it was."""
    state = situation(name)
    before = copy.deepcopy(to_snapshot(state))
    record = copy.deepcopy(RECORDS[record_name])
    facts: dict[str, Any] = {}
    try:
        apply(state, record)
    except UnexpectedRecordError as refusal:
        facts = refusal.facts
    if facts:
        assert to_snapshot(state) == before, f"{record_name} was refused by {name!r} and changed it"
        assert (facts["kind"], facts["seq"]) == (record.KIND, before["seq"] + 1)
        return f"refused: {facts['problem']}"
    assert state.seq == before["seq"] + 1
    return f"{status_of(state).value}; next: {next_of(state)}"


def transcript() -> str:
    lines = []
    for name in SITUATIONS:
        state = situation(name)
        lines.append(f"{name} — {status_of(state).value if state.frames else 'nothing yet'}; next: {next_of(state)}")
        lines += [f"    {record_name:28} {meet(name, record_name)}" for record_name in RECORDS]
        lines.append("")
    return "\n".join(lines)


def test_every_pair_of_situation_and_record_does_what_the_transcript_says() -> None:
    found = transcript()
    if os.environ.get("REWRITE_TRANSCRIPTS"):
        TRANSCRIPT.write_text(found, encoding="utf-8")
    assert found == TRANSCRIPT.read_text(encoding="utf-8")


def test_there_is_a_record_of_every_kind_and_each_fits_somewhere() -> None:
    assert {record.KIND for record in RECORDS.values()} == set(KINDS)
    fits = {
        RECORDS[record_name].KIND
        for name in SITUATIONS
        for record_name in RECORDS
        if not meet(name, record_name).startswith("refused")
    }
    assert fits == set(KINDS)


@pytest.mark.parametrize("record_name", RECORDS)
def test_nothing_follows_the_end(record_name: str) -> None:
    assert meet("finished", record_name) == "refused: the execution ended as COMPLETED"


@pytest.mark.parametrize("name", SITUATIONS)
def test_deciding_twice_gives_the_same_answer_and_changes_nothing(name: str) -> None:
    state = situation(name)
    before = copy.deepcopy(to_snapshot(state))
    if state.frames:
        assert decide(state, SPEC, T0) == decide(state, SPEC, T0)
    assert to_snapshot(state) == before
