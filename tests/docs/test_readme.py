"""Every program in the README runs, every command in it exists, and every setting is in it."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentspan.cli.demo_stage import kill
from agentspan.cli.main import app
from agentspan.config import Settings
from agentspan.models.providers import provider_names
from tests.support.cluster import Server, private_home, until
from tests.support.model_server import ModelServer, Reply, text

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PROGRAM_S_MAX = 60.0


@dataclass(frozen=True)
class Block:
    """A fenced block of the README."""

    language: str
    heading: str
    code: str


def blocks() -> list[Block]:
    found = []
    heading = ""
    for match in re.finditer(
        r"^(?:#+ (?P<heading>[^\n]+)|```(?P<language>\w*)\n(?P<code>.*?)^```)$", README, re.M | re.S
    ):
        if match["heading"] is not None:
            heading = match["heading"]
        else:
            found.append(Block(match["language"], heading, match["code"]))
    return found


PROGRAMS = {block.heading: block.code for block in blocks() if block.language == "python"}
COMMANDS = [line for block in blocks() if block.language == "sh" for line in block.code.splitlines() if line]


def asks(tool: str, arguments: str) -> Reply:
    return Reply(calls=[{"name": tool, "arguments": arguments}], delay_s=0.3)


@pytest.fixture(scope="module")
def model() -> Iterator[ModelServer]:
    """Stands for OpenAI. Tests say with `play` what it answers."""
    with ModelServer([text("hello")], by="conversation") as server:
        yield server


def play(model: ModelServer, *replies: Reply) -> None:
    script = ModelServer(replies, by="conversation")
    model.replies, model.encoded = script.replies, script.encoded
    model.calls_by_key.clear()


@pytest.fixture(scope="module")
def server(model: ModelServer) -> Iterator[Server]:
    """The cluster that all programs but the first run on."""
    server = Server(private_home(), OPENAI_BASE_URL=model.url)
    server.start()
    yield server
    server.dispose()


def launch(code: str, owner: Server, folder: Path) -> subprocess.Popen[str]:
    program = folder / "program.py"
    program.write_text(code)
    return subprocess.Popen(
        [sys.executable, str(program)],
        cwd=folder,
        env={**owner.environment, "PYTHONIOENCODING": "utf-8"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def run(code: str, owner: Server, folder: Path) -> str:
    process = launch(code, owner, folder)
    try:
        out, err = process.communicate(timeout=PROGRAM_S_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"it did not end:\n{''.join(process.communicate())}") from None
    assert process.returncode == 0, out + err
    assert err == "", err
    return out


def test_each_program_has_a_test() -> None:
    assert list(PROGRAMS) == [
        "AgentSpan",
        "Tools",
        "Your LangGraph app, durable",
        "A person in the loop",
        "Where it runs",
    ]
    assert sum(block.language == "python" for block in blocks()) == len(PROGRAMS)


def test_the_first_program_is_killed_and_resumes(model: ModelServer, tmp_path: Path) -> None:
    mails = [asks("send_mail", f'{{"to": "{to}"}}') for to in ("Ada", "Grace", "Margaret")]
    play(model, *mails, text("All three have it."))
    owner = Server(private_home(), OPENAI_BASE_URL=model.url)  # Never started: the program brings up its own.
    process = launch(PROGRAMS["AgentSpan"], owner, tmp_path)
    try:
        until("the second model call", lambda: process.poll() is not None or len(model.calls_by_key) >= 2)
        assert process.poll() is None, "".join(process.communicate())
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        execution_id = (tmp_path / "interrupted_execution_id").read_text()

        said = run(PROGRAMS["AgentSpan"], owner, tmp_path)

        assert "All three have it." in said
        assert execution_id in said
        assert len(model.calls_by_key) == 4
        in_flight_at_the_kill = [key for key, count in model.calls_by_key.items() if count > 1]
        assert len(in_flight_at_the_kill) <= 1
        shown = owner.show(execution_id)
        assert shown["recoveries"] == 1
        assert [step["result"] for step in shown["steps"] if step["kind"] == "tool"] == [
            "sent to Ada",
            "sent to Grace",
            "sent to Margaret",
        ]
    finally:
        for pid in owner.processes():
            kill(pid)  # Ray's helpers outlive a killed cluster by a minute.
        process.communicate()
        owner.dispose()


def test_the_tools_can_be_defined(server: Server, tmp_path: Path) -> None:
    assert run(PROGRAMS["Tools"], server, tmp_path) == ""


def test_the_graph_asks_and_goes_on(server: Server, tmp_path: Path) -> None:
    said = run(PROGRAMS["Your LangGraph app, durable"], server, tmp_path)
    assert said.splitlines() == [
        "started {'number': '8821'}",
        "node_start look_up",
        "node_end look_up",
        "node_start refund",
        "waiting Pay 129.00 back for order 8821?",
        "decision ",
        "node_start refund",
        "node_end refund",
        "done ",
        "{'number': '8821', 'price': 129.0, 'paid_back': 129.0}",
    ]


def test_a_person_approves_the_refund(model: ModelServer, server: Server, tmp_path: Path) -> None:
    play(model, asks("refund", '{"order_id": "8821", "amount": 129}'), text("Done."))
    said = run(PROGRAMS["A person in the loop"], server, tmp_path)
    assert said.splitlines() == [
        "started ",
        "tool_call refund",
        "waiting refund",
        "decision refund",
        "tool_result refund",
        "message ",
        "done Done.",
    ]


def test_the_async_program(model: ModelServer, server: Server, tmp_path: Path) -> None:
    play(model, text("It falls on all alike."))
    assert run(PROGRAMS["Where it runs"], server, tmp_path).splitlines() == ["It falls on all alike."] * 2


@pytest.mark.parametrize("line", COMMANDS)
def test_each_command_exists(line: str) -> None:
    words = shlex.split(line.replace("<this repository>", "repository"))
    match words:
        case ["agent-span" | "agentspan", *arguments]:
            check_our_command(arguments)
        case ["make", target]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)
        case ["git", "clone", _, folder] | ["cd", folder]:
            assert folder == "agentspan"
        case ["pip", "install", "."] | ["uv", "pip", "install", "."] | ["uv", "add", "../agentspan"]:
            pass
        case _:
            raise AssertionError(f"nothing checks this command: {line}")


def check_our_command(arguments: Sequence[str]) -> None:
    # `--help` is looked at after the rest of the line was read, so an unknown option or command is still found.
    result = CliRunner().invoke(app, [*arguments, "--help"])
    assert result.exit_code == 0, result.output


def test_each_setting_is_documented_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(AGENTSPAN_\w+)` \| ([^|]*?) \|", README, re.M))
    assert list(rows) == [f"AGENTSPAN_{name.upper()}" for name in Settings.model_fields]
    for name, field in Settings.model_fields.items():
        if isinstance(field.default, int | float):
            assert rows[f"AGENTSPAN_{name.upper()}"] == f"{field.default:g}"


def test_each_provider_is_named() -> None:
    section = README.partition("## Models")[2].partition("\n## ")[0]
    assert [name for name in provider_names() if f"`{name}`" not in section] == []
