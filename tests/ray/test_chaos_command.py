"""`agent-span chaos` against a real server with real work on it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from agentspan.agents import AgentRuntime
from agentspan.testing import ScriptedModel, call, say
from tests.ray.agents import gate, make_agent
from tests.ray.honesty import check_honest
from tests.support.cluster import Server
from tests.support.ledger import Ledger

pytestmark = pytest.mark.timeout(180)


def chaos(server: Server, *options: str) -> tuple[int, list[dict[str, Any]], str]:
    done = subprocess.run(
        [sys.executable, "-m", "agentspan.cli", "chaos", "--json", *options],
        env=server.environment,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_what_chaos_kills_comes_back_and_nothing_is_repeated(
    server: Server, runtime: AgentRuntime, ledger: Ledger
) -> None:
    script = ScriptedModel([call("work", n=0), call("work", n=1, hold=99), say("done")])
    agent = make_agent("hunted", ledger, script)
    handles = [runtime.start(agent, "go", placement="packed" if n else "dedicated") for n in range(6)]
    for handle in handles:
        ledger.entered(handle.execution_id, count=2)

    code, lines, err = chaos(server, "--every", "1s", "--for", "6s", "--seed", "12", "--agent", "hunted")

    assert (code, err) == (0, "")
    summary = lines[-1]["summary"]
    assert summary["lost"] == []
    assert set(summary["kills"]) >= {"supervisor"}
    assert sum(summary["kills"].values()) == sum("killed" in line for line in lines) >= 3
    assert summary["touched"] <= 6
    assert (
        0 < summary["recoveries"] == sum(len(line["recovered"]["executions"]) for line in lines if "recovered" in line)
    )
    for handle in handles:
        for attempt in range(1, 20):
            ledger.open(gate(handle.execution_id, 1, attempt))
    assert [handle.join(60).output for handle in handles] == ["done"] * 6
    repeated = 0
    for handle in handles:
        shown = server.show(handle.execution_id)
        check_honest(shown, ledger)
        repeated += shown["recoveries"]
    assert repeated >= summary["recoveries"]
