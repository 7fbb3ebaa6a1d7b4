"""Packed placement: 200 executions of 10 tool turns at once, over the bare openai loop in one process; CPU, memory, waking.

`python -m benchmarks.packed [throughput memory waking]`. CPU is that of all processes of the home: supervisor, hosts,
standbys, Ray's own. The client's and the model server's are not ours to save.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from agentspan.agents import Agent, AgentRuntime, tool
from benchmarks.common import line, model_server, p50, private_home
from benchmarks.turns import bare_loop, lookup

AT_ONCE = 200
TURNS = 10
ROUNDS = 5
MANY = 1000
TICKS_S = os.sysconf("SC_CLK_TCK")


@tool
async def nap() -> str:
    """Waits for a minute."""
    await asyncio.sleep(60)
    return "rested"


@tool(approval_required=True)
async def refund(order: int = 0) -> str:
    """Give money back."""
    return "refunded"


def processes(home: Path, named: str = "") -> dict[int, str]:
    """The server's processes by pid, ours to pay for."""
    mark = f"AGENTSPAN_HOME={home}".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environ, title = (entry / "environ").read_bytes(), (entry / "cmdline").read_bytes()
        except OSError:
            continue
        text = title.replace(b"\0", b" ").decode(errors="replace").strip()
        if mark in environ.split(b"\0") and "model_server" not in text and named in text:
            found[int(entry.name)] = text
    return found


def cpu_s(pid: int) -> float:
    """User and system time of one process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS_S


def cpu_by_kind(home: Path) -> dict[str, float]:
    used: dict[str, float] = {}
    for pid, title in processes(home).items():
        kind = title.split()[0].rpartition("/")[2][:40] if title else "?"
        used[kind] = used.get(kind, 0.0) + cpu_s(pid)
    return used


def rss_kb(pid: int) -> int:
    """Private and shared resident memory of a process."""
    for row in Path(f"/proc/{pid}/status").read_text().splitlines():
        if row.startswith("VmRSS"):
            return int(row.split()[1])
    return 0


async def crowd(count: int, one: Callable[[int], Awaitable[Any]]) -> float:
    """Seconds until all of `count` are done."""
    started = time.perf_counter()
    await asyncio.gather(*(one(n) for n in range(count)))
    return time.perf_counter() - started


async def bare_crowd(url: str) -> float:
    """The same work in one process with nothing kept."""
    from openai import AsyncOpenAI

    definition = lookup._tool_def
    function = {
        "name": definition.name,
        "description": definition.description,
        "parameters": definition.input_schema,
    }
    async with AsyncOpenAI(base_url=url, api_key="none") as client:
        await bare_loop(client, [{"type": "function", "function": function}])
        return await crowd(AT_ONCE, lambda n: bare_loop(client, [{"type": "function", "function": function}]))


async def throughput(runtime: AgentRuntime, home: Path) -> None:
    steps = AT_ONCE * (2 * TURNS + 1)  # Model and tool calls, each recorded; the end is one more record.
    with model_server(TURNS) as url:
        agent = Agent("crowd", model="openai/bench", base_url=url, instructions="Use the tool.", tools=[lookup])
        await runtime.deploy_async(agent, placement="packed")
        await runtime.ready_async()

        async def one(n: int) -> None:
            handle = await runtime.start_async("crowd", "go")
            result = await handle.join_async(300)
            assert result.is_success, result

        await crowd(20, one)
        ours, bare, cpu, kinds = [], [], [], {}
        for _ in range(ROUNDS):
            bare.append(await asyncio.to_thread(lambda: asyncio.run(bare_crowd(url))))
            before = cpu_by_kind(home)
            ours.append(await crowd(AT_ONCE, one))
            kinds = {kind: used - before.get(kind, 0.0) for kind, used in cpu_by_kind(home).items()}
            cpu.append(sum(kinds.values()))
    print(line(f"packed, durable: {AT_ONCE} × {TURNS} turns", ours))
    print(line("bare openai loop, one process, nothing kept", bare))
    print(f"  {'steps/s, packed (p50)':<44} {steps / p50(ours):9.0f}")
    print(f"  {'steps/s, bare (p50)':<44} {steps / p50(bare):9.0f}")
    print(f"  {'packed over bare, steps/s (p50)':<44} {p50(bare) / p50(ours):9.2f} ×  (first target ≥ 1.5 ×)")
    print(
        f"  {'CPU per durable step, all our processes':<44} {p50(cpu) / steps * 1e3:9.2f} ms  (first target ≤ 1.7 ms)"
    )
    for kind, used in sorted(kinds.items(), key=lambda item: -item[1])[:5]:
        print(f"    {kind:<42} {used / steps * 1e3:9.2f} ms")


async def memory(runtime: AgentRuntime, home: Path) -> None:
    agent = Agent("napper", model=_script("nap"), tools=[nap])
    await runtime.deploy_async(agent, placement="packed")
    await runtime.ready_async()

    async def start(n: int) -> None:
        await runtime.start_async("napper", "go")

    await crowd(20, start)
    await asyncio.sleep(2)
    watched = [*processes(home, "HostActor"), *processes(home, "SupervisorActor")]
    before = {pid: rss_kb(pid) for pid in watched}
    took = await crowd(MANY, start)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        rows = await runtime.executions_async(statuses=["RUNNING"], limit=2000)
        if sum(row["current_task"] == "tool:nap" for row in rows) >= MANY:
            break
        await asyncio.sleep(0.2)
    more = {pid: rss_kb(pid) - before[pid] for pid in watched}
    hosts = sum(more[pid] for pid in processes(home, "HostActor") if pid in more)
    rest = sum(more.values()) - hosts
    print(f"  {f'{MANY} started in':<44} {took:9.2f} s")
    print(f"  {'memory per live execution, in the hosts':<44} {hosts / MANY:9.1f} kB  (first target ≤ 150 kB)")
    print(f"  {'the same, in the supervisor':<44} {rest / MANY:9.1f} kB")
    await asyncio.sleep(60)


async def waking(runtime: AgentRuntime, home: Path) -> None:
    agent = Agent("asker", model=_script("refund"), tools=[refund])
    await runtime.deploy_async(agent, placement="packed")
    await runtime.ready_async()
    handles = []

    async def start(n: int) -> None:
        handles.append(await runtime.start_async("asker", "go"))

    await crowd(MANY, start)
    await asyncio.to_thread(_wait_hibernated, runtime)
    ends: list[float] = []
    started = time.perf_counter()

    async def wake(n: int) -> None:
        await handles[n].approve_async()
        assert (await handles[n].join_async(120)).is_success
        ends.append(time.perf_counter() - started)

    took = await crowd(MANY, wake)
    print(f"  {f'{MANY} waiting: approved → all ended':<44} {took:9.2f} s  (first target ≤ 10 s)")
    print(line("approve() of all at once → each one's end", ends))


def _wait_hibernated(runtime: AgentRuntime) -> None:
    while runtime.server_info()["residents"]:
        time.sleep(0.2)


def _script(name: str) -> str:
    from agentspan.testing import ScriptedModel, call, say

    return str(ScriptedModel([call(name), say("done")]))


async def measure(names: list[str]) -> None:
    with private_home() as home:
        os.environ["AGENTSPAN_HIBERNATE_AFTER_S"] = "1"
        os.environ["AGENTSPAN_HOST_CAPACITY"] = "1000"
        async with AgentRuntime() as runtime:
            for name in names:
                print(f" {name}", flush=True)
                await {"throughput": throughput, "memory": memory, "waking": waking}[name](runtime, home)


if __name__ == "__main__":
    asyncio.run(measure(sys.argv[1:] or ["throughput", "memory", "waking"]))
