"""The command line against a real server: it comes up, is watched and steered, is killed, and comes up again.

One server for the whole file, in a private home. Only processes with a PID that was started here are killed.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest

from agentspan.actors.lease import Lease
from tests.support.cluster import environment, is_alive, private_home, until

pytestmark = pytest.mark.timeout(180)

SHOP = '''
from agentspan.agents import Agent, tool
from agentspan.testing import ScriptedModel, call, say

print("this module prints when it is imported")


@tool(approval_required=True)
def refund(order_id: str, amount: float) -> str:
    """Refund an order."""
    return f"refunded {amount:g} for {order_id}"


support = Agent(
    name="support",
    model=str(ScriptedModel([call("refund", order_id="8821", amount=40.0), say("It is [paid].")])),
    tools=[refund],
)
echo = Agent(name="echo", model="scripted/echo")
'''
ESSAY = """
import operator
from typing import Annotated, TypedDict

from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

print("this module prints when it is imported")


class State(TypedDict, total=False):
    topic: str
    log: Annotated[list[str], operator.add]


def draft(state):
    return {"log": [f"draft of {state['topic']}"]}


def review(state):
    return {"log": [interrupt({"question": "Is it good?", "draft": state["log"][-1]})]}


builder = StateGraph(State)
builder.add_node("draft", draft)
builder.add_node("review", review)
builder.add_edge(START, "draft")
builder.add_edge("draft", "review")
app = builder.compile()
"""
RAY_NOISE = re.compile(r"raylet|ray\.|\(pid=|ray::|INFO|WARNING|Traceback", re.IGNORECASE)


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Shell:
    """A home, a folder with agents, and commands run as a user runs them."""

    home: Path
    folder: Path

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "agentspan.cli", *arguments],
            env=environment(self.home),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: str) -> Answer:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=120)
        return Answer(process.returncode, out, err)

    def pid(self) -> int:
        descriptor = Lease(self.home).read()
        assert descriptor is not None
        return descriptor.pid

    def status_of(self, execution_id: str) -> str:
        return str(self("show", execution_id, "--json").json["status"])

    def waiting(self) -> str:
        """A new execution that waits for approval."""
        started = self("run", "--file", "shop.py:support", "Refund it", "--detach")
        assert started.code == 0, started.err
        execution_id = started.out.strip()
        until("a call that waits", lambda: self.status_of(execution_id) == "WAITING")
        return execution_id

    def watching(self, execution_id: str) -> subprocess.Popen[str]:
        """A command that follows it, and has printed what there is so far."""
        process = self.start("stream", execution_id)
        assert process.stdout is not None
        assert any("for approval" in line for line in process.stdout)
        return process


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    home, folder = private_home(), tmp_path_factory.mktemp("shop")
    (folder / "shop.py").write_text(SHOP)
    (folder / "essay.py").write_text(ESSAY)
    shell = Shell(home, folder)
    started = shell("server", "start", "--num-cpus", "2")
    assert started.code == 0, started.err
    yield shell
    shell("server", "stop")
    until("the end of the server", lambda: not Lease(home).is_held())
    rmtree(home, ignore_errors=True)


def test_the_server_outlives_the_command_that_started_it(shell: Shell) -> None:
    assert os.getsid(shell.pid()) == shell.pid()
    assert (shell.home / "server.log").stat().st_mode & 0o777 == 0o600


def test_starting_it_twice_is_no_error(shell: Shell) -> None:
    before = shell.pid()
    again = shell("server", "start")
    assert (again.code, shell.pid()) == (0, before)
    assert str(before) in again.out
    assert shell("server", "start", "--json").json["is_new"] is False


def test_status_tells_what_a_script_needs(shell: Shell) -> None:
    info = shell("server", "status", "--ping", "--json").json
    assert (info["up"], info["pid"]) == (True, shell.pid())
    assert info["standby"] >= 0
    assert isinstance(info["residents"], int)


def test_doctor_reaches_the_server(shell: Shell) -> None:
    report = shell("doctor", "--json")
    assert report.code == 0, report.out
    (server,) = [check for check in report.json["checks"] if check["name"] == "Server"]
    assert (server["state"], "up, version" in server["detail"]) == ("ok", True)


def test_run_streams_to_the_end_with_nothing_of_rays_on_the_terminal(shell: Shell) -> None:
    done = shell("run", "shop:echo", "Good morning")
    assert done.code == 0, done.err
    assert "You said: Good morning" in done.out
    assert "this module prints" not in done.out
    assert not RAY_NOISE.search(done.out + done.err), done.out + done.err


def test_run_in_json_prints_events_and_only_events(shell: Shell) -> None:
    done = shell("run", "shop.py:echo", "Hi", "--json")
    events = [json.loads(line) for line in done.out.splitlines()]
    assert [event["type"] for event in events] == ["started", "message", "done"]
    full = events[0]["execution_id"]
    assert full in [row["execution_id"] for row in shell("list", "--json").json["executions"]]
    assert shell("result", full[:11], "--json").json["output"] == "You said: Hi"
    assert [json.loads(line)["seq"] for line in shell("stream", full, "--after", "1", "--json").out.splitlines()] == [
        2,
        3,
    ]


def test_tokens_are_streamed_by_the_server(shell: Shell) -> None:
    done = shell("run", "shop:echo", "one two three four", "--tokens", "--json")
    assert done.code == 0, done.err
    events = [json.loads(line) for line in done.out.splitlines()]
    text = "".join(event["content"] for event in events if event["type"] == "token")
    assert "You said: one two three four".startswith(text)  # Live only: it may be over before the stream is asked for.
    assert events[-1]["type"] == "done"


def test_a_second_start_with_the_same_key_is_the_first_execution(shell: Shell) -> None:
    line = ("run", "shop:echo", "Hi", "--detach", "--idempotency-key", "k1", "--json")
    assert shell(*line).json == shell(*line).json


def test_an_agent_that_is_not_deployed_is_not_found(shell: Shell) -> None:
    refused = shell("run", "nobody", "Hi", "--json")
    assert (refused.code, json.loads(refused.err.splitlines()[-1])["error"]["type"]) == (3, "AgentNotFoundError")


def test_approving_with_a_short_id_lets_it_finish(shell: Shell) -> None:
    full = shell.waiting()
    assert shell("result", full, "--timeout", "0.3").code == 124
    approved = shell("approve", full[:9], "--by", "ann")
    assert approved.code == 0, approved.err
    result = shell("result", full, "--timeout", "60", "--json")
    assert (result.code, result.json["output"]) == (0, "It is [paid].")
    assert result.json["tool_calls"][0]["decided_by"] == "ann"


def test_a_graph_asks_is_answered_and_is_gone_back_in(shell: Shell) -> None:
    started = shell("run", "essay.py", "--input", '{"topic": "rivers"}', "--detach")
    assert started.code == 0, started.err
    full = started.out.strip()
    until("a question", lambda: shell.status_of(full) == "WAITING")
    assert f"agent-span respond {full[:11]} ANSWER" in shell("pending").out
    assert shell("respond", full, "very good").code == 0
    result = shell("result", full, "--timeout", "60", "--json")
    assert (result.code, result.json["output"]["log"]) == (0, ["draft of rivers", "very good"])
    history = shell("history", full, "--json")
    assert [state["next"] for state in history.json["history"]] == [[], ["review"], ["draft"], ["__start__"]]
    fork = shell("fork", full, "--step", "0", "--state", '{"topic": "lakes"}')
    assert fork.code == 0, fork.err
    forked = fork.out.strip()
    until("the fork's question", lambda: shell.status_of(forked) == "WAITING")
    assert "draft of lakes" in shell("show", forked).out
    assert "class review waits" in shell("show", forked, "--graph").out
    assert shell("cancel", forked).code == 0


def test_cancel_ends_it(shell: Shell) -> None:
    full = shell.waiting()
    assert shell("cancel", full, "not needed").code == 0
    result = shell("result", full, "--timeout", "60", "--json")
    assert (result.code, result.json["status"]) == (1, "TERMINATED")


def test_ctrl_c_leaves_the_execution_alone(shell: Shell) -> None:
    full = shell.waiting()
    watching = shell.watching(full)
    watching.send_signal(signal.SIGINT)
    _, err = watching.communicate(timeout=30)
    assert watching.returncode == 130
    assert f"agent-span stream {full[:11]} --after" in err
    assert shell.status_of(full) == "WAITING"


def test_a_reader_that_goes_away_is_no_error_message(shell: Shell) -> None:
    full = shell.waiting()
    watching = shell.start("stream", full)
    assert watching.stdout is not None
    watching.stdout.readline()
    watching.stdout.close()
    shell("approve", full)
    assert watching.wait(60) == 141
    assert watching.stderr is not None
    assert "Traceback" not in watching.stderr.read()
    watching.stderr.close()


def test_a_killed_server_is_started_again_and_the_execution_completes(shell: Shell) -> None:
    full = shell.waiting()
    watching = shell.watching(full)
    killed = shell.pid()
    os.kill(killed, signal.SIGKILL)
    until("the end of the server", lambda: not is_alive(killed))
    assert shell("server", "status").code == 5
    # A decision is taken while nobody is up to act on it.
    assert "server start" in shell("approve", full).err
    again = shell("server", "start", "--num-cpus", "2", "--json")
    assert again.code == 0, again.err
    assert (again.json["is_new"], again.json["pid"] != killed) == (True, True)
    result = shell("result", full, "--timeout", "60", "--json")
    assert (result.code, result.json["output"]) == (0, "It is [paid].")
    # Who watched all the while has seen it through, and never knew.
    out, err = watching.communicate(timeout=60)
    assert watching.returncode == 0, err
    assert "COMPLETED (stop)" in out
    assert "server.up" in shell("server", "logs").out


def test_stop_ends_it_and_stopping_twice_is_no_error(shell: Shell) -> None:
    pid = shell.pid()
    stopped = shell("server", "stop", "--json")
    assert (stopped.code, stopped.json) == (0, {"stopped": True, "pid": pid, "by_force": False})
    until("the end of the server's process", lambda: not is_alive(pid))
    assert shell("server", "stop", "--json").json == {"stopped": False}
    assert shell("server", "status", "--json").json["up"] is False


def test_without_a_server_run_brings_its_own(shell: Shell) -> None:
    shell("server", "stop")
    done = shell("run", "shop:echo", "Alone")
    assert done.code == 0, done.err
    assert "You said: Alone" in done.out
    assert not Lease(shell.home).is_held()
