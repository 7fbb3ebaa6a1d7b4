"""One incarnation of an execution in a plain process: `<home> <execution id> <epoch> <crashed>`. Prints its outcome."""

import asyncio
import json
import sys
from pathlib import Path

from agentspan.actors.residence import HostConfig, Residence
from agentspan.actors.shipping import unpack

home, execution_id, epoch, crashed = sys.argv[1:]
config = HostConfig(store_url=f"sqlite:///{home}/agentspan.db", key=Path(home, "server.key").read_bytes())


async def main() -> None:
    residence = Residence(config, unpack=unpack, actor_name=execution_id, node="")
    print(json.dumps(await residence.run(execution_id, int(epoch), crashed == "1")))


asyncio.run(main())
