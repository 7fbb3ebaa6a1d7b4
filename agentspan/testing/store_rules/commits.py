"""Commits, journals and snapshots (P2, P4, P8)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agentspan.errors import (
    ExecutionFinishedError,
    SequenceConflictError,
    StaleEpochError,
    UnstorableValueError,
)
from agentspan.persistence.store import Store
from agentspan.testing.store_rules.building import ask, begin, begin_asking, entry, finish, signal, step


class CommitRules:
    """Rules for writing steps and reading them back."""

    async def test_a_commit_writes_records_and_row(self, store: Store) -> None:
        await begin(store)
        receipt = await store.commit(
            step(
                "e1",
                entry(1, kind="model", text="hello"),
                entry(2, result=[1, 2]),
                status="WAITING",
                updated_at=1005.0,
                wake_at=1100.0,
                current_task="waiting:refund",
            )
        )
        row = await store.row("e1")
        assert receipt.bytes_written > 0
        assert (row.status, row.seq, row.events, row.updated_at) == ("WAITING", 2, 3, 1005.0)
        assert (row.wake_at, row.current_task, row.resident) == (1100.0, "waiting:refund", True)
        journal = await store.journal("e1", after_seq=0)
        assert [(one.seq, one.kind, one.body, one.events_to, one.epoch) for one in journal] == [
            (1, "model", {"text": "hello"}, 2, 1),
            (2, "tool", {"result": [1, 2]}, 3, 1),
        ]

    async def test_an_older_epoch_cannot_write(self, store: Store) -> None:
        await begin(store)
        await store.take_over("e1", host={})
        with pytest.raises(StaleEpochError) as caught:
            await store.commit(step("e1", entry(1), epoch=1))
        assert (caught.value.offered, caught.value.held) == (1, 2)
        assert len(await store.journal("e1")) == 1
        await store.commit(step("e1", entry(1), epoch=2))

    async def test_an_older_epoch_cannot_change_the_row(self, store: Store) -> None:
        await begin(store)
        await store.take_over("e1", host={})
        with pytest.raises(StaleEpochError):
            await store.commit(step("e1", epoch=1, status="PAUSED", resident=False))
        row = await store.row("e1")
        assert (row.status, row.resident) == ("RUNNING", True)

    async def test_a_writer_at_work_is_stopped_by_the_next(self, store: Store, reopen: Any) -> None:
        await begin(store)
        for seq in (1, 2):
            await store.commit(step("e1", entry(seq)))
        rescuer = await reopen()
        await rescuer.take_over("e1", host={})
        with pytest.raises(StaleEpochError):
            await store.commit(step("e1", entry(3)))
        await rescuer.commit(step("e1", entry(3), epoch=2))
        with pytest.raises(StaleEpochError):
            await store.commit(step("e1", entry(4)))
        assert [one.epoch for one in await store.journal("e1")] == [0, 1, 1, 2]

    async def test_a_writer_at_work_meets_gaps_and_conflicts_too(self, store: Store) -> None:
        await begin(store)
        for seq in (1, 2):
            await store.commit(step("e1", entry(seq, n=seq)))
        for entries in ([entry(4)], [entry(3), entry(5)], [entry(2, n=9)], [entry(2, n=2), entry(3)]):
            with pytest.raises(SequenceConflictError):
                await store.commit(step("e1", *entries))
        await store.commit(step("e1", entry(2, n=2)))
        assert (await store.row("e1")).seq == 2

    async def test_an_epoch_nobody_took_cannot_write(self, store: Store) -> None:
        await begin(store)
        with pytest.raises(StaleEpochError):
            await store.commit(step("e1", entry(1), epoch=2))

    async def test_a_commit_sent_again_changes_nothing(self, store: Store) -> None:
        await begin_asking(store, ask("e1", "c1"))
        await store.send(signal("e1", "approve", signal_id="s1"))
        commit = step("e1", entry(2, a=1), entry(3, b=2), consumed=["s1"], closes=["c1"], opens=[ask("e1", "c2")])
        first = await store.commit(commit)
        before = await store.row("e1")
        assert await store.commit(commit) == first
        assert await store.row("e1") == before
        assert len(await store.journal("e1")) == 4

    async def test_a_commit_sent_again_keeps_decisions_made_meanwhile(self, store: Store) -> None:
        await begin(store)
        commit = step("e1", entry(1), opens=[ask("e1", "c1")])
        await store.commit(commit)
        await store.send(signal("e1", "approve"))
        await store.commit(commit)
        assert await store.pending("e1") == []

    async def test_a_call_opened_again_unchanged_keeps_its_decision(self, store: Store) -> None:
        await begin(store)
        commit = step("e1", opens=[ask("e1", "c1")])
        await store.commit(commit)
        await store.send(signal("e1", "approve"))
        await store.commit(commit)
        assert await store.pending("e1") == []
        await store.commit(step("e1", opens=[ask("e1", "c1", ask="crash")]))
        assert [call.ask for call in await store.pending("e1")] == ["crash"]

    async def test_a_commit_sent_again_after_later_ones_is_known(self, store: Store) -> None:
        await begin(store)
        first = step("e1", entry(1, a=1), status="WAITING")
        await store.commit(first)
        await store.commit(step("e1", entry(2, a=2), status="RUNNING"))
        await store.commit(first)
        row = await store.row("e1")
        assert (row.seq, row.status) == (2, "RUNNING")

    async def test_other_records_at_the_same_seq_conflict(self, store: Store) -> None:
        await begin(store)
        await store.commit(step("e1", entry(1, a=1)))
        for other in (entry(1, a=2), entry(1, kind="model", a=1), entry(1, events_to=5, a=1)):
            with pytest.raises(SequenceConflictError) as caught:
                await store.commit(step("e1", other))
            assert (caught.value.seq, caught.value.held) == (1, 1)

    async def test_the_same_record_from_another_epoch_conflicts(self, store: Store) -> None:
        await begin(store)
        await store.commit(step("e1", entry(1, a=1)))
        await store.take_over("e1", host={})
        with pytest.raises(SequenceConflictError):
            await store.commit(step("e1", entry(1, a=1), epoch=2))

    async def test_records_must_follow_the_tail(self, store: Store) -> None:
        await begin(store)
        for entries in ([entry(2)], [entry(1), entry(3)], [entry(0), entry(1)], [entry(2), entry(1)]):
            with pytest.raises(SequenceConflictError):
                await store.commit(step("e1", *entries))
        with pytest.raises(SequenceConflictError):
            await store.commit(step("e1", seq=1))
        assert len(await store.journal("e1")) == 1

    async def test_a_refused_commit_leaves_nothing(self, store: Store) -> None:
        await begin_asking(store, ask("e1", "c1"))
        await store.send(signal("e1", "pause", signal_id="s1"))
        before = await store.row("e1")
        everything: dict[str, Any] = {
            "consumed": ["s1"],
            "closes": ["c1"],
            "opens": [ask("e1", "c2")],
            "snapshot": {"x": 1},
            "status": "PAUSED",
        }
        with pytest.raises(UnstorableValueError):
            await store.commit(step("e1", entry(2), entry(3, bad=object()), **everything))
        with pytest.raises(SequenceConflictError):
            await store.commit(step("e1", entry(3), **everything))
        assert await store.row("e1") == before
        assert len(await store.inbox("e1")) == 1
        assert [call.call_id for call in await store.pending("e1")] == ["c1"]
        assert (await store.load("e1")).snapshot is None

    async def test_a_refused_commit_does_not_fail_its_neighbours(self, store: Store) -> None:
        for number in range(6):
            await begin(store, f"e{number}")
        commits = [step(f"e{number}", entry(1, n=number), epoch=1 + number % 2) for number in range(6)]
        outcomes = await asyncio.gather(*map(store.commit, commits), return_exceptions=True)
        assert [isinstance(outcome, StaleEpochError) for outcome in outcomes] == [False, True] * 3
        assert [(await store.row(f"e{number}")).seq for number in range(6)] == [1, 0] * 3

    async def test_a_commit_without_records_changes_only_the_row(self, store: Store) -> None:
        await begin(store)
        receipt = await store.commit(step("e1", status="WAITING", wake_at=5.0, resident=False, progress=False))
        row = await store.row("e1")
        assert receipt.bytes_written == 0
        assert (row.status, row.wake_at, row.resident, row.host) == ("WAITING", 5.0, False, {})
        assert (row.seq, row.events) == (0, 1)

    async def test_the_end_closes_all_calls_and_lets_go(self, store: Store) -> None:
        await begin_asking(store, ask("e1", "c1"), ask("e1", "c2", ask="message"))
        await finish(store, "e1", seq=2, error="boom", finish_reason="error", status="FAILED", wake_at=7.0)
        row = await store.row("e1")
        assert (row.status, row.finish_reason, row.error) == ("FAILED", "error", "boom")
        assert (row.resident, row.wake_at, row.pending, row.host) == (False, None, 0, {})
        assert await store.pending() == []

    async def test_nothing_follows_the_end(self, store: Store) -> None:
        await begin(store)
        await finish(store, "e1")
        with pytest.raises(ExecutionFinishedError):
            await store.commit(step("e1", entry(2)))
        with pytest.raises(ExecutionFinishedError):
            await store.commit(step("e1", seq=1, status="RUNNING"))
        await finish(store, "e1")
        assert (await store.row("e1")).seq == 1

    async def test_load_gives_the_snapshot_and_what_came_after(self, store: Store) -> None:
        await begin(store)
        await store.commit(step("e1", entry(1, a=1)))
        receipt = await store.commit(step("e1", entry(2, a=2), snapshot={"seq": 2}))
        await store.commit(step("e1", entry(3, a=3)))
        loaded = await store.load("e1")
        assert (loaded.snapshot, loaded.snapshot_seq) == ({"seq": 2}, 2)
        assert [one.seq for one in loaded.entries] == [3]
        assert loaded.snapshot_bytes == receipt.snapshot_bytes > 0
        assert loaded.entries_bytes > 0
        assert loaded.row == await store.row("e1")

    async def test_a_newer_snapshot_replaces_the_one_before(self, store: Store) -> None:
        await begin(store)
        await store.commit(step("e1", entry(1), snapshot={"n": 1}))
        await store.commit(step("e1", entry(2), snapshot={"n": 2}))
        loaded = await store.load("e1")
        assert (loaded.snapshot, loaded.snapshot_seq, list(loaded.entries)) == ({"n": 2}, 2, [])

    async def test_load_without_a_snapshot_starts_at_record_0(self, store: Store) -> None:
        await begin(store)
        loaded = await store.load("e1")
        assert (loaded.snapshot, loaded.snapshot_seq, loaded.snapshot_bytes) == (None, -1, 0)
        assert [one.seq for one in loaded.entries] == [0]

    async def test_a_journal_is_read_in_pages(self, store: Store) -> None:
        await begin(store)
        await store.commit(step("e1", *(entry(seq) for seq in range(1, 8))))
        assert [one.seq for one in await store.journal("e1", limit=3)] == [0, 1, 2]
        assert [one.seq for one in await store.journal("e1", after_seq=2, limit=3)] == [3, 4, 5]
        assert await store.journal("e1", after_seq=7) == []

    async def test_a_reader_goes_on_after_an_event(self, store: Store) -> None:
        await begin(store)
        ends = [3, 3, 3, 6, 6, 7]
        await store.commit(step("e1", *(entry(seq, events_to=end) for seq, end in enumerate(ends, start=1))))
        told = {event: [one.seq for one in await store.journal_after_event("e1", event=event)] for event in range(9)}
        assert told[0] == [0, 1, 4, 6]
        assert told[1] == [1, 4, 6]
        assert told[2] == [1, 4, 6]
        assert told[3] == told[5] == [4, 6]
        assert told[6] == [6]
        assert told[7] == told[8] == []
        assert [one.seq for one in await store.journal_after_event("e1", event=0, limit=2)] == [0, 1]

    async def test_another_process_reads_what_was_committed(self, store: Store, reopen: Any) -> None:
        await begin(store)
        await store.commit(step("e1", entry(1, a=1), snapshot={"a": 1}))
        other = await reopen()
        assert await other.load("e1") == await store.load("e1")
        await other.commit(step("e1", entry(2)))
        assert (await store.row("e1")).seq == 2
