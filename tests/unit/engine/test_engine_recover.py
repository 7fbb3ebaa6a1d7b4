"""What a crash makes of what was in flight (P3)."""

from __future__ import annotations

import pytest

from agentspan.agents.results import Status
from agentspan.engine import records as r
from agentspan.engine.apply import apply
from agentspan.engine.decide import CallModel, CallTool, CheckStop, LoadSession, decide, recover
from agentspan.engine.events import events_of
from agentspan.engine.state import ExecutionState, to_snapshot
from agentspan.engine.view import status_of
from tests.support.situations import (
    SITUATIONS,
    SPEC,
    T0,
    answered,
    control,
    decided,
    model_failed,
    plan,
    returned,
    started,
    state_of,
    tool_failed,
)


def crash(state: ExecutionState, now: float = T0) -> r.Recovered:
    record = recover(state, SPEC, epoch=2, now=now)
    apply(state, record)
    return record


def test_a_model_call_in_flight_is_made_again_as_the_next_attempt():
    state = state_of([started()])
    record = crash(state)
    assert (record.models, record.calls, record.epoch) == (("",), (), 2)
    assert decide(state, SPEC, T0).effects == [CallModel("", 1, 2)]
    crash(state)
    assert decide(state, SPEC, T0).effects == [CallModel("", 1, 3)]
    assert state.recoveries == 2


def test_tools_in_flight_are_tried_again_and_finished_ones_are_not():
    state = state_of([started(), answered(plan("c1"), plan("c2")), returned("c2")])
    record = crash(state)
    assert [(lost.call_id, lost.attempt, lost.action) for lost in record.calls] == [("c1", 1, "retry")]
    assert decide(state, SPEC, T0).effects == [CallTool("", "c1", 2)]


def test_a_call_that_must_not_run_twice_asks_and_its_approval_is_a_new_attempt():
    state = state_of([started(), answered(plan("c1", "wire"), plan("c2"))])
    record = crash(state)
    assert [(lost.call_id, lost.action) for lost in record.calls] == [("c1", "ask"), ("c2", "retry")]
    assert record.calls[0].arguments == {"x": 1}
    assert [(call.call_id, call.ask) for _, call in state.open_asks()] == [("c1", "crash")]
    assert decide(state, SPEC, T0).effects == [CallTool("", "c2", 2)]
    apply(state, decided("approve"))
    assert CallTool("", "c1", 2) in decide(state, SPEC, T0).effects


def test_a_call_whose_own_process_died_asks_like_one_that_a_crash_interrupted():
    state = state_of([started(), answered(plan("c1", "wire"))])
    apply(state, r.ToolLost(at=T0, call_id="c1", name="wire", error="died", arguments={"x": 1}, arguments_hash="h"))
    assert [(call.call_id, call.ask) for _, call in state.open_asks()] == [("c1", "crash")]
    assert (status_of(state), state.recoveries) == (Status.WAITING, 0)
    assert crash(state).calls == ()
    apply(state, decided("approve"))
    assert decide(state, SPEC, T0).effects == [CallTool("", "c1", 2)]


def test_a_call_that_asks_already_keeps_asking_through_more_crashes():
    state = state_of([started(), answered(plan("c1", "wire"))])
    crash(state)
    asked_at = state.call("", "c1").asked_at  # type: ignore[union-attr]
    assert crash(state, T0 + 9).calls == ()
    assert status_of(state) is Status.WAITING
    assert state.call("", "c1").asked_at == asked_at  # type: ignore[union-attr]


def test_an_approval_that_was_not_decided_survives_and_a_decided_one_is_not_asked_for_again():
    state = state_of([started(), answered(plan("c1", "refund", "approval"))])
    assert crash(state).calls == ()
    apply(state, decided("approve"))
    assert [lost.action for lost in crash(state).calls] == ["retry"]
    call = state.call("", "c1")
    assert call is not None
    assert (call.phase, call.approved, call.attempt) == ("ready", True, 2)


def test_a_call_that_is_given_up_is_told_to_the_model_and_the_turn_goes_on():
    state = state_of([started(), answered(plan("c1", "launch"))])
    crash(state)
    assert "unknown" in state.root.messages[-1]["content"]
    assert decide(state, SPEC, T0).effects == [CallModel("", 2, 1)]


def test_a_retry_whose_time_has_not_come_was_not_in_flight():
    state = state_of([started(), answered(plan("c1", "wire")), tool_failed(retry_at=T0 + 5)])
    assert crash(state, T0 + 1).calls == ()
    assert decide(state, SPEC, T0 + 1).wake_at == T0 + 5
    state = state_of([started(), model_failed(retry_at=T0 + 5)])
    assert crash(state, T0 + 1).models == ()
    assert decide(state, SPEC, T0 + 5).effects == [CallModel("", 1, 2)]


def test_what_flew_when_the_pause_came_was_in_flight_and_stays_paused():
    state = state_of([started(), answered(plan("c1")), control("pause")])
    assert [lost.call_id for lost in crash(state).calls] == ["c1"]
    assert status_of(state) is Status.PAUSED
    assert decide(state, SPEC, T0).effects == []
    apply(state, control("resume"))
    assert decide(state, SPEC, T0).effects == [CallTool("", "c1", 2)]


def test_reading_again_changes_nothing_so_it_needs_no_attempt():
    session = state_of(SITUATIONS["session due"])
    assert (crash(session).calls, crash(session).models) == ((), ())
    assert decide(session, SPEC, T0).effects == [LoadSession("ex-0")]


def test_a_stop_check_is_made_again():
    from dataclasses import replace

    spec = replace(SPEC, has_stop_when=True)
    state = state_of(SITUATIONS["between turns"])
    record = recover(state, spec, epoch=2, now=T0)
    assert (record.calls, record.models) == ((), ())
    apply(state, record)
    assert decide(state, spec, T0).effects == [CheckStop("", 1)]


@pytest.mark.parametrize("name", [name for name in SITUATIONS if name not in ("fresh", "finished")])
def test_a_recovery_fits_every_situation_and_asking_for_it_changes_nothing(name: str):
    state = state_of(SITUATIONS[name])
    before = to_snapshot(state)
    record = recover(state, SPEC, epoch=7, now=T0)
    assert to_snapshot(state) == before
    apply(state, record)
    told = events_of(record, execution_id="ex-1", first=1)
    assert told[0].data["epoch"] == 7
    assert [event.seq for event in told] == list(range(1, len(told) + 1))
