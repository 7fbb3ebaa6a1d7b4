"""The server's process from outside, with a stand-in that takes the lease as the real one does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentspan.actors.lease import Descriptor, Lease
from agentspan.cli import process
from agentspan.config import Settings
from agentspan.errors import ServerError, ServerUnavailableError
from tests.unit.cli.world import Command

SERVER = """
import os, signal, sys, threading, time
from pathlib import Path
from agentspan.actors.lease import Descriptor, Lease
how = sys.argv[1]
print("hello from", how, flush=True)
if how == "fails":
    sys.exit("there is no such thing as a server")
stop = threading.Event()
signal.signal(signal.SIGTERM, signal.SIG_IGN if how == "stubborn" else lambda *_: stop.set())
lease = Lease(Path(os.environ["AGENTSPAN_HOME"]))
if not lease.take():
    sys.exit(3)
lease.publish(Descriptor(address="127.0.0.1:1", pid=os.getpid(), store_url=os.environ["AGENTSPAN_STORE"], version="0",
                         started_at=time.time(), embedded=how == "embedded"))
while not stop.wait(60):
    pass
lease.release()
"""


@pytest.fixture
def settings(home: Path) -> Settings:
    return Settings(home=home)


@pytest.fixture(autouse=True)
def no_survivors(home: Path) -> Iterator[None]:
    yield
    descriptor = Lease(home).read() if home.exists() else None
    if descriptor is not None and descriptor.pid != os.getpid():
        os.kill(descriptor.pid, signal.SIGKILL)


def line(how: str) -> list[str]:
    return [sys.executable, "-c", SERVER, how]


def test_start_waits_for_the_descriptor_and_stop_for_the_lease(settings: Settings) -> None:
    descriptor = process.start(settings, line("works"), wait=True)
    assert descriptor is not None
    assert Lease(settings.home).read() == descriptor
    assert os.getsid(descriptor.pid) == descriptor.pid  # A session of its own: it outlives this terminal.
    assert process.stop(settings) == (descriptor, False)
    assert not Lease(settings.home).is_held()


def test_a_stale_descriptor_is_no_server_and_no_hindrance(settings: Settings, command: Command) -> None:
    settings.home.mkdir()
    settings.descriptor_path.write_text(
        '{"address": "127.0.0.1:1", "pid": 1, "store_url": "", "version": "", "started_at": 0}'
    )
    assert command("server", "stop").out == "No server is up.\n"
    descriptor = process.start(settings, line("works"), wait=True)
    assert descriptor is not None
    assert descriptor.pid != 1
    process.stop(settings)


def test_a_server_that_fails_is_told_with_the_end_of_its_log(settings: Settings) -> None:
    settings.home.mkdir()
    process.log_path(settings).write_text("from an earlier life\n")
    with pytest.raises(ServerUnavailableError) as caught:
        process.start(settings, line("fails"), wait=True)
    assert "exit code 1" in str(caught.value)
    assert "no such thing as a server" in str(caught.value)
    assert "earlier life" not in str(caught.value)


def test_when_another_server_was_first_it_is_the_answer(settings: Settings) -> None:
    first = process.start(settings, line("works"), wait=True)
    assert process.start(settings, line("works"), wait=True) == first
    process.stop(settings)


def test_a_server_that_does_not_end_is_killed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "STOP_MAX_S", 0.3)
    descriptor = process.start(settings, line("stubborn"), wait=True)
    assert process.stop(settings) == (descriptor, True)


def test_an_embedded_server_is_not_stopped_but_named(settings: Settings, command: Command) -> None:
    descriptor = process.start(settings, line("embedded"), wait=True)
    assert descriptor is not None
    answer = command("server", "stop", "--json")
    assert answer.code == 5
    assert str(descriptor.pid) in answer.error["message"]
    assert "hello from" in answer.error["message"]  # The program's command line.
    assert Lease(settings.home).is_held()
    assert "embedded" in command("server", "start").out


def test_starting_what_is_up_is_no_error(settings: Settings, command: Command) -> None:
    descriptor = process.start(settings, line("works"), wait=True)
    assert descriptor is not None
    answer = command("server", "start", "--json")
    assert (answer.code, answer.json["is_new"], answer.json["pid"]) == (0, False, descriptor.pid)
    process.stop(settings)


def test_status_without_a_server_is_exit_code_5(command: Command, home: Path) -> None:
    answer = command("server", "status", "--json")
    assert (answer.code, answer.json["up"], answer.json["starting"]) == (5, False, False)
    assert not home.exists()


def test_status_says_not_up_while_nothing_listens(settings: Settings, command: Command) -> None:
    lease = Lease(settings.home)
    assert lease.take()
    lease.publish(
        Descriptor(address="127.0.0.1:1", pid=os.getpid(), store_url=settings.store_url, version="1", started_at=1.0)
    )
    answer = command("server", "status", "--json")
    lease.release()
    assert (answer.code, answer.json["up"], answer.json["starting"]) == (5, False, True)


def test_logs_shows_the_last_lines(command: Command, settings: Settings) -> None:
    assert command("server", "logs", "--json").json["lines"] == []
    settings.home.mkdir()
    process.log_path(settings).write_text("".join(f"line [{number}]\n" for number in range(5000)))
    assert command("server", "logs", "-n", "2").out == "line [4998]\nline [4999]\n"
    assert len(command("server", "logs", "--json").json["lines"]) == 50


def test_following_a_log_survives_its_being_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    path.write_text("old\n")
    lines = process.following(path, process.size(path))
    program = (
        "import sys, pathlib; path = pathlib.Path(sys.argv[1]); "
        "path.open('a').write('one\\n'); path.rename(path.with_name('aside')); path.write_text('two\\n')"
    )
    with path.open("a") as file:
        file.write("zero\n")
    assert next(lines) == "zero"
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)
    assert next(lines) in ("one", "two")


def test_a_long_log_is_set_aside_when_the_next_server_starts(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "LOG_BYTES_MAX", 10)
    settings.home.mkdir()
    process.log_path(settings).write_text("a long line of text\n")
    process.start(settings, line("works"), wait=True)
    process.stop(settings)
    assert process.log_path(settings).with_name("server.log.1").read_text() == "a long line of text\n"
    assert process.log_path(settings).read_text() == "hello from works\n"


def test_a_server_of_another_user_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    with pytest.raises(ServerError, match="another user"):
        process._signal(1, signal.SIGTERM)
