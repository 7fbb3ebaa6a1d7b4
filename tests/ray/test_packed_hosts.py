"""Packed placement for real: many executions on a few host actors, which are killed under them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from agentspan.agents import AgentRuntime, Status
from agentspan.errors import ConfigurationError
from agentspan.testing import ScriptedModel, call, say
from tests.ray.agents import gate, make_agent
from tests.ray.honesty import check_honest
from tests.support.cluster import Server, kill, until
from tests.support.ledger import Ledger

HOST = "agentspan-host-"


def shown_on(runtime: AgentRuntime, execution_id: str) -> dict[str, Any]:
    """Where an execution runs, once it does."""
    return until("host", lambda: runtime.show(execution_id)["host"] or None)


def test_200_executions_survive_the_death_of_a_host_and_repeat_nothing(
    server: Server, runtime: AgentRuntime, ledger: Ledger
) -> None:
    script = ScriptedModel([call("work", n=0), call("work", n=1), call("work", n=2), say("done")])
    agent = make_agent("crowd", ledger, script)
    runtime.deploy(agent, placement="packed")
    handles = [runtime.start("crowd", "go") for _ in range(200)]
    until("work", lambda: len(ledger.entered("ex-", count=0)) > 60)
    busy = [host for host in runtime.server_info()["hosts"] if host["executions"] and host["up"]]
    victim = max(busy, key=lambda host: host["executions"])
    kill(victim["pid"])

    results = [handle.join(90) for handle in handles]

    assert Counter(result.status for result in results) == {Status.COMPLETED: 200}
    recovered = 0
    for handle in handles:
        shown = server.show(handle.execution_id)
        seen = check_honest(shown, ledger)
        assert len(seen) == 3
        recovered += shown["recoveries"]
    assert recovered > 0
    assert all(host["actor"] != victim["actor"] for host in runtime.server_info()["hosts"])


def test_a_tool_that_blocks_does_not_stop_its_neighbours(server: Server, runtime: AgentRuntime, ledger: Ledger) -> None:
    blocked = make_agent("blocked", ledger, ScriptedModel([call("work", n=0, hold=1), say("at last")]))
    quick = make_agent("quick", ledger, ScriptedModel([call("work", n=0), say("done")]))
    first = runtime.start(blocked, "go", placement="packed")
    ledger.entered(first.execution_id)
    assert shown_on(runtime, first.execution_id)["actor"].startswith(HOST)
    for _ in range(3):
        assert runtime.run(quick, "go", placement="packed").output == "done"
    ledger.open(gate(first.execution_id, 0))
    assert first.join(30).output == "at last"


def test_the_supervisor_comes_back_to_executions_that_went_on_without_it(
    server: Server, runtime: AgentRuntime, ledger: Ledger
) -> None:
    agent = make_agent("patient", ledger, ScriptedModel([call("work", n=0, hold=1), say("done")]))
    handles = [runtime.start(agent, "go", placement="packed") for _ in range(20)]
    for handle in handles:
        ledger.entered(handle.execution_id)
    kill(server.supervisor_pid())
    until("residents", lambda: runtime.server_info()["residents"] == 20)
    for handle in handles:
        ledger.open(gate(handle.execution_id, 0))
    assert [handle.join(30).output for handle in handles] == ["done"] * 20
    assert {server.show(handle.execution_id)["epoch"] for handle in handles} == {1}


def test_a_packed_execution_that_kills_its_host_again_and_again_is_given_up_alone(
    server: Server, runtime: AgentRuntime, ledger: Ledger
) -> None:
    bomb = make_agent("bomb", ledger, ScriptedModel([call("die"), say("never")]))
    other = make_agent("bystander", ledger, ScriptedModel([call("work", n=1, hold=3), say("fine")]))
    bystander = runtime.start(other, "go", placement="packed")
    ledger.entered(bystander.execution_id)

    result = runtime.start(bomb, "go", placement="packed").join(60)

    assert result.status is Status.FAILED
    assert "3 crashes" in str(result.error)
    for attempt in (1, 2, 3):
        ledger.open(gate(bystander.execution_id, 1, attempt))
    assert bystander.join(30).output == "fine"


def test_packed_executions_go_on_after_the_whole_server_was_killed(own_server: Server, ledger: Ledger) -> None:
    own_server.start()
    script = ScriptedModel([call("work", n=0, hold=1), call("work", n=1), say("done")])
    agent = make_agent("survivors", ledger, script)
    with AgentRuntime(home=own_server.home, placement="packed") as runtime:
        ids = [runtime.start(agent, "go").execution_id for _ in range(40)]
        for execution_id in ids:
            ledger.entered(execution_id)
    own_server.kill()
    own_server.start()
    assert {own_server.result(execution_id).output for execution_id in ids} == {"done"}
    for execution_id in ids:
        shown = own_server.show(execution_id)
        check_honest(shown, ledger)
        assert (shown["recoveries"], shown["crashes"]) == (1, 0)


def test_a_call_wins_over_the_deployment_which_wins_over_the_runtime(
    server: Server, runtime: AgentRuntime, ledger: Ledger
) -> None:
    def runs_on_a_host(of: AgentRuntime, what: Any, **more: Any) -> bool:
        handle = of.start(what, "go", **more)
        actor = str(shown_on(of, handle.execution_id)["actor"])
        ledger.open(gate(handle.execution_id, 0))
        assert handle.join(30).output == "done"
        return actor.startswith(HOST)

    agent = make_agent("placed", ledger, ScriptedModel([call("work", n=0, hold=1), say("done")]))
    with AgentRuntime(home=server.home, placement="packed") as other:
        assert runs_on_a_host(other, agent)
        assert not runs_on_a_host(other, agent, placement="dedicated")
        other.deploy(agent, placement="dedicated")
        assert not runs_on_a_host(other, agent)
    assert not runs_on_a_host(runtime, agent)
    runtime.deploy(agent, placement="packed")
    assert runs_on_a_host(runtime, agent)
    assert runs_on_a_host(runtime, "placed")
    assert not runs_on_a_host(runtime, "placed", placement="dedicated")
    with pytest.raises(ConfigurationError, match="'dedicated' or 'packed'"):
        runtime.start("placed", "go", placement="both")
