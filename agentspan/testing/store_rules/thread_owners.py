"""Threads of executions, and what goes when a thread goes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agentspan.errors import (
    ConfigurationError,
    ExecutionFinishedError,
    SequenceConflictError,
    StaleEpochError,
    ThreadOwnedError,
    UnstorableValueError,
)
from agentspan.persistence.store import Store
from agentspan.testing.store_rules.building import begin, entry, finish, new, step
from agentspan.testing.store_rules.threads import latest, listed, made_at, point, these, values, wrote
from agentspan.testing.store_rules.values import BIG

BIG_BYTES = len(BIG.encode())


async def is_kept(store: Store, text: str = BIG) -> bool:
    """Whether the store has a large value: then writing it is cheap. Leaves nothing behind."""
    written = await store.write_thread("probe", these(point("c", text=text)))
    await store.delete_thread("probe")
    return written < len(text)


class ThreadOwnerRules:
    """Rules for fencing threads, removing and copying them."""

    async def test_a_commit_writes_the_thread_of_its_execution(self, store: Store, reopen: Any) -> None:
        await begin(store)
        thread = these(point("c1", n=1), wrote("c1", "task", 0, "x"))
        plain = await store.commit(step("e1", entry(1)))
        receipt = await store.commit(step("e1", entry(2), thread=thread))
        assert plain.thread_bytes == 0 < receipt.thread_bytes
        assert receipt.bytes_written == plain.bytes_written
        found = await (await reopen()).checkpoint("e1")
        assert (found.row.body, len(found.writes)) == ({"n": 1}, 1)
        assert [one.thread_id for one in await store.list_checkpoints()] == ["e1"]

    async def test_an_older_epoch_writes_nothing_to_a_thread(self, store: Store) -> None:
        await begin(store)
        await store.commit(step("e1", entry(1), thread=these(point("c1"), wrote("c1", "task", 0, "kept"))))
        await store.take_over("e1", host={})
        late = these(point("c2"), wrote("c1", "task", 1), forget=[("", "c1", "task", 0)])
        for commit in (step("e1", entry(2), thread=late), step("e1", seq=1, thread=late)):
            with pytest.raises(StaleEpochError):
                await store.commit(commit)
        assert await listed(store, "e1") == ["c1"]
        assert await values(store, "c1", "e1") == {("task", 0): "kept"}

    async def test_a_refused_commit_writes_nothing_to_a_thread(self, store: Store) -> None:
        await begin(store)
        good = these(point("c1", text=BIG))
        with pytest.raises(SequenceConflictError):
            await store.commit(step("e1", entry(2), thread=good))
        with pytest.raises(SequenceConflictError):
            await store.commit(step("e1", seq=1, thread=good))
        with pytest.raises(UnstorableValueError):
            await store.commit(step("e1", entry(1, bad=object()), thread=good))
        with pytest.raises(UnstorableValueError):
            await store.commit(step("e1", entry(1), thread=these(point("c1", bad=object()))))
        assert (await store.row("e1")).seq == 0
        assert await listed(store, "e1") == []
        assert not await is_kept(store)
        await finish(store, "e1")
        with pytest.raises(ExecutionFinishedError):
            await store.commit(step("e1", entry(2), thread=good))
        assert await listed(store, "e1") == []

    async def test_a_commit_without_records_writes_a_thread(self, store: Store) -> None:
        await begin(store)
        await store.commit(step("e1", entry(1)))
        commit = step("e1", seq=1, thread=these(point("c1", n=1), wrote("c1", "task", 0, "x")))
        first = await store.commit(commit)
        assert (first.bytes_written, first.thread_bytes > 0) == (0, True)
        assert await store.commit(commit) == first
        assert (await store.row("e1")).seq == 1
        assert await listed(store, "e1") == ["c1"]
        assert await values(store, "c1", "e1") == {("task", 0): "x"}

    async def test_a_commit_sent_again_changes_no_thread(self, store: Store) -> None:
        await begin(store)
        old = step("e1", entry(1), thread=these(point("c1", n=1), wrote("c1", "task", -3, "asks")))
        first = await store.commit(old)
        newer = these(point("c1", n=2), point("c2"), wrote("c1", "task", -3, "asks again"))
        await store.commit(step("e1", entry(2), thread=newer))
        assert await store.commit(old) == first
        assert [row.body for row in await store.checkpoints("e1", "", ["c1"])] == [{"n": 2}]
        assert await values(store, "c1", "e1") == {("task", -3): "asks again"}

    async def test_neighbours_of_a_refused_commit_keep_their_threads(self, store: Store) -> None:
        for number in range(6):
            await begin(store, f"e{number}")
        commits = [
            step(f"e{number}", entry(1), epoch=1 + number % 2, thread=these(point("c", n=number)))
            for number in range(6)
        ]
        own = [store.write_thread(f"t{number}", these(point("c", n=number))) for number in range(3)]
        await asyncio.gather(*map(store.commit, commits), *own, return_exceptions=True)
        assert [await latest(store, f"e{number}") for number in range(6)] == ["c", None] * 3
        assert [await latest(store, f"t{number}") for number in range(3)] == ["c"] * 3

    async def test_only_its_commits_write_the_thread_of_an_execution(self, store: Store) -> None:
        await store.create(new("queued"))
        await begin(store, "e1")
        await store.commit(step("e1", entry(1), thread=these(point("c1"))))
        await finish(store, "e1", seq=2)
        await store.write_thread("t", these(point("c")))
        for name in ("queued", "e1"):
            for refused in (
                store.write_thread(name, these(point("c2"))),
                store.delete_thread(name),
                store.delete_checkpoints(name, [("", "c1")]),
                store.copy_thread("t", name),
            ):
                with pytest.raises(ThreadOwnedError) as caught:
                    await refused
                assert caught.value.thread_id == name
        assert await listed(store, "e1") == ["c1"]
        assert await listed(store, "queued") == []

    async def test_an_execution_takes_the_thread_of_its_id(self, store: Store) -> None:
        await store.write_thread("e1", these(point("c1", n=1)))
        await begin(store, "e1")
        await store.commit(step("e1", entry(1), thread=these(point("c2", "c1"))))
        assert await listed(store, "e1") == ["c2", "c1"]
        with pytest.raises(ThreadOwnedError):
            await store.write_thread("e1", these(point("c3")))

    # --- large values

    async def test_a_large_value_of_a_thread_is_stored_once(self, store: Store) -> None:
        await begin(store)
        first = await store.commit(step("e1", entry(1, text=BIG)))
        assert first.bytes_written > BIG_BYTES
        row, write = point("c1", text=BIG), wrote("c1", "task", 0, "".join([BIG]))
        receipt = await store.commit(step("e1", entry(2), thread=these(row, write)))
        assert receipt.thread_bytes < 1000
        assert await store.write_thread("t", these(row, write)) < 1000
        assert await store.write_thread("t", these(point("c2", text=BIG + "!"))) > BIG_BYTES
        found = await store.checkpoint("e1")
        assert found is not None
        assert (found.row, list(found.writes)) == (row, [write])

    async def test_writes_added_later_keep_their_large_values(self, store: Store) -> None:
        for idx in range(3):
            await store.write_thread("t", these(wrote("c", "task", idx, f"{idx}{BIG}")))
        await store.write_thread("t", these(forget=[("", "c", "task", 1)]))
        assert await values(store, "c") == {("task", idx): f"{idx}{BIG}" for idx in (0, 2)}

    # --- going

    async def test_a_deleted_thread_leaves_nothing(self, store: Store) -> None:
        for thread_id in ("t", "u"):
            await store.write_thread(
                thread_id, these(point("a", ns="sub", own=thread_id + BIG), point("a", text=BIG), wrote("z", "b", 0))
            )
        await store.delete_thread("t")
        await store.delete_thread("t")
        await store.delete_thread("never")
        assert await store.checkpoint("t") is await store.checkpoint("t", "sub") is None
        assert await store.checkpoint_writes("t", "", "z") == []
        assert {one.thread_id for one in await store.list_checkpoints()} == {"u"}
        assert (await store.info())["threads"] == 1
        assert not await is_kept(store, "t" + BIG)
        assert await is_kept(store)
        assert (await store.checkpoints("u", "", ["a"]))[0].body == {"text": BIG}
        await store.delete_thread("u")
        assert not await is_kept(store)
        await store.write_thread("t", these(point("b")))
        assert await listed(store) == ["b"]

    async def test_a_large_value_stays_while_an_execution_needs_it(self, store: Store) -> None:
        await begin(store)
        await store.commit(step("e1", entry(1, text=BIG)))
        await store.write_thread("t", these(point("c", text=BIG)))
        await store.delete_thread("t")
        assert (await store.journal("e1"))[1].body == {"text": BIG}

    async def test_gc_removes_the_thread_of_an_execution(self, store: Store) -> None:
        for name in ("old", "young"):
            await begin(store, name)
            thread = these(point("c", text=BIG, own=name + BIG), wrote("c", "task", 0, "x", ns="sub"))
            await store.commit(step(name, entry(1), thread=thread))
            await finish(store, name, seq=2, updated_at=1.0 if name == "old" else 9.0)
        await store.write_thread("t", these(point("c")))
        dry = await store.gc(finished_before=5.0)
        assert (dry.executions, dry.records, dry.blobs) == (1, 3, 1)
        assert dry.bytes > BIG_BYTES
        assert len(await store.list_checkpoints()) == 3
        real = await store.gc(finished_before=5.0, dry_run=False)
        assert (real.blobs, real.bytes) == (1, dry.bytes)
        assert {one.thread_id for one in await store.list_checkpoints()} == {"young", "t"}
        assert await values(store, "c", "old", "sub") == {}
        assert (await store.info())["threads"] == 2
        assert not await is_kept(store, "old" + BIG)
        assert await is_kept(store)
        assert (await store.gc(finished_before=10.0, dry_run=False)).blobs == 2
        assert not await is_kept(store)

    async def test_gc_keeps_large_values_that_threads_refer_to(self, store: Store) -> None:
        await begin(store)
        await store.commit(step("e1", entry(1, text=BIG)))
        await finish(store, "e1", seq=2, updated_at=1.0)
        await store.write_thread("t", these(point("c", text=BIG)))
        assert (await store.gc(finished_before=5.0, dry_run=False)).blobs == 0
        assert (await store.checkpoints("t", "", ["c"]))[0].body == {"text": BIG}

    async def test_deleted_checkpoints_go_with_their_writes(self, store: Store) -> None:
        for tick in (1, 2, 3):
            for ns in ("", "sub"):
                name = made_at(tick)
                thread = these(point(name, ns=ns, text=(str(tick) + BIG,)), wrote(name, "task", 0, tick, ns=ns))
                await store.write_thread("t", thread)
        gone = [("", made_at(3)), ("", made_at(1)), ("sub", made_at(1)), ("no", made_at(2)), ("", "missing")]
        for _ in range(2):
            await store.delete_checkpoints("t", gone)
            await store.delete_checkpoints("never", gone)
            assert await listed(store, ns="") == [made_at(2)]
            assert await listed(store, ns="sub") == [made_at(3), made_at(2)]
            assert await latest(store) == made_at(2)
            assert await values(store, made_at(1)) == await values(store, made_at(3)) == {}
            assert await values(store, made_at(3), ns="sub") == {("task", 0): 3}
        assert [await is_kept(store, f"{tick}{BIG}") for tick in (1, 2, 3)] == [False, True, True]
        assert (await store.checkpoints("t", "sub", [made_at(3)]))[0].body == {"text": ("3" + BIG,)}

    async def test_a_deleted_checkpoint_leaves_large_values_to_others(self, store: Store) -> None:
        for thread_id in ("t", "u"):
            await store.write_thread(thread_id, these(point("c", text=BIG)))
        await store.delete_checkpoints("t", [("", "c")])
        assert (await store.checkpoints("u", "", ["c"]))[0].body == {"text": BIG}
        await store.delete_checkpoints("u", [("", "c")])
        assert not await is_kept(store)

    async def test_after_the_last_is_deleted_the_next_is_the_latest(self, store: Store) -> None:
        for tick in (5, 4):
            await store.write_thread("t", these(point(made_at(tick))))
        await store.delete_checkpoints("t", [("", made_at(5)), ("", made_at(4))])
        assert await latest(store) is None
        for tick in (3, 2):
            await store.write_thread("t", these(point(made_at(tick))))
        assert await listed(store) == [made_at(2), made_at(3)]
        assert await latest(store) == made_at(2)

    # --- copying

    async def test_a_copy_has_all_in_the_same_order(self, store: Store) -> None:
        rows = [point("b", text=BIG), point("c", "b"), point("a", "c", n=1), point("a", ns="sub", n=2)]
        writes = [wrote("a", "task", 0, BIG, task_path="p"), wrote("x", "task", -1, "early", ns="sub")]
        await store.write_thread("t", these(*rows, *writes))
        for _ in range(2):
            await store.copy_thread("t", "u")
            assert await listed(store, "u", ns="") == ["a", "c", "b"]
            assert await latest(store, "u") == "a"
            assert await store.checkpoints("u", "", ["b", "c", "a"]) == rows[:3]
            assert await store.checkpoints("u", "sub", ["a"]) == rows[3:]
            assert await store.checkpoint_writes("u", "", "a") == writes[:1]
            assert await store.checkpoint_writes("u", "sub", "x") == writes[1:]
        await store.delete_thread("t")
        assert await store.checkpoints("u", "", ["b"]) == rows[:1]
        await store.write_thread("u", these(point("d")))
        assert await latest(store, "u") == "d"
        assert await latest(store, "t") is None

    async def test_a_copy_goes_to_an_empty_thread_only(self, store: Store) -> None:
        await store.write_thread("t", these(point("a", n=1)))
        await store.write_thread("u", these(point("a", n=2)))
        for source in ("t", "nothing"):
            with pytest.raises(ConfigurationError, match="not empty"):
                await store.copy_thread(source, "u")
        assert (await store.checkpoints("u", "", ["a"]))[0].body == {"n": 2}
        await store.copy_thread("nothing", "v")
        await store.copy_thread("t", "t")
        assert await listed(store, "t") == ["a"]
        assert (await store.info())["threads"] == 2
        await store.delete_checkpoints("u", [("", "a")])
        await store.copy_thread("t", "u")
        assert (await store.checkpoints("u", "", ["a"]))[0].body == {"n": 1}

    async def test_the_thread_of_an_execution_can_be_copied(self, store: Store) -> None:
        await begin(store)
        await store.commit(step("e1", entry(1), thread=these(point("a", n=1))))
        await store.copy_thread("e1", "u")
        assert (await store.checkpoints("u", "", ["a"]))[0].body == {"n": 1}
