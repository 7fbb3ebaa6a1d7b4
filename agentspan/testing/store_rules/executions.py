"""Creating, finding, listing and taking over executions."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agentspan.errors import (
    AmbiguousExecutionError,
    ExecutionFinishedError,
    SequenceConflictError,
    StaleEpochError,
    UnknownExecutionError,
)
from agentspan.persistence.store import Store
from agentspan.testing.store_rules.building import begin, entry, finish, new, step


class ExecutionRules:
    """Rules for executions and their rows."""

    async def test_a_created_execution_is_queued_with_record_0(self, store: Store) -> None:
        created = await store.create(new("e1", metadata={"team": "ü"}, idempotency_key="k"))
        row = await store.row("e1")
        assert (created.execution_id, created.is_new) == ("e1", True)
        assert (row.status, row.epoch, row.seq, row.events, row.resident) == ("QUEUED", 0, 0, 1, False)
        assert (row.created_at, row.updated_at, row.wake_at) == (1000.0, 1000.0, None)
        assert (row.metadata, row.idempotency_key, row.host, row.current_task) == ({"team": "ü"}, "k", {}, "")
        (started,) = await store.journal("e1")
        assert (started.seq, started.kind, started.events_to, started.epoch) == (0, "started", 1, 0)
        assert started.body["prompt"] == "hi"

    async def test_a_request_delivered_twice_creates_one_execution(self, store: Store) -> None:
        request = new("e1", request_id="r1")
        await store.create(request)
        again = await store.create(request)
        other_id = await store.create(new("e2", request_id="r1"))
        assert (again.execution_id, again.is_new) == ("e1", False)
        assert (other_id.execution_id, other_id.is_new) == ("e1", False)
        assert len(await store.rows()) == 1

    async def test_an_idempotency_key_belongs_to_one_execution_per_agent(self, store: Store) -> None:
        await store.create(new("e1", idempotency_key="k"))
        same = await store.create(new("e2", idempotency_key="k"))
        other_agent = await store.create(new("e3", agent="other", idempotency_key="k"))
        assert (same.execution_id, same.is_new) == ("e1", False)
        assert (other_agent.execution_id, other_agent.is_new) == ("e3", True)

    async def test_racing_creates_with_one_key_give_one_id(self, store: Store, reopen: Any) -> None:
        stores = [store, await reopen()]
        requests = [stores[i % 2].create(new(f"e{i}", idempotency_key="k")) for i in range(8)]
        created = await asyncio.gather(*requests)
        assert len({one.execution_id for one in created}) == 1
        assert [one.is_new for one in created].count(True) == 1

    async def test_an_execution_id_is_not_given_to_a_second_request(self, store: Store) -> None:
        await store.create(new("e1"))
        with pytest.raises(SequenceConflictError):
            await store.create(new("e1"))

    async def test_a_session_goes_on_from_its_newest_completed_execution(self, store: Store) -> None:
        await begin(store, "old", session_id="s", created_at=1.0)
        await finish(store, "old")
        await begin(store, "newest", session_id="s", created_at=2.0)
        await finish(store, "newest")
        await begin(store, "failed", session_id="s", created_at=3.0)
        await finish(store, "failed", status="FAILED")
        await begin(store, "elsewhere", session_id="s", agent="other", created_at=4.0)
        await finish(store, "elsewhere")
        await store.create(new("next", session_id="s", created_at=5.0))
        await store.create(new("alone", session_id="t", created_at=6.0))
        assert (await store.journal("next"))[0].body["session_from"] == "newest"
        assert "session_from" not in (await store.journal("alone"))[0].body

    async def test_what_a_session_goes_on_from_may_be_left_open(self, store: Store) -> None:
        await begin(store, "before", session_id="s", created_at=1.0)
        await finish(store, "before")
        started = {"at": 2.0, "agent": "helper", "prompt": "hi", "session_id": "s", "session_from": ""}
        await store.create(new("next", session_id="s", started=started))
        assert (await store.journal("next"))[0].body["session_from"] == ""

    async def test_an_execution_may_be_due_before_it_has_begun(self, store: Store) -> None:
        await store.create(new("e1", wake_at=1060.0))
        await store.create(new("e2"))
        assert [row.wake_at for row in await store.unfinished()] == [1060.0, None]
        assert (await store.row("e1")).wake_at == 1060.0

    async def test_an_unknown_execution_is_named(self, store: Store) -> None:
        for call in (
            store.row("nope"),
            store.load("nope"),
            store.journal("nope"),
            store.journal_after_event("nope", event=0),
            store.inbox("nope"),
            store.pending("nope"),
            store.take_over("nope", host={}),
            store.commit(step("nope", entry(1))),
            store.quarantine("nope", error="x"),
            store.find("nope"),
            store.find(""),
        ):
            with pytest.raises(UnknownExecutionError):
                await call

    async def test_a_short_id_is_found_when_it_fits_one(self, store: Store) -> None:
        for execution_id in ("ab1", "ab2", "ab", "b%", "b_"):
            await store.create(new(execution_id))
        assert await store.find("ab2") == "ab2"
        assert await store.find("ab") == "ab"
        assert await store.find("b%") == "b%"
        with pytest.raises(AmbiguousExecutionError) as caught:
            await store.find("a")
        assert caught.value.candidates == "ab, ab1, ab2"

    async def test_at_most_five_candidates_are_named(self, store: Store) -> None:
        for number in range(7):
            await store.create(new(f"x{number}"))
        with pytest.raises(AmbiguousExecutionError) as caught:
            await store.find("x")
        assert caught.value.candidates == "x0, x1, x2, x3, x4, …"

    async def test_rows_are_listed_newest_first_and_page_by_page(self, store: Store) -> None:
        for number in range(5):
            await store.create(new(f"e{number}", created_at=float(number), session_id="s" if number % 2 else ""))
        await store.create(new("other", agent="other", created_at=9.0))
        await store.take_over("e1", host={})
        assert [row.execution_id for row in await store.rows(limit=2)] == ["other", "e4"]
        assert [row.execution_id for row in await store.rows(limit=2, before=4.0)] == ["e3", "e2"]
        assert [row.execution_id for row in await store.rows(agent="other")] == ["other"]
        assert [row.execution_id for row in await store.rows(session_id="s")] == ["e3", "e1"]
        assert [row.execution_id for row in await store.rows(statuses=["RUNNING", "FAILED"])] == ["e1"]
        assert await store.rows(statuses=[]) == []

    async def test_unfinished_are_listed_oldest_first(self, store: Store) -> None:
        for number in (3, 1, 2, 0):
            await begin(store, f"e{number}", created_at=float(number))
        await finish(store, "e1")
        await store.quarantine("e0", error="damaged")
        await store.create(new("queued", created_at=2.5))
        assert [row.execution_id for row in await store.unfinished()] == ["e2", "queued", "e3"]

    async def test_each_take_over_raises_the_epoch(self, store: Store) -> None:
        await store.create(new("e1"))
        first = await store.take_over("e1", host={"pid": 7})
        row = await store.row("e1")
        assert (first.epoch, first.crashed, first.crashes) == (1, False, 0)
        assert (row.status, row.epoch, row.resident, row.host) == ("RUNNING", 1, True, {"pid": 7})
        assert (await store.take_over("e1", host={})).epoch == 2

    async def test_a_take_over_keeps_a_status_that_is_not_queued(self, store: Store) -> None:
        await begin(store)
        await store.commit(step("e1", entry(1), status="WAITING", resident=False))
        await store.take_over("e1", host={})
        assert (await store.row("e1")).status == "WAITING"

    async def test_two_rescuers_cannot_both_take_over(self, store: Store, reopen: Any) -> None:
        await begin(store)
        stores = [store, await reopen()]
        rescues = [one.take_over("e1", host={}, expected_epoch=1) for one in stores]
        outcomes = await asyncio.gather(*rescues, return_exceptions=True)
        refused = [outcome for outcome in outcomes if isinstance(outcome, StaleEpochError)]
        assert len(refused) == 1
        assert (refused[0].offered, refused[0].held) == (1, 2)
        assert (await store.row("e1")).epoch == 2

    async def test_a_take_over_after_a_crash_is_counted_and_after_a_clean_leave_is_not(self, store: Store) -> None:
        await begin(store)
        crashed = await store.take_over("e1", host={})
        again = await store.take_over("e1", host={})
        assert (crashed.crashed, crashed.crashes) == (True, 1)
        assert (again.crashed, again.crashes) == (True, 2)
        await store.commit(step("e1", epoch=3, resident=False, progress=False))
        clean = await store.take_over("e1", host={})
        row = await store.row("e1")
        assert (clean.crashed, clean.crashes) == (False, 2)
        assert (row.crashes, row.recoveries) == (2, 2)

    async def test_progress_resets_the_crash_count_but_not_the_recoveries(self, store: Store) -> None:
        await begin(store)
        await store.take_over("e1", host={})
        await store.commit(step("e1", entry(1), epoch=2, progress=False))
        assert (await store.row("e1")).crashes == 1
        await store.commit(step("e1", entry(2), epoch=2))
        row = await store.row("e1")
        assert (row.crashes, row.recoveries) == (0, 1)

    async def test_what_has_ended_is_not_taken_over(self, store: Store) -> None:
        await begin(store, "e1")
        await finish(store, "e1")
        await begin(store, "e2")
        await store.quarantine("e2", error="damaged")
        for execution_id in ("e1", "e2"):
            with pytest.raises(ExecutionFinishedError):
                await store.take_over(execution_id, host={})

    async def test_a_crash_that_is_not_blamed_counts_as_a_recovery_only(self, store: Store) -> None:
        await begin(store)
        taken = await store.take_over("e1", host={}, blame=False)
        row = await store.row("e1")
        assert (taken.crashed, taken.crashes, row.crashes, row.recoveries) == (True, 0, 0, 1)
        assert (await store.take_over("e1", host={})).crashes == 1

    async def test_a_released_execution_recovers_as_after_a_crash(self, store: Store) -> None:
        await begin(store)
        assert not await store.release("e1")
        await store.quarantine("e1", error="damaged")
        assert await store.release("e1")
        row = await store.row("e1")
        assert (row.status, row.error, row.resident, row.crashes) == ("RUNNING", None, True, 0)
        assert [row.execution_id for row in await store.unfinished()] == ["e1"]
        assert (await store.take_over("e1", host={})).crashed
        assert not await store.release("e1")

    async def test_a_host_is_noted_only_for_the_holder(self, store: Store) -> None:
        await begin(store)
        await store.set_host("e1", epoch=1, host={"actor": "a"})
        assert (await store.row("e1")).host == {"actor": "a"}
        await store.take_over("e1", host={"actor": "b"})
        await store.set_host("e1", epoch=1, host={"actor": "late"})
        assert (await store.row("e1")).host == {"actor": "b"}
        await store.commit(step("e1", epoch=2, resident=False))
        await store.set_host("e1", epoch=2, host={"actor": "gone"})
        assert (await store.row("e1")).host == {}

    async def test_a_quarantined_execution_is_set_aside_with_its_journal(self, store: Store) -> None:
        await begin(store)
        await store.commit(step("e1", entry(1, x=1)))
        await store.quarantine("e1", error="record 1 is damaged")
        row = await store.row("e1")
        assert (row.status, row.error, row.epoch, row.resident) == ("QUARANTINED", "record 1 is damaged", 2, False)
        with pytest.raises(StaleEpochError):
            await store.commit(step("e1", entry(2)))
        await store.quarantine("e1", error="again")
        assert (await store.row("e1")).epoch == 2
        assert len(await store.journal("e1")) == 2

    async def test_a_finished_execution_is_not_quarantined(self, store: Store) -> None:
        await begin(store)
        await finish(store, "e1")
        await store.quarantine("e1", error="late")
        assert (await store.row("e1")).status == "COMPLETED"
