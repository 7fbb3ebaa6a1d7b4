"""The way from a graph's saver to the driver's commits."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import pytest

from agentspan.engine import records as r
from agentspan.frameworks.langgraph.running.execution import WRITES_WITHIN_S, ExecutionPort
from agentspan.frameworks.langgraph.running.telling import Teller
from agentspan.persistence.memory import MemoryStore
from agentspan.persistence.threads import CheckpointRow, ThreadWrite, WriteRow, joined

WRITES = ThreadWrite(writes=[WriteRow(checkpoint_id="c", task_id="t", idx=0, channel="x", body={"v": 1})])
CHECKPOINT = ThreadWrite(checkpoints=[CheckpointRow(checkpoint_id="c", body={})])


class Driver:
    """Takes reports and commits them when told to."""

    def __init__(self) -> None:
        self.reports: list[tuple[list[r.AnyRecord], ThreadWrite | None, Future[None]]] = []

    def report(
        self, records: Sequence[r.AnyRecord] = (), thread: ThreadWrite | None = None, *, within_s: float = 0.0
    ) -> Future[None]:
        done: Future[None] = Future()
        self.reports.append((list(records), thread, done))
        return done

    def commit(self, problem: BaseException | None = None) -> None:
        for _, _, done in self.reports:
            if not done.done():
                done.set_result(None) if problem is None else done.set_exception(problem)


@pytest.fixture
def driver() -> Driver:
    return Driver()


@pytest.fixture
async def port(driver: Driver) -> ExecutionPort:
    return ExecutionPort("x", driver.report, MemoryStore(), Teller(), clock=lambda: 1.0, path="")


async def timers_are_due() -> None:
    """Return after every timer of the port's millisecond has fired."""
    due: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(WRITES_WITHIN_S * 2, due.set_result, None)
    await due


async def test_a_checkpoint_takes_the_writes_before_it_along(port: ExecutionPort, driver: Driver) -> None:
    written = port.push("x", WRITES)
    assert driver.reports == []
    stored = port.push("x", CHECKPOINT)
    ((_, thread, _),) = driver.reports
    assert thread is not None
    assert (len(thread.writes), len(thread.checkpoints)) == (1, 1)
    assert not written.done()
    driver.commit()
    assert written.result() is stored.result() is None


async def test_writes_do_not_wait_long_for_a_checkpoint(port: ExecutionPort, driver: Driver) -> None:
    port.push("x", WRITES)
    await timers_are_due()
    assert [thread for _, thread, _ in driver.reports] == [WRITES]


async def test_a_read_comes_after_what_was_pushed_before_it(port: ExecutionPort, driver: Driver) -> None:
    port.push("x", WRITES)
    seen: list[Any] = []

    async def look(store: Any) -> None:
        seen.append(len(driver.reports))

    reading = asyncio.wrap_future(port.read(look))
    assert [thread for _, thread, _ in driver.reports] == [WRITES]
    await timers_are_due()
    assert seen == [], "the writes are not committed yet"
    driver.commit()
    await reading
    assert seen == [2], "the writes, and the report that waits for them"


async def test_nothing_is_reported_behind_the_end_of_the_run(port: ExecutionPort, driver: Driver) -> None:
    late = port.push("x", WRITES)
    port.close()
    await timers_are_due()
    later = port.push("x", CHECKPOINT)
    assert driver.reports == []
    for done in (late, later):
        with pytest.raises(RuntimeError, match="over"):
            done.result(0)


async def test_a_commit_that_fails_is_heard_by_all_who_wait_for_it(port: ExecutionPort, driver: Driver) -> None:
    written, stored = port.push("x", WRITES), port.push("x", CHECKPOINT)
    problem = OSError("gone")
    driver.commit(problem)
    assert written.exception() is stored.exception() is port.failure is problem
    with pytest.raises(OSError, match="gone"):
        await port.flushed()


def _wrote(value: int, idx: int = 0) -> ThreadWrite:
    row = WriteRow(checkpoint_id="c", task_id="t", idx=idx, channel="x", body={"v": value})
    return ThreadWrite(writes=[row])


async def test_joined_writes_come_to_what_they_do_one_after_the_other() -> None:
    forget = ThreadWrite(forget=[("", "c", "t", 0)])
    for sequence in (
        [_wrote(1), forget],
        [_wrote(1), forget, _wrote(2)],
        [forget, _wrote(1), _wrote(2)],
        [_wrote(1), _wrote(3, idx=1), forget],
    ):
        apart, together = MemoryStore(), MemoryStore()
        for store in (apart, together):
            await store.write_thread("t", ThreadWrite(checkpoints=[CheckpointRow(checkpoint_id="c", body={})]))
            await store.write_thread("t", _wrote(0))
        for write in sequence:
            await apart.write_thread("t", write)
        whole = joined(sequence)
        assert whole is not None
        await together.write_thread("t", whole)
        assert await together.checkpoint_writes("t", "", "c") == await apart.checkpoint_writes("t", "", "c")
