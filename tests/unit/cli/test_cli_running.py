"""`run` and `deploy`: which code, which prompt, and what is followed. The server is played by this process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentspan.cli.loading import is_reference, load_agent
from agentspan.errors import ConfigurationError
from tests.unit.cli.world import Command, PlayingConnection, World

CODE = """
from agentspan.agents import Agent
from beside import GREETING

echo = Agent(name="echo", model="scripted/echo", instructions=GREETING)
other = Agent(name="other", model="scripted/echo")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a script of two agents, one of one agent, and what they import."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "beside.py").write_text("GREETING = 'hi'\n")
    (tmp_path / "two_agents.py").write_text(CODE)
    (tmp_path / "one_agent.py").write_text(
        "from agentspan.agents import Agent\nonly = Agent(name='only', model='scripted/echo')\n"
    )
    yield tmp_path
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


def submitted(server: PlayingConnection) -> dict[str, object]:
    (args,) = [args for verb, args in server.asked if verb == "submit"]
    new: dict[str, object] = args["new"]
    return new


def test_run_starts_a_deployed_agent_and_follows_it(command: Command, server: PlayingConnection) -> None:
    answer = command("run", "echo", "Good morning")
    assert answer.code == 0, answer.err
    assert "You said: Good morning" in answer.out
    assert "ex-00000000000000000001" in answer.err
    assert submitted(server)["prompt"] == "Good morning"


def test_run_in_json_is_events_only(command: Command, server: PlayingConnection) -> None:
    answer = command("run", "echo", "Hi", "--json")
    assert [event["type"] for event in answer.lines] == ["started", "message", "done"]
    assert answer.err == ""


def test_run_detached_prints_the_id_and_nothing_else(command: Command, server: PlayingConnection) -> None:
    assert command("run", "echo", "Hi", "--detach").out == "ex-00000000000000000001\n"
    assert command("run", "echo", "Hi", "--detach", "--json").json == {"execution_id": "ex-00000000000000000002"}


def test_run_passes_its_options_on(command: Command, server: PlayingConnection) -> None:
    command("run", "echo", "Hi", "--session", "s1", "--idempotency-key", "k1", "--time-limit", "9", "--detach")
    new = submitted(server)
    assert (new["session_id"], new["idempotency_key"], new["timeout_s"]) == ("s1", "k1", 9.0)


def test_a_prompt_can_come_from_standard_input(command: Command, server: PlayingConnection) -> None:
    command("run", "echo", "-", "--detach", input="from a pipe")
    assert submitted(server)["prompt"] == "from a pipe"


@pytest.mark.parametrize(
    "line",
    [
        ["run", "echo"],
        ["run", "a", "b", "--file", "c.py"],
        ["run", "prompt", "--file", "not-code"],
        ["deploy", "echo"],
        ["deploy"],
    ],
)
def test_a_command_line_that_says_too_little_or_too_much_is_a_usage_error(
    command: Command, server: PlayingConnection, line: list[str]
) -> None:
    assert command(*line).code == 2
    assert server.asked == []


def test_detaching_needs_a_server(command: Command, world: World) -> None:
    answer = command("run", "echo", "Hi", "--detach", "--json")
    assert (answer.code, answer.error["type"]) == (5, "ServerUnavailableError")


# --- finding code


def test_names_are_told_from_references() -> None:
    assert not is_reference("support-agent_2")
    assert is_reference("shop.agents:support")
    assert is_reference("agents/support.py")


def test_an_agent_is_found_in_a_file_with_what_lies_beside_it(folder: Path) -> None:
    assert load_agent(f"{folder}/two_agents.py:echo").name == "echo"
    assert load_agent(f"{folder}/one_agent.py").name == "only"


def test_an_agent_is_found_in_a_module_of_the_current_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert load_agent("two_agents:other").name == "other"
    assert load_agent("one_agent.py:only").name == "only"


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("{folder}/two_agents.py", "echo, other"),
        ("{folder}/two_agents.py:third", "echo, other"),
        ("{folder}/missing.py:a", "no file"),
        ("no_such_module_here:a", "no module"),
        ("{folder}/beside.py", "no agents"),
        ("{folder}/broken.py:a", "ZeroDivisionError"),
        ("{folder}/broken.py:a", "broken.py:2"),
        ("{folder}/lacking.py:a", "no_such_dependency"),
        ("{folder}/leaves.py:a", "__main__"),
        ("{folder}/not-a-name.py:a", "identifier"),
        ("{folder}/json.py:a", "another module"),
    ],
)
def test_what_cannot_be_loaded_is_told_in_one_sentence(folder: Path, reference: str, told: str) -> None:
    (folder / "broken.py").write_text("x = 1\ny = x / 0\n")
    (folder / "lacking.py").write_text("import no_such_dependency\n")
    (folder / "leaves.py").write_text("raise SystemExit(3)\n")
    (folder / "not-a-name.py").write_text("")
    (folder / "json.py").write_text("")
    with pytest.raises(ConfigurationError, match=told):
        load_agent(reference.format(folder=folder))


def test_run_deploys_code_first(command: Command, server: PlayingConnection, folder: Path) -> None:
    answer = command("run", "--file", f"{folder}/two_agents.py:echo", "Hi", "--detach")
    assert answer.code == 0, answer.err
    assert [verb for verb, _ in server.asked if verb in ("deploy", "submit")] == ["deploy", "submit"]


def test_deploy_works_without_a_server(command: Command, home: Path, folder: Path) -> None:
    answer = command("deploy", f"{folder}/two_agents.py:echo", f"{folder}/one_agent.py", "--json")
    assert answer.code == 0, answer.err
    assert [info["registered_name"] for info in answer.json["deployed"]] == ["echo", "only"]
    assert [row["agent"] for row in command("agents", "--json").json["agents"]] == ["echo", "only"]
    assert (home / "server.key").stat().st_mode & 0o777 == 0o600
