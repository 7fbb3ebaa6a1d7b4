"""Threads: checkpoints and the writes of tasks on them (`agentspan.persistence.threads`)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest

from agentspan.errors import UnstorableValueError
from agentspan.persistence.store import Store
from agentspan.persistence.threads import CheckpointRow, ThreadWrite, WriteRow
from agentspan.testing.store_rules.values import BIG, VALUES


def point(checkpoint_id: str, parent_id: str | None = None, *, ns: str = "", **body: Any) -> CheckpointRow:
    """A checkpoint."""
    return CheckpointRow(ns=ns, checkpoint_id=checkpoint_id, parent_id=parent_id, body=body)


def wrote(checkpoint_id: str, task_id: str, idx: int, value: Any = None, **fields: Any) -> WriteRow:
    """A write of a task."""
    made: dict[str, Any] = {"channel": "out", "body": {"value": value}} | fields
    return WriteRow(checkpoint_id=checkpoint_id, task_id=task_id, idx=idx, **made)


def these(*rows: CheckpointRow | WriteRow, forget: Sequence[tuple[str, str, str, int]] = ()) -> ThreadWrite:
    """What becomes durable together."""
    return ThreadWrite(
        checkpoints=[row for row in rows if isinstance(row, CheckpointRow)],
        writes=[row for row in rows if isinstance(row, WriteRow)],
        forget=forget,
    )


def made_at(tick: int) -> str:
    """A checkpoint ID as LangGraph makes them: a UUID that begins with the time."""
    return str(UUID(int=tick << 64 | 6 << 76 | 1 << 63))


async def latest(store: Store, thread_id: str = "t", ns: str = "") -> str | None:
    """The ID of the checkpoint that was stored last."""
    found = await store.checkpoint(thread_id, ns)
    return None if found is None else found.row.checkpoint_id


async def listed(store: Store, thread_id: str | None = "t", **query: Any) -> list[str]:
    """The IDs of a listing."""
    return [one.row.checkpoint_id for one in await store.list_checkpoints(thread_id, **query)]


async def values(store: Store, checkpoint_id: str, thread_id: str = "t", ns: str = "") -> dict[tuple[str, int], Any]:
    """The writes on a checkpoint: what was written by (task, idx)."""
    rows = await store.checkpoint_writes(thread_id, ns, checkpoint_id)
    return {(row.task_id, row.idx): row.body["value"] for row in rows}


class ThreadRules:
    """Rules for writing and reading threads."""

    async def test_a_checkpoint_and_its_writes_come_back_as_they_were(self, store: Store, reopen: Any) -> None:
        row = point("c1", None, **VALUES)
        writes = [
            wrote("c1", "task", 0, VALUES, task_path="~pull, \ud83d", channel="\ud83d channel"),
            wrote("c1", "task", 1, None, task_path="~pull, \ud83d"),
        ]
        assert await store.write_thread("t", these(row, *writes)) > len(BIG)
        for one in (store, await reopen()):
            found = await one.checkpoint("t")
            assert found is not None
            assert (found.thread_id, found.row, list(found.writes)) == ("t", row, writes)
            assert await one.checkpoint_writes("t", "", "c1") == writes
            assert await one.checkpoints("t", "", ["c1"]) == [row]
            (only,) = await one.list_checkpoints("t")
            assert (only.thread_id, only.row, list(only.writes)) == ("t", row, [])
            assert type(found.row.body["tuples"]) is tuple

    async def test_ids_of_any_form_come_back_and_stay_apart(self, store: Store) -> None:
        uuid = made_at(0xABC)
        forms = [
            uuid,
            uuid.upper(),
            uuid.replace("-", ""),
            "",
            "7",
            "x" * 16,
            UUID(uuid).bytes.decode("latin-1"),
            "é\x00 '",
        ]
        for number, form in enumerate(forms):
            parent = forms[number - 1] if number else None
            await store.write_thread("t", these(point(form, parent, n=number), wrote(form, form, 0, number)))
        for number, form in enumerate(forms):
            found = await store.checkpoint("t", checkpoint_id=form)
            assert found is not None
            assert (found.row.checkpoint_id, found.row.body) == (form, {"n": number})
            assert found.row.parent_id == (forms[number - 1] if number else None)
            assert [(row.task_id, row.body["value"]) for row in found.writes] == [(form, number)]
        assert await listed(store) == forms[::-1]

    async def test_what_is_not_there_reads_as_nothing(self, store: Store) -> None:
        assert await store.checkpoint("t") is None
        assert await store.list_checkpoints("t") == await store.list_checkpoints() == []
        await store.write_thread("t", these(point("c1")))
        assert await store.checkpoint("t", checkpoint_id="c2") is None
        assert await store.checkpoint("t", "sub") is None
        assert await store.checkpoint("t2") is None
        assert await store.checkpoints("t", "", ["c2"]) == []
        assert await store.checkpoint_writes("t", "", "c1") == []
        assert await store.checkpoint_writes("t", "sub", "c9") == []

    async def test_nothing_to_write_is_no_thread(self, store: Store) -> None:
        assert await store.write_thread("t", ThreadWrite()) == 0
        assert await store.write_thread("t", these(forget=[("", "c1", "a", 0)])) == 0
        assert (await store.info())["threads"] == 0

    # --- the order of checkpoints

    @pytest.mark.parametrize("ticks", [(1, 2, 3), (3, 1, 2), (2, 3, 1), (9, 8, 7)])
    async def test_the_latest_is_the_one_stored_last(self, store: Store, ticks: tuple[int, ...]) -> None:
        for tick in ticks:
            await store.write_thread("t", these(point(made_at(tick))))
            assert await latest(store) == made_at(tick)
        assert await listed(store) == [made_at(tick) for tick in reversed(ticks)]

    async def test_checkpoints_of_one_write_keep_their_order(self, store: Store) -> None:
        await store.write_thread("t", these(point("b"), point("c"), point("a")))
        assert await listed(store) == ["a", "c", "b"]
        assert await latest(store) == "a"

    async def test_a_replaced_checkpoint_keeps_its_place(self, store: Store) -> None:
        for name in ("a", "b", "c"):
            await store.write_thread("t", these(point(name)))
        await store.write_thread("t", these(point("b", "a", new=True)))
        assert await listed(store) == ["c", "b", "a"]
        (found,) = await store.checkpoints("t", "", ["b"])
        assert (found.parent_id, found.body) == ("a", {"new": True})

    async def test_writes_may_come_before_their_checkpoint(self, store: Store) -> None:
        await store.write_thread("t", these(point("a"), wrote("z", "task", 0, "early")))
        assert await latest(store) == "a"
        assert await listed(store) == ["a"]
        assert await values(store, "z") == {("task", 0): "early"}
        await store.write_thread("t", these(point("b")))
        assert await latest(store) == "b"
        await store.write_thread("t", these(point("z")))
        found = await store.checkpoint("t")
        assert found is not None
        assert (found.row.checkpoint_id, len(found.writes)) == ("z", 1)

    async def test_several_checkpoints_come_in_the_order_asked_for(self, store: Store) -> None:
        await store.write_thread("t", these(point("a", n=1), point("b", n=2), point("c", n=3)))
        found = await store.checkpoints("t", "", ["c", "missing", "a", "c"])
        assert [row.body["n"] for row in found] == [3, 1, 3]

    async def test_namespaces_and_threads_stay_apart(self, store: Store) -> None:
        for number, (thread_id, ns) in enumerate([("t", ""), ("t", "sub"), ("t2", ""), ("T", "sub|1")]):
            await store.write_thread(
                thread_id, these(point("c", ns=ns, n=number), wrote("c", "task", 0, number, ns=ns))
            )
        for number, (thread_id, ns) in enumerate([("t", ""), ("t", "sub"), ("t2", ""), ("T", "sub|1")]):
            found = await store.checkpoint(thread_id, ns)
            assert found is not None
            assert (found.row.ns, found.row.body) == (ns, {"n": number})
            assert await values(store, "c", thread_id, ns) == {("task", 0): number}

    # --- listings

    async def test_a_listing_is_of_threads_and_namespaces(self, store: Store) -> None:
        made = [("t", "", "a"), ("t2", "", "b"), ("t", "sub", "c"), ("t", "", "d"), ("t2", "sub", "e")]
        for thread_id, ns, name in made:
            await store.write_thread(thread_id, these(point(name, ns=ns), wrote(name, "task", 0, ns=ns)))
        everything = await store.list_checkpoints()
        assert [(one.thread_id, one.row.ns, one.row.checkpoint_id) for one in everything] == made[::-1]
        assert await listed(store, None, limit=2) == ["e", "d"]
        assert await listed(store, None, ns="") == ["d", "b", "a"]
        assert await listed(store, "t") == ["d", "c", "a"]
        assert await listed(store, "t", ns="") == ["d", "a"]
        assert await listed(store, "t", limit=2) == ["d", "c"]
        assert await listed(store, "t", ns="other") == await listed(store, "t", limit=0) == []

    async def test_a_listing_goes_on_before_a_checkpoint(self, store: Store) -> None:
        for name in ("a", "d", "c", "b"):
            await store.write_thread("t", these(point(name)))
        assert await listed(store, ns="", before="c") == ["d", "a"]
        assert await listed(store, ns="", before="c", limit=1) == ["d"]
        assert await listed(store, ns="", before="a") == []
        assert await listed(store, ns="", before="bb") == ["b", "a"], "not stored: those with a smaller ID"

    async def test_a_listing_leaves_out_the_first(self, store: Store) -> None:
        for name in ("a", "d", "c", "b"):
            await store.write_thread("t", these(point(name)))
            await store.write_thread("t", these(point(name, ns="sub")))
        assert await listed(store, "t", ns="", skip=1) == ["c", "d", "a"]
        assert await listed(store, "t", ns="", skip=2, limit=1) == ["d"]
        assert await listed(store, "t", ns="", before="b", skip=1) == ["d", "a"]
        assert await listed(store, "t", skip=6) == ["a", "a"]
        assert await listed(store, "t", ns="", skip=4) == []

    async def test_places_are_where_the_other_namespaces_stood(self, store: Store) -> None:
        made = [
            ("t", "keeps", "k9"),
            ("t", "", "a"),
            ("t", "keeps", "k1"),
            ("t", "once:1", "o"),
            ("u", "other", "x"),
            ("t", "", "b"),
            ("t", "keeps", "k2"),
            ("t", "late", "l"),
            ("t", "", "c"),
        ]
        for thread_id, ns, name in made:
            await store.write_thread(thread_id, these(point(name, ns=ns), wrote(name, "task", 0, ns=ns)))
        assert await store.places("t", "a") == [("keeps", "k9")]
        assert await store.places("t", "b") == [("keeps", "k1"), ("once:1", "o")]
        assert await store.places("t", "c") == [("keeps", "k2"), ("late", "l"), ("once:1", "o")]
        assert await store.places("t", "k1") == await store.places("v", "a") == []

    async def test_before_means_the_same_thread_and_namespace(self, store: Store) -> None:
        for thread_id, ns, name in [
            ("t", "", "b"),
            ("t", "", "a"),
            ("t", "sub", "a"),
            ("t", "sub", "c"),
            ("u", "", "a"),
        ]:
            await store.write_thread(thread_id, these(point(name, ns=ns)))
        assert await listed(store, "t", before="c") == ["a", "a", "b"]
        assert await listed(store, "t", before="a") == ["b"]
        assert await listed(store, None, before="b") == ["a", "a"]
        uuid = made_at(1)
        await store.write_thread("t", these(point(uuid)))
        assert await listed(store, "t", ns="", before="1") == [uuid]
        assert await listed(store, "t", ns="", before="0000") == []

    # --- writes

    async def test_the_first_write_at_a_place_counts(self, store: Store) -> None:
        await store.write_thread("t", these(wrote("c", "task", 0, "first")))
        await store.write_thread("t", these(wrote("c", "task", 0, "second"), wrote("c", "task", 1, "new", channel="x")))
        assert await values(store, "c") == {("task", 0): "first", ("task", 1): "new"}

    async def test_a_write_with_a_fixed_slot_replaces(self, store: Store) -> None:
        await store.write_thread("t", these(wrote("c", "task", -3, "asks"), wrote("c", "task", 0, "kept")))
        await store.write_thread("t", these(wrote("c", "task", -3, "asks again"), wrote("c", "task", -1, "error")))
        assert await values(store, "c") == {("task", -3): "asks again", ("task", -1): "error", ("task", 0): "kept"}

    async def test_the_rules_hold_within_one_write(self, store: Store) -> None:
        twice = [wrote("c", "task", idx, value) for value in ("one", "two") for idx in (0, -4)]
        await store.write_thread("t", these(*twice))
        assert await values(store, "c") == {("task", -4): "two", ("task", 0): "one"}

    async def test_forgotten_writes_are_gone_before_the_others_are_stored(self, store: Store) -> None:
        rows = [wrote("c", task, idx, "old") for task in ("a", "b") for idx in (0, 1, -4)]
        await store.write_thread("t", these(*rows, wrote("c", "a", 0, "other ns", ns="sub")))
        forget = [("", "c", "a", 0), ("", "c", "a", -4), ("", "c", "a", 9), ("", "x", "a", 0), ("no", "c", "a", 0)]
        await store.write_thread("t", these(wrote("c", "a", 0, "new"), wrote("c", "a", 1, "ignored"), forget=forget))
        left = {("a", 0): "new", ("a", 1): "old", ("b", 0): "old", ("b", 1): "old", ("b", -4): "old"}
        assert await values(store, "c") == left
        assert await values(store, "c", ns="sub") == {("a", 0): "other ns"}
        await store.write_thread("t", these(forget=[("", "c", "b", idx) for idx in (0, 1, -4)]))
        assert await values(store, "c") == {("a", 0): "new", ("a", 1): "old"}

    async def test_writes_are_sorted_by_path_task_and_idx(self, store: Store) -> None:
        rows = [
            wrote("c", "z", -1, task_path="a"),
            wrote("c", "z", 0, task_path="a"),
            wrote("c", "a", 0, task_path="b"),
            wrote("c", "a", 10, task_path="b"),
            wrote("c", "b", 2, task_path="b"),
            wrote("c", "a", 1, task_path="c"),
        ]
        for row in (rows[4], rows[1], rows[5], rows[0], rows[3], rows[2]):
            await store.write_thread("t", these(row))
        await store.write_thread("t", these(point("c")))
        assert await store.checkpoint_writes("t", "", "c") == rows
        found = await store.checkpoint("t")
        assert found is not None
        assert list(found.writes) == rows

    # --- all or none

    async def test_the_same_again_changes_nothing(self, store: Store) -> None:
        await store.write_thread("t", these(point("a"), wrote("a", "task", 5, "old")))
        again = these(
            point("b", "a", text=BIG),
            wrote("a", "task", 0, BIG),
            wrote("a", "task", -3, ["asks"]),
            forget=[("", "a", "task", 5)],
        )
        first = await store.write_thread("t", again)
        before = await store.list_checkpoints("t"), await values(store, "a")
        assert await store.write_thread("t", again) == first - len(BIG.encode())
        assert (await store.list_checkpoints("t"), await values(store, "a")) == before

    async def test_a_refused_write_leaves_nothing(self, store: Store) -> None:
        await store.write_thread("t", these(wrote("a", "task", 0, "kept")))
        cases: list[tuple[str, CheckpointRow | WriteRow]] = [
            ("$.messages[1]", point("b", messages=[0, object()])),
            ("$.value.at", wrote("a", "task", 1, {"at": object()})),
            ("$.ns", point("b", ns="\ud83d")),
            ("$.checkpoint_id", wrote("\ud83d", "task", 0)),
            ("$.task_id", wrote("a", "\ud83d", 0)),
            ("$.parent_id", point("b", "\ud83d")),
        ]
        for path, bad in cases:
            with pytest.raises(UnstorableValueError) as caught:
                await store.write_thread("t", these(point("a"), bad, forget=[("", "a", "task", 0)]))
            assert caught.value.path == path
        with pytest.raises(UnstorableValueError):
            await store.write_thread("\ud83d", these(point("a")))
        assert await listed(store) == []
        assert await values(store, "a") == {("task", 0): "kept"}

    async def test_many_threads_are_written_at_once(self, store: Store) -> None:
        async def work(thread_id: str) -> None:
            for number in range(5):
                await store.write_thread(
                    thread_id,
                    these(point(made_at(number), n=number, of=thread_id), wrote(made_at(number), "task", 0, number)),
                )

        threads = [f"thread-{number}" for number in range(50)]
        await asyncio.gather(*map(work, threads))
        for thread_id in threads:
            rows = [one.row for one in await store.list_checkpoints(thread_id)]
            assert [row.body for row in rows] == [{"n": number, "of": thread_id} for number in (4, 3, 2, 1, 0)]
            assert await values(store, made_at(3), thread_id) == {("task", 0): 3}
        assert (await store.info())["threads"] == 50

    async def test_tasks_of_one_checkpoint_are_written_at_once(self, store: Store) -> None:
        tasks = [f"task-{number:02}" for number in range(40)]
        await asyncio.gather(*(store.write_thread("t", these(wrote("c", task, 0, task))) for task in tasks))
        assert await values(store, "c") == {(task, 0): task for task in tasks}
