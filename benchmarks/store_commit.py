"""What a durable step costs in each store: SQLite and Postgres, alone and with many executions at once.

    python -m benchmarks.store_commit [--seconds 3] [--rounds 5] [--at-once 50] [--prepare] [--url postgresql://…]

One process, on uvloop as in an actor; every step is a record of 2 kB. Without `--url` it starts a Postgres server of its
own on this machine (fsync on, loopback TCP), so both stores share the cores and the disk. Rounds alternate. Prints
commits/s of every round, the median, and the ratio of Postgres over SQLite.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import uvloop

from agentspan.persistence.postgres import PostgresStore
from agentspan.persistence.sqlite import SqliteStore
from agentspan.persistence.store import Store
from benchmarks.commit_cost import BODY_BYTES, begin, step, tool_body
from benchmarks.common import line
from tests.support.postgres import postgres_server


async def steps(store: Store, at_once: int, seconds: float) -> list[float]:
    """Commit steps of some executions for a while; seconds of each step."""
    names = [uuid4().hex for _ in range(at_once)]
    await asyncio.gather(*(begin(store, name) for name in names))
    taken: list[float] = []
    until = time.perf_counter() + seconds

    async def run(name: str) -> None:
        for seq in itertools.count(1):
            commit = step(name, seq, tool_body(BODY_BYTES))
            began = time.perf_counter()
            await store.commit(commit)
            taken.append(time.perf_counter() - began)
            if time.perf_counter() > until:
                return

    await asyncio.gather(*map(run, names))
    return taken


async def compare(url: str, seconds: float, rounds: int, at_once: int) -> None:
    """Alternate the stores."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stores: dict[str, Store] = {
            "SQLite": await stack.enter_async_context(SqliteStore.open(folder / "store.db")),
            "Postgres": await stack.enter_async_context(PostgresStore.open(url)),
        }
        for many in (1, at_once):
            rates: dict[str, list[float]] = {name: [] for name in stores}
            taken: dict[str, list[float]] = {name: [] for name in stores}
            for _ in range(rounds):
                for name, store in stores.items():
                    began = time.perf_counter()
                    found = await steps(store, many, seconds)
                    rates[name].append(len(found) / (time.perf_counter() - began))
                    taken[name] += found
            print(f"{many} execution{'s' if many > 1 else ''} at once")
            for name in stores:
                each = " ".join(f"{rate:.0f}" for rate in rates[name])
                print(f"  {name:<9} {statistics.median(rates[name]):6.0f} commits/s   (rounds {each})")
                print(line(f"{name}, one commit", taken[name]))
            ratio = statistics.median(rates["Postgres"]) / statistics.median(rates["SQLite"])
            print(f"  Postgres over SQLite: {ratio:.2f} ×")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each round and store")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--at-once", type=int, default=50)
    parser.add_argument("--prepare", action="store_true", help="prepare statements (no proxy that pools transactions)")
    parser.add_argument("--url", help="a Postgres server to use instead")
    given = parser.parse_args()
    if given.url:
        uvloop.run(compare(given.url, given.seconds, given.rounds, given.at_once))
        return
    with postgres_server() as server:
        url = server.new_url(**({"prepare": "true"} if given.prepare else {}))
        uvloop.run(compare(url, given.seconds, given.rounds, given.at_once))


if __name__ == "__main__":
    sys.exit(main())
