"""What is sent to start an execution: an agent or a graph and its input, checked before anything happens."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agentspan.agents.agent import Agent
from agentspan.agents.nearest import did_you_mean
from agentspan.config import check_placement
from agentspan.errors import ConfigurationError, InvalidPromptError
from agentspan.handle import new_id
from agentspan.wording import a

GRAPH = "langgraph"
"""`DeploymentRow.kind` of a LangGraph graph."""
PROMPT_CHARS_MAX = 2000
"""How much of a graph's input is shown as its prompt; the input itself is kept whole."""

_said: set[str] = set()


@dataclass(frozen=True, slots=True, kw_only=True)
class StartCall:
    """The arguments of a start, for an agent or a graph."""

    prompt: Any = None
    session_id: str | None = None
    idempotency_key: str | None = None
    timeout_s: float | None = None
    context: Any = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] | None = None
    interrupt_before: Any = None
    interrupt_after: Any = None

    def check(self) -> None:
        """Refuse arguments that are none, whatever is started.

        Raises:
            ConfigurationError: Names the argument.
        """
        check_seconds(self.timeout_s)
        for name in ("session_id", "idempotency_key"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise ConfigurationError(problem=f"{name} is {value!r}; give text.")


def deployable(agent: Any, types: tuple[type, ...] = ()) -> Any:
    """What is deployed: the `Agent` itself, or the `Graph` around a LangGraph app or around what a place names.

    Raises:
        ConfigurationError: It is neither.
    """
    if isinstance(agent, Agent):
        return agent
    if is_place(agent):
        from agentspan.frameworks.langgraph.app.graph import Graph

        return Graph.of(agent, types=types)
    if any(name in sys.modules for name in ("langgraph", "langchain_core")):  # Else it cannot be a graph.
        from agentspan.frameworks.langgraph.app.graph import Graph, is_graph

        if isinstance(agent, Graph):
            return agent
        if is_graph(agent):
            return Graph.of(agent, types=types)
    raise ConfigurationError(
        problem="An Agent, a LangGraph graph, or the name of a deployed one is needed, not "
        f"{a(type(agent).__name__)}: {agent!r:.80}"
    )


def deploy_terms(placement: str | None, max_concurrency: int | None, host: str | None) -> dict[str, Any]:
    """On what terms something is deployed, as far as it was said.

    Raises:
        ConfigurationError: One of them is none.
    """
    check_placement(placement)
    if max_concurrency is not None:
        if isinstance(max_concurrency, bool) or not isinstance(max_concurrency, int) or max_concurrency < 0:
            raise ConfigurationError(
                problem=f"max_concurrency is {max_concurrency!r}; give a whole number of at least 1, or 0 for any number."
            )
        if host is not None:
            raise ConfigurationError(problem="max_concurrency is for what the server runs, not for host='client'.")
    said = {"placement": placement, "max_concurrency": max_concurrency}
    return {name: value for name, value in said.items() if value is not None}


def is_place(agent: Any) -> bool:
    """Whether it says where a graph is, `"package.module:attribute"`. Names of agents have no colon."""
    return isinstance(agent, str) and ":" in agent


def warn_of_losses(agent: Any) -> None:
    """Say what of a graph will not mean here what it means elsewhere; each thing once in this process."""
    if isinstance(agent, Agent):
        return
    for text in agent.spec()["warnings"]:
        if text not in _said:
            _said.add(text)
            # Whoever called a sync verb is on another thread's stack, so there is no better place to point to.
            warnings.warn(text, stacklevel=2)


def agent_request(name: str, call: StartCall) -> dict[str, Any]:
    """The request for a native agent."""
    for argument in ("config", "interrupt_before", "interrupt_after"):
        if getattr(call, argument) is not None:
            raise ConfigurationError(problem=f"{argument} is for LangGraph graphs; {name!r} is an Agent.")
    return {
        **_common(name, call),
        "prompt": _prompt(call.prompt, name),
        "session_id": call.session_id,
        "metadata": {**(call.context or {}), **call.metadata},
    }


def graph_request(name: str, spec: Mapping[str, Any], graph: Any, call: StartCall) -> dict[str, Any]:
    """The request for a graph.

    Args:
        name: The graph's name.
        spec: As it was deployed; tells the input it takes and its nodes.
        graph: The `Graph`, if this process has it; it knows the types of its state.
        call: What was asked for. `context` is LangGraph's; `config["configurable"]["thread_id"]` names the session, too.

    Raises:
        InvalidPromptError, ConfigurationError, UnstorableStateError: The input or the configuration does not fit.
    """
    from agentspan.frameworks.langgraph.app.inputs import to_input
    from agentspan.frameworks.langgraph.running.starting import start_options
    from agentspan.frameworks.langgraph.state.serde import StateSerde

    options = start_options(
        name,
        to_input(spec["input"], name, call.prompt),
        StateSerde() if graph is None else _serde_of(graph),
        config=call.config,
        context=call.context,
        interrupt_before=call.interrupt_before,
        interrupt_after=call.interrupt_after,
        nodes=spec["nodes"],
    )
    return {
        **_common(name, call),
        "prompt": _shown(call.prompt),
        "session_id": call.session_id or options.thread_id or None,
        "metadata": dict(call.metadata),
        "graph": options.to_plain(),
    }


def check_change(execution_id: str, spec: Mapping[str, Any], state: Any, as_node: str | None) -> None:
    """Refuse a change of a forked graph's state that LangGraph would leave out without a word.

    Raises:
        ConfigurationError: Names the key or the node that the graph does not have.
    """
    fields, nodes = spec["fields"], spec["nodes"]
    unknown = [str(key) for key in state if key not in fields] if isinstance(state, Mapping) else []
    whose = f"the graph of execution {execution_id!r}"
    if unknown:
        near = did_you_mean(unknown[0], fields)
        raise ConfigurationError(
            problem=f"{unknown[0]!r} is no field of {whose}.{near} Its fields: {', '.join(fields)}."
        )
    if as_node is not None and as_node not in nodes:
        near = did_you_mean(as_node, nodes)
        raise ConfigurationError(problem=f"{as_node!r} is no node of {whose}.{near} Its nodes: {', '.join(nodes)}.")


def _serde_of(graph: Any) -> Any:
    from agentspan.frameworks.langgraph.app.graphtypes import serde_of

    return serde_of(graph)


def check_seconds(timeout: Any) -> None:
    """Refuse a timeout that is none, before anything is started with it."""
    if timeout is not None and (
        isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or timeout != timeout
    ):
        raise ConfigurationError(problem=f"timeout is {timeout!r}; give seconds as a number, or None.")


def _common(name: str, call: StartCall) -> dict[str, Any]:
    return {
        "request_id": new_id(),
        "agent": name,
        "idempotency_key": call.idempotency_key,
        "timeout_s": call.timeout_s,
    }


def _prompt(prompt: Any, agent: str) -> Any:
    if isinstance(prompt, str):
        return prompt
    if (
        isinstance(prompt, list)
        and prompt
        and all(isinstance(m, dict) and isinstance(m.get("role"), str) for m in prompt)
    ):
        return prompt
    raise InvalidPromptError(
        agent=agent, found=type(prompt).__name__, expected="text, or a list of chat messages with a role each"
    )


def _shown(given: Any) -> str:
    text = given if isinstance(given, str) else repr(given)
    return text if len(text) <= PROMPT_CHARS_MAX else f"{text[:PROMPT_CHARS_MAX]}…"
