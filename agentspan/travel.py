"""Going back in time: the states an execution went through, and new executions that go on from one of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from agentspan.agents.agent import Agent
from agentspan.agents.context import INSIDE
from agentspan.agents.results import HistoryState
from agentspan.errors import AgentNotFoundError, AgentspanError, ConfigurationError
from agentspan.handle import AgentHandle, new_id, read_back
from agentspan.submission import GRAPH, check_change, deployable, is_place

if TYPE_CHECKING:
    from agentspan.runtime import AgentRuntime


async def history(runtime: AgentRuntime, execution_id: str, limit: int | None) -> list[HistoryState]:
    """See `AgentHandle.history`."""
    deployment = await _deployment_of(runtime, execution_id)
    if deployment.get("kind") != GRAPH:
        told = await runtime._call("history", execution_id=execution_id, limit=limit)
        return [read_back(HistoryState, plain) for plain in told]
    from agentspan.frameworks.langgraph.running.remote import history as graph_history

    graph = runtime._here(deployment)
    if graph is None:
        graph = await _loaded(runtime, execution_id=execution_id)
    return [state async for state in graph_history(graph, execution_id, _reader(runtime), limit=limit)]


async def final_state(runtime: AgentRuntime, graph: Any, execution_id: str, stored: bytes) -> Any:
    """What `invoke` would have returned; for an execution that was stopped (nothing is stored) the last state it had."""
    from agentspan.frameworks.langgraph.app.graphtypes import serde_of

    if stored:
        return serde_of(graph).loads(stored)
    from agentspan.frameworks.langgraph.app.outputs import output_of
    from agentspan.frameworks.langgraph.running.remote import history as graph_history

    async for last in graph_history(graph, execution_id, _reader(runtime), limit=1):
        return output_of(graph, last.values)
    return None


async def fork(
    runtime: AgentRuntime, execution_id: str, *, step: int | None, state: Any, as_node: str | None, agent: Any
) -> AgentHandle:
    """See `AgentHandle.fork`."""
    deployment = await _deployment_of(runtime, execution_id)
    known, version = None, deployment
    if agent is not None:
        known, version = await _version(runtime, agent, deployment)
    changes = state
    if deployment.get("kind") == GRAPH:
        changes = await _check_graph_fork(runtime, execution_id, version, known, step, state, as_node, agent)
    elif as_node is not None:
        raise ConfigurationError(problem=f"as_node is for graphs; execution {execution_id!r} is of an Agent.")
    request = {
        "request_id": new_id(),
        "forked_from": execution_id,
        "forked_step": step,
        "forked_state": changes,
        "parent": INSIDE.get(),
    }
    if agent is not None:
        request |= {"agent": version["spec"]["name"], "deployment_id": version["deployment_id"]}
    created = await runtime._call("submit", new=request)
    return AgentHandle(created["execution_id"], runtime, agent=known)


async def _version(runtime: AgentRuntime, agent: Any, origin: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
    """The agent or graph to go on with, if this process has it, and its deployment."""
    if isinstance(agent, str) and not is_place(agent):
        found = await runtime._call("deployment", agent=agent)
        if found is None:
            raise AgentNotFoundError(agent=agent, hint="")
        _check_kind(origin, agent, found["kind"])
        return runtime._here(found), found
    known = deployable(agent)
    _check_kind(origin, known.name, "agent" if isinstance(known, Agent) else GRAPH)
    # What runs in its client stays in one.
    row = await runtime._deployed_row(known, "client" if origin.get("source") == "client" else None)
    return known, {
        "deployment_id": row.deployment_id,
        "kind": row.kind,
        "source": row.source,
        "spec": row.spec,
    }


def _check_kind(origin: Mapping[str, Any], name: str, kind: str) -> None:
    if (origin.get("kind") == GRAPH) != (kind == GRAPH):
        whose, other = ("a graph", "an Agent") if origin.get("kind") == GRAPH else ("an Agent", "a graph")
        raise ConfigurationError(problem=f"A fork of {whose} goes on as one; {name!r} is {other}.")


async def _check_graph_fork(
    runtime: AgentRuntime,
    execution_id: str,
    version: Mapping[str, Any],
    known: Any,
    step: int | None,
    state: Any,
    as_node: str | None,
    agent: Any,
) -> bytes | None:
    """Refuse what a graph's fork would lose; returns the change as it is stored."""
    from agentspan.frameworks.langgraph.app.graphtypes import serde_of
    from agentspan.frameworks.langgraph.running.remote import check_fork
    from agentspan.frameworks.langgraph.state.serde import StateSerde

    check_change(execution_id, version["spec"], state, as_node)
    has_change = state is not None or as_node is not None
    graph = known or runtime._here(version)
    if graph is None and (has_change or agent is not None):
        try:
            graph = await _loaded(runtime, deployment_id=version["deployment_id"])
        except AgentspanError:
            pass  # It cannot be had here; where the fork runs it is looked at again.
    await check_fork(None if agent is None else graph, execution_id, _reader(runtime), step=step)
    if not has_change:
        return None
    serde = StateSerde() if graph is None else serde_of(graph)
    return serde.dumps({"values": state, "as_node": as_node}, path="$state")


async def _deployment_of(runtime: AgentRuntime, execution_id: str) -> Mapping[str, Any]:
    return (await runtime._call("show", execution_id=execution_id))["deployment"] or {}


async def _loaded(runtime: AgentRuntime, **which: Any) -> Any:
    from agentspan.actors.shipping import load
    from agentspan.persistence.store import DeploymentRow

    return load(DeploymentRow(**await runtime._call("code", **which)))


def _reader(runtime: AgentRuntime) -> Callable[[str, dict[str, Any]], Awaitable[Any]]:
    async def ask(method: str, args: dict[str, Any]) -> Any:
        return await runtime._call("thread", method=method, args=args)

    return ask
