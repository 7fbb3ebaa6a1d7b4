"""The smallest agent: one tool, one question.

    python examples/hello_agent.py

Set AGENTSPAN_LLM_MODEL (for instance to openai/gpt-4o-mini) to use a real model; by default one plays a script.
"""

import os

from agentspan.agents import Agent, AgentRuntime, tool
from agentspan.testing import ScriptedModel, call, say

SCRIPT = ScriptedModel([call("count_words", text="to be or not to be"), say("The line has {last_tool_result} words.")])


@tool
def count_words(text: str) -> int:
    """Count the words of a text."""
    return len(text.split())


agent = Agent(
    name="hello",
    model=os.environ.get("AGENTSPAN_LLM_MODEL") or str(SCRIPT),
    instructions="Use your tools to answer, in one sentence.",
    tools=[count_words],
)

if __name__ == "__main__":
    with AgentRuntime() as runtime:
        result = runtime.run(agent, "How many words has the line 'to be or not to be'?")
        result.print_result()
