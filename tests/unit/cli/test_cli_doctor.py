"""`doctor`: what it finds, what it advises, and that it never prints a key."""

from __future__ import annotations

import importlib.util
import sqlite3
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest

from agentspan.cli import checks, keys
from agentspan.config import Settings
from tests.unit.cli.world import Answer, Command, PlayingConnection, World

SECRET = "sk-do-not-print-me"


def found(answer: Answer, name: str) -> dict[str, str]:
    (check,) = [check for check in answer.json["checks"] if check["name"] == name]
    return check


def test_a_fresh_home_is_fine_and_nothing_is_made(command: Command, home: Path) -> None:
    answer = command("doctor", "--json")
    assert answer.code == 0, answer.out
    assert answer.json["ok"] is True
    assert found(answer, "Store")["state"] == "ok"
    assert not home.exists()


def test_a_home_with_a_store_is_tried(command: Command, world: World) -> None:
    world.started("echo")
    store = found(command("doctor", "--json"), "Store")
    assert store["state"] == "ok"
    assert "schema version 3, 1 execution" in store["detail"]
    assert command("list", "--json").json["executions"]  # Trying to write removed nothing.


def test_a_store_that_does_not_open_fails_the_check(command: Command, home: Path) -> None:
    home.mkdir(mode=0o700)
    (home / "agentspan.db").write_text("this is not a database, it is a text file that is long enough to be looked at")
    answer = command("doctor", "--json")
    assert answer.code == 1
    assert found(answer, "Store")["state"] == "fail"


def test_a_store_of_another_program_fails_the_check(command: Command, home: Path) -> None:
    home.mkdir(mode=0o700)
    with sqlite3.connect(home / "agentspan.db") as db:
        db.execute("CREATE TABLE songs (title)")
    db.close()
    assert found(command("doctor", "--json"), "Store")["state"] == "fail"


def test_a_home_that_is_open_to_others_is_warned_about(command: Command, home: Path) -> None:
    home.mkdir()
    home.chmod(0o755)
    (home / "server.key").write_bytes(bytes(32))
    (home / "server.key").chmod(0o644)
    answer = command("doctor", "--json")
    assert answer.code == 0
    assert (found(answer, "Home")["state"], found(answer, "Key")["state"]) == ("warn", "warn")
    assert found(answer, "Home")["advice"] == f"Run: chmod 700 {home}"


def test_a_home_that_is_a_file_fails(command: Command, home: Path) -> None:
    home.write_text("")
    assert command("doctor").code == 1


def test_ray_without_bytecode_is_warned_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ray").mkdir()
    for name in ("__init__.py", "actor.py", "exceptions.py"):
        (tmp_path / "ray" / name).write_text("")
    origin = SimpleNamespace(origin=str(tmp_path / "ray" / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: origin)
    check = checks.ray_bytecode()
    assert check.state == "warn"
    assert "compileall" in check.advice


def test_a_full_disk_fails_and_a_low_one_warns(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, state in ((10**6, "fail"), (10**9, "warn"), (10**12, "ok")):
        monkeypatch.setattr(checks.shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        assert {check.state for check in checks.disk(Settings(home=home))} == {state}


def test_a_clock_that_was_never_set_fails(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.time, "time", lambda: 3600.0)
    assert next(iter(checks.clock(Settings(home=home)))).state == "fail"


def test_a_clock_that_jumps_is_warned_about(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = iter((2e9, 2e9 + 5))
    monkeypatch.setattr(checks.time, "time", lambda: next(steps))
    assert next(iter(checks.clock(Settings(home=home)))).state == "warn"


def test_sqlite_on_a_network_file_system_fails(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_file_system_of", lambda _: "nfs4")
    check = checks.file_system(Settings(home=home))
    assert check is not None
    assert check.state == "fail"
    assert checks.file_system(Settings(home=home, store="postgresql://db/agents")) is None


def test_a_temporary_folder_that_is_too_long_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/" + "x" * 80)
    assert checks.temp_folder().state == "fail"


def test_a_server_that_answers_is_told_about(command: Command, world: World, server: PlayingConnection) -> None:
    world.started("echo")
    check = found(command("doctor", "--json"), "Server")
    assert check["state"] == "ok"
    assert "0 resident executions" in check["detail"]


def test_keys_are_told_by_name_only(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    for answer in (command("doctor"), command("doctor", "--json")):
        assert "OPENAI_API_KEY" in answer.out
        assert SECRET not in answer.out + answer.err


def test_no_key_is_a_warning_not_a_failure(command: Command) -> None:
    answer = command("doctor", "--json")
    assert (answer.code, found(answer, "Model keys")["state"]) == (0, "warn")


@pytest.fixture
def provider() -> object:
    """A provider that answers as its `status` says and remembers what it was asked."""
    asked: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        status = 200

        def do_GET(self) -> None:
            asked.append((self.path, self.headers["Authorization"]))
            self.send_response(type(self).status)
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}/v1", asked=asked, handler=Handler)
    server.shutdown()
    server.server_close()


VERDICTS = [(200, "ok"), (401, "fail"), (403, "fail"), (404, "warn"), (500, "warn"), (302, "warn")]


@pytest.mark.parametrize(("status", "state"), VERDICTS)
def test_a_key_is_tried_with_one_request_that_costs_nothing(provider, status: int, state: str) -> None:  # type: ignore[no-untyped-def]
    provider.handler.status = status
    (check,) = keys.try_all({"OPENAI_API_KEY": SECRET, "OPENAI_BASE_URL": provider.url})
    assert check.state == state
    assert provider.asked == [("/v1/models", f"Bearer {SECRET}")]
    assert SECRET not in repr(check)


def test_a_provider_that_does_not_answer_is_a_warning() -> None:
    (check,) = keys.try_all({"GROQ_API_KEY": SECRET, "GROQ_BASE_URL": "http://127.0.0.1:1/v1"})
    assert check.state == "warn"
    assert SECRET not in repr(check)


def test_a_key_no_request_can_carry_fails_unprinted() -> None:
    (check,) = keys.try_all({"OPENAI_API_KEY": "sk-\nbroken"})
    assert check.state == "fail"
    assert "broken" not in repr(check)
