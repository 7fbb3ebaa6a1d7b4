"""Waiting costs rows, not processes; and every signal reaches an execution, awake or asleep."""

from __future__ import annotations

import time

import pytest

from agentspan.agents import Agent, AgentRuntime, Status, human_tool, tool, wait_for_message_tool
from agentspan.handle import AgentHandle
from agentspan.testing import ScriptedModel, call, calls, say
from tests.ray.agents import gate, make_agent
from tests.support.cluster import Server, is_alive, until
from tests.support.ledger import Ledger


def asleep(runtime: AgentRuntime, handle: AgentHandle) -> bool:
    shown = runtime.show(handle.execution_id)
    return shown["status"] in ("WAITING", "PAUSED") and not shown["resident"]


def test_a_waiting_execution_has_no_process_and_wakes_on_the_decision(runtime: AgentRuntime, ledger: Ledger) -> None:
    script = ScriptedModel([call("refund", amount=4), say("{last_tool_result}")])
    handle = runtime.start(make_agent("sleeper", ledger, script), "go")
    until("a refund to approve", lambda: handle.get_status().is_waiting)
    pid = runtime.show(handle.execution_id)["host"].get("pid")
    until("hibernation", lambda: asleep(runtime, handle))
    if pid is not None:  # None: it was asleep before we could look.
        until("end of its process", lambda: not is_alive(pid))
    assert handle.get_status().is_waiting

    asked_at = time.monotonic()
    handle.approve()
    result = handle.join(30)

    assert result.output == "refunded 4"
    assert time.monotonic() - asked_at < 10
    assert runtime.show(handle.execution_id)["recoveries"] == 0  # Waking is not a crash.


@pytest.mark.parametrize("state", ["awake", "asleep"])
def test_every_signal_reaches_it(runtime: AgentRuntime, ledger: Ledger, state: str) -> None:
    inbox = wait_for_message_tool(name="inbox", description="Wait for a message.")
    person = human_tool(name="person", description="Ask a person.")
    first = call("work", n=1, hold=int(state == "awake"))
    script = ScriptedModel([first, call("inbox"), call("person", question="?"), say("end")])
    agent = make_agent("listener", ledger, script, tools=[inbox, person])
    going, cancelled, stopped = (runtime.start(agent, "go") for _ in range(3))
    if state == "awake":
        for handle in (going, cancelled, stopped):
            ledger.entered(handle.execution_id)
    else:
        for handle in (going, cancelled, stopped):
            until("hibernation", lambda handle=handle: asleep(runtime, handle))

    going.pause()
    until("pause", lambda: going.get_status().status is Status.PAUSED)
    runtime.send_message(going.execution_id, {"news": 1})
    runtime.signal(going.execution_id, "Be brief.")
    cancelled.cancel("changed our mind")
    stopped.stop()
    for handle in (going, cancelled, stopped):
        ledger.open(gate(handle.execution_id, 1))

    result = cancelled.join(30)
    assert (result.status, result.error) == (Status.TERMINATED, "changed our mind")
    result = stopped.join(30)
    assert (result.status, str(result.finish_reason)) == (Status.COMPLETED, "stopped")
    assert going.get_status().status is Status.PAUSED
    going.resume()
    until("question", lambda: [waits.kind for waits in going.get_status().pending] == ["question"])
    going.respond("an answer")
    result = going.join(30)
    assert result.output == "end"
    assert [record.name for record in result.tool_calls] == ["work", "inbox", "person"]
    assert "news" in str(result.tool_calls[1].result)
    assert result.tool_calls[2].result == "an answer"
    kinds = [step["kind"] for step in runtime.show(going.execution_id)["steps"]]
    assert kinds.count("control") == 3
    assert kinds.count("message") == 1


def test_a_blocking_tool_delays_neither_status_nor_cancel(runtime: AgentRuntime, ledger: Ledger) -> None:
    blocked = runtime.start(make_agent("blocked", ledger, ScriptedModel([call("work", n=1, hold=1), say("x")])), "go")
    ledger.entered(blocked.execution_id)

    started = time.monotonic()
    assert blocked.get_status().is_running
    assert blocked.get_status().current_task is not None
    blocked.cancel()
    result = blocked.join(30)

    assert result.status is Status.TERMINATED
    assert time.monotonic() - started < 10  # The tool would have held it for ever.


def test_tools_of_one_turn_run_at_the_same_time(runtime: AgentRuntime, ledger: Ledger) -> None:
    @tool
    def meet(n: int, total: int) -> str:
        """Return once everybody is here."""
        ledger.enter(f"meeting-{total}:{n}", 1)
        ledger.entered(f"meeting-{total}:", count=total)
        return f"{n} met"

    turn = calls(*(call("meet", n=n, total=12) for n in range(12)))
    result = runtime.run(
        Agent("party", model=str(ScriptedModel([turn, say("all met")])), tools=[meet]), "go", timeout=40
    )

    assert result.output == "all met"
    assert [record.result for record in result.tool_calls] == [f"{n} met" for n in range(12)]


def test_nothing_is_left_running_when_everything_has_ended(
    server: Server, runtime: AgentRuntime, ledger: Ledger
) -> None:
    agent = make_agent("brief", ledger, ScriptedModel([call("work", n=1), say("done")]))
    for handle in [runtime.start(agent, "go") for _ in range(4)]:
        assert handle.join(60).output == "done"

    for row in runtime.executions(statuses=["QUEUED", "RUNNING", "WAITING", "PAUSED"], limit=1000):
        runtime.cancel(row["execution_id"])
    runtime.ready()
    until("only the supervisor and one standby", lambda: len(server.processes("ray::ExecutionActor")) == 1)
    assert runtime.server_info()["residents"] == 0
    assert len(server.processes("ray::SupervisorActor")) == 1
