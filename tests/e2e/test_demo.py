"""`agent-span demo`: the story is played for real, and a story that is not true fails."""

from __future__ import annotations

import copy
import dataclasses
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentspan.cli import demo as demo_module
from agentspan.cli.demo_check import Evidence, check
from agentspan.cli.demo_ledger import BEGIN, EFFECT, Entry
from tests.support.cluster import until

DEMO_S_MAX = 110.0


def run_demo(*options: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "agentspan.cli.demo", *options],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def processes_of(home: str) -> list[str]:
    """What still runs of a home (empty where there is no /proc)."""
    mark = f"AGENTSPAN_HOME={home}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append((entry / "cmdline").read_text())
        except OSError:
            continue
    return found


def test_the_demo_tells_its_story_and_every_number_holds() -> None:
    process = run_demo(NO_COLOR="1", AGENTSPAN_ADDRESS="203.0.113.1:1", AGENTSPAN_STORE="postgresql://nowhere")
    text, _ = process.communicate(timeout=DEMO_S_MAX)
    assert process.returncode == 0, text

    assert text.index("CRASH") < text.index("RECOVERED") < text.index("Act 2") < text.rindex("CRASH")
    assert text.rindex("CRASH") < text.rindex("RECOVERED") < text.index("approved") < text.rindex("completed")
    assert re.search(r"CRASH +kill -9 \d+: the agent's process, in the middle of read_page", text)
    assert "\x1b" not in text

    rows = dict(
        re.findall(r"^[ │|]*(\w+(?: \w+)*)[ │|]{2,}([\d.]+)", text[text.index("What was measured") :], re.MULTILINE)
    )
    assert rows["Steps recorded"] == "14"
    assert rows["Steps run twice"] == "0"
    assert rows["Model calls paid twice"] == "0"
    assert rows["Tool effects"] == "6"
    assert 0 < float(rows["Recovery of an agent"]) < 60
    assert 0 < float(rows["Restart of the server"]) < 60
    assert_nothing_is_left(text)


def test_an_interrupted_demo_leaves_nothing_behind() -> None:
    process = run_demo()
    assert process.stdout is not None
    said = ""
    while "prompt" not in said:
        line = process.stdout.readline()
        assert line, said
        said += line
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=30)
    assert process.returncode == 130, said + rest
    assert_nothing_is_left(said)


def assert_nothing_is_left(text: str) -> None:
    found = re.search(r"Home:\s+(\S+)", text)
    assert found is not None, text
    assert not Path(found[1]).exists()
    until("end of its processes", lambda: not processes_of(found[1]))


# --- a story that is not true


def entry(what: str, attempt: int = 1, *, at: float, pid: int = 1, key: str = "ex-1::call_0_0") -> Entry:
    return Entry(what=what, tool="pay", key=key, attempt=attempt, execution_id="ex-1", pid=pid, at=at)


def evidence() -> Evidence:
    """A run whose only tool was interrupted once and then had its effect."""
    steps: list[dict[str, Any]] = [
        {"seq": 0, "kind": "started", "epoch": 0, "at": 1.0},
        {"seq": 1, "kind": "model", "epoch": 1, "at": 2.0},
        {"seq": 2, "kind": "recovered", "epoch": 2, "at": 4.0},
        {"seq": 3, "kind": "tool", "epoch": 2, "at": 6.0, "name": "pay", "call_id": "call_0_0", "attempt": 2},
        {"seq": 4, "kind": "model", "epoch": 2, "at": 7.0},
        {"seq": 5, "kind": "finished", "epoch": 2, "at": 7.0},
    ]
    return Evidence(
        shown=[{"execution_id": "ex-1", "status": "COMPLETED", "error": None, "steps": steps}],
        tools=[entry(BEGIN, at=3.0), entry(BEGIN, 2, at=5.0, pid=2), entry(EFFECT, 2, at=5.5, pid=2)],
        models=[
            {"key": "ex-1::1", "turn": 0, "outcome": "reply", "at": 1.5},
            {"key": "ex-1::2", "turn": 1, "outcome": "reply", "at": 6.5},
        ],
        killed_pids=frozenset({1}),
        actor_recovery_s=0.5,
        server_start_s=3.0,
    )


def steps_of(story: Evidence) -> Any:
    return story.shown[0]["steps"]


def more_tools(story: Evidence, *more: Entry) -> Evidence:
    return dataclasses.replace(story, tools=[*story.tools, *more])


def without_step(story: Evidence, kind: str) -> Evidence:
    story = copy.deepcopy(story)
    steps_of(story)[:] = [step for step in steps_of(story) if step["kind"] != kind]
    return story


def paid_again(story: Evidence) -> Evidence:
    return dataclasses.replace(story, models=[*story.models, {**story.models[0], "at": 6.8}])


def failed(story: Evidence) -> Evidence:
    return dataclasses.replace(story, shown=[{**story.shown[0], "status": "FAILED", "error": "it gave up"}])


def written_by_the_dead(story: Evidence) -> Evidence:
    story = copy.deepcopy(story)
    steps_of(story)[4]["epoch"] = 1
    return story


VIOLATIONS: dict[str, tuple[Callable[[Evidence], Evidence], str]] = {
    "a recorded tool runs again": (lambda s: more_tools(s, entry(BEGIN, 3, at=6.5)), "ran again after its result"),
    "an effect is had twice": (lambda s: more_tools(s, entry(EFFECT, 2, at=5.6)), "had 2 effects"),
    "an effect is missing": (lambda s: dataclasses.replace(s, tools=s.tools[:-1]), "had 0 effects"),
    "one attempt begins twice": (lambda s: more_tools(s, entry(BEGIN, 2, at=5.2)), "began attempts [1, 2, 2]"),
    "a tool runs that no journal knows": (
        lambda s: more_tools(s, entry(BEGIN, at=3.0, key="ex-1::x")),
        "no journal knows",
    ),
    "a model call is paid twice": (paid_again, "was paid 2 times"),
    "a paid answer is lost": (lambda s: without_step(s, "model"), "is not on record"),
    "a record is missing": (lambda s: without_step(s, "recovered"), "has gaps"),
    "the execution fails": (failed, "ended as FAILED"),
    "the dead write": (written_by_the_dead, "wrote after its successor"),
    "nothing was killed": (lambda s: dataclasses.replace(s, killed_pids=frozenset({99})), "the crash missed"),
}


def test_a_true_story_has_no_problems() -> None:
    tally = check(evidence())
    assert tally.problems == []
    assert (tally.steps, tally.attempts, tally.effects) == (3, 2, 1)
    assert (tally.steps_repeated, tally.models_paid_twice, tally.effects_doubled) == (0, 0, 0)


@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_violation_makes_the_demo_fail(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    falsify, complaint = VIOLATIONS[name]

    async def play(_: object) -> Evidence:
        return falsify(evidence())

    monkeypatch.setattr(demo_module._Story, "play", play)
    assert demo_module.demo(plain=True) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "NOT AS PROMISED" in said
    assert complaint in said
    assert "as if nothing had happened" not in said
