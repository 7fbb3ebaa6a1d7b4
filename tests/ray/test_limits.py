"""Limits of agents, sessions and models for real, while what keeps them is killed."""

from __future__ import annotations

from typing import Any

import pytest

from agentspan.agents import AgentRuntime, Status, ToolContext, tool
from agentspan.testing import ScriptedModel, call, say
from tests.ray.agents import gate, make_agent
from tests.support.cluster import Server, kill, until
from tests.support.ledger import Ledger
from tests.support.model_server import ModelServer, Reply, text


def test_the_queue_outlives_the_supervisor_and_the_whole_server(own_server: Server, ledger: Ledger) -> None:
    own_server.start()
    # The second of the session goes on in the conversation of the first, so at the third step.
    script = ScriptedModel([call("work", n=0, hold=9), say("done")] * 2)
    with AgentRuntime(home=own_server.home) as runtime:
        agent = make_agent("narrow", ledger, script, max_concurrency=2)
        handles = [runtime.start(agent, "go") for _ in range(5)]
        chat = [runtime.start(make_agent("chat", ledger, script), "go", session_id="s") for _ in range(2)]
        ids = [handle.execution_id for handle in handles]
        for execution_id in (*ids[:2], chat[0].execution_id):
            ledger.entered(execution_id)
        kill(own_server.supervisor_pid())
        status = handles[4].get_status()
        assert (status.status, status.ahead) == (Status.QUEUED, 2)
        assert "max_concurrency 2" in str(status.reason)
        assert chat[0].execution_id in str(chat[1].get_status().reason)
        handles[2].cancel("no need")
        assert handles[2].join(20).status is Status.TERMINATED
        victim = runtime.show(ids[0])["host"]["pid"]
        kill(victim)
        ledger.entered(ids[0], count=2)
    own_server.kill()
    offline = AgentRuntime.offline(runtime.settings)
    rows = {row["execution_id"]: row for row in offline.executions()}
    assert rows[ids[4]]["queue"]["ahead"] == 1
    own_server.start()
    for execution_id in (*ids[:2], chat[0].execution_id):
        ledger.entered(execution_id, count=2)
    began = {entry["key"].partition(":")[0] for entry in ledger.entered("ex-", count=0)}
    assert not began & {*ids[2:], chat[1].execution_id}
    for execution_id in (*ids, *(handle.execution_id for handle in chat)):
        for attempt in range(1, 5):
            ledger.open(gate(execution_id, 0, attempt))
    for execution_id in (*ids[:2], *ids[3:], *(handle.execution_id for handle in chat)):
        assert own_server.result(execution_id).status is Status.COMPLETED
    messages = own_server.result(chat[1].execution_id).messages
    assert [message["role"] for message in messages].count("user") == 2
    offline.shutdown()


@pytest.mark.parametrize("needs", [{}, {"num_cpus": 0}], ids=["here", "as a Ray task"])
def test_an_agent_that_starts_itself_and_waits_for_it_shares_its_place(
    server: Server, runtime: AgentRuntime, ledger: Ledger, needs: dict[str, int]
) -> None:
    @tool(**needs)
    def nest(ctx: ToolContext) -> str:
        """Start the same agent, once."""
        if ctx.metadata.get("depth"):
            return "the leaf"
        with AgentRuntime() as inside:
            return str(inside.run("nested", "go", metadata={"depth": 1}, timeout=40).output)

    script = ScriptedModel([call("nest"), say("{last_tool_result}!")])
    agent = make_agent("nested", ledger, script, tools=[nest], max_concurrency=1)
    result = runtime.run(agent, "go", timeout=60)
    assert result.output == "the leaf!!", result.error or result.tool_calls


def test_model_limits_are_shared_by_all_and_outlive_who_keeps_them(own_server: Server, ledger: Ledger) -> None:
    own_server.settings["AGENTSPAN_MODEL_LIMITS"] = "openai in_flight=2; openai/slow in_flight=1"
    own_server.start()
    slow = [Reply(text="late", hang=True), text("at last", delay_s=0.1)]
    with (
        ModelServer([text("ok", delay_s=0.4)]) as model,
        ModelServer(slow) as hanging,
        AgentRuntime(home=own_server.home) as runtime,
    ):
        agent = make_agent("asker", ledger, "openai/gpt-4o", base_url=model.url)
        handles = [runtime.start(agent, "go", placement=placement) for placement in ["dedicated"] * 4 + ["packed"] * 10]

        def waits() -> Any:
            doing = [row["current_task"] for row in runtime.executions()]
            return [told for told in doing if "waits for a permit (openai: 2 calls in flight)" in told]

        until("execution that says what it waits for", waits)
        kill(own_server.supervisor_pid())
        assert [handle.join(60).output for handle in handles] == ["ok"] * 14
        assert model.at_once_max == 2

        # A process that dies with a permit in its hand: its own next life, and others, have it after a lease.
        stuck = make_agent("stuck", ledger, "openai/slow", base_url=hanging.url)
        holder = runtime.start(stuck, "go")
        assert hanging.arrived.wait(20)
        other = runtime.start(stuck, "go")
        kill(runtime.show(holder.execution_id)["host"]["pid"])
        assert {handle.join(60).output for handle in (holder, other)} == {"at last"}
        assert hanging.at_once_max == 1
