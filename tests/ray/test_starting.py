"""Who starts what, once: idempotency keys, deployed names, versions, sessions."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from agentspan.agents import AgentRuntime
from agentspan.errors import ConfigurationError, RuntimeClosedError
from agentspan.testing import ScriptedModel, call, say
from tests.ray.agents import make_agent
from tests.support.cluster import Server, answer, until
from tests.support.ledger import Ledger

STARTING = str(Path(__file__).parent / "clients" / "starting.py")


def test_runtimes_of_one_process_share_its_connection(
    server: Server, runtime: AgentRuntime, ledger: Ledger, tmp_path: Path
) -> None:
    agent = make_agent("shared", ledger, ScriptedModel("hi"))
    with AgentRuntime(home=server.home) as other:
        assert other.run(agent, "go", timeout=30).output == "hi"

    assert runtime.run(agent, "go", timeout=30).output == "hi"  # Not cut off by the other's end.
    with pytest.raises(ConfigurationError, match="connected to the AgentSpan server"):
        AgentRuntime(home=tmp_path).run(agent, "go")
    with pytest.raises(RuntimeClosedError):
        other.run(agent, "go")


def test_two_processes_with_one_key_start_one_execution(server: Server, runtime: AgentRuntime, ledger: Ledger) -> None:
    runtime.deploy(make_agent("once", ledger, ScriptedModel([call("work", n=1), say("done")])))
    clients = [server.client(STARTING, str(ledger.port), "once", "key-1", str(n)) for n in range(2)]

    answers = [answer(client) for client in clients]

    assert answers[0] == answers[1]
    assert answers[0]["outputs"] == ["done"] * 8
    assert len(set(answers[0]["execution_ids"])) == 1
    assert len(ledger.entered(answers[0]["execution_ids"][0])) == 1
    assert len(runtime.executions(agent="once")) == 1


def test_a_new_version_leaves_the_running_execution_on_its_own(runtime: AgentRuntime, ledger: Ledger) -> None:
    old = make_agent("versioned", ledger, ScriptedModel([call("work", n=1, hold=1), say("old")]))
    new = make_agent("versioned", ledger, ScriptedModel([call("work", n=1), say("new")]))
    (first,) = runtime.deploy(old)
    running = runtime.start("versioned", "go")
    ledger.entered(running.execution_id)
    (second,) = runtime.deploy(new)

    assert first.deployment_id != second.deployment_id
    assert runtime.run("versioned", "go", timeout=30).output == "new"
    pid = runtime.show(running.execution_id)["host"]["pid"]
    os.kill(pid, signal.SIGKILL)  # Also its next incarnation runs the old code.
    assert running.join(30).output == "old"
    assert runtime.show(running.execution_id)["deployment"]["deployment_id"] == first.deployment_id


def test_a_session_goes_on_where_its_last_execution_ended(runtime: AgentRuntime, ledger: Ledger) -> None:
    first = runtime.run(make_agent("talker", ledger, ScriptedModel("one")), "first", session_id="s1", timeout=30)
    second = runtime.run(
        make_agent("talker", ledger, ScriptedModel("two", skip=1)), "second", session_id="s1", timeout=30
    )
    other = runtime.run(make_agent("talker", ledger, ScriptedModel("one")), "other", session_id="s2", timeout=30)

    assert first.output == "one"
    assert [message["content"] for message in second.messages] == ["first", "one", "second", "two"]
    assert [message["content"] for message in other.messages] == ["other", "one"]


def test_an_execution_ends_at_its_deadline_asleep_or_not(runtime: AgentRuntime, ledger: Ledger) -> None:
    script = ScriptedModel([call("refund", amount=4), say("never")])
    handle = runtime.start(make_agent("late", ledger, script), "go", timeout=2.0)
    until("a refund to approve", lambda: (status := handle.get_status()).is_waiting or status.is_complete)

    assert str(handle.join(30).status) == "TIMED_OUT"
    assert ledger.entered(handle.execution_id, count=0) == []
