"""Signals and decisions (P5, P6)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agentspan.errors import (
    AmbiguousDecisionError,
    DecisionMismatchError,
    ExecutionFinishedError,
    InvalidDecisionError,
    NothingPendingError,
    UnknownCallError,
    UnknownExecutionError,
)
from agentspan.persistence.store import Store
from agentspan.testing.store_rules.building import ask, begin, begin_asking, entry, finish, signal, step

AMOUNT = {"type": "object", "properties": {"amount": {"type": "number"}}, "required": ["amount"]}


class SignalRules:
    """Rules for what comes in from outside."""

    async def test_signals_are_read_in_the_order_they_were_accepted(self, store: Store) -> None:
        await begin(store)
        sent = [signal("e1", "message", value=number) for number in range(5)]
        for one in sent:
            accepted = await store.send(one)
            assert (accepted.signal, accepted.is_new) == (one, True)
        assert await store.inbox("e1") == sent
        assert (await store.row("e1")).inbox == 5

    async def test_a_signal_is_kept_until_a_commit_consumes_it(self, store: Store, reopen: Any) -> None:
        await begin(store)
        for signal_id in ("s1", "s2", "s3"):
            await store.send(signal("e1", "message", signal_id=signal_id))
        await store.commit(step("e1", entry(1), consumed=["s1", "s3"]))
        other = await reopen()
        assert [one.signal_id for one in await other.inbox("e1")] == ["s2"]
        assert (await store.row("e1")).inbox == 1

    async def test_a_signal_sent_again_is_accepted_once(self, store: Store) -> None:
        await begin(store)
        message = signal("e1", "message", value="hi")
        first = await store.send(message)
        await store.commit(step("e1", entry(1), consumed=[message.signal_id]))
        assert await store.send(message) == first
        assert await store.inbox("e1") == []
        await finish(store, "e1", seq=2)
        assert await store.send(message) == first

    async def test_a_signal_does_not_change_the_status(self, store: Store) -> None:
        await begin(store)
        await store.send(signal("e1", "cancel"))
        assert (await store.row("e1")).status == "RUNNING"

    async def test_a_finished_execution_takes_no_signal(self, store: Store) -> None:
        await begin(store)
        await finish(store, "e1")
        for kind in ("message", "cancel", "approve"):
            with pytest.raises(ExecutionFinishedError) as caught:
                await store.send(signal("e1", kind))
            assert (caught.value.status, caught.value.signal) == ("COMPLETED", kind)
        with pytest.raises(UnknownExecutionError):
            await store.send(signal("nope", "cancel"))

    async def test_pending_calls_are_listed_oldest_first(self, store: Store) -> None:
        calls = [ask("e1", call_id, asked_at=at) for call_id, at in (("c1", 3.0), ("c2", 1.0), ("c3", 3.0))]
        await begin_asking(store, *calls)
        await begin_asking(store, ask("e2", "c1", asked_at=2.0, ask="message"), execution_id="e2")
        assert [call.call_id for call in await store.pending("e1")] == ["c2", "c1", "c3"]
        listed = [(call.execution_id, call.call_id) for call in await store.pending()]
        assert listed == [("e1", "c2"), ("e2", "c1"), ("e1", "c1"), ("e1", "c3")]
        assert len(await store.pending(limit=2)) == 2
        assert (await store.row("e1")).pending == 3

    async def test_a_pending_call_comes_back_as_it_was(self, store: Store) -> None:
        call = ask("e1", "c1", path="a/b", ask="question", question="Why?", response_schema={"type": "string"})
        await begin_asking(store, call)
        assert await store.pending("e1") == [call]

    async def test_the_only_call_need_not_be_named(self, store: Store) -> None:
        await begin_asking(store, ask("e1", "c1"), ask("e1", "m1", ask="message"))
        accepted = await store.send(signal("e1", "approve"))
        assert accepted.signal.call_id == "c1"
        assert (await store.inbox("e1"))[0].call_id == "c1"
        assert [call.call_id for call in await store.pending("e1")] == ["m1"]
        assert (await store.row("e1")).pending == 1

    async def test_the_first_decision_wins(self, store: Store) -> None:
        await begin_asking(store, ask("e1", "c1"))
        first = await store.send(signal("e1", "reject", text="no", by="ann"))
        for late in (signal("e1", "approve", call_id="c1"), signal("e1", "approve")):
            answer = await store.send(late)
            assert (answer.signal, answer.is_new) == (first.signal, False)
        assert await store.inbox("e1") == [first.signal]

    async def test_racing_decisions_have_one_winner(self, store: Store, reopen: Any) -> None:
        await begin_asking(store, ask("e1", "c1"))
        stores = [store, await reopen()]
        kinds = ["approve", "reject"] * 4
        sends = [stores[i % 2].send(signal("e1", kind, call_id="c1")) for i, kind in enumerate(kinds)]
        answers = await asyncio.gather(*sends)
        assert [answer.is_new for answer in answers].count(True) == 1
        assert len({answer.signal.signal_id for answer in answers}) == 1
        assert len(await store.inbox("e1")) == 1

    async def test_the_first_decision_is_told_also_after_the_end(self, store: Store) -> None:
        await begin_asking(store, ask("e1", "c1"))
        first = await store.send(signal("e1", "approve", call_id="c1"))
        await store.commit(step("e1", entry(2), consumed=[first.signal.signal_id], closes=["c1"]))
        late = await store.send(signal("e1", "reject", call_id="c1"))
        assert (late.signal, late.is_new) == (first.signal, False)
        await finish(store, "e1", seq=3)
        late = await store.send(signal("e1", "reject", call_id="c1"))
        assert (late.signal, late.is_new) == (first.signal, False)

    async def test_a_call_that_asks_again_takes_a_new_decision(self, store: Store) -> None:
        await begin_asking(store, ask("e1", "c1"))
        first = await store.send(signal("e1", "approve"))
        await store.commit(step("e1", entry(2), consumed=[first.signal.signal_id], closes=["c1"]))
        await store.commit(step("e1", entry(3), opens=[ask("e1", "c1", ask="crash", asked_at=1009.0)]))
        second = await store.send(signal("e1", "respond", call_id="c1", value="it went through"))
        assert second.is_new
        late = await store.send(signal("e1", "approve", call_id="c1"))
        assert late.signal == second.signal

    async def test_several_calls_must_be_told_apart(self, store: Store) -> None:
        await begin_asking(store, ask("e1", "c1"), ask("e1", "c2", tool="pay"))
        with pytest.raises(AmbiguousDecisionError) as caught:
            await store.send(signal("e1", "approve"))
        assert caught.value.count == 2
        assert "c2 (approval of pay)" in caught.value.pending
        assert (await store.send(signal("e1", "approve", call_id="c2"))).signal.call_id == "c2"
        assert (await store.send(signal("e1", "approve"))).signal.call_id == "c1"

    async def test_a_call_that_does_not_wait_is_refused(self, store: Store) -> None:
        await begin_asking(store, ask("e1", "c1"))
        with pytest.raises(UnknownCallError) as caught:
            await store.send(signal("e1", "approve", call_id="c9"))
        assert caught.value.pending == "c1 (approval of refund)"
        assert await store.inbox("e1") == []

    async def test_nothing_pending_is_an_error(self, store: Store) -> None:
        await begin(store)
        with pytest.raises(NothingPendingError) as caught:
            await store.send(signal("e1", "approve"))
        assert caught.value.status == "RUNNING"

    async def test_a_call_that_waits_for_a_message_takes_no_decision(self, store: Store) -> None:
        await begin_asking(store, ask("e1", "m1", ask="message"))
        with pytest.raises(NothingPendingError, match="send_message"):
            await store.send(signal("e1", "respond", value=1))
        with pytest.raises(UnknownCallError, match="send_message"):
            await store.send(signal("e1", "respond", call_id="m1", value=1))

    async def test_a_decision_is_bound_to_what_was_shown(self, store: Store) -> None:
        await begin_asking(store, ask("e1", "c1"))
        with pytest.raises(DecisionMismatchError) as caught:
            await store.send(signal("e1", "approve", arguments_hash="stale"))
        assert (caught.value.shown, caught.value.held) == ("stale", "hash-c1")
        assert (await store.send(signal("e1", "approve", arguments_hash="hash-c1"))).is_new

    async def test_edited_arguments_must_fit_the_parameters(self, store: Store) -> None:
        await begin_asking(store, ask("e1", "c1", parameters=AMOUNT))
        with pytest.raises(InvalidDecisionError, match=r"amount.*not of type 'number'"):
            await store.send(signal("e1", "approve", arguments={"amount": "five"}))
        with pytest.raises(InvalidDecisionError, match="required"):
            await store.send(signal("e1", "approve", arguments={}))
        accepted = await store.send(signal("e1", "approve", arguments={"amount": 4.5}))
        assert accepted.signal.arguments == {"amount": 4.5}

    async def test_an_answer_must_fit_the_question(self, store: Store) -> None:
        schema = {"type": "string", "enum": ["red", "blue"]}
        await begin_asking(store, ask("e1", "c1", ask="question", response_schema=schema))
        with pytest.raises(InvalidDecisionError, match="red"):
            await store.send(signal("e1", "respond", value="green"))
        with pytest.raises(InvalidDecisionError, match="respond"):
            await store.send(signal("e1", "approve", arguments={"x": 1}))
        with pytest.raises(InvalidDecisionError, match="respond"):
            await store.send(signal("e1", "approve"))
        assert (await store.pending("e1"))[0].call_id == "c1"
        assert (await store.send(signal("e1", "respond", value="red"))).is_new

    async def test_a_response_to_an_approval_is_free(self, store: Store) -> None:
        await begin_asking(store, ask("e1", "c1", parameters=AMOUNT, response_schema={"type": "string"}))
        assert (await store.send(signal("e1", "respond", value=[1]))).is_new

    async def test_a_schema_nobody_can_fit_lets_the_answer_through(self, store: Store) -> None:
        for number, schema in enumerate(({"type": "no such type"}, {"$ref": "http://127.0.0.1:9/x.json"})):
            name = f"e{number}"
            await begin_asking(store, ask(name, "c1", ask="question", response_schema=schema), execution_id=name)
            assert (await store.send(signal(name, "respond", value="x"))).is_new
