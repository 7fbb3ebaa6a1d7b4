"""What comes next: one test for each thing the engine knows about time, turns, people and ends."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from agentspan.agents.results import FinishReason, Status
from agentspan.agents.spec import AgentSpec
from agentspan.engine import records as r
from agentspan.engine.apply import apply
from agentspan.engine.decide import REASKS_MAX, CallModel, CallTool, CheckStop, LoadSession, decide
from agentspan.engine.prompt import conversation, ended_conversation
from agentspan.engine.state import ExecutionState
from agentspan.engine.view import agent_result, current_task, status_of
from tests.support.lives import dangling
from tests.support.situations import (
    SPEC,
    T0,
    answered,
    control,
    decided,
    delivered,
    message,
    model_failed,
    plan,
    returned,
    started,
    state_of,
    stop_checked,
    tool_failed,
)


def next_records(state: ExecutionState, spec: AgentSpec = SPEC, now: float = T0) -> list[Any]:
    return list(decide(state, spec, now).records)


def the_end(state: ExecutionState, spec: AgentSpec = SPEC, now: float = T0) -> r.Finished:
    (record,) = next_records(state, spec, now)
    assert isinstance(record, r.Finished)
    return record


# --- time


def test_a_model_retry_waits_for_its_time_and_not_longer():
    state = state_of([started(), model_failed(retry_at=T0 + 3)])
    assert decide(state, SPEC, T0 + 2.9).wake_at == T0 + 3
    assert decide(state, SPEC, T0 + 2.9).effects == []
    assert decide(state, SPEC, T0 + 3).effects == [CallModel("", 1, 2)]


def test_the_earliest_of_several_timers_wakes():
    calls = answered(plan("c1"), plan("c2"))
    retries = [tool_failed("c1", retry_at=T0 + 9), tool_failed("c2", retry_at=T0 + 4)]
    state = state_of([started(timeout_s=6), calls, *retries])
    assert decide(state, SPEC, T0).wake_at == T0 + 4
    assert decide(state, SPEC, T0 + 5).effects == [CallTool("", "c2", 2)]
    assert decide(state, SPEC, T0 + 5).wake_at == T0 + 6
    assert the_end(state, now=T0 + 6).status == "TIMED_OUT"


@pytest.mark.parametrize("held", [(), (control("pause"),)], ids=["running", "paused"])
def test_a_deadline_ends_what_waits_and_never_approves(held: tuple[r.AnyRecord, ...]):
    state = state_of([started(timeout_s=30), answered(plan("c1", "refund", "approval")), *held])
    assert decide(state, SPEC, T0).wake_at == T0 + 30
    end = the_end(state, now=T0 + 30)
    assert (end.status, end.finish_reason) == ("TIMED_OUT", "timeout")
    assert "30 s" in str(end.error)
    apply(state, end)
    assert agent_result(state).tool_calls[0].status == "asking"


# --- turns


def test_the_turn_ends_when_its_last_call_is_done_with_results_in_the_order_they_were_asked():
    state = state_of([started(), answered(plan("c1"), plan("c2"), text="Let me see."), returned("c2", "two")])
    assert decide(state, SPEC, T0).effects == [CallTool("", "c1", 1)]
    apply(state, returned("c1", {"n": 1}))
    assert [m.get("content") for m in state.root.messages] == ["go", "Let me see.", '{"n": 1}', "two"]
    assert decide(state, SPEC, T0).effects == [CallModel("", 2, 1)]


def test_max_turns_counts_model_answers():
    turn = [answered(plan("c1")), returned("c1")]
    second = [answered(plan("c2")), returned("c2")]
    spec = replace(SPEC, max_turns=2)
    assert decide(state_of([started(), *turn]), spec, T0).effects == [CallModel("", 2, 1)]
    end = the_end(state_of([started(), *turn, *second]), spec)
    assert (end.status, end.finish_reason) == ("FAILED", "max_turns")
    assert "max_turns" in str(end.error)


def test_an_answer_on_the_last_turn_is_an_answer():
    spec = replace(SPEC, max_turns=1)
    end = the_end(state_of([started(), answered(text="Done.")]), spec)
    assert (end.status, end.output) == ("COMPLETED", "Done.")


def test_an_answer_cut_off_by_max_tokens_says_so():
    end = the_end(state_of([started(), answered(text="Once upon", finish_reason="length")]))
    assert (end.status, end.finish_reason) == ("COMPLETED", "length")


def test_output_that_does_not_fit_is_asked_for_again_and_given_up_after_a_few_times():
    spec = replace(SPEC, output_schema={"type": "object"}, output_name="Verdict")
    records: list[r.AnyRecord] = [started()]
    for number in range(1, REASKS_MAX + 1):
        records.append(answered(text="no", output_error=f"Give JSON ({number})."))
        state = state_of(records)
        assert state.root.messages[-1] == {"role": "user", "content": f"Give JSON ({number})."}
        assert decide(state, spec, T0).effects == [CallModel("", number + 1, 1)]
    assert the_end(state_of([*records, answered(text="{}", output={"a": 1})]), spec).output == {"a": 1}
    end = the_end(state_of([*records, answered(text="no", output_error="Give JSON.")]), spec)
    assert end.status == "FAILED"
    assert "Verdict" in str(end.error)


def test_stop_when_is_asked_once_after_each_turn():
    spec = replace(SPEC, has_stop_when=True)
    turn: list[r.AnyRecord] = [started(), answered(plan("c1"), text="So far."), returned("c1")]
    assert decide(state_of(turn), spec, T0).effects == [CheckStop("", 1)]
    assert decide(state_of([*turn, stop_checked(1)]), spec, T0).effects == [CallModel("", 2, 1)]
    end = the_end(state_of([*turn, stop_checked(1, stop=True)]), spec)
    assert (end.status, end.finish_reason, end.output) == ("COMPLETED", "stopped", "So far.")


def test_a_stop_when_that_raises_fails_the_execution():
    spec = replace(SPEC, has_stop_when=True)
    turn: list[r.AnyRecord] = [started(), answered(plan("c1")), returned("c1")]
    end = the_end(state_of([*turn, stop_checked(1, stop=True, error="stop_when raised KeyError: 'x'")]), spec)
    assert (end.status, end.error) == ("FAILED", "stop_when raised KeyError: 'x'")


def test_a_model_that_failed_for_good_fails_the_execution_and_keeps_what_was_said():
    state = state_of([started(), answered(plan("c1"), text="Let me see."), returned("c1"), model_failed()])
    end = the_end(state)
    assert (end.status, end.finish_reason, end.error, end.output) == ("FAILED", "error", "boom", "Let me see.")


# --- people


def test_a_pause_starts_nothing_new_and_a_resume_goes_on_where_it_was():
    state = state_of([started(), answered(plan("c1")), control("pause")])
    assert status_of(state) is Status.PAUSED
    assert (decide(state, SPEC, T0).effects, decide(state, SPEC, T0).records) == ([], [])
    apply(state, returned("c1"))
    assert decide(state, SPEC, T0).effects == []
    apply(state, control("resume"))
    assert decide(state, SPEC, T0).effects == [CallModel("", 2, 1)]


def test_a_stop_lets_the_turn_end_and_waits_for_a_model_call_that_is_paid_for():
    state = state_of([started(), answered(plan("c1"), text="Well."), control("stop")])
    decision = decide(state, SPEC, T0)
    assert (decision.effects, decision.records) == ([CallTool("", "c1", 1)], [])
    apply(state, returned("c1"))
    decision = decide(state, SPEC, T0)
    assert decision.drain
    assert decision.effects == []
    assert (the_end(state).status, the_end(state).finish_reason) == ("COMPLETED", "stopped")
    assert decide(state_of([started(), control("stop")]), SPEC, T0).drain


@pytest.mark.parametrize(("name", "ask"), [("refund", "approval"), ("ask", "question"), ("listen", "message")])
def test_a_stop_does_not_wait_for_people(name: str, ask: r.Ask):
    state = state_of([started(), answered(plan("c1", name, ask)), control("stop")])
    assert the_end(state).finish_reason == "stopped"


def test_what_was_stopped_while_it_asked_can_be_continued():
    calls = answered(plan("c1"), plan("c2", "refund", "approval"))
    state = state_of([started(), calls, returned("c1"), control("stop")])
    apply(state, the_end(state))
    told = ended_conversation(state.root)
    assert dangling(told) == []
    results = [message["content"] for message in told if message["role"] == "tool"]
    assert results == ["ok", "This call was not finished: the run ended before."]


def test_a_cancel_waits_for_nothing():
    running = [started(), answered(plan("c1"), text="Well.")]
    state = state_of([*running, control("pause"), control("cancel", text="enough")])
    end = the_end(state)
    assert (end.status, end.finish_reason, end.error, end.output) == ("TERMINATED", "cancelled", "enough", "Well.")
    assert not decide(state, SPEC, T0).drain


def test_guidance_is_part_of_every_later_model_call_until_it_is_replaced():
    state = state_of([started(), control("guide", text="Be brief.")])
    assert conversation(state, state.root, "Help.") == [
        {"role": "system", "content": "Help."},
        {"role": "user", "content": "go"},
        {"role": "system", "content": "[SIGNALS]\nBe brief."},
    ]
    apply(state, control("guide"))
    assert conversation(state, state.root, "") == [{"role": "user", "content": "go"}]


@pytest.mark.parametrize(
    ("decision", "result", "outcome"),
    [
        (decided("reject", reason="too much"), "A person rejected this call: too much", "rejected"),
        (decided("reject"), "A person rejected this call.", "rejected"),
        (decided("respond", value={"by": "hand"}), '{"by": "hand"}', "answered"),
        (decided("respond", value=b"\x00raw"), "\"b'\\\\x00raw'\"", "answered"),
    ],
)
def test_what_a_person_says_in_place_of_a_call_is_its_result(decision: r.Decided, result: str, outcome: str):
    state = state_of([started(), answered(plan("c1", "refund", "approval")), decision])
    assert state.root.messages[-1] == {"role": "tool", "tool_call_id": "c1", "content": result}
    assert state.root.past_calls[0].outcome == outcome
    assert decide(state, SPEC, T0).effects == [CallModel("", 2, 1)]


def test_edited_arguments_are_what_runs_and_the_model_is_told():
    state = state_of([started(), answered(plan("c1", "refund", "approval")), decided("approve", arguments={"x": 2})])
    call = state.call("", "c1")
    assert call is not None
    assert call.arguments == {"x": 2}
    apply(state, returned("c1"))
    assert state.root.messages[-1]["content"] == 'A person changed the arguments to {"x": 2} before this ran.\nok'
    told = agent_result_of(state)[0]
    assert (told.arguments, told.result, told.status) == ({"x": 2}, "ok", "completed")


def agent_result_of(state: ExecutionState) -> list[Any]:
    return agent_result(state).tool_calls


def test_approving_a_question_answers_yes():
    state = state_of([started(), answered(plan("c1", "ask", "question")), decided("approve")])
    assert state.root.messages[-1]["content"] == "true"


# --- messages


def test_a_message_goes_to_the_call_that_waits_for_one():
    state = state_of([started(), message("first"), message("second"), answered(plan("c1", "listen", "message"))])
    assert next_records(state) == [
        r.MessagesDelivered(at=T0, call_id="c1", name="listen", messages=["first"]),
    ]
    apply(state, next_records(state)[0])
    assert state.queue == ["second"]


def test_calls_that_wait_together_share_the_queue_without_losing_or_doubling_anything():
    calls = answered(plan("c1", "pair", "message"), plan("c2", "pair", "message"), plan("c3", "listen", "message"))
    state = state_of([started(), *(message(n) for n in range(3)), calls])
    records = next_records(state)
    assert [(one.call_id, one.messages) for one in records] == [("c1", [0, 1]), ("c2", [2])]
    for record in records:
        apply(state, record)
    assert (state.queue, status_of(state)) == ([], Status.WAITING)
    apply(state, message("late"))
    assert [one.call_id for one in next_records(state)] == ["c3"]


def test_a_call_that_does_not_block_takes_what_is_there():
    asking = answered(plan("c1", "peek", "message"))
    assert next_records(state_of([started(), asking]))[0].messages == []
    assert next_records(state_of([started(), message(1), message(2), asking]))[0].messages == [1]


def test_a_pause_holds_messages_back():
    state = state_of([started(), answered(plan("c1", "listen", "message")), control("pause"), message("hi")])
    assert next_records(state) == []


# --- the rest


def test_a_session_is_loaded_before_anything_else():
    state = state_of([started(session_id="chat", session_from="ex-0")])
    assert decide(state, SPEC, T0).effects == [LoadSession("ex-0")]
    before = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]
    apply(state, r.SessionLoaded(at=T0, messages=before))
    assert [m["content"] for m in state.root.messages] == ["Hi.", "Hello.", "go"]
    assert decide(state, SPEC, T0).effects == [CallModel("", 1, 1)]


def test_a_prompt_may_be_a_conversation():
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    state = state_of([started(prompt=copy.deepcopy(messages))])
    assert state.root.messages == messages
    assert state.started_at == T0


def test_nothing_comes_after_the_end():
    state = state_of([started(), answered(text="Done.")])
    apply(state, the_end(state))
    decision = decide(state, SPEC, T0 + 10**6)
    assert (decision.effects, decision.records, decision.wake_at) == ([], [], None)
    assert (state.status, state.finish_reason) == (Status.COMPLETED, FinishReason.STOP)


def test_the_current_task_is_told_in_a_few_words():
    state = state_of([started(), answered(*(plan(f"c{n}", "work") for n in range(6)))])
    assert current_task(state, decide(state, SPEC, T0).effects) == (
        "tool:work, tool:work, tool:work, tool:work and 2 more"
    )
    asking = state_of([started(), answered(plan("c1", "refund", "approval"))])
    assert current_task(asking, []) == "waiting:refund"
    assert current_task(state_of([started(), model_failed(retry_at=T0 + 1)]), []) == "model:retry"


def test_delivered_messages_are_taken_off_the_front_of_the_queue():
    calls = answered(plan("c1", "pair", "message"))
    state = state_of([started(), message(1), message(2), message(3), calls, delivered(1, 2)])
    assert state.queue == [3]
