"""SIGKILL of an execution's actor in the middle of a tool → the tool runs again; beside the start of a bare Ray actor."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from agentspan.agents import Agent, AgentRuntime, ToolContext, tool
from agentspan.testing import ScriptedModel, call, say
from benchmarks.common import line, percentile, private_home, ratio

ROUNDS = 15
LEDGER = "AGENTSPAN_BENCH_LEDGER"


@tool
def slow(ledger: str, ctx: ToolContext) -> str:
    """Notes when it starts, then works until it is killed (first attempt) or is done at once (second)."""
    import time

    with open(ledger, "a") as file:
        file.write(f"{time.time()}\n")
    if ctx.attempt == 1:
        time.sleep(60)
    return "done"


def bare_actor_start() -> float:
    """Seconds from creating a detached, named, empty Ray actor to its first answer, when no prestarted worker is left."""
    import ray

    class Bare:
        async def ping(self) -> int:
            return 1

    started = time.perf_counter()
    actor = ray.remote(num_cpus=0)(Bare).options(name=f"bare-{started}", lifetime="detached").remote()
    ray.get(actor.ping.remote())
    took = time.perf_counter() - started
    ray.kill(actor)
    return took


def starts(ledger: Path) -> list[float]:
    return [float(text) for text in ledger.read_text().split()] if ledger.exists() else []


def main() -> None:
    with private_home() as home, AgentRuntime() as runtime:
        ledger = home / "ledger"
        agent = Agent("slow", model=str(ScriptedModel([call("slow", ledger=str(ledger)), say("done")])), tools=[slow])
        runtime.ready()
        for _ in range(4):
            bare_actor_start()  # Uses up the workers that Ray starts ahead.
        ours, bare = [], []
        for _ in range(ROUNDS):
            runtime.ready()
            time.sleep(0.3)  # Let the refilled shelf settle: what is measured is one recovery on a quiet machine.
            bare.append(bare_actor_start())
            ledger.unlink(missing_ok=True)
            handle = runtime.start(agent, "go")
            while not starts(ledger):
                time.sleep(0.001)
            runtime.ready()
            time.sleep(0.3)
            killed = time.time()
            os.kill(runtime.show(handle.execution_id)["host"]["pid"], signal.SIGKILL)
            while len(starts(ledger)) < 2:
                time.sleep(0.001)
            ours.append(starts(ledger)[1] - killed)
            assert handle.join(60).is_success
        print(line("SIGKILL of an actor → next step running", ours))
        print(line("a bare Ray actor: create → first answer", bare))
        print(ratio("recovery over a bare actor start (p50)", ours, bare, "≤ 1.2 ×"))
        print(f"  {'recovery p99':<44} {percentile(ours, 0.99):.2f} s  (first target ≤ 5 s)")


if __name__ == "__main__":
    main()
