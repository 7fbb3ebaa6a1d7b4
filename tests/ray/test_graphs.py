"""LangGraph graphs on a real cluster: shipped, killed, asked, continued and forked."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from agentspan.agents import AgentRuntime, EventType, Status
from agentspan.persistence.reading import read_events
from tests.ray.graphs import assistant, line, talker
from tests.support.cluster import Server, kill, until
from tests.support.ledger import Ledger
from tests.support.model_server import ModelServer, Reply, text

CLIENTS = Path(__file__).parent / "clients"


def ran(ledger: Ledger, execution_id: str) -> Counter[str]:
    """Label → how often the ledger saw it run."""
    return Counter(entry["key"].partition(":")[2] for entry in ledger.entered(f"{execution_id}:", count=0))


def kill_once_ended(server: Server, execution_id: str, *nodes: str) -> None:
    """SIGKILL the actor of an execution as soon as these nodes have ended on record."""

    def have_ended() -> bool:
        page = server.read(lambda store: read_events(store, execution_id, 0))
        found = [event["data"]["node"] for event in page["events"] if event["type"] == "node_end"]
        return all(found.count(node) >= nodes.count(node) for node in nodes)

    until(f"end of {nodes}", have_ended)
    kill(server.show(execution_id)["host"]["pid"])


def test_a_graph_of_a_script_that_is_gone_is_killed_in_a_parallel_node(
    server: Server, runtime: AgentRuntime, ledger: Ledger
) -> None:
    execution_id = server.ask(str(CLIENTS / "graph.py"), str(ledger.port))
    ledger.entered(f"{execution_id}:slow")
    kill_once_ended(server, execution_id, "plan", "quick")

    ledger.entered(f"{execution_id}:slow", count=2)
    ledger.open(f"{execution_id}/slow")

    result = server.result(execution_id)
    assert result.status is Status.COMPLETED, result.error
    assert ran(ledger, execution_id) == {"plan": 1, "quick": 1, "slow": 2, "tell": 1}
    assert "quick and slow" in str(result.output)
    assert server.show(execution_id)["epoch"] >= 2  # A third is its way home, between two steps.


def test_an_agent_that_is_killed_in_a_tool_pays_for_no_answer_twice(
    server: Server, runtime: AgentRuntime, ledger: Ledger
) -> None:
    wanted = [{"name": name, "arguments": f'{{"n": {n}}}'} for n, name in enumerate(("quick", "slow", "quick"))]
    with ModelServer([Reply(calls=wanted), text("all done")], by="conversation") as model:
        handle = runtime.start(assistant(ledger, model.url), "go")
        execution_id = handle.execution_id
        ledger.entered(f"{execution_id}:slow")
        kill_once_ended(server, execution_id, "tools", "tools")
        ledger.entered(f"{execution_id}:slow", count=2)
        ledger.open(f"{execution_id}/slow")
        result = handle.join(60)
        assert result.output == "all done"
        assert model.call_count == 2
    assert ran(ledger, execution_id) == {"quick 0": 1, "slow 1": 2, "quick 2": 1}
    ended = [event.data["task_id"] for event in handle.stream() if event.type is EventType.NODE_END]
    assert len(ended) == len(set(ended)) == 5
    assert result.token_usage.total_tokens == 36


def test_a_question_is_answered_from_another_process_when_nobody_lives_there(
    server: Server, runtime: AgentRuntime, ledger: Ledger
) -> None:
    handle = runtime.start(line(ledger, "first", "ask", "last"), {"topic": "really"})
    until("a question", lambda: handle.get_status().is_waiting)
    until("its actor to leave", lambda: not server.show(handle.execution_id)["host"])

    answered = server.ask(str(CLIENTS / "responding.py"), handle.execution_id, "yes")

    assert answered["question"] == "really?"
    result = handle.join(10)
    assert result.state == {"topic": "really", "log": ["first", "yes", "last"]}
    assert ran(ledger, handle.execution_id) == {"first": 1, "ask": 2, "last": 1}


def test_history_and_fork(runtime: AgentRuntime, ledger: Ledger) -> None:
    app = line(ledger, "a", "b", "c")
    handle = runtime.start(app, {"topic": "x"})
    assert handle.join(30).state == {"topic": "x", "log": ["a", "b", "c"]}
    history = {state.step: state for state in handle.history()}
    assert sorted(history) == [-1, 0, 1, 2, 3]

    fork = handle.fork(step=1, state={"topic": "y", "log": ["changed"]})

    assert fork.join(30).state == {"topic": "y", "log": ["a", "changed", "b", "c"]}
    assert ran(ledger, fork.execution_id) == {"b": 1, "c": 1}
    assert {state.step: state for state in handle.history()} == history
    assert handle.join(10).state == {"topic": "x", "log": ["a", "b", "c"]}


def test_a_session_of_a_graph_with_a_saver_in_memory_outlives_its_server(own_server: Server) -> None:
    server = own_server
    server.start()
    app = talker()
    with AgentRuntime(home=server.home) as runtime:
        assert runtime.run(app, "one", session_id="s").output == "heard one"
    server.kill()
    server.start()
    with AgentRuntime(home=server.home) as runtime:
        result = runtime.run(app, "two", session_id="s")
        assert result.output == "heard one and two"
        assert [message["content"] for message in result.messages] == ["one", "heard one", "two", "heard one and two"]
        assert runtime.run(app, "three").output == "heard three"
