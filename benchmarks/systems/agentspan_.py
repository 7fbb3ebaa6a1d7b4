"""AgentSpan: an `Agent` with one tool, started and joined by a client beside the embedded server, as a user's script has it."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
from contextlib import ExitStack
from typing import Any

from agentspan.agents import Agent, AgentRuntime, tool
from benchmarks.systems import Job, Place
from benchmarks.systems.database import postgres
from benchmarks.systems.task import INSTRUCTIONS, PROMPT

JOIN_S = 900.0
SETTLE_S = 60.0
TURNS_MAX = 5000


@tool
async def lookup(turn: int = 0) -> str:
    """Look something up."""
    return f"found {turn}"


class TheSystem:
    """An embedded server and its client in this process; everything that runs agents is in others."""

    def __init__(self) -> None:
        self.versions = {name: importlib.metadata.version(name) for name in ("agentspan", "ray")}
        self._stack = ExitStack()
        self._deployed: dict[Job, str] = {}
        self._deploying = asyncio.Lock()
        self._running: dict[Job, str] = {}

    async def open(self, place: Place) -> None:
        self._url, self._placement = place.url, place.variant[0]
        os.environ["AGENTSPAN_HOME"] = str(place.folder)
        if "postgres" in place.variant:
            url, self.versions["postgres"] = self._stack.enter_context(postgres(place.folder))
            os.environ["AGENTSPAN_STORE"] = url
        self._runtime = AgentRuntime()
        await self._runtime.__aenter__()
        await self._runtime.ready_async()

    async def run(self, job: Job) -> str:
        handle = await self._runtime.start_async(await self._agent(job), PROMPT)
        self._running[job] = handle.execution_id
        result = await handle.join_async(JOIN_S)
        assert result.is_success, result
        return str(result.output if isinstance(result.output, str) else result.output["result"])

    async def _agent(self, job: Job) -> str:
        """The name of a deployed agent for this job."""
        async with self._deploying:
            if job not in self._deployed:
                name = f"bench{len(self._deployed)}"
                model = f"openai/{job.model}"
                agent = Agent(
                    name,
                    model=model,
                    base_url=self._url,
                    instructions=INSTRUCTIONS,
                    tools=[lookup],
                    max_turns=TURNS_MAX,
                )
                await self._runtime.deploy_async(agent, placement=self._placement)
                self._deployed[job] = name
        return self._deployed[job]

    async def settle(self) -> None:
        """Until the shelf of standbys is full again."""
        await self._runtime.ready_async()
        async with asyncio.timeout(SETTLE_S):
            while (await self._runtime.server_info_async())["residents"]:
                await asyncio.sleep(0.05)

    async def victim(self, job: Job) -> int:
        """The execution's actor, or its host."""
        row: dict[str, Any] = await self._runtime.show_async(self._running[job])
        return int(row["host"]["pid"])

    async def close(self) -> None:
        await self._runtime.shutdown_async()
        self._stack.close()
