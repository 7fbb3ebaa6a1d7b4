"""`stream` and `result`: events as lines, codes as documented, and waits that end."""

from __future__ import annotations

import signal
import threading
from typing import Any

import pytest

from agentspan.actors.lease import Lease
from agentspan.cli import following
from tests.unit.cli.world import Command, World


def test_stream_tells_every_event_on_one_line(command: Command, world: World) -> None:
    full = world.started("echo", prompt="two\nlines")
    answer = command("stream", full)
    assert answer.code == 0
    lines = answer.out.splitlines()
    assert [line.split()[2] for line in lines[:3]] == ["started", "message", "done"]
    assert "two lines" in lines[0]
    assert "COMPLETED (stop)" in lines[2]
    assert lines[4:6] == ["You said: two", "lines"]  # The output, whole.


def test_stream_in_json_is_one_event_a_line_without_gaps(command: Command, world: World) -> None:
    full = world.started("echo")
    events = command("stream", full, "--json").lines
    assert [event["type"] for event in events] == ["started", "message", "done"]
    assert [event["seq"] for event in events] == [1, 2, 3]
    assert {event["execution_id"] for event in events} == {full}


def test_stream_resumes_after_a_number(command: Command, world: World) -> None:
    full = world.started("echo")
    assert [event["seq"] for event in command("stream", full, "--after", "2", "--json").lines] == [3]


def test_text_is_never_read_as_markup(command: Command, world: World) -> None:
    full = world.started("support")
    command("approve", full)
    world.play(full)
    assert "[done] It is paid." in command("stream", full).out
    assert "[done] It is paid." in command("result", full).out


def test_a_waiting_event_says_how_to_decide(command: Command, world: World) -> None:
    full = world.started("support")
    answer = command("stream", full)
    assert answer.code == 5  # Nobody works on it, so more cannot come.
    assert f"agent-span approve {full[:11]}" in answer.out
    assert "server start" in answer.err


def test_result_prints_the_output_and_a_line_of_facts(command: Command, world: World) -> None:
    answer = command("result", world.started("echo"))
    assert answer.code == 0
    assert answer.out.splitlines()[0] == "You said: Hello"
    assert "COMPLETED (stop)" in answer.out.splitlines()[1]


@pytest.mark.parametrize("verb", ["result", "stream"])
def test_an_execution_that_failed_is_exit_code_1(command: Command, world: World, verb: str) -> None:
    full = world.started("broken")
    assert command(verb, full).code == 1
    assert command("result", full, "--json").json["status"] == "FAILED"


@pytest.mark.parametrize("verb", ["result", "stream"])
def test_a_cancelled_execution_is_exit_code_1(command: Command, world: World, verb: str) -> None:
    full = world.started("support")
    command("cancel", full, "not needed")
    world.play(full)
    assert command(verb, full).code == 1


@pytest.mark.parametrize("verb", ["result", "stream"])
def test_waiting_ends_with_the_timeout_and_leaves_the_execution_alone(
    command: Command, world: World, verb: str
) -> None:
    full = world.started("support")
    lease = Lease(world.settings.home)
    assert lease.take()
    try:
        answer = command(verb, full, "--timeout", "0.2", "--json")
    finally:
        lease.release()
    assert (answer.code, command("show", full, "--json").json["status"]) == (124, "WAITING")
    assert '"ServerTimeoutError"' in answer.err


def test_waiting_for_what_nobody_works_on_is_refused_at_once(command: Command, world: World) -> None:
    answer = command("result", world.create("echo"), "--json")
    assert (answer.code, answer.error["type"]) == (5, "ServerUnavailableError")


def test_a_wait_sees_what_another_process_does(command: Command, world: World) -> None:
    full = world.create("echo")
    lease = Lease(world.settings.home)
    assert lease.take()
    worker = threading.Timer(0.2, world.play, [full])
    worker.start()
    try:
        assert [event["type"] for event in command("stream", full, "--json").lines] == ["started", "message", "done"]
    finally:
        worker.join()
        lease.release()


def test_ctrl_c_leaves_the_execution_alone_and_says_how_to_come_back(
    command: Command, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = world.started("support")
    lease = Lease(world.settings.home)
    assert lease.take()
    printed: list[Any] = []

    def interrupt(self: Any, event: Any) -> None:
        printed.append(event)
        self.seen = event.seq
        if event.type == "waiting":
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    monkeypatch.setattr(following._Printer, "print", interrupt)
    try:
        answer = command("stream", full)
    finally:
        lease.release()
    assert answer.code == 130
    assert f"agent-span stream {full[:11]} --after {printed[-1].seq}" in answer.err
    assert command("show", full, "--json").json["status"] == "WAITING"


def test_tokens_need_a_server(command: Command, world: World) -> None:
    assert command("stream", world.started("echo"), "--tokens").code == 5
