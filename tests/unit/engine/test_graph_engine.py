"""Graphs as the engine sees them: runs, rounds of questions, holds and ends."""

from __future__ import annotations

from typing import Any

import pytest

from agentspan.agents.events import EventType
from agentspan.agents.results import Status
from agentspan.agents.spec import AgentSpec
from agentspan.engine import records as r
from agentspan.engine.admit import Signal, admit
from agentspan.engine.apply import apply
from agentspan.engine.decide import LoadFork, LoadSession, RunGraph, decide, recover
from agentspan.engine.events import events_of
from agentspan.engine.state import ExecutionState, from_snapshot, to_snapshot
from agentspan.engine.view import agent_result, current_task, status_of
from agentspan.errors import UnexpectedRecordError
from tests.support.situations import (
    T0,
    as_stored,
    breakpoint_ask,
    control,
    decided,
    graph_ended,
    graph_failed,
    graph_held,
    graph_started,
    graph_waits,
    interrupt_ask,
    node_told,
    situation,
    state_of,
    told,
)

SPEC = AgentSpec(name="app", model="")
RUNNING = (graph_started(), told(node_told("node_start", "draft", "t1")))
TWO_ASKED = (*RUNNING, graph_waits(interrupt_ask("i1"), interrupt_ask("i2", "check")))
BROKEN_OFF = (*RUNNING, graph_waits(breakpoint_ask("cp1"), checkpoint_id="cp1"))


def next_of(state: ExecutionState, now: float = T0) -> tuple[list[Any], list[tuple[str, str]], bool]:
    """Effects, the ends it concludes, and whether what is under way comes first."""
    decision = decide(state, SPEC, now)
    ends = [(record.status, record.finish_reason) for record in decision.records if isinstance(record, r.Finished)]
    assert len(ends) == len(decision.records)
    return decision.effects, ends, decision.drain


def graph_of(state: ExecutionState) -> Any:
    assert state.root.graph is not None
    return state.root.graph


def crash(state: ExecutionState) -> r.Recovered:
    record = recover(state, SPEC, epoch=2, now=T0)
    apply(state, record)
    return record


def signal(kind: Any, **fields: Any) -> Signal:
    return Signal(signal_id=f"s-{kind}", execution_id="ex-1", kind=kind, **fields)


def test_a_graph_runs_first_thing_and_ends_with_its_output():
    state = state_of([graph_started()])
    assert next_of(state) == ([RunGraph("", 1, 1)], [], False)
    apply(state, graph_ended(output={"a": 1}, state=b"abc"))
    (ending,) = decide(state, SPEC, T0).records
    assert isinstance(ending, r.Finished)
    assert (ending.status, ending.output) == ("COMPLETED", {"a": 1})
    apply(state, ending)
    assert agent_result(state).output == {"a": 1}
    assert graph_of(state).state == b"abc"


def test_a_graph_that_raised_has_failed_with_its_error():
    state = state_of([*RUNNING, graph_failed()])
    (ending,) = decide(state, SPEC, T0).records
    assert isinstance(ending, r.Finished)
    assert (ending.status, ending.error) == ("FAILED", "ValueError: boom")


@pytest.mark.parametrize(
    ("origin", "effect"),
    [({"forked_from": "ex-0"}, LoadFork("ex-0")), ({"session_from": "ex-0"}, LoadSession("ex-0"))],
)
def test_what_a_graph_goes_on_from_is_fetched_before_it_runs(origin: Any, effect: Any):
    state = state_of([graph_started(**origin)])
    assert next_of(state) == ([effect], [], False)
    with pytest.raises(UnexpectedRecordError, match="no run of the graph is on"):
        apply(state, graph_ended())
    is_fork = isinstance(effect, LoadFork)
    apply(state, r.Forked(at=T0) if is_fork else r.SessionLoaded(at=T0, messages=[]))
    assert next_of(state)[0] == [RunGraph("", 1, 1)]


def test_the_nodes_at_work_are_the_current_task():
    state = state_of([*RUNNING, told(*(node_told("node_start", f"n{i}", f"u{i}") for i in range(2)))])
    effects = decide(state, SPEC, T0).effects
    assert current_task(state, effects) == "node:draft, node:n0, node:n1"
    apply(state, told(node_told("node_end", "draft", "t1"), node_told("node_end", "n1", "u1")))
    assert current_task(state, effects) == "node:n0"
    apply(state, told(node_told("node_end", "n0", "u0")))
    assert current_task(state, effects) == "graph"
    apply(state, told(*(node_told("node_start", "work", f"w{i}") for i in range(6))))
    assert current_task(state, effects) == "node:work, node:work, node:work, node:work and 2 more"


def test_an_end_of_a_node_that_nobody_saw_start_is_no_error():
    state = state_of([graph_started(), told(node_told("node_end", "draft", "t1"))])
    assert graph_of(state).running == {}


def test_what_models_inside_the_graph_used_adds_up():
    state = state_of(RUNNING)
    apply(state, told(model_calls=2, prompt_tokens=5, completion_tokens=1, total_tokens=6))
    apply(state, told(model_calls=1, prompt_tokens=1, completion_tokens=1, total_tokens=2))
    assert (state.model_calls, state.prompt_tokens, state.completion_tokens, state.total_tokens) == (3, 6, 2, 8)


def test_it_goes_on_only_when_the_last_of_several_questions_is_answered():
    state = state_of(TWO_ASKED)
    assert status_of(state) is Status.WAITING
    assert next_of(state) == ([], [], False)
    assert current_task(state, []) == "waiting:review, waiting:check"
    apply(state, decided("respond", "i2", value=None))
    assert (status_of(state), next_of(state)) == (Status.WAITING, ([], [], False))
    assert [call.call_id for _, call in state.open_asks()] == ["i1"]
    apply(state, decided("reject", "i1"))
    assert (status_of(state), next_of(state)[0]) == (Status.RUNNING, [RunGraph("", 2, 1)])
    assert graph_of(state).answers == {"i1": False, "i2": None}
    assert state.root.calls == []


def test_the_answers_are_kept_until_the_next_question_so_that_a_crash_cannot_lose_them():
    state = state_of([*TWO_ASKED, decided("respond", "i1", value=""), decided("respond", "i2", value=0)])
    assert crash(state).graphs == ("",)
    assert next_of(state)[0] == [RunGraph("", 2, 2)]
    apply(state, told(node_told("node_start", "review", "t1")))
    assert graph_of(state).answers == {"i1": "", "i2": 0}
    apply(state, graph_waits(interrupt_ask("i3"), run=2))
    assert graph_of(state).answers == {}


def test_a_decision_that_comes_late_or_for_nothing_leaves_no_record():
    state = state_of([*TWO_ASKED, decided("respond", "i1", value="first")])
    assert admit(state, signal("respond", call_id="i1", value="second"), T0) is None
    assert admit(state, signal("respond", call_id="i9", value="what?"), T0) is None
    assert admit(state, signal("respond", call_id="i2", arguments_hash="another", value="x"), T0) is None
    record = admit(
        state, signal("respond", call_id="i2", arguments_hash=interrupt_hash(state), value="x", by="ada"), T0
    )
    assert isinstance(record, r.Decided)
    assert (record.call_id, record.name, record.value, record.by) == ("i2", "check", "x", "ada")
    apply(state, record)
    assert admit(state, signal("respond", call_id="i2", value="again"), T0) is None


def interrupt_hash(state: ExecutionState) -> str:
    return next(call.arguments_hash for _, call in state.open_asks())


def test_a_breakpoint_is_passed_and_stays_passed():
    state = state_of(BROKEN_OFF)
    assert (graph_of(state).checkpoint_id, graph_of(state).passed) == ("cp1", "")
    apply(state, decided("approve", "breakpoint-cp1"))
    assert next_of(state)[0] == [RunGraph("", 2, 1)]
    assert (graph_of(state).passed, graph_of(state).answers) == ("cp1", {})
    crash(state)
    assert graph_of(state).passed == "cp1"
    apply(state, graph_waits(breakpoint_ask("cp2"), run=2, checkpoint_id="cp2"))
    assert (graph_of(state).checkpoint_id, graph_of(state).passed) == ("cp2", "cp1")


def test_pause_lets_the_run_come_to_a_step_border_and_resume_goes_on_with_it():
    state = state_of([*RUNNING, control("pause")])
    assert (status_of(state), next_of(state)) == (Status.PAUSED, ([], [], False))
    apply(state, graph_held())
    assert graph_of(state).running == {}
    assert next_of(state) == ([], [], False)
    apply(state, control("resume"))
    assert next_of(state)[0] == [RunGraph("", 1, 1)]


def test_answers_given_while_paused_wait_for_resume():
    state = state_of([*TWO_ASKED, control("pause"), decided("approve", "i1"), decided("approve", "i2")])
    assert (status_of(state), next_of(state)) == (Status.PAUSED, ([], [], False))
    apply(state, control("resume"))
    assert next_of(state)[0] == [RunGraph("", 2, 1)]


def test_stop_lets_what_runs_come_to_a_step_border_first():
    state = state_of([*RUNNING, control("stop")])
    assert next_of(state) == ([], [("COMPLETED", "stopped")], True)
    apply(state, graph_held())
    assert next_of(state) == ([], [("COMPLETED", "stopped")], True)


@pytest.mark.parametrize("paused", [False, True])
def test_stop_does_not_take_an_end_away_that_was_reached(paused: bool):
    before = [*RUNNING, *([control("pause")] if paused else []), control("stop")]
    assert next_of(state_of([*before, graph_ended()]))[1] == [("COMPLETED", "stop")]
    assert next_of(state_of([*before, graph_failed()]))[1] == [("FAILED", "error")]


@pytest.mark.parametrize("asked", [TWO_ASKED, BROKEN_OFF])
@pytest.mark.parametrize("paused", [False, True])
def test_stop_does_not_wait_for_people(asked: Any, paused: bool):
    state = state_of([*asked, *([control("pause")] if paused else []), control("stop")])
    assert next_of(state) == ([], [("COMPLETED", "stopped")], True)


@pytest.mark.parametrize(
    "name", ["graph: node running", "graph: two asked", "graph: paused, running", "graph: run 2 due"]
)
def test_cancel_waits_for_nothing(name: str):
    state = situation(name)
    apply(state, control("cancel", text="enough"))
    assert next_of(state) == ([], [("TERMINATED", "cancelled")], False)


@pytest.mark.parametrize("records", [RUNNING, TWO_ASKED, BROKEN_OFF, (*RUNNING, control("pause"))])
def test_a_time_limit_also_ends_what_waits(records: Any):
    state = state_of([graph_started(timeout_s=9.0), *records[1:]])
    assert decide(state, SPEC, T0).wake_at == T0 + 9
    assert next_of(state, T0 + 9) == ([], [("TIMED_OUT", "timeout")], False)


def test_a_crash_makes_the_run_that_was_on_a_new_attempt():
    state = state_of(RUNNING)
    record = crash(state)
    assert (record.graphs, record.calls, record.models) == (("",), (), ())
    assert graph_of(state).running == {}
    assert next_of(state)[0] == [RunGraph("", 1, 2)]
    (event,) = events_of(record, execution_id="ex-1", first=1)
    assert (event.type, event.data["models"]) == (EventType.RECOVERED, [""])


def test_a_crash_while_paused_counts_the_run_that_may_have_been_on():
    state = state_of([*RUNNING, control("pause")])
    assert crash(state).graphs == ("",)
    assert next_of(state) == ([], [], False)
    apply(state, control("resume"))
    assert next_of(state)[0] == [RunGraph("", 1, 2)]


@pytest.mark.parametrize("records", [TWO_ASKED, BROKEN_OFF])
def test_a_crash_while_it_waits_changes_nothing_about_what_is_asked(records: Any):
    state = state_of(records)
    before = [call.call_id for _, call in state.open_asks()]
    assert crash(state).graphs == ()
    assert [call.call_id for _, call in state.open_asks()] == before
    assert (status_of(state), graph_of(state).attempt) == (Status.WAITING, 1)


@pytest.mark.parametrize(
    "late",
    [graph_ended(), graph_failed(), graph_held(), graph_waits(interrupt_ask("i9")), graph_ended(run=3)],
    ids=lambda record: record.KIND,
)
def test_a_report_of_another_run_is_refused(late: Any):
    state = situation("graph: run 2 due")
    before = to_snapshot(state)
    with pytest.raises(UnexpectedRecordError, match="run 2 of the graph is on, not run"):
        apply(state, late)
    assert to_snapshot(state) == before


def test_an_agents_records_do_not_fit_a_graph_nor_a_graphs_an_agent():
    graph = state_of(RUNNING)
    for record in (r.ModelAnswered(at=T0, text="Hi."), r.ModelFailed(at=T0, error="boom")):
        with pytest.raises(UnexpectedRecordError, match="no model call was due"):
            apply(graph, record)
    agent = situation("model due")
    for other in (told(), graph_held(), graph_ended(), graph_failed(), graph_waits(interrupt_ask())):
        with pytest.raises(UnexpectedRecordError, match="is no graph"):
            apply(agent, other)


def test_a_snapshot_taken_while_it_waits_goes_on_as_the_state_would():
    state = from_snapshot(as_stored(to_snapshot(state_of([*TWO_ASKED, decided("respond", "i2", value=b"\x00")]))))
    (waits,) = [call for _, call in state.open_asks()]
    assert (waits.plan.ask, waits.plan.form, waits.arguments) == ("interrupt", {}, {"draft": "d"})
    apply(state, decided("approve", "i1"))
    assert graph_of(state).answers == {"i1": True, "i2": b"\x00"}
    assert next_of(state)[0] == [RunGraph("", 2, 1)]


def test_a_question_is_told_with_what_can_be_decided():
    form = {"kind": "decision", "actions": [{"name": "pay", "args": {}, "allowed": ["approve"]}]}
    record = graph_waits(interrupt_ask("i1", question="Well?"), interrupt_ask("i2", form=form), breakpoint_ask())
    events = events_of(record, execution_id="ex-1", first=4)
    assert [(event.seq, event.call_id, event.data["ask"], event.data["verdicts"]) for event in events] == [
        (4, "i1", "interrupt", ["respond", "approve", "reject"]),
        (5, "i2", "interrupt", ["approve"]),
        (6, "breakpoint-cp1", "breakpoint", ["approve"]),
    ]
    assert [event.content for event in events] == ["Well?", None, None]
    assert events[0].data["arguments_hash"] == "hash-i1"
