"""Agents that tests run for real. They live in a module that no server can import, so their code is shipped."""

from __future__ import annotations

import os
from typing import Any

from agentspan.agents import Agent, ToolContext, tool
from agentspan.testing import ScriptedModel
from tests.support.ledger import Ledger


def gate(execution_id: str, n: int, attempt: int = 1) -> str:
    """The gate at which `work(n, hold=attempt)` stays in its middle."""
    return f"{execution_id}/{n}/{attempt}"


def make_agent(name: str, ledger: Ledger, model: Any, **more: Any) -> Agent:
    """An agent whose tools tell the ledger what they do, and stay in the middle of it when they are asked to."""

    @tool
    def work(n: int, ctx: ToolContext, hold: int = 0) -> str:
        """Do one piece of work, in a thread; the first `hold` attempts stop at a gate."""
        ledger.enter(ctx.idempotency_key, ctx.attempt, pid=os.getpid())
        if ctx.attempt <= hold:
            ledger.wait(gate(ctx.execution_id, n, ctx.attempt))
        return f"did {n} at attempt {ctx.attempt}"

    @tool(approval_required=True)
    def refund(amount: float, ctx: ToolContext) -> str:
        """Give money back."""
        ledger.enter(ctx.idempotency_key, ctx.attempt, amount=amount)
        return f"refunded {amount:g}"

    @tool
    def die(ctx: ToolContext) -> str:
        """Take the whole process down."""
        ledger.enter(ctx.idempotency_key, ctx.attempt)
        os._exit(7)

    if isinstance(model, ScriptedModel):
        model = str(model)
    return Agent(name, model=model, tools=[work, refund, die, *more.pop("tools", ())], **more)
