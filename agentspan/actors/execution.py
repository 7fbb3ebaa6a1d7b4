"""The Ray actors that executions run in: shells around `Residence`. All detached, all named.

The supervisor recreates them; Ray does not (it could not raise the epoch first).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import ray

from agentspan.actors.fate import share_fate_with_raylet
from agentspan.actors.heap import lasting
from agentspan.actors.residence import HostConfig, Residence
from agentspan.actors.tooltask import ToolTasks
from agentspan.config import NAMESPACE
from agentspan.errors import ServerError

SUPERVISOR = "agentspan-supervisor"
ANSWER_MAX_S = 30.0
"""After so long without an answer, permits are asked for again."""


class PermitCounter:
    """Asks the supervisor for permits for model calls."""

    def __init__(self) -> None:
        self._supervisor: Any = None

    async def __call__(self, said: Mapping[str, Any]) -> dict[str, Any]:
        if self._supervisor is None:
            # Off the loop: without a head it would block for a minute.
            self._supervisor = await asyncio.to_thread(ray.get_actor, SUPERVISOR, namespace=NAMESPACE)
        try:
            async with asyncio.timeout(ANSWER_MAX_S):
                answer: dict[str, Any] = await self._supervisor.call.remote("permits", dict(said))
        except BaseException:
            self._supervisor = None
            raise
        if "error" in answer:
            raise ServerError(message=f"No permits: {answer['error']}")
        value: dict[str, Any] = answer["value"]
        return value


class _Shell:
    """`run` is the long call whose end is the end of this incarnation. The control group has a thread and a loop of its own,
    so its methods answer in about a millisecond whatever user code does on the other loop.
    """

    def __init__(self, name: str, config: HostConfig) -> None:
        from agentspan.actors.shipping import unpack

        share_fate_with_raylet()
        node = ray.get_runtime_context().get_node_id()
        tasks = ToolTasks(resources_wait_s=config.resources_wait_s)
        self._residence = Residence(
            config, unpack=unpack, actor_name=name, node=node, elsewhere=tasks.of, permits=PermitCounter()
        )

    async def warm(self, deployments: tuple[str, ...] = ()) -> dict[str, Any]:
        with lasting():
            return await self._residence.warm(deployments)

    async def run(self, execution_id: str, epoch: int, crashed: bool, tokens: bool) -> dict[str, Any]:
        return await self._residence.run(execution_id, epoch, crashed, tokens=tokens)

    async def attach(self, execution_id: str) -> dict[str, Any]:
        return await self._residence.attach(execution_id)

    @ray.method(concurrency_group="control")  # type: ignore[untyped-decorator]
    async def ping(self) -> dict[str, Any]:
        return self._residence.host

    @ray.method(concurrency_group="control")  # type: ignore[untyped-decorator]
    async def poke(self, execution_id: str) -> None:
        self._residence.poke(execution_id)

    @ray.method(concurrency_group="control")  # type: ignore[untyped-decorator]
    async def let_go(self, execution_id: str) -> None:
        self._residence.let_go(execution_id)

    @ray.method(concurrency_group="control")  # type: ignore[untyped-decorator]
    async def poll(
        self, execution_id: str, after: int, after_token: int, timeout_s: float, tokens: bool
    ) -> dict[str, Any] | None:
        return await self._residence.poll(execution_id, after, after_token, timeout_s, tokens)


@ray.remote(num_cpus=0, max_restarts=0, max_task_retries=0, max_concurrency=100, concurrency_groups={"control": 1000})
class ExecutionActor(_Shell):
    """One process, one execution; named by the execution's ID."""


@ray.remote(
    num_cpus=0, max_restarts=0, max_task_retries=0, max_concurrency=20_000, concurrency_groups={"control": 20_000}
)
class HostActor(_Shell):
    """One process, many executions (`hosts`). A call that waits holds a place of `max_concurrency`, so there are plenty."""
