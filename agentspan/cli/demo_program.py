"""The user's program in the demo. `python -m agentspan.cli.demo_program`

It is a process of its own because it is there to be killed. It does what it reads from stdin, one JSON object a line:
`{"start": agent, "prompt": text}` or `{"approve": execution, "call_id": call}`, and answers each with a line. Where no
server is up, `AgentRuntime` starts one inside it, which lives until stdin is closed.
"""

from __future__ import annotations

import json
import sys

from agentspan.agents import AgentHandle, AgentRuntime
from agentspan.cli.demo_agents import AGENTS


def main() -> None:
    """Serve stdin."""
    with AgentRuntime() as runtime:
        for line in sys.stdin:
            wanted = json.loads(line)
            if "start" in wanted:
                answer = runtime.start(AGENTS[wanted["start"]], wanted["prompt"]).execution_id
            else:
                AgentHandle(wanted["approve"], runtime).approve(wanted["call_id"], by="you")
                answer = wanted["approve"]
            print(json.dumps({"answer": answer}), flush=True)


if __name__ == "__main__":
    main()
