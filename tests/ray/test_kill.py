"""SIGKILL, in the middle of everything: the execution's actor, the supervisor, both."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agentspan.agents import AgentRuntime, Status
from agentspan.handle import AgentHandle
from agentspan.testing import ScriptedModel, call, say
from tests.ray.agents import gate, make_agent
from tests.ray.honesty import check_honest
from tests.support.cluster import Server, kill, until
from tests.support.ledger import Ledger
from tests.support.model_server import ModelServer, Reply, text

Waiting = Callable[[], object]


def story(moment: str) -> list[Reply | list[Reply]]:
    """Some work; then an approval with other work beside it; then an answer. `moment` is where it can be caught."""
    first = Reply(calls=[{"name": "work", "arguments": f'{{"n": 0, "hold": {int(moment == "tool")}}}'}])
    second = Reply(
        calls=[
            {"name": "refund", "arguments": '{"amount": 8}'},
            {"name": "work", "arguments": f'{{"n": 1, "hold": {int(moment == "wait")}}}'},
        ]
    )
    # Long enough for a supervisor to be killed and back; the same request again is answered at once.
    slow = Reply(calls=first.calls, delay_s=2.5)
    return [[slow, first] if moment == "model" else first, second, text("all done")]


def waiting_calls(handle: AgentHandle) -> list[str]:
    return [pending.tool_name for pending in handle.get_status().pending]


@pytest.mark.parametrize("victim", ["actor", "supervisor", "both"])
@pytest.mark.parametrize("moment", ["model", "tool", "wait"])
def test_it_completes_and_nothing_recorded_runs_again(
    server: Server, runtime: AgentRuntime, ledger: Ledger, moment: str, victim: str
) -> None:
    with ModelServer(story(moment), by="conversation") as model:
        agent = make_agent("clerk", ledger, "openai/gpt-4o", base_url=model.url)
        handle = runtime.start(agent, "go")
        execution_id = handle.execution_id
        if moment == "model":
            assert model.arrived.wait(20)
        else:
            ledger.entered(f"{execution_id}::", count=1 if moment == "tool" else 2)
        shown = runtime.show(execution_id)
        victims = [] if victim == "supervisor" else [shown["host"]["pid"]]
        if victim != "actor":
            victims.append(server.supervisor_pid())
        kill(*victims)

        if victim == "supervisor":
            runtime.show(execution_id)  # Answered by the new one.
            for n in (0, 1):
                ledger.open(gate(execution_id, n))
        until("a refund to approve", lambda: waiting_calls(handle) == ["refund"])
        handle.approve(by="kim")
        result = handle.join(60)

        assert result.status is Status.COMPLETED
        assert result.output == "all done"
        seen = check_honest(runtime.show(execution_id), ledger)
        lost = {"tool": "call_0_0", "wait": "call_1_1"}.get(moment) if victim != "supervisor" else None
        assert {call_id: len(entries) for call_id, entries in seen.items()} == {
            call_id: 2 if call_id == lost else 1 for call_id in ("call_0_0", "call_1_0", "call_1_1")
        }
        # An answer on record is not paid for again; one that was lost is asked for under the same key.
        paid = [2 if moment == "model" and victim != "supervisor" else 1, 1, 1]
        assert [model.calls_by_key[f"{execution_id}::{turn}"] for turn in (1, 2, 3)] == paid
        assert model.call_count == sum(paid)
        recovered = [event for event in handle.stream() if event.type == "recovered"]
        assert len(recovered) == (0 if victim == "supervisor" else 1)


def test_an_acknowledged_decision_survives_the_death_of_everybody_who_knew(
    server: Server, runtime: AgentRuntime, ledger: Ledger
) -> None:
    script = ScriptedModel([call("refund", amount=5), say("{last_tool_result}")])
    handle = runtime.start(make_agent("cashier", ledger, script), "go")
    until("a refund to approve", lambda: waiting_calls(handle) == ["refund"])
    supervisor = server.supervisor_pid()
    handle.approve(by="kim")
    kill(supervisor, *server.processes("ray::ExecutionActor"))
    handle.approve("call_0_0", by="lee")  # Answering twice returns the first decision.

    result = handle.join(60)

    assert result.output == "refunded 5"
    assert [record.decided_by for record in result.tool_calls] == ["kim"]
    check_honest(runtime.show(handle.execution_id), ledger)


def test_a_step_that_kills_its_process_each_time_is_given_up_and_named(
    server: Server, runtime: AgentRuntime, ledger: Ledger
) -> None:
    bomb = make_agent("bomb", ledger, ScriptedModel([call("die"), say("never")]))
    other = make_agent("bystander", ledger, ScriptedModel([call("work", n=1, hold=1), say("fine")]))
    bystander = runtime.start(other, "go")
    ledger.entered(bystander.execution_id)

    result = runtime.start(bomb, "go").join(60)

    assert result.status is Status.FAILED
    assert result.error is not None
    assert "die" in result.error
    assert "3 crashes" in result.error
    assert [entry["attempt"] for entry in ledger.entered(result.execution_id)] == [1, 2, 3]
    ledger.open(gate(bystander.execution_id, 1))
    assert bystander.join(30).output == "fine"
    assert [entry["attempt"] for entry in ledger.entered(bystander.execution_id)] == [1]
