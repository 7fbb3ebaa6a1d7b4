"""Joins an execution and prints what came of it."""

import sys

from agentspan.agents import AgentHandle, AgentRuntime

with AgentRuntime() as runtime:
    handle = AgentHandle(execution_id=sys.argv[1], runtime=runtime)
    handle.get_status()
    print("waiting", flush=True)
    print(handle.join().output)
