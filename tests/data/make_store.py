"""Writes `store-v1.db`: a store as this version writes it, for `test_compatibility.py`. Run once for each format version.

    python -m tests.data.make_store tests/data/store-v1.db

Never run it again for a version that was released: the file is what its users have on their disks.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import tempfile
from pathlib import Path

from agentspan.actors.driver import Driver
from agentspan.actors.performer import AgentPerformer
from agentspan.agents import Agent, ToolContext, tool
from agentspan.engine import records as r
from agentspan.persistence.sqlite import SqliteStore
from agentspan.persistence.store import NewExecution
from agentspan.testing import ScriptedModel, call, say

AT = 1_790_000_000.0


@tool
async def note(text: str, context: ToolContext) -> str:
    """Keep a note."""
    context.state["notes"] = [*context.state.get("notes", []), text]
    return f"kept {text}"


@tool(approval_required=True)
async def pay(cents: int) -> str:
    """Pay."""
    return f"paid {cents}"


async def write(path: Path) -> None:
    async with SqliteStore.open(path) as store:
        done = [call("note", text="a"), call("note", text="b" * 20_000), say("All noted.")]
        await run(store, "ex-done", Agent("noter", tools=[note]), ScriptedModel(done))
        await run(store, "ex-waits", Agent("payer", tools=[pay]), ScriptedModel([call("pay", cents=7), say("Paid.")]))


async def run(store: SqliteStore, execution_id: str, agent: Agent, model: ScriptedModel) -> None:
    started = r.Started(at=AT, agent=agent.name, prompt="Begin.", metadata={"team": "blue"})
    await store.create(
        NewExecution(
            execution_id=execution_id,
            request_id=execution_id,
            agent=agent.name,
            deployment_id="d1",
            started=r.to_plain(started),
            created_at=AT,
            metadata=started.metadata,
        )
    )
    taken = await store.take_over(execution_id, host={})
    performer = AgentPerformer(agent, model=lambda name, url: model, store=store, clock=lambda: AT)
    driver = Driver(
        execution_id=execution_id,
        epoch=taken.epoch,
        crashed=taken.crashed,
        store=store,
        performer=performer,
        hibernate_after_s=0.01,
        clock=lambda: AT,
    )
    await driver.run()


if __name__ == "__main__":
    target = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(write(Path(folder) / "s.db"))
        target.unlink(missing_ok=True)
        with sqlite3.connect(Path(folder) / "s.db") as database:
            database.execute("VACUUM INTO ?", (str(target),))
