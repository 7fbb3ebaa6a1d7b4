"""SQLite stores of several processes, loops and threads on one file; and processes that die."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from agentspan.errors import StaleEpochError, StoreUnavailableError
from agentspan.persistence.sqlite import SqliteStore
from agentspan.testing.store_rules.building import begin, entry, new, step

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


async def test_commits_that_wait_together_share_a_transaction(path: Path) -> None:
    async with SqliteStore.open(path) as store:
        for number in range(40):
            await begin(store, f"e{number}")
        before = store.transactions
        await asyncio.gather(*(store.commit(step(f"e{number}", entry(1))) for number in range(40)))
        assert store.transactions - before < 10
        assert all(row.seq == 1 for row in await store.rows())


async def test_a_lone_commit_is_one_transaction(path: Path) -> None:
    async with SqliteStore.open(path) as store:
        await begin(store)
        before = store.transactions
        await store.commit(step("e1", entry(1)))
        assert store.transactions - before == 1


async def test_one_execution_commits_in_order_while_others_do(path: Path) -> None:
    async def run(store: SqliteStore, name: str) -> None:
        for seq in range(1, 21):
            await store.commit(step(name, entry(seq, n=seq)))

    async with SqliteStore.open(path) as store:
        names = [f"e{number}" for number in range(8)]
        for name in names:
            await begin(store, name)
        await asyncio.gather(*(run(store, name) for name in names))
        for name in names:
            assert [one.seq for one in await store.journal(name)] == list(range(21))


async def test_a_write_that_fails_half_way_leaves_nothing_and_its_neighbours_stay(path: Path) -> None:
    def insert(name: str, failure: BaseException | None = None) -> Any:
        def work(db: Any) -> str:
            db.execute("INSERT INTO current_deployments VALUES (?, 'd')", (name,))
            if failure is not None:
                raise failure
            return name

        return work

    async with SqliteStore.open(path) as store:
        before = store.transactions
        works = [
            insert("first"),  # Alone: the writer takes it at once.
            insert("a"),
            insert("b", ValueError("refused")),
            insert("a"),  # Not unique: SQLite refuses the statement.
            insert("c"),
        ]
        results = await asyncio.gather(*map(store._link.write, works), return_exceptions=True)
        with pytest.raises(ValueError, match="alone"):
            await store._link.write(insert("d", ValueError("alone")))
        kept = await store._link.read(lambda db: db.execute("SELECT agent FROM current_deployments").fetchall())
        assert kept == [("a",), ("c",), ("first",)]
        assert [type(result) for result in results] == [str, str, ValueError, StoreUnavailableError, str]
        assert store.transactions - before <= 6


async def test_a_cancelled_caller_does_not_disturb_the_others(path: Path) -> None:
    async with SqliteStore.open(path) as store:
        for number in range(3):
            await begin(store, f"e{number}")
        tasks = [asyncio.create_task(store.commit(step(f"e{number}", entry(1)))) for number in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results[1], asyncio.CancelledError)
        assert (await store.row("e0")).seq == (await store.row("e2")).seq == 1
        await store.commit(step("e1", entry(1)))


async def test_a_closed_store_says_so(path: Path) -> None:
    store = await SqliteStore.connect(path)
    await store.close()
    with pytest.raises(StoreUnavailableError, match="closed"):
        await store.row("e1")
    with pytest.raises(StoreUnavailableError, match="closed"):
        await store.commit(step("e1", entry(1)))


async def test_close_waits_for_what_was_sent(path: Path) -> None:
    store = await SqliteStore.connect(path)
    await begin(store)
    task = asyncio.create_task(store.commit(step("e1", entry(1))))
    await asyncio.sleep(0)
    await store.close()
    await task
    async with SqliteStore.open(path) as again:
        assert (await again.row("e1")).seq == 1


async def test_a_store_belongs_to_its_loop(path: Path) -> None:
    async with SqliteStore.open(path) as store:
        await begin(store)
        caught: list[BaseException] = []

        async def use() -> None:
            try:
                await store.row("e1")
            except RuntimeError as problem:
                caught.append(problem)

        thread = threading.Thread(target=lambda: asyncio.run(use()))
        thread.start()
        await asyncio.to_thread(thread.join)
        assert "event loop" in str(caught[0])


async def test_two_loops_open_two_stores(path: Path) -> None:
    async def elsewhere() -> None:
        async with SqliteStore.open(path) as store:
            await store.commit(step("e1", entry(1)))

    async with SqliteStore.open(path) as store:
        await begin(store)
        await asyncio.to_thread(asyncio.run, elsewhere())
        assert (await store.row("e1")).seq == 1


async def test_a_slow_reader_does_not_stop_writers(path: Path) -> None:
    async with SqliteStore.open(path) as store:
        await begin(store)
        reading, done = threading.Event(), threading.Event()

        def slow(db: Any) -> Any:
            before = db.execute("SELECT seq FROM executions").fetchone()
            reading.set()
            assert done.wait(10)
            return before, db.execute("SELECT seq FROM executions").fetchone()

        read = asyncio.create_task(store._link.read(slow))
        await asyncio.to_thread(reading.wait, 10)
        await store.commit(step("e1", entry(1)))
        done.set()
        assert await read == ((0,), (0,)), "a reader sees one state of the file"


def _write_steps(path: Path, name: str, steps: int) -> None:
    async def run() -> None:
        async with SqliteStore.open(path) as store:
            await begin(store, name)
            for seq in range(1, steps + 1):
                await store.commit(step(name, entry(seq, n=seq)))

    asyncio.run(run())


def test_processes_make_the_file_at_once_and_write_to_it(path: Path) -> None:
    workers = [SPAWN.Process(target=_write_steps, args=(path, f"e{number}", 25)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4

    async def check() -> None:
        async with SqliteStore.open(path) as store:
            assert [row.seq for row in await store.rows()] == [25] * 4
            for number in range(4):
                assert [one.seq for one in await store.journal(f"e{number}")] == list(range(26))

    asyncio.run(check())


async def test_many_stores_open_a_new_file_at_once(path: Path) -> None:
    stores = await asyncio.gather(*(SqliteStore.connect(path) for _ in range(12)))
    await stores[0].create(new("e1"))
    assert [(await store.row("e1")).seq for store in stores] == [0] * 12
    for store in stores:
        await store.close()


WRITER = """
    import asyncio, sys
    from agentspan.persistence.sqlite import SqliteStore
    from agentspan.testing.store_rules.building import begin, entry, step

    async def main():
        async with SqliteStore.open(sys.argv[1]) as store:
            await begin(store)
            for seq in range(1, 100_000):
                body = {"n": seq, "pad": "x" * 3000}
                await store.commit(step("e1", entry(seq, **body), snapshot=body if seq % 10 == 0 else None))
                print(seq, flush=True)

    asyncio.run(main())
"""


@pytest.mark.parametrize("steps", [1, 47])
def test_what_a_killed_process_was_told_is_there(path: Path, steps: int) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert writer.stdout is not None
    told = 0
    while told < steps:
        told = int(writer.stdout.readline())
    writer.send_signal(signal.SIGKILL)
    told = max([told, *(int(line) for line in writer.stdout.read().split("\n") if line)])
    writer.wait(10)
    writer.stdout.close()

    async def check() -> None:
        async with SqliteStore.open(path) as store:
            taken = await store.take_over("e1", host={}, expected_epoch=1)
            loaded = await store.load("e1")
            assert taken.crashed
            assert told <= loaded.row.seq <= told + 1
            assert [one.seq for one in await store.journal("e1")] == list(range(loaded.row.seq + 1))
            last = loaded.row.seq
            with pytest.raises(StaleEpochError):
                await store.commit(step("e1", entry(last + 1)))
            await store.commit(step("e1", entry(last + 1), epoch=taken.epoch))

    asyncio.run(check())


def test_a_store_nobody_closed_does_not_keep_its_process(path: Path) -> None:
    code = """
        import asyncio, sys
        from agentspan.persistence.sqlite import SqliteStore
        loop = asyncio.new_event_loop()
        store = loop.run_until_complete(SqliteStore.connect(sys.argv[1]))
        print("ready")
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code), str(path)],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert done.stdout == "ready\n"
