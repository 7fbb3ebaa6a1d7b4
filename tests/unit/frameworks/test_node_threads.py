"""The threads of sync nodes: as many as are needed, and none that keeps the process."""

from __future__ import annotations

import subprocess
import sys
import threading
import weakref

import pytest

from agentspan.frameworks.langgraph.running.threads import DaemonThreads

BLOCKED = """
import asyncio, threading
from agentspan.frameworks.langgraph.running.graphloop import GraphLoop
entered = threading.Event()
def node():
    entered.set()
    threading.Event().wait()
async def run():
    await asyncio.get_running_loop().run_in_executor(None, node)
loop = GraphLoop()
loop.submit(run())
entered.wait()
print("in it", flush=True)
"""


def test_work_waits_for_a_thread_only_when_all_are_busy() -> None:
    threads = DaemonThreads(3, name="node")
    together, extra = threading.Barrier(4), threading.Event()
    busy = [threads.submit(together.wait, 10) for _ in range(3)]
    waiting = threads.submit(extra.set)
    assert not extra.is_set()
    together.wait(10)
    assert sorted(future.result(10) for future in busy)[0] < 3
    waiting.result(10)
    assert extra.is_set()
    threads.shutdown()


def test_an_idle_thread_is_used_again() -> None:
    threads = DaemonThreads(8, name="node")
    used = set()
    for _ in range(20):
        used.add(threads.submit(threading.current_thread).result(10).name)
    assert len(used) <= 2, "one may not have come to rest when the next work came"
    threads.shutdown()


def test_what_work_raises_is_the_futures_and_the_thread_goes_on() -> None:
    threads = DaemonThreads(1, name="node")

    def fails() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        threads.submit(fails).result(10)
    assert threads.submit(int, "7", base=8).result(10) == 7
    threads.shutdown()


def test_work_that_was_cancelled_before_its_turn_is_not_done() -> None:
    threads = DaemonThreads(1, name="node")
    gate, done = threading.Event(), []
    first = threads.submit(gate.wait, 10)
    second = threads.submit(done.append, 1)
    assert second.cancel()
    gate.set()
    first.result(10)
    threads.submit(int).result(10)
    assert done == []
    threads.shutdown()


def test_an_idle_thread_keeps_nothing_alive() -> None:
    class Big:
        pass

    threads = DaemonThreads(1, name="node")
    big = Big()
    seen = weakref.ref(big)
    threads.submit(lambda held: None, big).result(10)
    del big
    threads.submit(int).result(10)  # Its thread has dropped the work before.
    assert seen() is None
    threads.shutdown()


def test_after_the_shutdown_nothing_is_taken() -> None:
    threads = DaemonThreads(2, name="node")
    threads.submit(int).result(10)
    threads.shutdown()
    threads.shutdown()
    with pytest.raises(RuntimeError, match="shut down"):
        threads.submit(int)


def test_a_node_that_never_returns_does_not_keep_the_process() -> None:
    ended = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "in it\n", "")
