"""What of a program is local: the modules that exist on no other node, and the imports that lead to them."""

from __future__ import annotations

import dis
import functools
import importlib.util
import os
import sys
import sysconfig
import threading
import types
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray import cloudpickle

NOT_LOCAL = frozenset({"agentspan", "ray"})
"""Top-level packages that are on every node, wherever their files lie."""

_lock = threading.RLock()  # Re-entrant: an object's own __reduce__ may pack code in its turn.


class Unshippable(Exception):
    """An object pickles but must not. Its text is a sentence about the object."""

    def __init__(self, problem: str, remedy: str | None = None) -> None:
        super().__init__(problem)
        self.remedy = remedy


def is_local(module: types.ModuleType) -> bool:
    """Whether a module exists only here: it has a source file, outside the standard library and all site-packages."""
    facts = module.__dict__  # Not getattr: lazy modules import the world when they are asked for what they lack.
    name = facts.get("__name__")
    if name == "__main__":
        return True
    if not isinstance(name, str) or name.partition(".")[0] in NOT_LOCAL:
        return False
    file = facts.get("__file__")
    places = [file] if file else list(facts.get("__path__") or ())
    return bool(places) and all(isinstance(place, str) and not _is_library(place) for place in places)


@functools.cache
def _is_library(place: str) -> bool:
    path = os.path.abspath(place)
    if not {"site-packages", "dist-packages"}.isdisjoint(path.split(os.sep)):
        return True
    return any(path.startswith(folder + os.sep) for folder in _stdlib_folders())


@functools.cache
def _stdlib_folders() -> frozenset[str]:
    folders = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), os.path.dirname(os.__file__)}
    return frozenset(folders | {os.path.realpath(folder) for folder in folders})


@contextmanager
def local_modules_by_value() -> Iterator[None]:
    """Have every local module pickled by value in this block. One thread at a time: the registry is the process's.

    Modules that the user registered stay as they are.
    """
    with _lock:
        known = cloudpickle.list_registry_pickle_by_value()
        ours = [module for module in _local_modules() if module.__name__ not in known]
        for module in ours:
            cloudpickle.register_pickle_by_value(module)
        try:
            yield
        finally:
            for module in ours:
                cloudpickle.unregister_pickle_by_value(module)


_libraries: dict[str, weakref.ref[types.ModuleType]] = {}
"""Modules that were found not to be local, by name. There are thousands, and they are gone through at each start."""


def _local_modules() -> list[types.ModuleType]:
    """The local modules that are imported, without those that go by another name."""
    found = []
    for name, module in list(sys.modules.items()):
        library = _libraries.get(name)
        if (library is not None and library() is module) or not isinstance(module, types.ModuleType):
            continue
        if not is_local(module):
            _libraries[name] = weakref.ref(module)
        elif module.__dict__.get("__name__") == name:
            found.append(module)
    return found


def refuse_local_imports(code: types.CodeType, namespace: dict[str, Any]) -> None:
    """Refuse `import helper` inside a function, where `helper` is local: it would fail when the function runs."""
    for imported, level in _imports(code):
        name = _absolute_name(imported, level, namespace)
        if name and _leads_to_local(name):
            raise Unshippable(
                f"It imports the local module {name!r} when it runs, and that module is not on the cluster",
                f"Import {name!r} at the top of the file, and it travels with the agent.",
            )


@functools.lru_cache(4096)  # Reading bytecode is slow, and the same agent is packed at each start.
def _imports(code: types.CodeType) -> tuple[tuple[str, int], ...]:
    """The (name, level) of every import in a function and the functions in it."""
    found: list[tuple[str, int]] = []
    pushed: list[Any] = []  # An import is preceded by its level and the names it is to bring.
    for instruction in dis.get_instructions(code):
        if instruction.opname == "EXTENDED_ARG":
            continue
        if instruction.opname == "IMPORT_NAME":
            found.append((instruction.argval, pushed[-2]))
        pushed = [*pushed[-1:], instruction.argval]
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found += _imports(constant)
    return tuple(found)


def _absolute_name(name: str, level: int, namespace: dict[str, Any]) -> str | None:
    if level == 0:
        return name
    try:
        return importlib.util.resolve_name("." * level + name, namespace.get("__package__") or "")
    except ImportError:
        return None  # It fails here as it will there.


def _leads_to_local(name: str) -> bool:
    module = sys.modules.get(name)
    if module is not None:
        return is_local(module)
    top = name.partition(".")[0]
    if (package := sys.modules.get(top)) is not None:
        return is_local(package)
    try:
        spec = importlib.util.find_spec(top)  # Of a top-level name: imports nothing.
    except (ImportError, ValueError):
        return False
    if spec is None or top in NOT_LOCAL:
        return False  # Not here either: an optional import.
    places = [spec.origin] if spec.has_location and spec.origin else list(spec.submodule_search_locations or ())
    return bool(places) and not any(_is_library(place) for place in places)
