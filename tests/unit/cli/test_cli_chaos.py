"""`chaos`: who is killed, what counts as back, and what it comes to. The processes are played."""

from __future__ import annotations

import io
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from agentspan.cli import chaos
from agentspan.cli.chaos_screen import ChaosScreen
from agentspan.cli.havoc import Havoc, Strike, Summary
from agentspan.cli.output import Output
from agentspan.config import Settings
from agentspan.errors import UnknownExecutionError
from tests.unit.cli.world import Command, PlayingConnection


@dataclass
class Played:
    """A process of the played server."""

    pid: int
    born: str
    on_death: Callable[[], None] = lambda: None
    dead: bool = False

    def kill(self) -> bool:
        if self.dead:
            return False
        self.dead = True
        self.on_death()
        return True


@dataclass
class Server:
    """A server whose executions come back after `back_s` of played time, in a new process."""

    back_s: float = 0.5
    now: float = 0.0
    table: dict[str, dict[str, Any]] = field(default_factory=dict)
    processes: dict[int, Played] = field(default_factory=dict)
    due: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)
    recoveries_max: int = 5
    told: list[tuple[str, str]] = field(default_factory=list)
    supervisor_returns: bool = True

    def __post_init__(self) -> None:
        self.supervisor = self.process(self.supervisor_dies)

    def process(self, on_death: Callable[[], None]) -> Played:
        pid = len(self.processes) + 100
        self.processes[pid] = Played(pid, f"b{pid}", on_death)
        return self.processes[pid]

    def supervisor_dies(self) -> None:
        if self.supervisor_returns:
            self.supervisor = self.process(self.supervisor_dies)

    def house(self, actor: str, *names: str) -> None:
        """Put executions into a new process."""
        process = self.process(lambda: self.later(lambda: self.house(actor, *names)))
        for name in names:
            row = self.table.setdefault(
                name,
                {"execution_id": name, "agent": "a", "status": "RUNNING", "resident": True, "epoch": 0, "seq": 0}
                | {"crashes": 0, "error": None},
            )
            row.update(epoch=row["epoch"] + 1, seq=row["seq"] + 1)
            row["host"] = {"actor": actor, "pid": process.pid, "born": process.born}

    def later(self, what: Callable[[], None]) -> None:
        self.due.append((self.now + self.back_s, what))

    def sleep(self, seconds: float) -> None:
        threading.Event().wait(0.00001)  # The supervisor is waited for in a thread.
        with self.lock:
            self.now += max(seconds, 1e-6)  # Time goes on, whatever is rounded.
            for one in [one for one in self.due if one[0] <= self.now]:
                self.due.remove(one)
                one[1]()

    def find(self, host: dict[str, Any]) -> Any:
        process = self.processes.get(host["pid"])
        return process if process is not None and not process.dead else None

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(json.dumps(row)) for row in self.table.values() if row["status"] == "RUNNING"]

    def row(self, execution_id: str) -> dict[str, Any]:
        if execution_id not in self.table:
            raise UnknownExecutionError(execution_id=execution_id)
        row: dict[str, Any] = json.loads(json.dumps(self.table[execution_id]))
        return row

    def ping(self) -> dict[str, Any]:
        return {
            "process": {"pid": self.supervisor.pid, "born": self.supervisor.born},
            "recoveries_max": self.recoveries_max,
        }

    def tell(self, strike: Strike, what: str) -> None:
        self.told.append((what, strike.name))

    def suffer(self, *, seed: int = 1, for_s: float = 60.0, **options: Any) -> Summary:
        havoc = Havoc(
            self,
            every_s=5.0,
            seed=seed,
            tell=self.tell,
            find=self.find,
            sleep=self.sleep,
            clock=lambda: self.now,
            **options,
        )
        return havoc.run(for_s, 10.0)


def full_house() -> Server:
    server = Server()
    server.house("ex-1", "ex-1")
    server.house("ex-2", "ex-2")
    server.house("agentspan-host-1", "ex-3", "ex-4")
    return server


def test_everything_that_is_killed_is_counted_until_it_is_back() -> None:
    server = full_house()
    summary = server.suffer()
    assert sum(summary.kills.values()) == sum(what == "killed" for what, _ in server.told) >= 9
    assert set(summary.kills) == {"actor", "supervisor", "host"}
    assert [what for what, _ in server.told].count("recovered") == sum(summary.kills.values())
    assert (summary.touched, summary.lost) == (4, [])
    assert summary.recovery_s is not None
    assert all(0.4 < seconds < 0.7 for seconds in summary.recovery_s)


def test_a_seed_strikes_alike_again() -> None:
    def strikes(seed: int) -> list[tuple[str, str]]:
        server = full_house()
        server.suffer(seed=seed, kinds=["actor", "host"])
        return [one for one in server.told if one[0] == "killed"]

    assert strikes(7) == strikes(7) != strikes(8)


def test_only_the_kinds_that_were_asked_for_are_killed() -> None:
    server = full_house()
    assert set(server.suffer(kinds=["host"]).kills) == {"host"}


def test_what_does_not_come_back_is_lost() -> None:
    server = full_house()
    server.back_s = 1e9
    summary = server.suffer(kinds=["host"])
    assert [one["name"] for one in summary.lost] == ["ex-3", "ex-4"]
    assert server.told == [("killed", "agentspan-host-1"), ("lost", "agentspan-host-1")]


def test_what_was_given_up_is_lost() -> None:
    server = full_house()

    def ends() -> None:
        server.table["ex-1"].update(status="FAILED", epoch=2, seq=2, error="Gave up after 6 crashes in a row: dead.")

    server.processes[server.table["ex-1"]["host"]["pid"]].on_death = ends
    summary = server.suffer(kinds=["actor"])
    assert summary.lost == [{"kind": "execution", "name": "ex-1", "what": "Gave up after 6 crashes in a row: dead."}]


def test_nobody_is_killed_whose_next_crash_would_be_its_last() -> None:
    server = full_house()
    for name in ("ex-1", "ex-4"):
        server.table[name]["crashes"] = 5
    summary = server.suffer(kinds=["actor", "host"])
    assert {name for _, name in server.told} == {"ex-2"}
    assert summary.touched == 1


def test_who_had_left_its_process_before_the_kill_was_not_touched() -> None:
    server = full_house()

    def ended() -> None:
        server.table["ex-1"].update(status="COMPLETED", resident=False)

    server.processes[server.table["ex-1"]["host"]["pid"]].on_death = ended
    del server.table["ex-2"]
    assert server.suffer(kinds=["actor"]).touched == 0


def test_a_supervisor_that_stays_away_is_lost_and_not_killed_again() -> None:
    server = full_house()
    server.supervisor_returns = False
    summary = server.suffer(kinds=["supervisor"])
    assert summary.kills == {"supervisor": 1}
    assert [one["kind"] for one in summary.lost] == ["supervisor"]


def test_a_server_elsewhere_is_refused(
    command: Command, server: PlayingConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = {"pid": 1, "born": "1", "hostname": "elsewhere"}
    monkeypatch.setattr(chaos, "ping", lambda runtime: {"process": there, "recoveries_max": 5})
    answer = command("chaos", "--yes", "--json")
    assert answer.code == 2
    assert "runs on 'elsewhere'" in answer.error["message"]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--kill", "actor,cat"], "'cat' to kill"),
        (["--kill", ","], "nothing is to be killed"),
        (["--every", "soon"], "not a duration"),
        (["--every", "0s"], "more than nothing"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(command: Command, options: list[str], problem: str) -> None:
    answer = command("chaos", *options, "--json")
    assert answer.code == 2
    assert problem in answer.error["message"]


def test_only_a_home_in_a_temporary_folder_can_be_thrown_away(tmp_path: Path) -> None:
    assert chaos.is_throwaway(Settings(home=tmp_path))
    assert not chaos.is_throwaway(Settings(home=tmp_path, store="postgresql://db/prod"))
    assert not chaos.is_throwaway(Settings(home=Path("/srv/agentspan")))
    assert not chaos.is_throwaway(Settings(home=Path("/tmp/../srv/agentspan")))


def test_without_a_server_there_is_nothing_to_kill(command: Command) -> None:
    answer = command("chaos", "--json")
    assert answer.code == 5


def told(*, terminal: bool) -> str:
    """What a run looks like, from its first line to its last."""
    output, page = Output(), io.StringIO()
    console = Console(file=page, force_terminal=terminal, width=110, color_system=None, highlight=False)
    output.__dict__["console"] = console
    screen = ChaosScreen(output)
    server = full_house()
    server.tell = screen.tell  # type: ignore[method-assign]
    with screen.live():
        summary = server.suffer(for_s=30.0)
        server.back_s = 1e9
        lost = server.suffer(for_s=10.0, seed=3, kinds=["host"])
    screen.summary(summary)
    screen.summary(lost)
    return page.getvalue()


def test_lines_say_what_was_killed_and_what_came_back() -> None:
    lines = told(terminal=False).splitlines()
    victim = r"(actor ex-\d \(a\)|supervisor|agentspan-host-1 with 2 executions), PID \d+"
    assert re.fullmatch(rf" +\d+\.\d s  KILLED     {victim}", lines[0])
    assert any(re.fullmatch(r" +\d+\.\d s  RECOVERED  .*after 0\.5\d s", line) for line in lines)
    assert any("LOST       agentspan-host-1: 2 executions not back" in line for line in lines)
    assert any(re.match(r"Seed +1 ", line) for line in lines)
    assert any("LOST execution ex-3: it has not come back" in line for line in lines)


def test_a_terminal_gets_a_table_that_lives() -> None:
    page = told(terminal=True)
    assert "back after" in page
    assert "KILLED" not in page
    assert "2 to come" in page or "lost" in page
