"""Decisions on what a graph stopped for: its interrupts and breakpoints (P5, P6)."""

from __future__ import annotations

from typing import Any

import pytest

from agentspan.engine.admit import Signal
from agentspan.errors import AmbiguousDecisionError, InvalidDecisionError
from agentspan.persistence.store import Store
from agentspan.testing.store_rules.building import ask, begin_asking, entry, signal, step

VERDICT = {
    "type": "object",
    "properties": {"approved": {"type": "boolean"}, "reason": {"type": "string"}},
    "required": ["approved"],
}
REFUND: dict[str, Any] = {"name": "refund", "args": {"amount": 5}, "allowed": ["approve", "edit", "reject"]}
LOOK_UP: dict[str, Any] = {"name": "look_up", "args": {}, "allowed": ["respond"]}


class InterruptRules:
    """Rules for answers to graphs. A wrong one would be replayed on every later attempt, so it must not get in."""

    async def test_an_interrupt_comes_back_with_its_form(self, store: Store, reopen: Any) -> None:
        form = {"kind": "decisions", "actions": [REFUND, LOOK_UP]}
        call = ask("e1", "i1", ask="interrupt", tool="review", form=form, question="2 calls wait")
        await begin_asking(store, call)
        assert await (await reopen()).pending("e1") == [call]

    @pytest.mark.parametrize("value", [None, False, 0, "", {}, [], "yes", {"any": ["thing"]}])
    async def test_an_interrupt_takes_any_answer_also_an_empty_one(self, store: Store, value: Any) -> None:
        await begin_asking(store, ask("e1", "i1", ask="interrupt"))
        accepted = await store.send(signal("e1", "respond", value=value))
        assert accepted.is_new
        (stored,) = await store.inbox("e1")
        assert (stored.kind, stored.value, type(stored.value)) == ("respond", value, type(value))

    @pytest.mark.parametrize("kind", ["approve", "reject"])
    async def test_an_interrupt_can_be_approved_and_rejected(self, store: Store, kind: Any) -> None:
        await begin_asking(store, ask("e1", "i1", ask="interrupt"))
        assert (await store.send(signal("e1", kind))).is_new

    async def test_an_answer_must_fit_the_schema_whatever_the_verdict(self, store: Store) -> None:
        await begin_asking(store, ask("e1", "i1", ask="interrupt", response_schema={"type": "integer"}))
        for wrong in (
            signal("e1", "respond", value="three"),
            signal("e1", "approve"),
            signal("e1", "reject", text="no"),
            signal("e1", "approve", arguments={"n": 3}),
        ):
            await refused(store, wrong, "not of type 'integer'")
        assert (await store.send(signal("e1", "respond", value=3))).is_new

    async def test_a_schema_that_asks_for_approval_takes_a_verdict(self, store: Store) -> None:
        for name, sent in {
            "e1": signal("e1", "approve"),
            "e2": signal("e2", "reject", text="too dear"),
            "e3": signal("e3", "respond", value={"approved": False, "reason": "no"}),
        }.items():
            await begin_asking(store, ask(name, "i1", ask="interrupt", response_schema=VERDICT), execution_id=name)
            accepted = await store.send(sent)
            assert (accepted.is_new, accepted.signal.kind) == (True, sent.kind)

    async def test_a_tool_call_of_a_graph_takes_only_the_decisions_it_allows(self, store: Store) -> None:
        form = {"kind": "decision", "actions": [REFUND]}
        await begin_asking(store, ask("e1", "i1", ask="interrupt", form=form))
        await refused(store, signal("e1", "respond", value="done by hand"), "'respond' is not allowed for 'refund'")
        await refused(store, signal("e1", "respond", value={"type": "edit"}), "edited_action")
        await refused(store, signal("e1", "respond", value=None), "'respond' is not allowed")
        assert (await store.send(signal("e1", "approve", arguments={"amount": 4}))).is_new

    async def test_edited_arguments_of_a_graphs_tool_call_must_fit_its_parameters(self, store: Store) -> None:
        parameters = {"type": "object", "properties": {"amount": {"type": "integer"}}, "required": ["amount"]}
        form = {"kind": "decision", "actions": [REFUND]}
        await begin_asking(store, ask("e1", "i1", ask="interrupt", form=form, parameters=parameters))
        await refused(store, signal("e1", "approve", arguments={"amount": "four"}), r"the arguments at \$.amount")
        assert (await store.send(signal("e1", "approve", arguments={"amount": 4}))).is_new

    async def test_several_calls_in_one_interrupt_need_a_decision_each(self, store: Store) -> None:
        form = {"kind": "decisions", "actions": [REFUND, LOOK_UP]}
        await begin_asking(store, ask("e1", "i1", ask="interrupt", form=form))
        approve, answer = {"type": "approve"}, {"type": "respond", "message": "found"}
        await refused(store, signal("e1", "approve"), r"decision 1 \(look_up\): 'approve' is not allowed")
        await refused(store, signal("e1", "approve", arguments={"amount": 1}), "2 calls at once")
        await refused(store, signal("e1", "respond", value={"decisions": [approve]}), "2 decisions, .* not 1")
        await refused(store, signal("e1", "respond", value={"decisions": "approve"}), "2 decisions, .* not str")
        await refused(store, signal("e1", "respond", value={"decisions": [approve, approve]}), "decision 1")
        assert (await store.send(signal("e1", "respond", value={"decisions": [approve, answer]}))).is_new

    async def test_a_breakpoint_is_passed_or_left_alone(self, store: Store) -> None:
        await begin_asking(store, ask("e1", "breakpoint-1", ask="breakpoint"))
        for wrong in (
            signal("e1", "reject"),
            signal("e1", "respond", value="go on"),
            signal("e1", "respond", value={"approved": False}),
            signal("e1", "approve", arguments={"x": 1}),
        ):
            await refused(store, wrong, "it is a breakpoint: approve it")
        assert (await store.send(signal("e1", "approve"))).is_new

    @pytest.mark.parametrize(
        ("waits", "value", "kind", "text"),
        [
            ({"ask": "approval"}, {"approved": True}, "approve", ""),
            ({"ask": "crash"}, {"approved": False, "reason": "no"}, "reject", "no"),
            ({"ask": "breakpoint"}, {"approved": True}, "approve", ""),
            ({"ask": "interrupt", "form": {"kind": "decision", "actions": [REFUND]}}, {"approved": True}, "approve", ""),
            ({"ask": "interrupt", "form": {"kind": "decisions", "actions": [REFUND] * 2}}, {"approved": False}, "reject", ""),
        ],
    )  # fmt: skip
    async def test_approved_as_an_answer_is_the_verdict_where_there_is_one(
        self, store: Store, waits: Any, value: Any, kind: str, text: str
    ) -> None:
        await begin_asking(store, ask("e1", "c1", **waits))
        sent = signal("e1", "respond", value=value)
        accepted = await store.send(sent)
        meant = (accepted.signal.kind, accepted.signal.text, accepted.signal.value)
        assert (accepted.is_new, *meant) == (True, kind, text, None)
        assert await store.inbox("e1") == [accepted.signal]
        assert await store.send(sent) == accepted

    @pytest.mark.parametrize("kind", ["interrupt", "question"])
    async def test_approved_as_an_answer_to_a_question_is_the_answer(self, store: Store, kind: str) -> None:
        await begin_asking(store, ask("e1", "c1", ask=kind))
        accepted = await store.send(signal("e1", "respond", value={"approved": True, "score": 3}))
        assert (accepted.signal.kind, accepted.signal.value) == ("respond", {"approved": True, "score": 3})

    async def test_an_interrupt_answered_twice_keeps_the_first_answer(self, store: Store) -> None:
        await begin_asking(store, ask("e1", "i1", ask="interrupt"), ask("e1", "i2", ask="interrupt"))
        with pytest.raises(AmbiguousDecisionError):
            await store.send(signal("e1", "respond", value="which?"))
        first = await store.send(signal("e1", "respond", call_id="i1", value=""))
        second = await store.send(signal("e1", "respond", call_id="i1", value="later"))
        assert (second.signal, second.is_new) == (first.signal, False)
        assert [waits.call_id for waits in await store.pending("e1")] == ["i2"]

    async def test_an_interrupt_that_asks_again_takes_another_answer(self, store: Store) -> None:
        await begin_asking(store, ask("e1", "i1", ask="interrupt"))
        first = await store.send(signal("e1", "respond", value="wrong"))
        await store.commit(step("e1", entry(2), consumed=[first.signal.signal_id], closes=["i1"]))
        await store.commit(step("e1", entry(3), opens=[ask("e1", "i1", ask="interrupt", asked_at=1009.0)]))
        second = await store.send(signal("e1", "respond", value="right"))
        assert (second.is_new, second.signal.value) == (True, "right")


async def refused(store: Store, sent: Signal, says: str) -> None:
    """The signal is refused and nothing of it is stored."""
    with pytest.raises(InvalidDecisionError, match=says):
        await store.send(sent)
    assert await store.inbox(sent.execution_id) == []
    assert len(await store.pending(sent.execution_id)) == 1
