"""Several executions at once, from async code.

    python examples/async_agent.py

Each runs in a process of its own; awaiting a handle waits for its result. Set AGENTSPAN_LLM_MODEL to use a real model.
"""

import asyncio
import os

from agentspan.agents import Agent, AgentRuntime, tool
from agentspan.testing import ScriptedModel, call, say

SCRIPT = ScriptedModel([call("distance_km", place="{last_user_message}"), say("It is {last_tool_result} km away.")])
DISTANCES_KM = {"the Moon": 384_400, "the Sun": 149_600_000, "the next town": 12}


@tool
async def distance_km(place: str) -> int:
    """How far away a place is, in kilometres."""
    await asyncio.sleep(0.2)  # An async tool may await whatever it likes.
    return DISTANCES_KM[place]


agent = Agent(
    name="navigator",
    model=os.environ.get("AGENTSPAN_LLM_MODEL") or str(SCRIPT),
    instructions="The user names a place. Say how far away it is.",
    tools=[distance_km],
)


async def main() -> None:
    async with AgentRuntime() as runtime:
        handles = [await runtime.start_async(agent, place) for place in DISTANCES_KM]
        for place, result in zip(DISTANCES_KM, await asyncio.gather(*handles), strict=True):
            print(f"{place}: {result.output}")


if __name__ == "__main__":
    asyncio.run(main())
