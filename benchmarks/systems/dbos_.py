"""DBOS: a workflow whose model calls and tool calls are steps, in one process, as its programming guide has it.

The workflow is awaited where it was called: quicker than a handle, which asks the database once a second. SQLite as DBOS opens
it (rollback journal, full synchronisation: it sets neither), Postgres with its pool of 20 connections. A process that is
started again recovers what it had begun by itself, in `DBOS.launch()`.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
from contextlib import ExitStack
from typing import Any

from dbos import DBOS, DBOSConfig
from openai import AsyncOpenAI

from benchmarks.systems import Job, Place
from benchmarks.systems.database import postgres
from benchmarks.systems.task import MESSAGES, ask, call_tool, new_client


class Shared:
    """What steps use and a workflow's arguments cannot carry."""

    url = ""
    clients: dict[asyncio.AbstractEventLoop, AsyncOpenAI] = {}  # noqa: RUF012 - one for all, on purpose
    """One for each loop: DBOS recovers workflows on a loop of its own."""

    @classmethod
    def client(cls) -> AsyncOpenAI:
        """The one of this loop."""
        loop = asyncio.get_running_loop()
        if loop not in cls.clients:
            cls.clients[loop] = new_client(cls.url)
        return cls.clients[loop]


@DBOS.step()
async def model_step(model: str, messages: list[dict[str, Any]]) -> dict[str, Any]:
    return await ask(Shared.client(), model, messages)


@DBOS.step()
async def tool_step(call: dict[str, Any]) -> dict[str, Any]:
    return await call_tool(call)


@DBOS.workflow()
async def agent(model: str) -> str:
    messages: list[dict[str, Any]] = list(MESSAGES)
    while True:
        message = await model_step(model, messages)
        messages.append(message)
        if not message.get("tool_calls"):
            return str(message["content"])
        for call in message["tool_calls"]:
            messages.append(await tool_step(call))


class TheSystem:
    """DBOS in this process."""

    def __init__(self) -> None:
        self.versions = {"dbos": importlib.metadata.version("dbos")}
        self._stack = ExitStack()

    async def open(self, place: Place) -> None:
        Shared.url = place.url
        if "postgres" in place.variant:
            url, self.versions["postgres"] = self._stack.enter_context(postgres(place.folder))
        else:
            url = f"sqlite:///{place.folder / 'dbos.sqlite'}"
        config: DBOSConfig = {
            "name": "bench",
            "system_database_url": url,
            "application_version": "1",
            "log_level": "ERROR",
        }
        DBOS(config=config)
        DBOS.launch()

    async def run(self, job: Job) -> str:
        return await agent(job.model)

    async def settle(self) -> None:
        """Nothing goes on behind its back."""

    async def victim(self, job: Job) -> None:
        """It is the process itself."""

    async def close(self) -> None:
        DBOS.destroy()
        await Shared.client().close()
        self._stack.close()
