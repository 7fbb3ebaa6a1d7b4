"""`StoreThreads`: order, grouping, reads that see what was written, failures that spread to what is behind them."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from agentspan.errors import ConfigurationError, StoreUnavailableError, ThreadOwnedError, UnstorableValueError
from agentspan.frameworks.langgraph.saving.ports import StoreThreads
from agentspan.frameworks.langgraph.saving.steps import run_async, run_sync, settled, together
from agentspan.persistence.memory import MemoryStore
from agentspan.persistence.sqlite import InlineSqliteStore
from agentspan.persistence.threads import CheckpointRow, ThreadWrite, WriteRow


def row(name: str) -> ThreadWrite:
    return ThreadWrite(checkpoints=[CheckpointRow(checkpoint_id=name, body={"n": name})])


def write(idx: int, checkpoint_id: str = "c") -> ThreadWrite:
    return ThreadWrite(
        writes=[WriteRow(checkpoint_id=checkpoint_id, task_id="t", idx=idx, channel="x", body={"v": idx})]
    )


class Noting(MemoryStore):
    """A memory store that notes what it is asked to write; writes to thread "a" can be held up, or fail."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[tuple[str, list[str], list[int]]] = []
        self.threads: set[threading.Thread] = set()
        self.gate: asyncio.Event | None = None
        self.is_held = threading.Event()
        self.problems: list[BaseException] = []
        self.closed = 0

    async def write_thread(self, thread_id: str, write: ThreadWrite) -> int:
        self.threads.add(threading.current_thread())
        checkpoints, indexes = [one.checkpoint_id for one in write.checkpoints], [one.idx for one in write.writes]
        self.written.append((thread_id, checkpoints, indexes))
        if self.gate is not None and thread_id == "a":
            self.is_held.set()
            await self.gate.wait()
        if self.problems and thread_id == "a":
            raise self.problems.pop(0)
        return await super().write_thread(thread_id, write)

    async def close(self) -> None:
        self.closed += 1


@pytest.fixture
def store() -> Noting:
    return Noting()


@pytest.fixture
def port(store: Noting) -> Iterator[StoreThreads]:
    async def opening() -> Noting:
        return store

    port = StoreThreads(opening)
    yield port
    port.close()


def hold(port: StoreThreads, store: Noting) -> Any:
    """Make every write to "a" wait until the returned function is called."""
    gate = asyncio.Event()

    async def close(_: Any) -> asyncio.AbstractEventLoop:
        store.gate = gate
        return asyncio.get_running_loop()

    loop = port.read(close).result()
    return lambda: loop.call_soon_threadsafe(gate.set)


async def count(store: Any) -> int:
    return len(await store.list_checkpoints())


def test_task_writes_wait_for_the_checkpoint_that_follows(port: StoreThreads, store: Noting) -> None:
    port.read(count).result()
    done = [port.push("a", write(0)), port.push("a", write(1)), port.push("a", row("c"))]
    for future in done:
        future.result()
    assert [(thread_id, checkpoints) for thread_id, checkpoints, _ in store.written][-1] == ("a", ["c"])
    assert sorted(index for _, _, indexes in store.written for index in indexes) == [0, 1]
    assert len(store.written) <= 2


def test_task_writes_that_no_checkpoint_follows_become_durable_by_themselves(port: StoreThreads, store: Noting) -> None:
    port.push("a", write(0)).result(10)
    assert store.written == [("a", [], [0])]


def test_a_thread_is_written_in_order_and_what_waits_is_written_together(port: StoreThreads, store: Noting) -> None:
    open_gate = hold(port, store)
    first = port.push("a", row("1"))
    assert store.is_held.wait(10)
    rest = [port.push("a", row(str(number))) for number in range(2, 6)]
    open_gate()
    for future in (first, *rest):
        future.result(10)
    assert store.written == [("a", ["1"], []), ("a", ["2", "3", "4", "5"], [])]


def test_threads_do_not_wait_for_each_other(port: StoreThreads, store: Noting) -> None:
    open_gate = hold(port, store)
    held = port.push("a", row("1"))
    assert store.is_held.wait(10)
    port.push("b", row("1")).result(10)
    assert not held.done()
    open_gate()
    held.result(10)


def test_a_read_sees_what_was_pushed_before_it(port: StoreThreads) -> None:
    for number in range(20):
        port.push("a", row(str(number)))
        port.push(f"other{number}", write(0))
        assert port.read(count).result() == number + 1


def test_what_is_queued_behind_a_failure_fails_with_it(port: StoreThreads, store: Noting) -> None:
    open_gate = hold(port, store)
    writes = port.push("a", ThreadWrite(writes=write(0).writes, checkpoints=row("0").checkpoints))
    assert store.is_held.wait(10)
    behind, other = port.push("a", row("1")), port.push("b", row("1"))
    store.problems.append(ThreadOwnedError(thread_id="a"))
    open_gate()
    for future in (writes, behind):
        with pytest.raises(ThreadOwnedError):
            future.result(10)
    other.result(10)
    port.push("a", row("2")).result(10)
    assert port.read(count).result() == 2


def test_a_write_whose_outcome_is_unknown_is_sent_again(port: StoreThreads, store: Noting) -> None:
    store.problems.append(StoreUnavailableError(where="here", problem="went away"))
    port.push("a", row("1")).result(10)
    assert len(store.written) == 2
    store.problems += [StoreUnavailableError(where="here", problem="is away")] * 3
    with pytest.raises(StoreUnavailableError):
        port.push("a", row("2")).result(10)


def test_task_writes_behind_a_checkpoint_become_durable_without_another(port: StoreThreads, store: Noting) -> None:
    for number in range(20):  # Some of them are pushed while a patrol is due, and wake nobody.
        port.push("a", row(str(number))).result(10)
        port.push("a", write(0, str(number))).result(10)
    assert len(store.written) == 40


def test_a_file_that_is_locked_for_a_while_holds_nothing_up_for_good(tmp_path: Path) -> None:
    path = tmp_path / "threads.db"

    async def opening() -> InlineSqliteStore:
        return await InlineSqliteStore.connect(path, locked_max_s=0.01)

    port = StoreThreads(opening)
    port.push("a", row("1")).result(10)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailableError):
            port.push("a", row("2")).result(10)
        later = [port.push("a", row("3")), port.push("b", row("3"))]
        with contextlib.suppress(TimeoutError):
            later[0].result(0.02)  # It is tried again by now.
        later += [port.push("a", write(0)), port.push("a", row("4"))]
        other.execute("ROLLBACK")
        for future in later:
            future.result(10)
    assert port.read(count).result(10) == 4
    port.close()


def test_a_file_takes_what_several_threads_push(tmp_path: Path) -> None:
    port = StoreThreads(tmp_path / "threads.db")
    forget = ThreadWrite(forget=[("", "c", "t", 0)], writes=write(1).writes)
    done = [port.push(name, one) for name in "abcde" for one in (write(0), forget, row("c"))]
    for future in done:
        future.result(10)
    with pytest.raises(UnstorableValueError):
        port.push("a", ThreadWrite(checkpoints=[CheckpointRow(checkpoint_id="bad", body={"n": object()})])).result(10)

    async def look(store: Any) -> list[list[int]]:
        return [[one.idx for one in await store.checkpoint_writes(name, "", "c")] for name in "abcde"]

    assert port.read(count).result(10) == 5
    assert port.read(look).result(10) == [[1]] * 5
    port.close()


def test_a_store_that_cannot_be_opened_says_so_and_may_be_there_later() -> None:
    answers: list[Any] = [ConfigurationError(problem="no such store"), MemoryStore()]

    async def opening() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    port = StoreThreads(opening)
    with pytest.raises(ConfigurationError):
        port.push("a", row("1")).result(10)
    port.push("a", row("1")).result(10)
    assert port.read(count).result(10) == 1
    port.close()


def test_closing_finishes_what_is_queued(port: StoreThreads, store: Noting) -> None:
    futures = [port.push(f"t{number}", write(number)) for number in range(50)]
    port.close()
    port.close()
    assert all(future.done() and future.exception() is None for future in futures)
    assert len(store.written) == 50
    assert store.closed == 1
    assert not any(thread.is_alive() for thread in store.threads)
    with pytest.raises(StoreUnavailableError):
        port.push("a", row("1"))
    with pytest.raises(StoreUnavailableError):
        port.read(count)


def test_a_port_that_was_never_used_closes() -> None:
    StoreThreads("/nowhere/at/all.db").close()


def test_a_port_that_nobody_has_any_more_lets_its_thread_go(store: Noting) -> None:
    async def opening() -> Noting:
        return store

    port = StoreThreads(opening)
    port.push("a", row("1")).result(10)
    (thread,) = store.threads
    del port
    thread.join(10)
    assert not thread.is_alive()


def test_a_push_that_is_cancelled_is_carried_out(port: StoreThreads, store: Noting) -> None:
    assert port.push("a", row("1")).cancel() is False
    assert port.read(count).result() == 1


def test_a_read_within_a_read_is_refused(port: StoreThreads) -> None:
    async def nested(_: Any) -> None:
        port.read(count)

    with pytest.raises(RuntimeError, match="inside of a read"):
        port.read(nested).result()


async def test_a_loop_is_woken_once_for_what_is_settled_together() -> None:
    futures: list[Future[int]] = [Future() for _ in range(5)]
    waiting = [asyncio.create_task(settled(future)) for future in futures]
    await asyncio.sleep(0)
    with together():
        for number, future in enumerate(futures[:4]):
            future.set_result(number)
    futures[4].set_exception(KeyError("no"))
    assert await asyncio.gather(*waiting[:4]) == [0, 1, 2, 3]
    with pytest.raises(KeyError):
        await waiting[4]
    assert await settled(futures[0]) == 0


async def test_steps_are_the_same_sync_and_async() -> None:
    def steps() -> Any:
        good: Future[int] = Future()
        good.set_result(20)
        bad: Future[int] = Future()
        bad.set_exception(KeyError("no"))
        number = yield good
        try:
            yield bad
        except KeyError:
            number += 1
        yield good
        return number

    assert run_sync(steps()) == await run_async(steps()) == 21
