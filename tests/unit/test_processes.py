"""Processes are killed by PID and birth: nobody else's process is ever meant."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from agentspan.processes import Process, born, whoami


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def test_a_process_on_record_is_found_and_killed(child: subprocess.Popen[bytes]) -> None:
    process = Process.on_record({**whoami(), "pid": child.pid, "born": born(child.pid)})
    assert process is not None
    assert process.kill()
    assert child.wait(10) == -signal.SIGKILL


def test_a_pid_that_was_given_to_another_process_is_left_alone(child: subprocess.Popen[bytes]) -> None:
    stale = {**whoami(), "pid": child.pid, "born": str(int(str(born(child.pid))) - 1)}
    assert Process.on_record(stale) is None
    assert not Process(child.pid, stale["born"]).kill()
    assert child.poll() is None


def test_one_that_ended_is_not_alive_even_before_it_was_waited_for(child: subprocess.Popen[bytes]) -> None:
    process = Process(child.pid, str(born(child.pid)))
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # A zombie now.
    assert not process.is_alive()
    child.wait()
    assert not process.kill()


def test_one_that_is_stopped_is_alive(child: subprocess.Popen[bytes]) -> None:
    process = Process(child.pid, str(born(child.pid)))
    assert process.send(signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED)
    assert process.is_alive()


@pytest.mark.parametrize("lack", [{"hostname": "elsewhere"}, {"born": None}, {"pid": None}])
def test_a_record_of_another_machine_or_an_older_version_means_nobody(lack: dict[str, object]) -> None:
    assert Process.on_record(whoami()) == Process(os.getpid(), str(born(os.getpid())))
    assert Process.on_record({**whoami(), **lack}) is None
