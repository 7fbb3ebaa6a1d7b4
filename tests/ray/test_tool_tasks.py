"""Tools that ask for resources run as Ray tasks: what is killed, cancelled or in line there, and what becomes of it here."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentspan.agents import Agent, AgentRuntime, Status, ToolContext, tool
from agentspan.handle import AgentHandle
from agentspan.testing import ScriptedModel, call, say
from tests.ray.agents import gate
from tests.ray.honesty import check_honest
from tests.support.cluster import Server, is_alive, kill, until
from tests.support.ledger import Ledger

CLIENTS = Path(__file__).parent / "clients"


class Machine:
    """Something an agent depends on that cannot leave its process."""

    def __init__(self) -> None:
        self.pid = os.getpid()

    def __reduce__(self) -> Any:
        return Machine, ()


def cruncher(ledger: Ledger, *script: Any, **options: Any) -> Agent:
    """An agent whose tools run as Ray tasks and tell the ledger what they do."""
    options.setdefault("num_cpus", 1)

    @tool(retry_delay_seconds=0, **options)
    def crunch(n: int, ctx: ToolContext, hold: int = 0) -> dict[str, Any]:
        """Compute something; the first `hold` attempts stop at a gate, where nothing but death ends them."""
        ledger.enter(ctx.idempotency_key, ctx.attempt, pid=os.getpid())
        if ctx.attempt <= hold:
            ledger.wait(gate(ctx.execution_id, n, ctx.attempt))
        ctx.state["crunched"] = [*ctx.state.get("crunched", []), n]
        return {"n": n, "attempt": ctx.attempt, "pid": os.getpid(), "machine": ctx.dependencies["machine"].pid}

    @tool(num_cpus=0, retry_count=1, retry_delay_seconds=0)
    async def stumble(ctx: ToolContext) -> str:
        """Fail once, then tell what was crunched before."""
        if ctx.attempt == 1:
            raise ConnectionError("not yet")
        return f"after {ctx.state['crunched']}"

    @tool(retry_count=0, **options)
    def idle(ctx: ToolContext) -> None:
        """Do nothing until somebody interrupts it, and clean up then."""
        try:
            ledger.enter(ctx.idempotency_key, ctx.attempt, pid=os.getpid())
            while True:
                time.sleep(0.01)
        finally:
            ledger.enter(f"{ctx.execution_id}/cleaned", ctx.attempt)

    @tool
    def here() -> int:
        """Say which process runs tools that ask for nothing."""
        return os.getpid()

    return Agent(
        "cruncher",
        model=str(ScriptedModel([*script, say("done")])),
        tools=[crunch, stumble, idle, here],
        dependencies={"machine": Machine()},
    )


def doing(handle: AgentHandle, words: str) -> None:
    until(words, lambda: words in (handle.get_status().current_task or ""))


def pid_of(ledger: Ledger, handle: AgentHandle, *, attempt: int = 1) -> int:
    return int(ledger.entered(f"{handle.execution_id}::", count=attempt)[-1]["pid"])


def test_it_runs_in_a_process_of_its_own_with_all_that_a_tool_has(
    server: Server, runtime: AgentRuntime, ledger: Ledger
) -> None:
    agent = cruncher(ledger, call("crunch", n=1), call("crunch", n=2), call("stumble"), call("here"))
    for placement in ("dedicated", "packed"):
        handle = runtime.start(agent, "go", placement=placement)
        result = handle.join(60)
        assert result.output == "done"
        first, second, third, here = result.tool_calls
        assert first.result["pid"] != here.result, "it ran somewhere else"
        assert first.result["machine"] == first.result["pid"], "what it depends on was made there"
        assert second.result["n"] == 2
        assert (third.result, third.attempts) == ("after [1, 2]", 2)
        assert len(check_honest(runtime.show(handle.execution_id), ledger)) == 2


@pytest.mark.parametrize("victim", ["task", "execution"])
def test_a_killed_process_costs_an_attempt_and_the_key_stays(
    server: Server, runtime: AgentRuntime, ledger: Ledger, victim: str
) -> None:
    handle = runtime.start(cruncher(ledger, call("crunch", n=1, hold=1)), "go")
    task = pid_of(ledger, handle)
    shown = runtime.show(handle.execution_id)
    kill(task if victim == "task" else shown["host"]["pid"])
    until("end of the task", lambda: not is_alive(task))

    result = handle.join(60)

    assert [made.result["attempt"] for made in result.tool_calls] == [2]
    after = runtime.show(handle.execution_id)
    assert len(check_honest(after, ledger)["call_0_0"]) == 2
    assert after["recoveries"] == (0 if victim == "task" else 1)
    failed = [step for step in after["steps"] if step["kind"] == "tool_failed"]
    assert [step["error_type"] for step in failed] == (["ToolLostError"] if victim == "task" else [])


def test_a_task_that_died_is_asked_about_when_its_tool_says_so(
    server: Server, runtime: AgentRuntime, ledger: Ledger
) -> None:
    handle = runtime.start(cruncher(ledger, call("crunch", n=1, hold=1), on_crash="ask"), "go")
    kill(pid_of(ledger, handle))
    until("question", lambda: handle.get_status().pending)
    [asked] = handle.get_status().pending
    assert (asked.kind, asked.arguments["n"]) == ("crash", 1)
    handle.approve()
    assert [made.result["attempt"] for made in handle.join(60).tool_calls] == [2]


@pytest.mark.parametrize("placement", ["dedicated", "packed"])
def test_a_cancelled_execution_ends_its_task(
    server: Server, runtime: AgentRuntime, ledger: Ledger, placement: Any
) -> None:
    polite = runtime.start(cruncher(ledger, call("idle")), "go", placement=placement)
    stubborn = runtime.start(cruncher(ledger, call("crunch", n=1, hold=1)), "go", placement=placement)
    pids = [pid_of(ledger, polite), pid_of(ledger, stubborn)]
    polite.cancel()
    stubborn.cancel()
    assert {handle.join(30).status for handle in (polite, stubborn)} == {Status.TERMINATED}
    ledger.entered(f"{polite.execution_id}/cleaned")
    until("end of the stubborn task", lambda: not is_alive(pids[1]))


def test_a_task_that_takes_too_long_is_ended(server: Server, runtime: AgentRuntime, ledger: Ledger) -> None:
    handle = runtime.start(cruncher(ledger, call("idle"), timeout_seconds=1), "go")
    result = handle.join(30)
    assert [made.error for made in result.tool_calls] == ["The tool 'idle' did not finish within 1 s."]
    ledger.entered(f"{handle.execution_id}/cleaned")


def test_what_is_in_use_is_waited_for_in_line_and_what_is_not_there_is_an_error(
    server: Server, runtime: AgentRuntime, ledger: Ledger
) -> None:
    wait: Callable[..., AgentHandle] = lambda **needs: runtime.start(  # noqa: E731
        cruncher(ledger, call("crunch", n=1, hold=1), **needs), "go", placement="packed"
    )
    first = wait(num_cpus=2)
    pid_of(ledger, first)
    second = wait(num_cpus=2)
    doing(second, "tool:crunch (waits for 2 CPU)")
    third = wait(num_cpus=2)
    doing(third, "waits for 2 CPU")
    third.cancel()
    assert third.join(30).status is Status.TERMINATED
    ledger.open(gate(first.execution_id, 1))
    pid_of(ledger, second)
    until("note to go", lambda: second.get_status().current_task == "tool:crunch")
    ledger.open(gate(second.execution_id, 1))
    assert {handle.join(30).output for handle in (first, second)} == {"done"}
    assert ledger.entered(f"{third.execution_id}::", count=0) == []

    [made] = wait(num_gpus=3).join(30).tool_calls
    assert str(made.error).startswith("Tool 'crunch' asks for 1 CPU, 3 GPU, and no node of the cluster has so much.")
    assert "2 CPU" in str(made.error)
    assert made.attempts == 1


def test_a_call_runs_on_whatever_node_has_what_it_asks_for_and_a_killed_node_is_an_attempt_lost(
    own_server: Server,
) -> None:
    # A cluster of its own instead of the server: one node has the resource, comes late, is killed, and is replaced.
    found = own_server.ask(str(CLIENTS / "tool_nodes.py"), within_s=120)
    assert found == {"early": True, "killed": [True, "ToolLostError"], "again": True}
