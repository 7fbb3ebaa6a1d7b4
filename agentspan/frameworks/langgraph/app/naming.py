"""What a graph is called. LangGraph calls every graph "LangGraph" unless told, so most programs never name theirs.

In this order: the name the author gave; the variable of a module that holds the graph; its first nodes and a hash of
its structure. Two graphs of one program never get the same name from two variables: the second one is called after
its module, too.
"""

from __future__ import annotations

import re
import sys
import types
from typing import Any, NamedTuple

from agentspan.errors import ConfigurationError
from agentspan.frameworks.langgraph.app.structure import origin_digest, user_nodes

UNNAMED = "LangGraph"
NODES_IN_NAME = 3
CHARS_MAX = 60

_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_-]*")
_NOT_OURS = frozenset({"agentspan", "builtins", "langchain", "langchain_core", "langgraph"})


class _Place(NamedTuple):
    module: str
    variable: str


_given: dict[str, _Place] = {}
"""The names taken from variables in this process, and which variable has each."""


def checked_name(name: Any) -> str:
    """A name that the user gave for a deployment.

    Raises:
        ConfigurationError: It cannot name an agent.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigurationError(
            problem=f"{name!r} cannot name a graph. Use letters, digits, '_' and '-'; start with a letter or '_'."
        )
    return name


def name_of(app: Any, *others: Any) -> str:
    """A name for a graph. `others` are the objects it came in (a binding, a builder), looked for in variables as well."""
    own = _own_name(app)
    if own is not None:
        return _fitting(own) or f"graph-{origin_digest(app)}"
    place = _place_of((*others, app))
    if place is not None:
        return _name_of_place(place, app)
    return f"{_fitting('_'.join(user_nodes(app)[:NODES_IN_NAME]), CHARS_MAX) or 'graph'}-{origin_digest(app)}"


def _own_name(app: Any) -> str | None:
    name = getattr(app, "name", None)
    return name if isinstance(name, str) and name not in ("", UNNAMED) else None


def _fitting(text: str, chars_max: int | None = None) -> str:
    """The nearest text that can name an agent; empty when no letter or digit is left."""
    fitting = re.sub(r"[^a-zA-Z0-9_-]+", "_", text)[:chars_max].strip("_-")
    return f"_{fitting}" if fitting[:1].isdigit() else fitting


def _place_of(objects: tuple[Any, ...]) -> _Place | None:
    """The module and variable that hold one of the objects: in the outermost module, `__main__` last."""
    wanted = {id(obj) for obj in objects}
    found = [
        (name == "__main__", name.count("."), name, variable)
        for name, module in list(sys.modules.items())
        if isinstance(module, types.ModuleType)
        and name.partition(".")[0] not in _NOT_OURS
        and module.__dict__.get("__name__") == name
        for variable, value in list(module.__dict__.items())
        # A leading underscore: private, and also what an interactive session keeps its results under.
        if id(value) in wanted and not variable.startswith("_")
    ]
    # Of several variables in one module the first counts, which is the one that was assigned first.
    place = min(found, key=lambda entry: entry[:3], default=None)
    return None if place is None else _Place(place[2], place[3])


def _name_of_place(place: _Place, app: Any) -> str:
    bare = _fitting(place.variable)
    qualified = _fitting(f"{place.module}_{place.variable}")
    candidates = [qualified] if place.module != "__main__" and _has_rival(place, app) else [bare, qualified]
    for candidate in candidates:
        if candidate and _given.setdefault(candidate, place) == place:
            return candidate
    return f"{bare or 'graph'}-{origin_digest(app)}"


def _has_rival(place: _Place, app: Any) -> bool:
    """Whether another module holds another nameless graph in a variable of the same name."""
    for name, module in list(sys.modules.items()):
        if name == place.module or not isinstance(module, types.ModuleType):
            continue
        value = module.__dict__.get(place.variable)
        if value is not None and value is not app and _is_nameless_graph(value):
            return True
    return False


def _is_nameless_graph(value: Any) -> bool:
    pregel = getattr(sys.modules.get("langgraph.pregel"), "Pregel", None)
    return pregel is not None and isinstance(value, pregel) and _own_name(value) is None
