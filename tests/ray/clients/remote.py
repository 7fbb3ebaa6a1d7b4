"""A client through Ray Client: `<ledger port> <ray:// address>`. Prints what it saw."""

import json
import sys

from agentspan.agents import AgentRuntime
from agentspan.errors import AgentspanError, ServerUnavailableError
from agentspan.testing import ScriptedModel, call, say
from tests.ray.agents import make_agent
from tests.support.ledger import Ledger

ledger, address = Ledger(int(sys.argv[1])), sys.argv[2]
agent = make_agent("remote", ledger, ScriptedModel([call("refund", amount=9), say("{last_tool_result}")]))


def refusal(verb, *arguments):  # type: ignore[no-untyped-def]
    try:
        verb(*arguments)
    except AgentspanError as problem:
        return type(problem).__name__
    return None


def told() -> dict[str, object]:
    with AgentRuntime(address=address) as runtime:
        (deployed,) = runtime.deploy(agent)
        stream = runtime.stream(agent, "go")
        events = []
        for event in stream:
            events.append(event)
            if event.type == "waiting":
                status = runtime.get_status(stream.execution_id)
                timed_out = refusal(stream.handle.join, 0.2)
                stream.approve()
        by_name = runtime.start("remote", "go")
        for event in by_name.stream():
            if event.type == "waiting":
                by_name.approve()
        return {
            "deployed": deployed.registered_name,
            "pending": [waits.tool_name for waits in status.pending],
            "output": stream.get_result().output,
            "by_name": by_name.join(30).output,
            "events": [str(event.type) for event in events],
            "seqs": [event.seq for event in events],
            "refused": refusal(runtime.get_status, "ex-none"),
            "timed_out": timed_out,
        }


try:
    print(json.dumps(told()))
except ServerUnavailableError as problem:
    print(json.dumps({"error": type(problem).__name__, "text": str(problem)}))
