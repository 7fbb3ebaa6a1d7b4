"""A person decides: the agent may look up orders, but each refund waits for a yes.

    python examples/human_in_the_loop.py

While a refund waits you may also end this program, or the whole machine: the question stays. Answer it later from
anywhere, with `agent-span approve ID` or `AgentHandle(ID).approve()`. Set AGENTSPAN_LLM_MODEL to use a real model.
"""

import os
import time

from agentspan.agents import Agent, AgentHandle, AgentRuntime, PendingTool, tool
from agentspan.testing import ScriptedModel, call, calls, say

SCRIPT = ScriptedModel(
    [
        call("look_up_orders", customer="Ada"),
        calls(call("refund", order_id="8821", amount=129.0), call("refund", order_id="8822", amount=900.0)),
        say("I have done what was approved. The last word was: {last_tool_result}"),
    ]
)


@tool
def look_up_orders(customer: str) -> list[dict[str, object]]:
    """List a customer's orders."""
    return [
        {"order_id": "8821", "item": "desk lamp", "paid": 129.0},
        {"order_id": "8822", "item": "desk", "paid": 900.0},
    ]


@tool(approval_required=True)
def refund(order_id: str, amount: float) -> str:
    """Pay an order back."""
    return f"paid {amount:.2f} back for order {order_id}"


agent = Agent(
    name="support",
    model=os.environ.get("AGENTSPAN_LLM_MODEL") or str(SCRIPT),
    instructions="Help customers with their orders. Refund what arrived broken, whatever the price.",
    tools=[look_up_orders, refund],
)


def decide(handle: AgentHandle, pending: PendingTool) -> None:
    """Show one call that waits, and pass the decision on."""
    arguments = ", ".join(f"{name}={value!r}" for name, value in pending.arguments.items())
    print(f"\nThe agent wants to call {pending.tool_name}({arguments})")
    if input("Approve? [y/n] ").strip().lower().startswith("y"):
        handle.approve(pending.call_id)
    else:
        handle.reject(input("What shall I tell it? "), pending.call_id)


if __name__ == "__main__":
    with AgentRuntime() as runtime:
        handle = runtime.start(agent, "I am Ada. My lamp and my desk both arrived broken.")
        print(f"Execution {handle.execution_id}")
        status = handle.get_status()
        while not status.is_complete:
            if status.is_waiting and status.pending_tool:
                decide(handle, status.pending_tool)
            else:
                time.sleep(0.1)
            status = handle.get_status()
        handle.join().print_result()
