"""A LangGraph app as something to deploy: the user's own graph, with a name, a description and a place for our saver."""

from __future__ import annotations

import copy
import functools
import importlib
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any, Self

from agentspan.errors import ConfigurationError
from agentspan.frameworks.langgraph.app import drawing, structure
from agentspan.frameworks.langgraph.app.inputs import describe_input
from agentspan.frameworks.langgraph.app.losses import losses
from agentspan.frameworks.langgraph.app.naming import checked_name, name_of
from agentspan.frameworks.langgraph.app.unwrapping import is_graph, unwrap
from agentspan.wording import a

if TYPE_CHECKING:
    from langgraph.pregel import Pregel

__all__ = ["Graph", "is_graph"]

log = logging.getLogger("agentspan.langgraph")


class Graph:
    """A user's graph, deployable. The graph itself is neither changed nor rebuilt; made by `Graph.of`.

    Attributes:
        name: What executions are listed under.
        app: The compiled graph, as the user made it.
        config: What bindings around it say to `invoke` it with (`with_config`); the graph's own config is not in it.
        kwargs: Likewise the keyword arguments of `bind`.
        types: Classes that its state may hold beside those its schemas declare.
        origin: The object that was given, which a module may hold under a name; None once the graph has travelled.
    """

    kind = "langgraph"

    name: str
    app: Pregel[Any, Any, Any, Any]
    config: dict[str, Any]
    kwargs: dict[str, Any]
    types: tuple[type, ...]
    origin: Any

    def __init__(
        self,
        app: Pregel[Any, Any, Any, Any],
        name: str,
        config: Mapping[str, Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        types: Sequence[type] = (),
        origin: Any = None,
    ) -> None:
        self.app = app
        self.name = name
        self.config = dict(config or {})
        self.kwargs = dict(kwargs or {})
        self.types = tuple(types)
        self.origin = origin
        self._spec: dict[str, Any] | None = None

    @classmethod
    def of(cls, obj: Any, *, name: str | None = None, types: Sequence[type] = ()) -> Self:
        """Wrap a graph for deployment.

        Args:
            obj: A compiled graph, a binding of one (`bind`, `with_config`, `with_types`), a `StateGraph`, or the place of
                a graph or of a function that makes one in an installed module: `"package.module:attribute"`.
            name: What to list executions under. Default: the graph's own name, else the variable that holds it, else
                its nodes and a hash.
            types: Classes that the state holds and no schema declares.

        Raises:
            ConfigurationError: It is no graph, or one that cannot be made durable as it is; says what to do instead.
        """
        if isinstance(obj, cls):
            return obj
        origin = found = obj
        if isinstance(obj, str):
            origin = _named(obj)
            found = origin if is_graph(origin) else _made_by(origin, obj)
        app, config, kwargs = unwrap(found)
        called = name_of(app, found) if name is None else checked_name(name)
        for cls_given in types:
            if not isinstance(cls_given, type):
                raise ConfigurationError(problem=f"types of graph {called!r} has {cls_given!r}; give classes.")
        return cls(app, called, config, kwargs, types, origin)

    @classmethod
    def reload(cls, found: Any, name: str, spec: Mapping[str, Any]) -> Self:
        """The graph of a deployment by reference, from what its module holds now.

        More nodes or fields than were deployed are fine, as nothing stored refers to them.

        Raises:
            LookupError: It is no graph any more, or lacks a node, a field or a class that was deployed.
        """
        try:
            app, config, kwargs = unwrap(found if is_graph(found) else _made_by(found, name))
        except ConfigurationError as problem:
            raise LookupError(str(problem)) from problem
        if structure.fingerprint(app) != spec["fingerprint"]:
            there = {"nodes": structure.user_nodes(app), "fields": structure.channel_names(app)}
            for what, names in there.items():
                if lost := sorted(set(spec[what]) - set(names)):
                    raise LookupError(f"the graph no longer has the {what} {', '.join(lost)}")
            log.info("graph.changed", extra={"agent": name})
        types = [_named(reference) for reference in spec["types"]]
        return cls(app, name, config, kwargs, types, found)

    @property
    def is_made_by_factory(self) -> bool:
        """Whether it was given as the place of a function that makes it, which only another process can call again."""
        return self.origin is not None and not is_graph(self.origin)

    def __reduce__(self) -> Any:
        return type(self), (self.app, self.name, self.config, self.kwargs, self.types)

    def __repr__(self) -> str:
        return f"Graph(name={self.name!r}, nodes={structure.user_nodes(self.app)!r})"

    def prepared(self, checkpointer: Any) -> Pregel[Any, Any, Any, Any]:
        """A copy of the graph that stores its states with `checkpointer`; nodes, store and cache are shared with it."""
        # Not `app.copy(update=...)`, which drops the mappers of a pydantic state and the serializer's allow-list.
        app = copy.copy(self.app)
        app.checkpointer = checkpointer
        return app

    def warnings(self) -> list[str]:
        """What of the graph will not mean here what it means elsewhere; for the user, once, at deployment."""
        return losses(self.app, self.name)

    def described_by(self, spec: Mapping[str, Any]) -> Self:
        """This graph with the description that it was deployed with, for one that came by value.

        It cannot describe itself any more: annotations that are text name what its script had and this process has not.
        """
        self._spec = dict(spec)
        return self

    def spec(self) -> dict[str, Any]:
        """The graph as JSON data: what it is made of, what it takes, its picture. The same in each process."""
        if self._spec is None:
            self._spec = self._described()
        return self._spec

    def _described(self) -> dict[str, Any]:
        app, bound = self.app, {**(self.app.config or {}), **self.config}
        picture = drawing.picture(app)
        return {
            "kind": self.kind,
            "name": self.name,
            "langgraph": _langgraph_version(),
            "nodes": structure.user_nodes(app),
            "fields": structure.channel_names(app),
            "edges": picture.edges,
            "subgraphs": sorted(name for name, _ in structure.subgraphs(app)),
            "mermaid": picture.mermaid,
            "fingerprint": structure.fingerprint(app),
            "input": describe_input(app),
            "output": _output_fields(app),
            "recursion_limit": bound.get("recursion_limit"),
            "interrupt_before": _node_names(self.kwargs.get("interrupt_before") or app.interrupt_before_nodes),
            "interrupt_after": _node_names(self.kwargs.get("interrupt_after") or app.interrupt_after_nodes),
            "checkpointer": _class_name(app.checkpointer),
            "tools": _tools(app),
            "types": [f"{cls.__module__}:{cls.__qualname__}" for cls in self.types],
            "warnings": self.warnings(),
            # What readers of native agents' specs look for.
            "model": "",
            "timeout_seconds": None,
            "output_schema": None,
        }

    def parts(self) -> Iterator[tuple[str, Any]]:
        """What the graph consists of, by the names its author knows."""
        app = self.app
        for node in app.nodes.values():
            for name, tool in getattr(node.bound, "tools_by_name", {}).items():
                yield f"tool {name!r}", getattr(tool, "func", None) or getattr(tool, "coroutine", None)
        for name, function in structure.node_functions(app):
            yield f"node {name!r}", function
        for source, branches in getattr(getattr(app, "builder", None), "branches", {}).items():
            for branch in branches.values():
                yield f"the router after {source!r}", branch.path
        for name, channel in app.channels.items():
            yield f"the reducer of {name!r}", getattr(channel, "operator", None)
        for attribute in ("store", "cache", "context_schema", "config", "retry_policy", "cache_policy"):
            yield f"its {attribute}", getattr(app, attribute)
        yield "its types", self.types
        yield "its config", self.config
        yield "its bound arguments", self.kwargs
        yield "it", app

    def modules(self) -> set[str]:
        """The names of the modules that the functions of its nodes come from."""
        functions: Iterator[tuple[str, Callable[..., Any]]] = structure.node_functions(self.app)
        return {str(getattr(function, "__module__", "")) for _, function in functions}


@functools.cache
def _langgraph_version() -> str:
    return metadata.version("langgraph")


def _named(place: str) -> Any:
    """What `package.module:attribute` names.

    Raises:
        ConfigurationError: There is no such module or attribute.
    """
    module, _, attribute = place.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for name in attribute.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError, ValueError) as problem:
        raise ConfigurationError(
            problem=f"{place!r} names no graph: {problem}. Give 'package.module:attribute' of an installed module."
        ) from problem
    return found


def _made_by(factory: Any, place: str) -> Any:
    if not callable(factory) or isinstance(factory, type):
        raise ConfigurationError(
            problem=f"{place!r} is {a(type(factory).__name__)}; give a graph, or a function that makes one."
        )
    try:
        inspect.signature(factory).bind()
    except (TypeError, ValueError) as problem:
        raise ConfigurationError(problem=f"The function {place!r} makes no graph: {problem}.") from problem
    made = factory()
    if not is_graph(made):
        close = getattr(made, "close", None)
        if close is not None:
            close()  # Of a coroutine, which would complain that nobody awaited it.
        raise ConfigurationError(
            problem=f"The function {place!r} returned {a(type(made).__name__)}; it takes nothing and returns a graph."
        )
    return made


def _output_fields(app: Any) -> list[str]:
    names = app.output_channels
    return [] if isinstance(names, str) else sorted(names)


def _node_names(names: Any) -> Any:
    return names if isinstance(names, str) else sorted(names)


def _class_name(checkpointer: Any) -> str | None:
    return None if checkpointer is None or isinstance(checkpointer, bool) else type(checkpointer).__name__


def _tools(app: Any) -> list[str]:
    """The tools of its tool nodes, such as `create_agent` makes."""
    return sorted({name for node in app.nodes.values() for name in getattr(node.bound, "tools_by_name", ())})
