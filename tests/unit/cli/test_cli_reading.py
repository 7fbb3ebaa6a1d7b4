"""Reading commands: what they answer, in words and in JSON, and that they need no server."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from agentspan.actors.lease import Descriptor, Lease
from tests.unit.cli.world import Command, World


def test_a_home_without_a_store_reads_as_empty_and_stays_so(command: Command, home: Path) -> None:
    assert command("list", "--json").json == {"executions": []}
    assert command("pending", "--json").json == {"pending": []}
    assert command("agents", "--json").json == {"agents": []}
    assert command("gc", "--json").json["executions"] == 0
    assert command("show", "ex-1").code == 3
    assert not home.exists()


def test_list_shows_newest_first_with_short_ids(command: Command, world: World) -> None:
    world.started("echo", number=1)
    world.started("support", number=2)
    answer = command("list")
    assert answer.code == 0
    lines = answer.out.splitlines()
    assert lines[0].split()[:3] == ["ID", "AGENT", "STATUS"]
    assert lines[1].split()[:3] == ["ex-00000000", "support", "WAITING"]
    assert lines[2].split()[:3] == ["ex-00000000", "echo", "COMPLETED"]


def test_list_narrows(command: Command, world: World) -> None:
    done = world.started("echo", number=1)
    waiting = world.started("support", number=2)

    def ids(*options: str) -> list[str]:
        return [row["execution_id"] for row in command("list", "--json", *options).json["executions"]]

    assert ids() == [waiting, done]
    assert ids("--status", "waiting") == [waiting]
    assert ids("--status", "waiting", "--status", "COMPLETED") == [waiting, done]
    assert ids("--agent", "echo") == [done]
    assert ids("--limit", "1") == [waiting]


def test_an_unknown_status_is_a_usage_error_that_names_the_known_ones(command: Command) -> None:
    answer = command("list", "--status", "sleeping", "--json")
    assert answer.code == 2
    assert "timed_out" in answer.error["message"]


def test_show_tells_row_actor_and_steps(command: Command, world: World) -> None:
    full = world.started("support", number=7)
    shown = command("show", full, "--json").json
    assert shown["execution_id"] == full
    assert shown["epoch"] == 1
    assert [step["kind"] for step in shown["steps"]] == ["started", "model", "tool", "model"]
    assert shown["pending_calls"][0]["tool"] == "refund"
    words = command("show", full).out
    for word in ("support", "WAITING", "epoch 1", 'refund(order_id="8821", amount=40.0)', f"approve {full[:11]}"):
        assert word in words


def test_show_tells_where_the_actor_lives(command: Command, world: World) -> None:
    full = world.create("echo")

    world.ask(lambda store: store.take_over(full, host={"actor": full, "pid": 4711, "node": "n1"}))
    assert command("show", full, "--json").json["host"] == {"actor": full, "pid": 4711, "node": "n1"}
    assert "pid 4711" in command("show", full).out


@pytest.mark.parametrize("short", ["ex-00000000000000000007", "00000000000000000007", "ex-0"])
def test_short_ids_work_with_and_without_the_prefix(command: Command, world: World, short: str) -> None:
    full = world.started("echo", number=7)
    assert command("show", short, "--json").json["execution_id"] == full


def test_an_ambiguous_id_is_a_usage_error_with_candidates(command: Command, world: World) -> None:
    ids = [world.create("echo", number=number) for number in (1, 2)]
    answer = command("show", "ex-0", "--json")
    assert answer.code == 2
    assert all(one in answer.error["candidates"] for one in ids)


def test_an_unknown_id_is_not_found(command: Command, world: World) -> None:
    answer = command("result", "ex-beef", "--json")
    assert answer.code == 3
    assert answer.error["type"] == "UnknownExecutionError"
    assert answer.error["execution_id"] == "ex-beef"


def test_pending_lists_what_waits_and_how_to_decide(command: Command, world: World) -> None:
    first, second = world.started("support", number=1), world.started("twice", number=2)
    rows = command("pending", "--json").json["pending"]
    assert [row["execution_id"] for row in rows] == [first, second, second]
    assert "approval" in command("pending").out


def test_agents_lists_deployments_without_their_code(command: Command, world: World) -> None:
    world.create("support")
    (row,) = command("agents", "--json").json["agents"]
    assert (row["agent"], row["code"]) == ("support", None)
    assert "shop.agents:support" in command("agents").out


def test_gc_only_counts_until_it_is_told_to_remove(command: Command, world: World) -> None:
    full = world.started("echo")
    assert command("gc", "--json").json["execution_ids"] == []  # It ended just now.
    dry = command("gc", "--older-than", "0s", "--json").json
    assert (dry["dry_run"], dry["execution_ids"]) == (True, [full])
    assert "--yes" in command("gc", "--older-than", "0s").err
    assert command("gc", "--older-than", "0s", "--yes", "--json").json["execution_ids"] == [full]
    assert command("show", full).code == 3


@pytest.mark.parametrize("age", ["soon", "3", "d", "-1d"])
def test_gc_refuses_an_age_it_cannot_read(command: Command, age: str) -> None:
    assert command("gc", f"--older-than={age}").code == 2


def test_the_servers_store_counts_not_the_shells(
    command: Command, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = world.started("echo")
    lease = Lease(world.settings.home)
    assert lease.take()
    lease.publish(
        Descriptor(
            address="127.0.0.1:1", pid=os.getpid(), store_url=world.settings.store_url, version="1", started_at=1.0
        )
    )
    monkeypatch.setenv("AGENTSPAN_STORE", f"sqlite:///{world.settings.home}/other.db")
    try:
        assert command("show", full).code == 0
    finally:
        lease.release()
    assert command("show", full).code == 3


def test_a_store_of_a_newer_version_is_left_alone(command: Command, home: Path) -> None:
    home.mkdir()
    with sqlite3.connect(home / "agentspan.db") as db:
        db.execute("PRAGMA user_version = 999")
        db.execute(f"PRAGMA application_id = {0x41675370}")
    db.close()
    answer = command("list", "--json")
    assert answer.code == 1
    assert answer.error["type"] == "StoreVersionError"


def test_reading_and_signalling_import_no_ray(world: World, home: Path) -> None:
    done, waiting = world.started("echo", number=1), world.started("support", number=2)
    lines = [
        ["list"], ["show", done], ["result", done], ["pending"], ["agents"], ["gc"], ["stream", done],
        ["server", "status"], ["approve", waiting], ["cancel", waiting],
    ]  # fmt: skip
    program = (
        "import json, sys\n"
        "from agentspan.cli.main import app\n"
        "for line in json.loads(sys.argv[1]):\n"
        "    try: app(line)\n"
        "    except SystemExit as end: print(line, end.code, file=sys.stderr)\n"
        "    assert 'ray' not in sys.modules, line\n"
        "    assert 'openai' not in sys.modules, line\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, json.dumps(lines)], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert f"['show', '{done}'] 0" in ended.stderr


def test_the_desk_and_the_store_connection_are_importable_without_ray() -> None:
    program = "import sys, agentspan.actors.desk, agentspan.actors.offline; assert 'ray' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0


def test_help_imports_neither_the_runtime_nor_pydantic() -> None:
    program = (
        "import sys\n"
        "from agentspan.cli.main import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "late = {'ray', 'openai', 'pydantic', 'aiosqlite', 'agentspan.runtime'} & set(sys.modules)\n"
        "assert not late, late\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
