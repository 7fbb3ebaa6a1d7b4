"""A user's script: `<ledger port> <idempotency key>`. Starts its job, or finds it again, and prints what came of it."""

import json
import sys

from agentspan.agents import AgentRuntime
from agentspan.testing import ScriptedModel, call, say
from tests.ray.agents import make_agent
from tests.support.ledger import Ledger

if __name__ == "__main__":
    port, key = sys.argv[1:]
    agent = make_agent("job", Ledger(int(port)), ScriptedModel([call("work", n=1, hold=1), say("{last_tool_result}")]))
    with AgentRuntime() as runtime:
        handle = runtime.start(agent, "go", idempotency_key=key)
        print(handle.execution_id, flush=True)
        print(json.dumps(handle.join(60).output))
