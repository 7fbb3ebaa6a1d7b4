"""SIGKILL of the whole server, in the middle of everything; and clients that outlive it."""

from __future__ import annotations

from pathlib import Path

from agentspan.agents import AgentRuntime, Status
from agentspan.config import Settings
from agentspan.testing import ScriptedModel, call, say
from tests.ray.agents import make_agent
from tests.ray.honesty import check_honest
from tests.support.cluster import Server, kill, until
from tests.support.ledger import Ledger
from tests.support.model_server import ModelServer, Reply, text

CLIENT = str(Path(__file__).parent / "clients" / "waiting.py")


def test_a_server_whose_node_is_lost_starts_another(own_server: Server, ledger: Ledger) -> None:
    server = own_server
    server.start()
    script = ScriptedModel([call("work", n=1, hold=1), say("{last_tool_result}")])
    with AgentRuntime(home=server.home) as runtime:
        handle = runtime.start(make_agent("busy", ledger, script), "work")
        ledger.entered(handle.execution_id)

        kill(*server.processes("raylet/raylet"))  # What an out-of-memory killer does.

        assert handle.join(60).output == "did 1 at attempt 2"
    check_honest(server.show(handle.execution_id), ledger)


def test_everything_goes_on_when_the_server_is_started_again(own_server: Server, ledger: Ledger) -> None:
    server = own_server
    hanging = Reply(text="never", hang=True)
    with ModelServer([[hanging, text("answered")]], by="conversation") as model:
        server.start()
        with AgentRuntime(home=server.home) as runtime:
            asked = runtime.start(make_agent("thinker", ledger, "openai/gpt-4o", base_url=model.url), "think")
            busy_script = ScriptedModel([call("work", n=1, hold=1), say("{last_tool_result}")])
            busy = runtime.start(make_agent("busy", ledger, busy_script), "work")
            waiting_script = ScriptedModel([call("refund", amount=3), say("{last_tool_result}")])
            waiting = runtime.start(make_agent("waiting", ledger, waiting_script), "refund")
            runtime.deploy(make_agent("by-name", ledger, ScriptedModel("hello"), instructions="greet"))
            before = runtime.run(make_agent("talker", ledger, ScriptedModel("one", skip=0)), "first", session_id="s1")
            assert before.output == "one"
            assert model.arrived.wait(20)
            ledger.entered(busy.execution_id)
            until("a refund to approve", lambda: waiting.get_status().is_waiting)
            # A client that waits, in a process of its own, outlives the server it waits on.
            client = server.client(CLIENT, busy.execution_id)
            assert client.stdout is not None
            assert client.stdout.readline().strip() == "waiting"
        server.kill()
        until("end of all its actors", lambda: not server.processes("Actor"), within_s=5)

        # Nobody is up; a decision is accepted all the same, and takes effect later.
        offline = AgentRuntime.offline(Settings(home=server.home))
        assert offline.get_status(waiting.execution_id).is_waiting
        offline.approve(waiting.execution_id, by="kim")

        server.start()
        results = [server.result(handle.execution_id) for handle in (asked, busy, waiting)]
        assert [result.status for result in results] == [Status.COMPLETED] * 3
        assert [result.output for result in results] == ["answered", "did 1 at attempt 2", "refunded 3"]
        for result in results:
            check_honest(server.show(result.execution_id), ledger)
        assert model.calls_by_key == {f"{asked.execution_id}::1": 2}
        assert [record.decided_by for record in results[2].tool_calls] == ["kim"]
        out, err = client.communicate(timeout=60)
        assert client.returncode == 0, err
        assert out.strip() == "did 1 at attempt 2"

        with AgentRuntime(home=server.home) as runtime:
            assert runtime.run("by-name", "hi").output == "hello"
            # The conversation of a session is in the store, not in a process.
            again = runtime.run(make_agent("talker", ledger, ScriptedModel("two", skip=1)), "second", session_id="s1")
            assert [message["content"] for message in again.messages if message["role"] != "system"] == [
                "first", "one", "second", "two"
            ]  # fmt: skip
