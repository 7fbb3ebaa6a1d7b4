"""Join the cluster of AGENTSPAN_ADDRESS and say how that went: `{"error": class name, "text": …}`, or `{"up": true}`."""

import json

from agentspan.agents import AgentRuntime
from agentspan.errors import AgentspanError

try:
    with AgentRuntime() as runtime:
        runtime.server_info()
        print(json.dumps({"up": True}))
except AgentspanError as problem:
    print(json.dumps({"error": type(problem).__name__, "text": str(problem)}))
