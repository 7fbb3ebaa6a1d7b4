"""Every form of question meets every verdict: what the graph goes on with, or why it is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest

from agentspan.engine import records as r
from agentspan.engine.answers import as_meant, misfit, resume_value, verdicts
from tests.support.situations import breakpoint_ask, interrupt_ask, plan

PAY: dict[str, Any] = {"name": "pay", "args": {"cents": 7}}
ASK: dict[str, Any] = {"name": "ask", "args": {}, "allowed": ["respond"]}
WIRE: dict[str, Any] = {"name": "wire", "args": {}, "allowed": ["approve", "reject"]}
EDIT: dict[str, Any] = {"name": "edit", "args": {}, "allowed": ["edit"]}
APPROVE, REJECT = {"type": "approve"}, {"type": "reject"}
ANSWER = {"type": "respond", "message": "42"}
EDITED = {"type": "edit", "edited_action": {"name": "pay", "args": {"cents": 8}}}
APPROVED = {"type": "object", "properties": {"approved": {"type": "boolean"}}}
REASONED = {"type": "object", "properties": {"approved": {"type": "boolean"}, "reason": {"type": "string"}}}


def one(action: dict[str, Any]) -> r.PlannedCall:
    """Asked one call at a time (`interrupt_mode="per_call"`)."""
    return interrupt_ask(form={"kind": "decision", "actions": [action]})


def batch(*actions: dict[str, Any]) -> r.PlannedCall:
    """One interrupt for all calls of a turn (`interrupt_mode="batched"`)."""
    return interrupt_ask(form={"kind": "decisions", "actions": list(actions)})


def plain(schema: dict[str, Any] | None = None) -> r.PlannedCall:
    return interrupt_ask(response_schema=schema)


@pytest.mark.parametrize(
    ("ask", "verdict", "given", "value"),
    [
        (plain(), "approve", {}, True),
        (plain(), "reject", {"reason": "no"}, False),
        (plain(), "approve", {"arguments": {"draft": "e"}}, {"draft": "e"}),
        (plain(), "approve", {"arguments": {}}, {}),
        (plain(APPROVED), "approve", {}, {"approved": True}),
        (plain(APPROVED), "reject", {"reason": "no"}, {"approved": False}),
        (plain(REASONED), "reject", {"reason": "no"}, {"approved": False, "reason": "no"}),
        (plain(REASONED), "reject", {}, {"approved": False}),
        (plain(REASONED), "respond", {"value": {"approved": True}}, {"approved": True}),
        (plain({"properties": 3}), "approve", {}, True),
        (breakpoint_ask(), "approve", {}, None),
        (one(PAY), "approve", {}, APPROVE),
        (one(PAY), "approve", {"arguments": {"cents": 8}}, EDITED),
        (one(PAY), "reject", {}, REJECT),
        (one(PAY), "reject", {"reason": "no"}, {**REJECT, "message": "no"}),
        (one(PAY), "respond", {"value": "42"}, ANSWER),
        (one(PAY), "respond", {"value": 42}, ANSWER),
        (one(PAY), "respond", {"value": {"n": "é"}}, {"type": "respond", "message": '{"n": "é"}'}),
        (one(PAY), "respond", {"value": ""}, {"type": "respond", "message": ""}),
        (one(PAY), "respond", {"value": EDITED}, EDITED),
        (one(PAY), "respond", {"value": {"decisions": [EDITED]}}, EDITED),
        (batch(PAY), "approve", {}, {"decisions": [APPROVE]}),
        (batch(PAY), "approve", {"arguments": {"cents": 8}}, {"decisions": [EDITED]}),
        (batch(PAY), "respond", {"value": EDITED}, {"decisions": [EDITED]}),
        (batch(PAY), "respond", {"value": "42"}, {"decisions": [ANSWER]}),
        (batch(PAY, WIRE), "approve", {}, {"decisions": [APPROVE, APPROVE]}),
        (batch(PAY, WIRE), "reject", {"reason": "no"}, {"decisions": [{**REJECT, "message": "no"}] * 2}),
        (batch(PAY, ASK), "respond", {"value": "42"}, {"decisions": [ANSWER, ANSWER]}),
        (batch(PAY, ASK), "respond", {"value": {"decisions": [REJECT, ANSWER]}}, {"decisions": [REJECT, ANSWER]}),
    ],
)
def test_a_fitting_verdict_becomes_the_value_the_graph_wants(
    ask: r.PlannedCall, verdict: str, given: dict[str, Any], value: Any
) -> None:
    assert misfit(ask, verdict, **given) is None
    assert resume_value(ask, verdict, **given) == value


@pytest.mark.parametrize("value", [None, False, 0, "", {}, [], "yes", {"decisions": 1}, {"type": "x"}])
def test_a_plain_interrupt_gets_the_very_value(value: Any) -> None:
    assert misfit(plain(), "respond", value=value) is None
    answer = resume_value(plain(), "respond", value=value)
    assert answer == value
    assert type(answer) is type(value)


@pytest.mark.parametrize(
    ("ask", "verdict", "given", "says"),
    [
        (breakpoint_ask(), "reject", {}, "it is a breakpoint: approve it to go on, or cancel the execution"),
        (breakpoint_ask(), "respond", {"value": "go"}, "it is a breakpoint"),
        (breakpoint_ask(), "approve", {"arguments": {"x": 1}}, "it is a breakpoint"),
        (one(WIRE), "respond", {"value": "done"}, "'respond' is not allowed for 'wire'; allowed: approve, reject"),
        (one(WIRE), "approve", {"arguments": {}}, "'edit' is not allowed for 'wire'"),
        (one(ASK), "approve", {}, "'approve' is not allowed for 'ask'; allowed: respond"),
        (one(ASK), "reject", {"reason": "no"}, "'reject' is not allowed"),
        (one(EDIT), "approve", {}, "'approve' is not allowed for 'edit'; allowed: edit"),
        (one(PAY), "respond", {"value": None}, "needs a 'message', text"),
        (one(PAY), "respond", {"value": {"type": "maybe"}}, "there is no decision 'maybe'"),
        (one(PAY), "respond", {"value": {"type": 3}}, "a decision is a dict with a 'type'"),
        (one(PAY), "respond", {"value": {"type": "edit"}}, "'edited_action' with 'name' and 'args'"),
        (one(PAY), "respond", {"value": {"type": "edit", "edited_action": {"name": "pay"}}}, "'args', a dict"),
        (one(PAY), "respond", {"value": {"type": "respond"}}, "needs a 'message', text"),
        (one(PAY), "respond", {"value": {"type": "reject", "message": 3}}, "'message' of a 'reject' decision is text"),
        (batch(PAY, WIRE), "approve", {"arguments": {"cents": 8}}, "it asks about 2 calls at once; to edit them, respond"),
        (batch(PAY, WIRE), "respond", {"value": {"decisions": [APPROVE]}}, "a list of 2 decisions, .* not 1"),
        (batch(PAY, WIRE), "respond", {"value": {"decisions": [APPROVE] * 3}}, "a list of 2 decisions, .* not 3"),
        (batch(PAY, WIRE), "respond", {"value": {"decisions": APPROVE}}, "a list of 2 decisions, .* not dict"),
        (batch(PAY, WIRE), "respond", {"value": {"decisions": [APPROVE, "yes"]}}, r"decision 1 \(wire\): a decision is"),
        (batch(PAY, WIRE), "respond", {"value": {"decisions": [APPROVE, EDITED]}}, r"decision 1 \(wire\): 'edit' is not"),
        (batch(PAY, WIRE), "respond", {"value": "42"}, r"decision 1 \(wire\): 'respond' is not allowed"),
        (batch(PAY, ASK), "approve", {}, r"decision 1 \(ask\): 'approve' is not allowed for 'ask'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_words(
    ask: r.PlannedCall, verdict: str, given: dict[str, Any], says: str
) -> None:
    assert re.search(says, misfit(ask, verdict, **given) or "it fits")


@pytest.mark.parametrize(
    ("ask", "wanted"),
    [
        (plain(), ["respond", "approve", "reject"]),
        (plain(APPROVED), ["approve", "reject", "respond"]),
        (plain({"type": "string"}), ["respond", "approve", "reject"]),
        (breakpoint_ask(), ["approve"]),
        (one(PAY), ["approve", "reject", "respond"]),
        (one(WIRE), ["approve", "reject"]),
        (one(ASK), ["respond"]),
        (one(EDIT), ["approve"]),
        (batch(PAY, PAY), ["approve", "reject", "respond"]),
        (batch(PAY, WIRE), ["approve", "reject", "respond"]),
        (batch(WIRE, ASK), ["respond"]),
        (plan("c1", ask="approval"), ["approve", "reject", "respond"]),
        (plan("c1", ask="crash"), ["approve", "reject", "respond"]),
        (plan("c1", ask="question"), ["respond", "reject"]),
        (plan("c1", ask="message"), []),
    ],
)
def test_people_are_told_which_verdicts_fit(ask: r.PlannedCall, wanted: list[str]) -> None:
    assert verdicts(ask) == wanted


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ({"approved": True}, ("approve", "")),
        ({"approved": True, "reason": "fine"}, ("approve", "")),
        ({"approved": False}, ("reject", "")),
        ({"approved": False, "reason": "no"}, ("reject", "no")),
        ({"approved": False, "reason": None}, ("reject", "")),
        ({"approved": "yes"}, None),
        ({}, None),
        (True, None),
    ],
)
def test_approved_as_an_answer_means_the_verdict_where_something_is_to_be_approved(value: Any, meant: Any) -> None:
    for ask in (plan("c1", ask="approval"), plan("c1", ask="crash"), breakpoint_ask(), one(PAY), batch(PAY, WIRE)):
        assert as_meant(ask, "respond", value) == meant
        assert as_meant(ask, "approve", value) is None
    for ask in (plain(), plain(APPROVED), plan("c1", ask="question"), plan("c1", ask="message")):
        assert as_meant(ask, "respond", value) is None


@pytest.mark.parametrize("ask", [plain(), plain(APPROVED), breakpoint_ask(), one(PAY), batch(PAY), batch(PAY, PAY)])
def test_the_first_verdict_offered_always_fits(ask: r.PlannedCall) -> None:
    for verdict in verdicts(ask):
        assert misfit(ask, verdict, value="text") is None
