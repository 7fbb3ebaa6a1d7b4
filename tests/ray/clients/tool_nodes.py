"""Tool tasks on a cluster of several nodes, one of which comes late and is killed: prints what became of three calls."""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from agentspan.actors.environment import prepare
from agentspan.agents import Agent, ToolContext, get_tool_def, tool

prepare(Path(os.environ["AGENTSPAN_HOME"]))

import ray  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

from agentspan.actors.shipping import pack  # noqa: E402
from agentspan.actors.tooltask import ToolTasks  # noqa: E402
from tests.support.cluster import kill, until  # noqa: E402


def make_agent(marks: Path) -> Agent:
    @tool(resources={"lab": 1})
    def measure(stay: bool, ctx: ToolContext) -> str:
        """Measure something; or stay there."""
        (marks / ctx.call_id).touch()
        while stay:
            time.sleep(0.05)
        return str(ray.get_runtime_context().get_node_id())

    return Agent("lab", model="scripted/lab", tools=[measure])


@ray.remote(num_cpus=0, max_concurrency=10)
class Owner:
    """Stands in for the process of executions; on the head, since only that has the resource `head`."""

    def __init__(self, agent: Any) -> None:
        self.call = ToolTasks(resources_wait_s=60).of(agent)
        self.notes: list[str] = []

    async def measure(self, tool_def: Any, call_id: str, stay: bool) -> dict[str, Any]:
        outcome = await self.call(tool_def, {"stay": stay}, ToolContext(call_id=call_id), note=self.notes.append)
        return {"result": outcome.result, "error_type": outcome.error_type, "is_lost": outcome.is_lost}

    async def told(self) -> list[str]:
        return self.notes


def play(cluster: Cluster, marks: Path) -> dict[str, Any]:
    agent = make_agent(marks)
    measure = get_tool_def(agent.tools[0])
    owner = Owner.options(resources={"head": 1}).remote(pack(agent))  # type: ignore[attr-defined]
    early = owner.measure.remote(measure, "early", False)
    until("note", lambda: "no node has 1 CPU, 1 lab" in ray.get(owner.told.remote()))
    node = cluster.add_node(num_cpus=1, resources={"lab": 1})
    first = ray.get(early)
    killed = owner.measure.remote(measure, "killed", True)
    until("beginning", lambda: (marks / "killed").exists())
    kill(node.all_processes["raylet"][0].process.pid)
    second = ray.get(killed)
    other = cluster.add_node(num_cpus=1, resources={"lab": 1})
    third = ray.get(owner.measure.remote(measure, "again", False))
    return {
        "early": first["result"] == node.node_id,
        "killed": [second["is_lost"], second["error_type"]],
        "again": third["result"] == other.node_id,
    }


def main() -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "resources": {"head": 1}})
    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
        with tempfile.TemporaryDirectory() as marks:
            found = play(cluster, Path(marks))
    finally:
        ray.shutdown()
        cluster.shutdown()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
