"""Threads in a SQLite file: what is on disk, what it costs, and what damage does."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from agentspan.errors import CorruptRecordError, ThreadOwnedError, UnstorableValueError
from agentspan.persistence.sqlite import InlineSqliteStore, SqliteStore
from agentspan.persistence.sqlite_file import log_bytes
from agentspan.testing.store_rules.building import begin, entry, finish, step
from agentspan.testing.store_rules.threads import latest, listed, made_at, point, these, values, wrote
from agentspan.testing.store_rules.values import BIG

RELEASED = Path(__file__).parents[2] / "data" / "store-v1.db"
TABLES = ("threads", "thread_spaces", "thread_rows", "blobs", "blob_refs")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def query(path: Path, statement: str, *given: object) -> list[Any]:
    db = sqlite3.connect(path, isolation_level=None)
    try:
        return db.execute(statement, given).fetchall()
    finally:
        db.close()


def counts(path: Path) -> dict[str, int]:
    return {table: query(path, f"SELECT count(*) FROM {table}")[0][0] for table in TABLES}


async def test_a_store_of_the_first_release_gets_threads(path: Path) -> None:
    shutil.copy(RELEASED, path)
    assert query(path, "PRAGMA user_version") == [(1,)]
    async with SqliteStore.open(path) as store:
        assert (await store.info())["threads"] == 0
        taken = await store.take_over("ex-waits", host={})
        row = await store.row("ex-waits")
        thread = these(point("c1", text=BIG), wrote("c1", "task", 0, "x"))
        await store.commit(step("ex-waits", seq=row.seq, epoch=taken.epoch, thread=thread))
        await store.write_thread("t", thread)
        assert await listed(store, None) == ["c1", "c1"]
    async with SqliteStore.open(path) as store:
        assert await values(store, "c1", "ex-waits") == {("task", 0): "x"}


async def test_a_deleted_thread_leaves_no_rows(path: Path) -> None:
    async with SqliteStore.open(path) as store:
        await begin(store, "e1")
        await store.commit(step("e1", entry(1), thread=these(point("a", text="e" + BIG), wrote("a", "x", 0, ns="sub"))))
        for name in ("t", "u"):
            await store.write_thread(name, these(point("a", text=BIG), point("a", ns="sub"), wrote("b", "x", 0, BIG)))
        await store.copy_thread("t", "v")
        assert counts(path) == {"threads": 4, "thread_spaces": 8, "thread_rows": 11, "blobs": 2, "blob_refs": 4}
        for name in ("t", "u", "v"):
            await store.delete_thread(name)
        assert counts(path) == {"threads": 1, "thread_spaces": 2, "thread_rows": 2, "blobs": 1, "blob_refs": 1}
        await finish(store, "e1", seq=2, updated_at=1.0)
        await store.gc(finished_before=5.0, dry_run=False)
        assert counts(path) == dict.fromkeys(TABLES, 0)


async def test_ids_made_from_a_clock_need_no_search_for_the_latest(path: Path) -> None:
    async with SqliteStore.open(path) as store:
        for tick in (1, 2, 3, 3, 2):  # The last two replace.
            await store.write_thread("t", these(point(made_at(tick)), wrote(made_at(tick), "task", 0)))
        assert query(path, "SELECT shuffled FROM thread_spaces") == [(0,)]
        await store.write_thread("t", these(wrote(made_at(9), "task", 0), point(made_at(4))))
        assert query(path, "SELECT shuffled FROM thread_spaces") == [(0,)], "a write is no checkpoint"
        await store.write_thread("t", these(point(made_at(0))))
        await store.copy_thread("t", "u")
        assert query(path, "SELECT shuffled FROM thread_spaces") == [(1,), (1,)]
        assert await latest(store, "t") == await latest(store, "u") == made_at(0)


async def test_a_super_step_writes_few_pages_however_long_the_thread(path: Path) -> None:
    async with SqliteStore.open(path) as store:

        async def super_steps(first: int, count: int) -> float:
            before = log_bytes(path)
            for tick in range(first, first + count):
                rows = [wrote(made_at(tick - 1), made_at(tick), idx, "w" * 80) for idx in range(2)]
                await store.write_thread("t", these(point(made_at(tick), made_at(tick - 1), text="x" * 560), *rows))
            return (log_bytes(path) - before) / count

        assert 1_000 < await super_steps(1, 50) < 5_000
        await store.write_thread("t", these(*(point(made_at(tick), text="x" * 560) for tick in range(51, 1051))))
        assert 1_000 < await super_steps(1051, 50) < 5_000


async def test_a_store_with_the_long_index_gets_the_short_one(path: Path) -> None:
    async with SqliteStore.open(path) as store:
        thread = these(point(made_at(1)), point(made_at(2), made_at(1)), wrote(made_at(2), made_at(9), 0, "x"))
        await store.write_thread("t", thread)
    for statement in (
        "DROP INDEX thread_rows_place",
        "CREATE UNIQUE INDEX thread_rows_place ON thread_rows (space, checkpoint_id, task_id)",
        "PRAGMA user_version = 2",
    ):
        query(path, statement)
    async with SqliteStore.open(path) as store:
        await store.write_thread("t", these(wrote(made_at(2), made_at(9), 1, "y")))
        assert await latest(store, "t") == made_at(2)
        assert await values(store, made_at(2)) == {(made_at(9), 0): "x", (made_at(9), 1): "y"}
    assert "substr" in query(path, "SELECT sql FROM sqlite_master WHERE name = 'thread_rows_place'")[0][0]


@pytest.mark.parametrize("ids", [[f"00000000-1111-6222-8333-00000000000{n}" for n in range(4)], ["a", "ab", "ac", "b"]])
async def test_ids_that_begin_alike_are_told_apart(path: Path, ids: list[str]) -> None:
    async with SqliteStore.open(path) as store:
        for name in ids:
            await store.write_thread("t", these(point(name), *(wrote(name, task, 0, name + task) for task in ids)))
        await store.write_thread("t", these(*(wrote(ids[1], task, 0, "again") for task in ids)))
        assert await latest(store, "t") == ids[-1]
        assert await listed(store, "t") == ids[::-1]
        for name in ids:
            assert await values(store, name) == {(task, 0): name + task for task in ids}
        await store.delete_checkpoints("t", [("", ids[1])])
        assert await listed(store, "t") == [ids[3], ids[2], ids[0]]
        await store.write_thread("t", these(point(ids[1])))
        assert await latest(store, "t") == ids[1]
        assert query(path, "SELECT shuffled FROM thread_spaces") == [(1,)]


async def test_writes_to_several_threads_at_once_are_one_transaction_and_fail_apart(path: Path) -> None:
    async with InlineSqliteStore.open(path) as store:
        await begin(store, "e1")
        before = store.transactions
        good = these(point("c"), wrote("c", "a", 0, "v"))
        told = store.write_threads([("t", good), ("e1", good), ("u", these(point("c", bad=object()))), ("v", good)])
        assert [type(problem) for problem in told] == [type(None), ThreadOwnedError, UnstorableValueError, type(None)]
        assert store.transactions - before == 1
        assert sorted(one.thread_id for one in await store.list_checkpoints()) == ["t", "v"]
        assert store.write_threads([("u", these(point("c", bad=object())))])[0] is not None
        assert store.transactions - before == 1


async def test_threads_written_at_once_share_transactions(path: Path) -> None:
    async with SqliteStore.open(path) as store:
        before = store.transactions
        await begin(store, "e1")
        writes = [store.write_thread(f"t{number}", these(point("c"), wrote("c", "a", 0))) for number in range(50)]
        await asyncio.gather(*writes, store.commit(step("e1", entry(1), thread=these(point("c")))))
        assert store.transactions - before < 10
        assert len(await store.list_checkpoints()) == 51


# --- damage


async def prepared(path: Path) -> None:
    async with SqliteStore.open(path) as store:
        for name in ("t", "u"):
            for number in range(3):
                rows = [point(f"c{number}", None if number == 0 else f"c{number - 1}", n=number, of=name)]
                await store.write_thread(name, these(*rows, wrote(f"c{number}", "task", 0, number)))


OF_T = "space = (SELECT s.id FROM thread_spaces s JOIN threads t ON t.id = s.thread WHERE t.thread_id = 't')"
C1 = f"{OF_T} AND checkpoint_id = 'c1'"
OTHER = "(SELECT o.body FROM thread_rows o WHERE o.{0} AND o.task_id IS NULL AND o.checkpoint_id = '{1}')"
DAMAGE = {
    "a body": f"UPDATE thread_rows SET body = CAST(substr(body, 1, length(body) - 1) || char(7) AS BLOB) WHERE {C1}",
    "a parent": f"UPDATE thread_rows SET parent_id = 'c2' WHERE {C1} AND task_id IS NULL",
    "no parent": f"UPDATE thread_rows SET parent_id = NULL WHERE {C1} AND task_id IS NULL",
    "the body of another checkpoint": f"UPDATE thread_rows SET body = {OTHER.format(OF_T, 'c2')} "
    f"WHERE {C1} AND task_id IS NULL",
    "the body of another thread": f"UPDATE thread_rows SET body = {OTHER.format(OF_T.replace('=', '<>', 1), 'c1')} "
    f"WHERE {C1} AND task_id IS NULL",
    "writes instead of a checkpoint": "UPDATE thread_rows SET body = (SELECT o.body FROM thread_rows o "
    f"WHERE o.{C1} AND o.task_id IS NOT NULL) WHERE {C1} AND task_id IS NULL",
}


@pytest.mark.parametrize("case", DAMAGE)
async def test_a_damaged_checkpoint_stops_its_thread_and_no_other(path: Path, case: str) -> None:
    await prepared(path)
    query(path, DAMAGE[case])
    async with SqliteStore.open(path) as store:
        for damaged in (
            store.checkpoint("t", checkpoint_id="c1"),
            store.checkpoints("t", "", ["c0", "c1"]),
            store.list_checkpoints("t"),
            store.copy_thread("t", "copy"),
        ):
            with pytest.raises(CorruptRecordError) as caught:
                await damaged
            assert caught.value.execution_id == "t"
            assert "checkpoint c1" in caught.value.what
        assert await listed(store, None) == ["c2", "c1", "c0", "c2", "c0"], "only the damaged one is left out"
        with pytest.raises(CorruptRecordError) as held:
            await store.list_checkpoints("t")
        assert await latest(store, "t") == "c2"
        assert await listed(store, "u") == ["c2", "c1", "c0"]
        await store.delete_thread("t")
        assert await listed(store, "t") == [], "the error that is still held must not hold back the reader"
        del held


@pytest.mark.parametrize(
    "change",
    [
        "body = zeroblob(30)",
        "task_id = 'other'",
        "checkpoint_id = 'c0', task_id = 'other'",
        f"body = {OTHER.format(OF_T, 'c1')}",
    ],
)
async def test_damaged_writes_are_noticed(path: Path, change: str) -> None:
    await prepared(path)
    query(path, f"UPDATE thread_rows SET {change} WHERE {C1} AND task_id IS NOT NULL")
    found = "c0" if "'c0'" in change else "c1"
    task = "other" if "other" in change else "task"
    async with SqliteStore.open(path) as store:
        with pytest.raises(CorruptRecordError) as caught:
            await store.checkpoint_writes("t", "", found)
        assert caught.value.what == f"the writes of task {task} on checkpoint {found}"
        with pytest.raises(CorruptRecordError):
            await store.checkpoint("t", checkpoint_id=found)
        with pytest.raises(CorruptRecordError):
            await store.write_thread("t", these(point("c3"), wrote(found, task, 1)))
        assert await listed(store, "t") == ["c2", "c1", "c0"]
        assert await values(store, "c2") == {("task", 0): 2}


async def test_every_flipped_byte_of_a_checkpoint_is_noticed(path: Path) -> None:
    await prepared(path)
    (body,) = query(path, f"SELECT body FROM thread_rows WHERE {C1} AND task_id IS NULL")[0]
    async with SqliteStore.open(path) as store:
        for index in range(len(body)):
            damaged = body[:index] + bytes([body[index] ^ 0x40]) + body[index + 1 :]
            query(path, f"UPDATE thread_rows SET body = ? WHERE {C1} AND task_id IS NULL", damaged)
            with pytest.raises(CorruptRecordError, match="checkpoint c1"):
                await store.checkpoints("t", "", ["c1"])


@pytest.mark.parametrize("statement", ["UPDATE blobs SET body = zeroblob(length(body))", "DELETE FROM blobs"])
async def test_a_damaged_large_value_stops_what_refers_to_it(path: Path, statement: str) -> None:
    async with SqliteStore.open(path) as store:
        await store.write_thread("t", these(point("c1", text=BIG), point("c2"), wrote("c2", "task", 0, [BIG])))
    query(path, statement)
    async with SqliteStore.open(path) as store:
        for damaged in (store.checkpoints("t", "", ["c1"]), store.checkpoint_writes("t", "", "c2")):
            with pytest.raises(CorruptRecordError, match="large value"):
                await damaged
        assert len(await store.checkpoints("t", "", ["c2"])) == 1


async def test_large_values_stay_while_a_damaged_row_may_need_them(path: Path) -> None:
    async with SqliteStore.open(path) as store:
        for name in ("c1", "c2", "c3"):
            await store.write_thread("t", these(point(name, text=name + BIG)))
        query(path, f"UPDATE thread_rows SET body = zeroblob(30) WHERE {C1}")
        await store.delete_checkpoints("t", [("", "c2")])
        assert counts(path)["blobs"] == 3
        await store.delete_checkpoints("t", [("", "c1")])
        assert counts(path)["blobs"] == 1
        assert (await store.checkpoints("t", "", ["c3"]))[0].body == {"text": "c3" + BIG}
