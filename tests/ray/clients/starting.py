"""Starts a deployed agent several times at once with one idempotency key: `<ledger port> <agent> <key> <n>`."""

import asyncio
import json
import sys

from agentspan.agents import AgentRuntime
from tests.support.ledger import Ledger

ledger, agent, key, n = Ledger(int(sys.argv[1])), *sys.argv[2:]


async def main() -> None:
    async with AgentRuntime() as runtime:
        # Both processes start together.
        await asyncio.to_thread(ledger.enter, f"ready-{key}:{n}", 1)
        await asyncio.to_thread(ledger.entered, f"ready-{key}:", count=2)
        handles = await asyncio.gather(*(runtime.start_async(agent, "go", idempotency_key=key) for _ in range(8)))
        results = await asyncio.gather(*(handle.join_async(60) for handle in handles))
        ids = [handle.execution_id for handle in handles]
        print(json.dumps({"execution_ids": ids, "outputs": [result.output for result in results]}))


asyncio.run(main())
