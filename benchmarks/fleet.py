"""AgentSpan by itself: what thousands of executions cost, waiting, live and after everything was killed.

Each measure is a process of its own, with a home of its own: `python -m benchmarks.fleet MEASURE COUNT URL` with
`AGENTSPAN_HOME` set prints one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

from agentspan.agents import Agent, AgentRuntime, tool
from benchmarks.accounts import MARK, memory_bytes, processes
from benchmarks.model import model_name

AT_ONCE = 200
"""Starts and approvals under way at once."""
LONG_MS = 3_600_000
"""A model that does not answer while anybody looks."""
WAKES, SINGLE_WAKES = 1000, 20
WAIT_S = 600.0


@tool(approval_required=True)
async def lookup(turn: int = 0) -> str:
    """Look something up."""
    return f"found {turn}"


def agent(name: str, url: str, model: str, tools: list[Any]) -> Agent:
    return Agent(name, model=f"openai/{model}", base_url=url, instructions="Use the tool.", tools=tools)


async def crowd(count: int, one: Any) -> list[Any]:
    """All of them, `AT_ONCE` at a time."""
    room = asyncio.Semaphore(AT_ONCE)

    async def entered(number: int) -> Any:
        async with room:
            return await one(number)

    return list(await asyncio.gather(*(entered(number) for number in range(count))))


async def started(runtime: AgentRuntime, name: str, count: int) -> list[Any]:
    """Handles of so many executions."""
    return await crowd(count, lambda number: runtime.start_async(name, "go"))


def footprint() -> tuple[int, int]:
    """Processes that run executions or are ready to, and the memory of all of the home's but this one."""
    mine = [one for one in processes(os.environ[MARK]) if one.pid != os.getpid()]
    actors = [one for one in mine if "ExecutionActor" in one.title or "HostActor" in one.title]
    return len(actors), sum(memory_bytes(one.pid) for one in mine)


def stored_bytes() -> int:
    """Bytes of the pages in use in the store."""
    with closing(sqlite3.connect(Path(os.environ["AGENTSPAN_HOME"]) / "agentspan.db")) as db:
        pages, free, size = (
            db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
    return int((pages - free) * size)


async def until_asleep(runtime: AgentRuntime) -> None:
    """Until no execution has a process."""
    async with asyncio.timeout(WAIT_S):
        while True:
            rows = await runtime.executions_async(statuses=["RUNNING", "QUEUED"], limit=1)
            if not rows and not (await runtime.server_info_async())["residents"]:
                return
            await asyncio.sleep(0.2)


async def waiting(runtime: AgentRuntime, count: int, url: str) -> dict[str, Any]:
    """Executions that wait for an approval: what they cost, and how long they take to wake."""
    await runtime.deploy_async(agent("asker", url, model_name(1), [lookup]), placement="packed")
    await started(runtime, "asker", 20)
    await until_asleep(runtime)
    await runtime.ready_async()
    actors, memory = footprint()
    stored = stored_bytes()
    began = time.perf_counter()
    handles = await started(runtime, "asker", count)
    await until_asleep(runtime)
    asleep_s = time.perf_counter() - began
    await runtime.ready_async()
    actors_after, memory_after = footprint()
    rows = (stored_bytes() - stored) / count

    async def wake(handle: Any) -> float:
        before = time.perf_counter()
        await handle.approve_async()
        result = await handle.join_async(WAIT_S)
        assert result.is_success, result
        return time.perf_counter() - before

    singly = [await wake(handle) for handle in handles[:SINGLE_WAKES]]
    many = handles[SINGLE_WAKES : SINGLE_WAKES + WAKES]
    began = time.perf_counter()
    ends = await asyncio.gather(*(wake(handle) for handle in many))
    return {
        "count": count,
        "until_asleep_s": asleep_s,
        "processes": actors_after - actors,
        "memory_bytes_each": (memory_after - memory) / count,
        "row_bytes_each": rows,
        "wake_one_s": singly,
        "woken": len(many),
        "wake_many_s": time.perf_counter() - began,
        "wake_many_median_s": median(ends),
    }


async def live(runtime: AgentRuntime, count: int, url: str) -> dict[str, Any]:
    """Packed executions that wait for their model, all of them with a place in a host: memory of each."""
    first = 20
    await runtime.deploy_async(agent("live", url, model_name(1, LONG_MS, "live"), [lookup]), placement="packed")
    await runtime.ready_async()
    await started(runtime, "live", first)
    await arrived(url, "live", first)
    await runtime.ready_async()
    before = {one.pid: memory_bytes(one.pid) for one in processes(os.environ[MARK]) if one.pid != os.getpid()}
    began = time.perf_counter()
    await started(runtime, "live", count - first)
    took = time.perf_counter() - began
    await arrived(url, "live", count)
    hosts = rest = 0
    for one in processes(os.environ[MARK]):
        more = memory_bytes(one.pid) - before.get(one.pid, 0)
        if "HostActor" in one.title:
            hosts += more
        elif one.pid in before:
            rest += more
    added = count - first
    return {"count": count, "start_s": took, "host_bytes_each": hosts / added, "other_bytes_each": rest / added}


async def arrived(url: str, tag: str, count: int) -> None:
    """Until the model server has had so many requests."""
    import httpx

    async with asyncio.timeout(WAIT_S), httpx.AsyncClient() as http:
        while len((await http.get(f"{url.removesuffix('/v1')}/arrivals/{tag}")).json()) < count:
            await asyncio.sleep(0.05)


async def dedicated(runtime: AgentRuntime, count: int, url: str) -> dict[str, Any]:
    """Memory of the process of a dedicated execution, beside that of a bare Ray actor in the same cluster."""
    import ray

    class Bare:
        async def pid(self) -> int:
            return os.getpid()

    await runtime.deploy_async(agent("alone", url, model_name(1, LONG_MS, "alone"), [lookup]), placement="dedicated")
    await runtime.ready_async()
    handles = await started(runtime, "alone", count)
    await arrived(url, "alone", count)
    await runtime.ready_async()
    actors = [ray.remote(num_cpus=0)(Bare).options(name=f"bare-{number}").remote() for number in range(count)]
    bare = [await actor.pid.remote() for actor in actors]
    ours = [int((await runtime.show_async(handle.execution_id))["host"]["pid"]) for handle in handles]
    found: dict[str, Any] = {"count": count}
    for name, pids in (("execution", ours), ("bare", bare)):
        for what in ("Pss", "Private_Dirty", "Rss"):
            found[f"{name}_{what.lower()}_bytes"] = median(memory_bytes(pid, what) for pid in pids)
    return found


async def begin(runtime: AgentRuntime, count: int, url: str) -> dict[str, Any]:
    """Start executions on the home's server and leave: for the measure that kills it all."""
    await runtime.deploy_async(agent("gone", url, model_name(1, LONG_MS, "gone"), [lookup]), placement="packed")
    await started(runtime, "gone", count)
    await arrived(url, "gone", count)
    return {}


async def measure(name: str, count: int, url: str) -> dict[str, Any]:
    """Open a runtime and do it."""
    async with AgentRuntime() as runtime:
        measures: dict[str, Any] = {"waiting": waiting, "live": live, "dedicated": dedicated, "begin": begin}
        found: dict[str, Any] = await measures[name](runtime, count, url)
        if name in ("live", "dedicated"):
            # Nobody waits for models that never answer: the harness ends every process of this home.
            print(json.dumps(found), file=ANSWERS, flush=True)
            os._exit(0)
    return found


if __name__ == "__main__":
    ANSWERS = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(json.dumps(asyncio.run(measure(sys.argv[1], int(sys.argv[2]), sys.argv[3]))), file=ANSWERS, flush=True)
