"""Reads the stream of an execution to its end and prints what it saw."""

import json
import sys

from agentspan.agents import AgentHandle, AgentRuntime

with AgentRuntime() as runtime:
    handle = AgentHandle(execution_id=sys.argv[1], runtime=runtime)
    print(json.dumps([[event.seq, str(event.type)] for event in handle.stream()]))
