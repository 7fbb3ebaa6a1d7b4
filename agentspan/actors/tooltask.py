"""Tool calls that ask for resources, as Ray tasks.

The task belongs to the process that runs the execution, and Ray ends it with that process. So at every moment it is
with a call here as it is with one that runs in a thread: it is under way exactly as long as its incarnation is, and what
is done about a crash is decided by the same records. Ray itself never tries a task again; attempts are ours to count.

A task says first that it has begun, and then what came of it. Until the first word it waits in line, and the
execution's status says for what. An agent's code travels to the task as it is stored, checked by the one who sends it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError, TaskUnschedulableError

from agentspan.actors.fate import share_fate_with_raylet
from agentspan.actors.toolcall import Elsewhere, ToolOutcome, attempt_alone, failed
from agentspan.agents.context import ToolContext
from agentspan.agents.tool_def import ToolDef
from agentspan.agents.tool_resources import in_words
from agentspan.errors import ToolLostError, ToolResourcesError
from agentspan.persistence.store import DeploymentRow

log = logging.getLogger("agentspan.tooltask")

LOOK_EVERY_S = 1.0
"""How often a call that waits in line is looked at, and how long it waits before that is said."""
CANCEL_GRACE_S = 0.8
"""How long a task has to clean up once it is interrupted; then its process is killed. A driver that ends waits one second."""
GONE_WITHIN_S = 10.0
"""A killed task is not waited for any longer: its node does not answer, and ends it when it is known to be dead."""
NODES_SHOWN_MAX = 5
"""An error says so many kinds of nodes that there are."""
AGENTS_KEPT = 4
"""Agents that an idle task process keeps loaded."""


class ToolTasks:
    """Runs tool calls of this process's executions as Ray tasks. Use it on the loop of an actor."""

    def __init__(self, *, resources_wait_s: float) -> None:
        """`resources_wait_s`: how long a call waits for a node to come up that has what it asks for."""
        self._resources_wait_s = resources_wait_s
        self._code: dict[str, ray.ObjectRef[DeploymentRow]] = {}
        self._nodes: asyncio.Future[list[dict[str, float]] | None] | None = None
        self._looked_at = 0.0

    def of(self, row: DeploymentRow) -> Elsewhere:
        """For the tools of one deployment, whose signature has been verified."""
        return functools.partial(self._call, row)

    async def _call(
        self,
        row: DeploymentRow,
        tool: ToolDef,
        arguments: dict[str, Any],
        context: ToolContext,
        *,
        note: Callable[[str], None],
    ) -> ToolOutcome:
        task: Any = None
        try:
            task = self._submit(row, tool, arguments, context)
            outcome = await self._await(task, tool, note)
            task = None
            return outcome
        except TimeoutError as problem:
            return failed(tool, problem)
        except ToolResourcesError as problem:
            return ToolOutcome(error=str(problem), error_type=type(problem).__name__, is_final=True)
        except RayError as problem:
            task = None
            lost = ToolLostError(tool=tool.name, execution_id=context.execution_id, problem=_cause(problem))
            log.warning("tool_task.lost", extra={"execution_id": context.execution_id, "problem": str(lost)})
            return ToolOutcome(error=str(lost), error_type=type(lost).__name__, is_lost=True)
        finally:
            if task is not None:
                await _end(task)

    def _submit(self, row: DeploymentRow, tool: ToolDef, arguments: dict[str, Any], context: ToolContext) -> Any:
        if row.deployment_id not in self._code:
            self._code[row.deployment_id] = ray.put(row)
        options = {"name": f"tool:{tool.name}", **_options(tool.needs)}
        # What the agent depends on is made anew where the task runs: it may be a connection, and is no data.
        shipped = dataclasses.replace(context, dependencies={})
        return _attempt.options(**options).remote(self._code[row.deployment_id], tool.name, arguments, shipped)

    async def _await(self, task: Any, tool: ToolDef, note: Callable[[str], None]) -> ToolOutcome:
        first = asyncio.ensure_future(_next(task))
        try:
            await self._begun(first, tool, note)
        finally:
            first.cancel()
        said = first.result()
        if isinstance(said, ToolOutcome):
            return said
        note("")
        async with asyncio.timeout(tool.timeout_seconds or None):
            outcome = await _next(task)
        assert isinstance(outcome, ToolOutcome)
        return outcome

    async def _begun(self, first: asyncio.Future[Any], tool: ToolDef, note: Callable[[str], None]) -> None:
        """Wait for a task's first word.

        Raises:
            ToolResourcesError: No node has what it asks for, or has had it for a while.
        """
        loop = asyncio.get_running_loop()
        lacking_since: float | None = None
        needs = in_words(tool.needs)
        while not (await asyncio.wait({first}, timeout=LOOK_EVERY_S))[0]:
            nodes = await self._look()
            if nodes is None:
                continue
            if any(_fits(tool.needs, node) for node in nodes):
                lacking_since = None
                note(f"waits for {needs}")
                continue
            lacking_since = lacking_since or loop.time()
            if loop.time() - lacking_since >= self._resources_wait_s:
                raise ToolResourcesError(tool=tool.name, needs=needs, nodes=_listed(nodes))
            note(f"no node has {needs}")
        if isinstance(first.exception(), TaskUnschedulableError):
            raise ToolResourcesError(tool=tool.name, needs=needs, nodes=_listed(await self._look()))

    async def _look(self) -> list[dict[str, float]] | None:
        """What nodes there are. Many calls may be in line; they look together."""
        now = asyncio.get_running_loop().time()
        if self._nodes is None or now >= self._looked_at + LOOK_EVERY_S / 2:
            self._looked_at = now
            self._nodes = asyncio.ensure_future(asyncio.to_thread(_nodes))
        return await asyncio.shield(self._nodes)


async def _next(task: Any) -> Any:
    return await (await anext(task))


async def _end(task: Any) -> None:
    """End a task: in line, it never begins; under way, it is interrupted, and killed when that takes too long."""
    for force, patience_s in ((False, CANCEL_GRACE_S), (True, GONE_WITHIN_S)):
        try:
            ray.cancel(task, force=force)
            async with asyncio.timeout(patience_s):
                await task.completed()
            return
        except TimeoutError:
            continue
        except RayError:
            return  # It is over, one way or the other.


def _options(needs: Mapping[str, float]) -> dict[str, Any]:
    own = {name: amount for name, amount in needs.items() if name not in ("CPU", "GPU", "memory")}
    options: dict[str, Any] = {"num_cpus": needs["CPU"], "num_gpus": needs.get("GPU", 0), "resources": own}
    if "memory" in needs:
        options["memory"] = int(needs["memory"])
    return options


def _nodes() -> list[dict[str, float]] | None:
    """What each living node has in all, used or not; None when nobody can say at the moment."""
    try:
        return [node["Resources"] for node in ray.nodes() if node["Alive"]]
    except Exception:
        log.warning("nodes.unknown", exc_info=True)  # The cluster's head is away. What waits goes on waiting.
        return None


def _fits(needs: Mapping[str, float], node: Mapping[str, float]) -> bool:
    return all(node.get(name, 0) >= amount for name, amount in needs.items())


def _listed(nodes: list[dict[str, float]] | None) -> str:
    shown = set()
    for node in nodes or ():
        # Ray's own book-keeping, `node:10.0.0.1` and the like, helps nobody.
        told = {name: amount for name, amount in node.items() if ":" not in name and name != "object_store_memory"}
        shown.add(in_words(told))
    return "; ".join(sorted(shown)[:NODES_SHOWN_MAX])


def _cause(problem: RayError) -> str:
    told = str(problem.cause) if isinstance(problem, RayTaskError) else str(problem)
    return f"{type(problem).__name__}: {told.strip().splitlines()[0] if told.strip() else ''}"[:300]


# --- in the task's process -----------------------------------------------------------------------------------------

_agents: dict[str, Any] = {}


@ray.remote(max_retries=0, num_returns="streaming")  # type: ignore[untyped-decorator]
def _attempt(row: DeploymentRow, name: str, arguments: dict[str, Any], context: ToolContext) -> Iterator[Any]:
    share_fate_with_raylet()
    tool: ToolDef | None = None
    try:
        agent = _agent(row)
        tool = agent.tool_defs[name]
    except Exception as problem:
        # This node lacks what the code imports, perhaps. Another one may not.
        log.exception("tool_task.not_loaded", extra={"execution_id": context.execution_id})
        yield ToolOutcome(error=f"{type(problem).__name__}: {problem}"[:4000], error_type=type(problem).__name__)
        return
    context.dependencies = agent.dependencies
    log.info("tool_task.begun", extra={"execution_id": context.execution_id, "tool": name, "pid": os.getpid()})
    yield os.getpid()
    yield attempt_alone(tool, arguments, context)


def _agent(row: DeploymentRow) -> Any:
    from agentspan.actors.shipping import load

    agent = _agents.pop(row.deployment_id, None)
    if agent is None:
        agent = load(row)
    _agents[row.deployment_id] = agent  # The last used is the last to go.
    while len(_agents) > AGENTS_KEPT:
        del _agents[next(iter(_agents))]
    return agent
