"""From what a user hands over to the graph in it: bindings are opened, and what is no graph is refused with the way out."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from agentspan.errors import ConfigurationError

if TYPE_CHECKING:
    from langgraph.pregel import Pregel


class Unwrapped(NamedTuple):
    """A graph, and what was bound to it on the way: `config` and `kwargs` are for its `invoke`; the outermost win."""

    app: Pregel[Any, Any, Any, Any]
    config: dict[str, Any]
    kwargs: dict[str, Any]


def is_graph(obj: Any) -> bool:
    """Whether `obj` is LangGraph's or LangChain's to run: `Graph.of` then takes it, or says why it cannot.

    Imports nothing: whoever has a graph has imported langgraph.
    """
    for module, name in (("langchain_core.runnables.base", "Runnable"), ("langgraph.graph.state", "StateGraph")):
        cls = getattr(sys.modules.get(module), name, None)
        if cls is not None and isinstance(obj, cls):
            return True
    return False


def unwrap(obj: Any) -> Unwrapped:
    """The compiled graph in `obj`.

    Raises:
        ConfigurationError: It is none, or something around it cannot be made durable; says what to do instead.
    """
    from langchain_core.runnables import RunnableSequence, RunnableWithFallbacks
    from langchain_core.runnables.base import RunnableBindingBase
    from langchain_core.runnables.config import merge_configs
    from langchain_core.runnables.retry import RunnableRetry
    from langgraph.graph.state import StateGraph
    from langgraph.pregel import Pregel

    config: Any = {}
    kwargs: dict[str, Any] = {}
    while not isinstance(obj, Pregel):
        if isinstance(obj, RunnableRetry):
            _refuse(
                "A graph wrapped by .with_retry() starts again from its first node, so it cannot be made durable. Give the "
                "nodes that may fail a retry policy, add_node(..., retry_policy=RetryPolicy()), and pass the graph itself."
            )
        if isinstance(obj, RunnableBindingBase):
            if obj.config_factories:
                _refuse(
                    "Listeners of .with_listeners() live in this process and do not travel with a graph. Read the events "
                    "of handle.stream(), or pass .with_config(callbacks=[...])."
                )
            config = merge_configs(obj.config, config)
            kwargs = {**obj.kwargs, **kwargs}
            obj = obj.bound
        elif isinstance(obj, StateGraph):
            obj = _compiled(obj)
        elif isinstance(obj, RunnableWithFallbacks):
            _refuse(
                "A graph with .with_fallbacks() is run from its first node by each fallback, so it cannot be made durable. "
                "Pass the graph itself, and put the fallback into it: a node's error_handler, or model.with_fallbacks()."
            )
        elif isinstance(obj, RunnableSequence):
            _refuse(
                "A graph in a chain (app | f) is one step of the chain, so it cannot be made durable there. Pass the graph "
                "itself, and make f its last node."
            )
        else:
            _refuse(_no_graph(obj))
    return Unwrapped(obj, dict(config), kwargs)


def _compiled(builder: Any) -> Any:
    try:
        return builder.compile()
    except ValueError as problem:
        raise ConfigurationError(problem=f"The graph cannot be compiled: {problem}") from problem


def _no_graph(obj: Any) -> str:
    cls = type(obj)
    if cls.__name__ == "RemoteGraph":
        return (
            "A RemoteGraph runs on another server, which keeps its state, so it cannot be made durable here. Deploy the "
            "graph it points to, or call it inside a node."
        )
    return (
        f"A {cls.__name__} is not a graph. Pass what compile(), create_agent() or @entrypoint makes, or a StateGraph."
    )


def _refuse(problem: str) -> NoReturn:
    raise ConfigurationError(problem=problem)
