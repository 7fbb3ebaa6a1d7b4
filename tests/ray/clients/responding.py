"""Answers the one question of an execution: `<execution id> <answer>`, and prints the state it came to."""

import json
import sys

from agentspan.agents import AgentHandle, AgentRuntime

with AgentRuntime() as runtime:
    handle = AgentHandle(execution_id=sys.argv[1], runtime=runtime)
    (pending,) = handle.get_status().pending
    handle.respond(sys.argv[2])
    print(json.dumps({"question": pending.question, "output": handle.join(60).output}))
