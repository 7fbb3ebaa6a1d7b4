"""What the start of a graph carries beside its prompt: the input and how to run it, as the `graph` of record 0.

LangGraph does not store the configuration of a run, so it is kept here and passed again on every resume.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from agentspan.agents.nearest import did_you_mean
from agentspan.errors import ConfigurationError
from agentspan.frameworks.langgraph.state.serde import StateSerde
from agentspan.wording import a

CONFIG_KEYS = frozenset({"tags", "metadata", "recursion_limit", "configurable", "max_concurrency", "run_name"})
NodeNames = Sequence[str] | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StartOptions:
    """How a graph is run. `input` and `context` are encoded by the graph's serializer; the rest is plain data."""

    input: bytes = b""
    context: bytes = b""
    config: dict[str, Any] = field(default_factory=dict)
    """What of the user's `RunnableConfig` can be kept."""
    interrupt_before: Any = None
    """A list of nodes, `"*"`, or None for what the graph was compiled with."""
    interrupt_after: Any = None
    thread_id: str = ""
    """What nodes see as their `thread_id`; the session or the execution by default."""

    @classmethod
    def of(cls, stored: Mapping[str, Any] | None) -> Self:
        """The options from record 0. Keys of a newer version are left out."""
        return cls(**{name: value for name, value in (stored or {}).items() if name in cls.__slots__})

    def to_plain(self) -> dict[str, Any]:
        """For record 0: what differs from the defaults."""
        plain: dict[str, Any] = {}
        for name in type(self).__slots__:
            value = getattr(self, name)
            if value not in (b"", "", None, {}):
                plain[name] = value
        return plain


def start_options(
    agent: str,
    given: Any,
    serde: StateSerde,
    *,
    config: Mapping[str, Any] | None = None,
    context: Any = None,
    interrupt_before: NodeNames = None,
    interrupt_after: NodeNames = None,
    nodes: Sequence[str] = (),
) -> StartOptions:
    """Encode an input (already checked) and the way to run it. `nodes` are the names that a breakpoint may have.

    Raises:
        ConfigurationError: The configuration holds what cannot be kept (callbacks, a checkpointer) or is no number where
            one is needed, or a breakpoint names no node.
        UnstorableStateError: The input or the context does; says where.
    """
    if config is not None and not isinstance(config, Mapping):
        raise ConfigurationError(
            problem=f"config of {agent!r} is {a(type(config).__name__)}; give a RunnableConfig, a dict."
        )
    kept = _kept_config(agent, dict(config or {}))
    configurable = kept.get("configurable", {})
    thread_id = configurable.pop("thread_id", "")
    for name in ("checkpoint_id", "checkpoint_ns"):
        if configurable.pop(name, None):
            raise ConfigurationError(
                problem=f"config['configurable'][{name!r}] cannot be used to start {agent!r}. To go on from an earlier "
                "state, use `handle.fork(step=...)`."
            )
    return StartOptions(
        input=serde.dumps(given, path="$input"),
        context=b"" if context is None else serde.dumps(context, path="$context"),
        config={name: value for name, value in kept.items() if value},
        interrupt_before=_nodes(agent, "interrupt_before", interrupt_before, nodes),
        interrupt_after=_nodes(agent, "interrupt_after", interrupt_after, nodes),
        thread_id=str(thread_id),
    )


def _nodes(agent: str, argument: str, names: NodeNames, there: Sequence[str]) -> Any:
    if names is None or names == "*":
        return names
    if isinstance(names, str):
        raise ConfigurationError(problem=f'{argument} is {names!r}; give a list of nodes, or "*" for all.')
    for name in names:
        # LangGraph passes by a breakpoint at a node that it does not have, and nobody would be asked.
        if name not in there:
            near = did_you_mean(str(name), there)
            raise ConfigurationError(
                problem=f"{argument} names {name!r}, and graph {agent!r} has no such node.{near} Its nodes: {', '.join(there)}."
            )
    return list(names)


def _kept_config(agent: str, config: dict[str, Any]) -> dict[str, Any]:
    if config.get("callbacks"):
        raise ConfigurationError(
            problem=f"config['callbacks'] of {agent!r} cannot be kept: callbacks live in this process, and the graph "
            "runs in another. Bind them to the graph itself (`app.with_config(callbacks=[...])`) or read the events."
        )
    kept = {name: value for name, value in config.items() if name in CONFIG_KEYS and value is not None}
    unknown = sorted(set(config) - CONFIG_KEYS - {"callbacks", "run_id"})
    if unknown:
        raise ConfigurationError(
            problem=f"config of {agent!r} has {', '.join(unknown)}, which is none of {', '.join(sorted(CONFIG_KEYS))}."
        )
    for name in ("recursion_limit", "max_concurrency"):
        value = kept.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ConfigurationError(problem=f"config[{name!r}] of {agent!r} is {value!r}; give a number from 1.")
    kept["configurable"] = {
        name: value for name, value in kept.get("configurable", {}).items() if not name.startswith("__pregel")
    }
    return kept
