"""History and forks of native agents through a real server."""

from __future__ import annotations

import pytest

from agentspan.agents import AgentRuntime
from agentspan.errors import ConfigurationError, UnknownExecutionError
from agentspan.testing import ScriptedModel, call, say
from tests.ray.agents import make_agent
from tests.support.ledger import Ledger


def test_an_agent_has_a_history_and_goes_on_from_any_of_its_states(runtime: AgentRuntime, ledger: Ledger) -> None:
    script = ScriptedModel([call("work", n=1), call("work", n=2), say("{last_tool_result}")])
    handle = runtime.start(make_agent("forked", ledger, script), "go")
    assert handle.join(60).output == "did 2 at attempt 1"
    history = handle.history()
    assert [state.source for state in history] == ["finished", "model", "tool", "model", "tool", "model", "started"]
    assert [state.next for state in history[:4]] == [(), (), ("model",), ("work",)]
    assert [state.step for state in handle.history(limit=2)] == [6, 5]

    fork = handle.fork(step=3)  # The second call is asked for and has not run.
    result = fork.join(60)
    assert (result.output, len(result.tool_calls)) == ("did 2 at attempt 1", 2)
    assert len(ledger.entered(fork.execution_id)) == 1
    assert len(ledger.entered(handle.execution_id)) == 2
    assert handle.history() == history

    other = handle.fork(step=6, state={"messages": [{"role": "user", "content": "again"}]})
    assert other.join(60).messages[0] == {"role": "user", "content": "again"}
    assert len(ledger.entered(other.execution_id, count=2)) == 2


def test_a_fork_asks_its_own_people(runtime: AgentRuntime, ledger: Ledger) -> None:
    script = ScriptedModel([call("refund", amount=5), say("{last_tool_result}")])
    handle = runtime.start(make_agent("forked_refund", ledger, script), "go")
    events = handle.stream()
    next(event for event in events if event.type == "waiting")
    fork = handle.fork()
    next(event for event in fork.stream() if event.type == "waiting")
    fork.approve()
    assert fork.join(60).output == "refunded 5"
    assert handle.get_status().is_waiting
    handle.reject("too much")
    assert "too much" in str(handle.join(60).output)


def test_what_cannot_be_forked_starts_nothing(runtime: AgentRuntime, ledger: Ledger) -> None:
    handle = runtime.start(make_agent("not_forked", ledger, ScriptedModel([say("done")])), "go")
    handle.join(60)
    for wrong, words in [
        ({"step": 99}, "no step 99; its steps are 0 to 2"),
        ({"state": {"messages": "text"}}, "these messages"),
        ({"state": {"topic": "t"}}, "cannot change topic"),
        ({"as_node": "model"}, "as_node is for graphs"),
    ]:
        with pytest.raises(ConfigurationError, match=words):
            handle.fork(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UnknownExecutionError):
        runtime.handle("ex-nobody").fork()
    assert len(runtime.executions(agent="not_forked")) == 1
