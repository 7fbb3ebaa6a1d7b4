"""Finding the agent or graph that a command line names: `package.module:attribute` or `path/to/file.py:attribute`."""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from agentspan.errors import ConfigurationError


def is_reference(text: str) -> bool:
    """Whether it names code. Agents' names have neither a colon nor a dot."""
    return ":" in text or text.endswith(".py")


def load_agent(reference: str) -> Any:
    """Import the module and return the object.

    Without an attribute, the module's only agent or graph. For a function, which may make a graph where it is needed, its
    place, `module:function`. A file is imported under its own name with its folder on the path, as
    when Python runs it as a script, so that the modules beside it are found.

    Raises:
        ConfigurationError: There is no such module or attribute, or its import failed; says where.
    """
    place, _, attribute = reference.rpartition(":") if ":" in reference else (reference, "", "")
    module = _import(place)
    if not attribute:
        return _only_agent(module, place)
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ConfigurationError(problem=f"{place} has no {attribute!r}. {_offer(module)}")
        found = getattr(found, part)
    return f"{module.__name__}:{attribute}" if inspect.isfunction(found) else found


def _import(place: str) -> ModuleType:
    path = Path(place)
    if place.endswith(".py") or "/" in place:
        if not path.is_file():
            raise ConfigurationError(problem=f"There is no file {place}.")
        if not path.stem.isidentifier():
            raise ConfigurationError(problem=f"{path.name} cannot be imported: its name is no Python identifier.")
        folder, name = str(path.resolve().parent), path.stem
    else:
        folder, name = str(Path.cwd()), place
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as problem:
        if problem.name == name.split(".")[0] or problem.name == name:
            raise ConfigurationError(problem=f"There is no module {name!r} here.") from problem
        raise ConfigurationError(problem=_import_problem(place, problem)) from problem
    except SystemExit as problem:
        raise ConfigurationError(
            problem=f"{place} ends the process when it is imported. "
            "Put what it does under `if __name__ == '__main__':`."
        ) from problem
    except Exception as problem:  # Whatever user code raises, it is told as one line.
        raise ConfigurationError(problem=_import_problem(place, problem)) from problem
    if path.is_file() and Path(module.__file__ or "").resolve() != path.resolve():
        raise ConfigurationError(
            problem=f"{place} cannot be imported: another module is called {name!r} ({module.__file__}). "
            "Rename the file."
        )
    return module


def _import_problem(place: str, problem: BaseException) -> str:
    frames = [frame for frame in traceback.extract_tb(problem.__traceback__) if "importlib" not in frame.filename]
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if len(frames) > 1 else ""
    return f"Importing {place} failed with {type(problem).__name__}: {problem}{where}"


def _agents(module: ModuleType) -> dict[str, Any]:
    from agentspan.agents.agent import Agent

    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and (isinstance(value, Agent) or _is_compiled_graph(value))
    }


def _is_compiled_graph(value: Any) -> bool:
    """Whether it is a graph that can be run. What it is made of (models, prompts, the builder) is not meant."""
    pregel = sys.modules.get("langgraph.pregel")
    if pregel is None:
        return False  # Whoever has a graph has imported langgraph.
    if isinstance(value, pregel.Pregel):
        return True
    bound = getattr(value, "bound", None)
    return isinstance(bound, pregel.Pregel)


def _only_agent(module: ModuleType, place: str) -> Any:
    found = _agents(module)
    if len({id(agent) for agent in found.values()}) == 1:
        return next(iter(found.values()))
    raise ConfigurationError(problem=f"Say what of {place} is meant: {place}:ATTRIBUTE. {_offer(module)}")


def _offer(module: ModuleType) -> str:
    names = sorted(_agents(module))
    return f"Its agents: {', '.join(names)}." if names else "It has no agents or graphs at its top level."
