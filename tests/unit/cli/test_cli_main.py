"""What holds for every command: `--json`, errors as one line, documented codes and options."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import agentspan.errors as errors
from agentspan import __version__
from agentspan.cli import reading
from agentspan.cli.exits import ExitCode, exit_code
from agentspan.cli.main import app
from tests.unit.cli.world import Command, World

DOCS = Path(__file__).parents[3] / "docs" / "cli.md"


def commands(group: Any = None, path: tuple[str, ...] = ("agent-span",)) -> Iterator[tuple[str, Any]]:
    """Every command with its full name."""
    group = group or typer.main.get_command(app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


def options(command: Any) -> set[str]:
    found: set[str] = set()
    for parameter in command.params:
        if parameter.param_type_name == "option":
            found |= {*parameter.opts, *parameter.secondary_opts}
    return found


COMMANDS = dict(commands())
SECTIONS = {
    title.strip(): text
    for title, text in re.findall(r"^### (.+?)\n(.*?)(?=^##|\Z)", DOCS.read_text(), re.MULTILINE | re.DOTALL)
}


def test_every_command_is_documented_and_no_other() -> None:
    assert set(SECTIONS) == set(COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_option_is_documented_and_no_other(name: str) -> None:
    told = set()
    for row in re.findall(r"^\| (`-.*?) \|", SECTIONS[name], re.MULTILINE):
        told |= set(re.findall(r"`(-[^`]+)`", row))
    assert told == options(COMMANDS[name])


def test_every_exit_code_is_documented_and_no_other() -> None:
    table = DOCS.read_text().split("## Exit codes")[1].split("## ")[0]
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)} == {int(code) for code in ExitCode}


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"agent-span demo"}))
def test_every_command_answers_in_json(name: str) -> None:
    assert "--json" in options(COMMANDS[name])


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_says_what_it_is_for_in_a_short_line(name: str) -> None:
    (first, *_) = (COMMANDS[name].help or "").split("\n\n")
    assert 10 < len(first) < 70, first
    assert first.endswith(".")


def test_help_is_exit_code_0_and_no_arguments_is_2(command: Command) -> None:
    assert command("--help").code == 0
    assert "Decide and steer" in command("-h").out
    bare = command()
    assert (bare.code, "Usage" in bare.out) == (2, True)
    assert command("server").code == 2


def test_version(command: Command) -> None:
    assert command("--version").out == f"{__version__}\n"
    assert command("version", "--json").json["agentspan"] == __version__
    assert __version__ in command("version").out


@pytest.mark.parametrize(
    "line",
    [
        ["frobnicate"],
        ["list", "--frobnicate"],
        ["show"],
        ["list", "--limit", "many"],
        ["server", "frobnicate"],
        ["--nope"],
    ],
)
def test_a_command_line_that_cannot_be_read_is_one_line_and_code_2(command: Command, line: list[str]) -> None:
    answer = command(*line)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("Error: ")
    assert "--help" in answer.err
    as_json = command(*line, "--json")
    assert as_json.error["type"] == "UsageError"
    assert as_json.error["exit_code"] == 2


def test_a_json_that_is_an_argument_is_no_option(command: Command, world: World) -> None:
    answer = command("respond", "ex-beef", "--", "--json")
    assert answer.err.startswith("Error: ")


def test_an_error_of_ours_is_one_line_without_markup(command: Command) -> None:
    answer = command("show", "[bold]nope[/bold]")
    assert answer.code == 3
    assert "[bold]nope[/bold]" in answer.err
    assert "Traceback" not in answer.err


def test_a_setting_that_cannot_be_used_is_a_usage_error(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTSPAN_STANDBY", "many")
    answer = command("list", "--json")
    assert answer.code == 2
    assert "AGENTSPAN_STANDBY" in answer.error["message"]


def test_a_fault_of_ours_is_one_line_and_a_traceback_only_on_demand(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise KeyError("oops")

    monkeypatch.setattr(reading, "session", fail)
    answer = command("list")
    assert (answer.code, answer.out) == (1, "")
    assert "AGENTSPAN_DEBUG" in answer.err
    monkeypatch.setenv("AGENTSPAN_DEBUG", "1")
    with pytest.raises(AssertionError):
        command("list")


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.UnknownExecutionError, 3),
        (errors.AgentNotFoundError, 3),
        (errors.AmbiguousExecutionError, 2),
        (errors.NothingPendingError, 4),
        (errors.DecisionMismatchError, 4),
        (errors.ExecutionFinishedError, 4),
        (errors.ServerUnavailableError, 5),
        (errors.ServerTimeoutError, 124),
        (errors.StoreUnavailableError, 5),
        (errors.ConfigurationError, 2),
        (errors.UnshippableCodeError, 2),
        (errors.CorruptRecordError, 1),
        (errors.ModelAuthError, 1),
    ],
)
def test_codes_of_errors(kind: type[errors.AgentspanError], code: int) -> None:
    assert exit_code(kind.__new__(kind)) == code


def test_stdout_is_ours_alone_once_it_is_guarded() -> None:
    program = (
        "import os, subprocess, sys\n"
        "from agentspan.cli.output import Output, guard_stdout\n"
        "guard_stdout(); guard_stdout()\n"
        "print('from print')\n"
        "os.write(1, b'from fd 1\\n')\n"
        "subprocess.run(['echo', 'from a child'])\n"
        "Output(json=True).document({'a': 1})\n"
        "Output().print('for [people]')\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == '{\n  "a": 1\n}\nfor [people]\n'
    assert sorted(ended.stderr.splitlines()) == ["from a child", "from fd 1", "from print"]


def test_a_reader_that_goes_away_ends_a_command_quietly(world: World) -> None:
    for number in range(1, 30):
        world.create("echo", number=number)
    program = "import os, sys\nfrom agentspan.cli.main import app\napp(['list', '--limit', '100', *sys.argv[1:]])\n"
    for more in ([], ["--json"]):
        read, write = os.pipe()
        os.close(read)
        ended = subprocess.run(
            [sys.executable, "-c", program, *more],
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
        os.close(write)
        assert (ended.returncode, ended.stderr) == (141, "")


def test_both_names_are_installed() -> None:
    for name in ("agent-span", "agentspan"):
        script = Path(sys.executable).parent / name
        ended = subprocess.run([script, "version", "--json"], capture_output=True, text=True, timeout=60, check=True)
        assert json.loads(ended.stdout)["agentspan"] == __version__
