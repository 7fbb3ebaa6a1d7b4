"""An answer that is an object: `output_type` is a pydantic model, and `result.output` an instance of it.

    python examples/typed_output.py

An answer that does not fit goes back to the model with what is wrong; the scripted one needs a second try here. Set
AGENTSPAN_LLM_MODEL to use a real model.
"""

import os

from pydantic import BaseModel, Field

from agentspan.agents import Agent, AgentRuntime
from agentspan.testing import ScriptedModel, say

SCRIPT = ScriptedModel(
    [
        say('{"title": "Flour for bread", "urgency": 11, "items": ["flour"]}'),
        say('{"title": "Flour for bread", "urgency": 4, "items": ["flour", "yeast"]}'),
    ]
)


class ShoppingList(BaseModel):
    """What to buy."""

    title: str
    urgency: int = Field(ge=1, le=5)
    items: list[str]


agent = Agent(
    name="shopper",
    model=os.environ.get("AGENTSPAN_LLM_MODEL") or str(SCRIPT),
    instructions="Make a shopping list of what the user needs.",
    output_type=ShoppingList,
)

if __name__ == "__main__":
    with AgentRuntime() as runtime:
        result = runtime.run(agent, "I want to bake bread tomorrow, and have only water and salt.")
        shopping: ShoppingList = result.output
        print(f"{shopping.title} (urgency {shopping.urgency}): {', '.join(shopping.items)}")
