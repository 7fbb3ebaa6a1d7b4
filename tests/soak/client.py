"""The soak's client: starts executions as it is told, a line of JSON each, and dies as clients do.

Told again after its death, it sends the same idempotency keys, so nothing is started twice.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from agentspan.actors.lease import Lease
from agentspan.agents import AgentRuntime
from agentspan.config import Settings
from agentspan.errors import AgentspanError
from tests.soak.agents import agents
from tests.support.ledger import Ledger


def say(**answer: Any) -> None:
    print(json.dumps(answer), flush=True)


async def start(runtime: AgentRuntime, key: str, agent: str, prompt: Any, session: str | None, placement: str) -> None:
    try:
        handle = await runtime.start_async(agent, prompt, session_id=session, idempotency_key=key, placement=placement)
    except AgentspanError as problem:
        say(key=key, error=repr(problem)[:300])
    else:
        say(key=key, execution_id=handle.execution_id)


async def main(ledger: Ledger, url: str) -> None:
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    lease = Lease(Settings.from_env().home)
    while lease.read() is None:  # noqa: ASYNC110 (without a server the runtime would become one)
        await asyncio.sleep(0.2)
    async with AgentRuntime() as runtime:
        server = lease.read()
        if server is not None and server.embedded:
            os._exit(1)
        for agent in agents(ledger, url):
            await runtime.deploy_async(agent)
        say(ready=True)
        async with asyncio.TaskGroup() as starts:
            while line := await lines.readline():
                starts.create_task(start(runtime, **json.loads(line)))


if __name__ == "__main__":
    asyncio.run(main(Ledger(int(sys.argv[1])), sys.argv[2]))
