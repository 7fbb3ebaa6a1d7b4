"""What people write by hand: one process, one loop, nothing kept."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from benchmarks.systems import Job, Place
from benchmarks.systems.task import MESSAGES, ask, call_tool, new_client


class TheSystem:
    """The bare openai loop."""

    def __init__(self) -> None:
        self.versions = {"openai": importlib.metadata.version("openai")}

    async def open(self, place: Place) -> None:
        self._client = new_client(place.url)

    async def run(self, job: Job) -> str:
        messages: list[dict[str, Any]] = list(MESSAGES)
        while True:
            message = await ask(self._client, job.model, messages)
            messages.append(message)
            if not message.get("tool_calls"):
                return str(message["content"])
            messages += [await call_tool(call) for call in message["tool_calls"]]

    async def settle(self) -> None:
        """Nothing goes on behind its back."""

    async def victim(self, job: Job) -> None:
        """It is the process itself."""

    async def close(self) -> None:
        await self._client.close()
