"""Agents by reference: finding the name under which an installed module keeps an object.

Only names that a fresh interpreter on any node could import count: modules of installed distributions, and of editable
installs through what pip recorded about them. A script, a notebook and the modules beside them do not.
"""

from __future__ import annotations

import functools
import json
import site
import sys
import sysconfig
import types
from collections.abc import Mapping
from hashlib import blake2b
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlparse
from weakref import WeakKeyDictionary


class Reference(NamedTuple):
    """Where an installed module keeps an object."""

    text: str
    """`package.module:attribute`."""
    module: types.ModuleType
    distribution: str
    version: str


_references: WeakKeyDictionary[Any, Reference | None] = WeakKeyDictionary()
"""Looking through every module takes 2 ms, and the answer for an object does not change."""


def find_reference(target: Any) -> Reference | None:
    """The name of an object in a module that an installed distribution brings, or None.

    Of several names the one in the outermost module is taken: its package is imported whenever the others are.
    """
    try:
        if target not in _references:
            _references[target] = _look_for_reference(target)
        return _references[target]
    except TypeError:  # It cannot be hashed or referred to weakly.
        return _look_for_reference(target)


def _look_for_reference(target: Any) -> Reference | None:
    names = [
        (name.count("."), name, attribute, module)
        for name, module in list(sys.modules.items())
        if isinstance(module, types.ModuleType) and name not in ("__main__", "__mp_main__")
        for attribute, value in list(module.__dict__.items())
        if value is target
    ]
    for _, name, attribute, module in sorted(names, key=lambda found: found[:3]):
        distribution = _distribution_of(name, module)
        if distribution is not None:
            return Reference(f"{name}:{attribute}", module, *distribution)
    return None


def _distribution_of(name: str, module: types.ModuleType) -> tuple[str, str] | None:
    """Name and version of the installed distribution a module comes from."""
    top = name.partition(".")[0]
    file = module.__dict__.get("__file__")
    if top == "agentspan":
        return top, _version_of(top)
    if not file:
        return None
    return _distribution_at(name, Path(file).resolve())


@functools.cache
def _distribution_at(name: str, path: Path) -> tuple[str, str] | None:
    top = name.partition(".")[0]
    if any(path.is_relative_to(folder) for folder in _site_folders()):
        owners = metadata.packages_distributions().get(top, ())
        return (owners[0], _version_of(owners[0])) if owners else None
    for distribution in metadata.distributions():
        project = _editable_project(distribution)
        if project is not None and path.is_relative_to(project) and _is_found_anywhere(name, path):
            return distribution.metadata["Name"], distribution.version
    return None


def _version_of(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _site_folders() -> list[Path]:
    folders = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()}
    if site.ENABLE_USER_SITE:
        folders.add(site.getusersitepackages())
    return [Path(folder).resolve() for folder in sorted(folders)]


def _editable_project(distribution: metadata.Distribution) -> Path | None:
    """The source folder of an editable install, as pip recorded it (PEP 610)."""
    recorded = distribution.read_text("direct_url.json")
    if recorded is None:
        return None
    try:
        facts = json.loads(recorded)
        url = urlparse(facts["url"])
        is_editable = facts["dir_info"].get("editable", False)
    except (ValueError, KeyError, AttributeError):
        return None
    return Path(unquote(url.path)).resolve() if is_editable and url.scheme == "file" else None


def _is_found_anywhere(name: str, path: Path) -> bool:
    """Whether a fresh interpreter would import this file under this name, whatever script it runs.

    A project's folder also holds scripts and tests that are importable only beside each other. What an editable install
    adds is a `.pth` file with folders, or an import hook.
    """
    folders = [str(folder) for folder in _site_folders()]
    for folder in _site_folders():
        for pth in sorted(folder.glob("*.pth")):
            lines = [line.strip() for line in pth.read_text(encoding="utf-8", errors="replace").splitlines()]
            folders += [str(folder / line) for line in lines if line and not line.startswith(("#", "import"))]
    top, *inner = name.split(".")
    finders = [finder for finder in sys.meta_path if str(getattr(finder, "__module__", "")).startswith("__editable__")]
    specs = [PathFinder.find_spec(top, folders), *(finder.find_spec(top, None) for finder in finders)]
    for spec in specs:
        if spec is None:
            continue
        for place in spec.submodule_search_locations or [spec.origin or ""]:
            stem = Path(place).resolve().joinpath(*inner)
            if path in (stem, stem.with_name(stem.name + ".py"), stem / "__init__.py"):
                return True
    return False


def source_digest(agent: Any, reference: Reference) -> bytes:
    """Digests the files of the agent and of its tools (a graph: its nodes), since an editable install changes without a
    new version."""
    tools: Mapping[str, Any] = getattr(agent, "tool_defs", {})
    names = {str(getattr(getattr(definition, "func", None), "__module__", "")) for definition in tools.values()}
    if (modules := getattr(agent, "modules", None)) is not None:
        names |= modules()
    digest = blake2b(digest_size=32)
    for name in sorted({*names, reference.module.__name__} & set(sys.modules)):
        file = sys.modules[name].__dict__.get("__file__")
        digest.update(frame(name, Path(file).read_bytes() if file and Path(file).is_file() else b""))
    return digest.digest()


def frame(*parts: str | bytes | None) -> bytes:
    """Join parts so that no two lists of parts give the same bytes."""
    framed = bytearray()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        framed += b"-" if data is None else b"+%d:" % len(data) + data
    return bytes(framed)
