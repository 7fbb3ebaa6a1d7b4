"""An agent's code on its way to the cluster: packed where it is written, signed by the server, loaded by its actors.

A deployment is *by reference* when the agent is an attribute of an installed module: only the name is kept. Otherwise
it is *by value*: pickled together with the local code it refers to (`localcode`). Both are signed with the server's
key, and nothing is imported or unpickled before the signature was checked: a pickle is a program.

A framework's app comes in a wrapper, its `Deployable`. What a module holds is the app, so that is what is looked for
(`origin`); its author knows its `parts()` by name; and what runs it is the wrapper's `kind`.

See docs/decisions/0002-code-by-reference-or-value.md.
"""

from __future__ import annotations

import dataclasses
import hmac
import importlib
import json
import logging
import os
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from hashlib import blake2b
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from ray import cloudpickle

from agentspan.actors.references import Reference, find_reference, frame, source_digest
from agentspan.actors.refusing import packed, refuse_secrets
from agentspan.errors import (
    CodeMismatchError,
    CodeMissingError,
    ConfigurationError,
    UnshippableCodeError,
    UntrustedCodeError,
)
from agentspan.persistence.store import DeploymentRow

log = logging.getLogger("agentspan.shipping")

KEY_BYTES = 32


class Deployable(Protocol):
    """What can be deployed: an `Agent`, or the wrapper of a framework adapter."""

    @property
    def name(self) -> str:
        """What executions are listed under."""
        ...

    def spec(self) -> Any:
        """The agent as plain data: a dataclass or a mapping."""
        ...


# --- packing -------------------------------------------------------------------------------------------------------


def pack(agent: Deployable, *, kind: str | None = None, clock: Callable[[], float] = time.time) -> DeploymentRow:
    """Make a deployment of an agent, still unsigned.

    The ID is a hash of the content: the same agent packed again, in another run of the same program, has the same ID.

    Args:
        kind: `agent`, or the name of the framework adapter that runs it. Default: what the wrapper says.
        clock: Tells `created_at`, UTC seconds.

    Raises:
        UnshippableCodeError: Something it refers to cannot leave this process, or must not; names it and the way to it.
    """
    kind = kind or str(getattr(agent, "kind", "agent"))
    spec = _plain_spec(agent)
    python = python_version()
    reference = _reference_of(agent)
    code: bytes | None = None
    parts: tuple[str | bytes, ...]
    if reference is not None:
        parts = (reference.text, reference.distribution, reference.version, source_digest(agent, reference))
    else:
        by_value = packed(agent)
        code = by_value.code
        parts = (python, by_value.fingerprint)
    refuse_secrets(agent, code or b"", spec)
    source = "value" if reference is None else "reference"
    return DeploymentRow(
        deployment_id=blake2b(
            frame(b"agentspan deployment 1", kind, agent.name, source, _canonical(spec), *parts), digest_size=16
        ).hexdigest(),
        agent=agent.name,
        kind=kind,
        source=source,
        reference=None if reference is None else reference.text,
        code=code,
        signature="",
        spec=spec,
        python=python,
        created_at=clock(),
    )


def arranged(row: DeploymentRow, terms: Mapping[str, Any]) -> DeploymentRow:
    """The deployment with terms of its own, such as `placement`, beside what its agent says; another version by that."""
    if set(terms) == {"placement"}:  # Versions keep the IDs they had when there was nothing else to say.
        framed = frame(b"agentspan placement 1", row.deployment_id, str(terms["placement"]))
    else:
        framed = frame(b"agentspan terms 1", row.deployment_id, _canonical(dict(terms)))
    digest = blake2b(framed, digest_size=16).hexdigest()
    return dataclasses.replace(row, deployment_id=digest, spec={**row.spec, **terms})


def python_version() -> str:
    """The Python that code by value is tied to: `3.11`. Bytecode changes with every minor version."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _reference_of(agent: Deployable) -> Reference | None:
    origin = getattr(agent, "origin", None)
    if origin is None:
        return find_reference(getattr(agent, "app", agent))
    reference = find_reference(origin)
    if reference is None and getattr(agent, "is_made_by_factory", False):
        raise UnshippableCodeError(
            agent=agent.name,
            culprit=f"the function that makes it, {origin.__module__}:{origin.__qualname__}, is not in an installed module",
            problem="It would not be found on the cluster",
            remedy="Install its module (an editable install will do), or pass the graph that it makes.",
        )
    types = getattr(agent, "types", ())
    return reference if all(find_reference(cls) is not None for cls in types) else None


def _plain_spec(agent: Deployable) -> dict[str, Any]:
    spec = agent.spec()
    data = dataclasses.asdict(spec) if dataclasses.is_dataclass(spec) and not isinstance(spec, type) else dict(spec)
    try:
        plain: dict[str, Any] = json.loads(json.dumps(data, allow_nan=False))
    except (TypeError, ValueError) as problem:
        raise UnshippableCodeError(
            agent=agent.name,
            culprit="its description (metadata, schemas) is not JSON data",
            problem=str(problem),
            remedy="Give plain JSON data.",
        ) from None
    return plain


# --- trust ---------------------------------------------------------------------------------------------------------


def sign(row: DeploymentRow, key: bytes) -> DeploymentRow:
    """The same deployment with the signature of this server's key."""
    return dataclasses.replace(row, signature=_signature(row, key))


def verify(row: DeploymentRow, key: bytes) -> None:
    """Check a deployment's signature.

    Raises:
        UntrustedCodeError: It is not signed with this key, or was altered since.
    """
    if not hmac.compare_digest(_signature(row, key).encode(), row.signature.encode("utf-8", "replace")):
        raise UntrustedCodeError(deployment_id=row.deployment_id, agent=row.agent)


def _signature(row: DeploymentRow, key: bytes) -> str:
    assert len(key) >= KEY_BYTES // 2, "an empty or short key signs for everybody"
    signed = frame(
        b"agentspan signature 1",
        row.deployment_id,
        row.agent,
        row.kind,
        row.source,
        row.reference,
        row.python,
        _canonical(row.spec),
        row.code,
    )
    return hmac.digest(key, signed, "sha256").hex()


def _canonical(spec: dict[str, Any]) -> bytes:
    return json.dumps(spec, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def load_key(path: Path) -> bytes:
    """The server's key; made, readable by its owner alone, when there is none.

    Two processes may call it at once and get the same key. A file that everybody may read is closed to others, with a
    warning, where that is possible (a secret that an orchestrator mounts read-only stays as it is).

    Raises:
        ConfigurationError: The file is not a key.
    """
    if not path.exists():
        _make_key(path)
    mode = path.stat().st_mode
    if mode & 0o007:
        log.warning("key.readable_by_all", extra={"path": str(path), "mode": oct(mode & 0o777)})
        try:
            path.chmod(0o600)
        except OSError:
            log.warning("key.mode_kept", extra={"path": str(path)})
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise ConfigurationError(
            problem=f"{path} is not a key: it has {len(key)} bytes instead of {KEY_BYTES}. Restore it from a backup, "
            "or delete it to have a new one made; agents must then be deployed again."
        )
    return key


def _make_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)  # Unlike a rename it fails when another process was first, whose key then counts.
    except FileExistsError:
        pass
    finally:
        draft.unlink()


# --- loading -------------------------------------------------------------------------------------------------------


def unpack(row: DeploymentRow, key: bytes) -> Any:
    """The agent of a deployment. A few milliseconds by value; by reference, what its imports take.

    Raises:
        UntrustedCodeError: The signature is not this key's. Nothing was loaded.
        CodeMismatchError: Code by value was made by another Python minor version.
        CodeMissingError: A module it refers to, or a name in one, is not installed here.
    """
    verify(row, key)
    return load(row)


def load(row: DeploymentRow) -> Any:
    """`unpack` without the signature: only for code that a trusted server has just verified and sent."""
    if row.source == "reference":
        return _load_reference(row)
    if row.source == "client":
        raise _missing(row, "its code", "it runs in the process that started it, and stays there")
    found = python_version()
    if row.python != found:
        raise CodeMismatchError(deployment_id=row.deployment_id, agent=row.agent, made_by=row.python, found=found)
    _check_framework(row)
    assert row.code is not None, "a signed deployment by value has code"
    try:
        agent = cloudpickle.loads(row.code)
    except (ImportError, AttributeError) as problem:
        raise _missing(row, getattr(problem, "name", None) or "a module", problem) from problem
    described_by = getattr(agent, "described_by", None)
    return agent if described_by is None else described_by(row.spec)


def _check_framework(row: DeploymentRow) -> None:
    """Refuse a graph by value that another version of its framework made.

    It holds that version's own objects. Even patch releases add attributes to them (LangGraph 1.2.0 to 1.2.24 did), which
    the copies lack, so that they load and then fail in the middle of a run.
    """
    made_by = row.spec.get(row.kind)
    if isinstance(made_by, str) and made_by != (found := metadata.version(row.kind)):
        raise CodeMismatchError(
            deployment_id=row.deployment_id,
            agent=row.agent,
            made_by=f"{row.python} with {row.kind} {made_by}",
            found=f"{python_version()} with {row.kind} {found}",
        )


def _load_reference(row: DeploymentRow) -> Any:
    assert row.reference is not None, "a signed deployment by reference has one"
    module, _, attribute = row.reference.partition(":")
    try:
        agent = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as problem:
        raise _missing(row, row.reference, problem) from problem
    if row.kind == "langgraph":
        from agentspan.frameworks.langgraph.app.graph import Graph

        try:
            return Graph.reload(agent, row.agent, row.spec)
        except LookupError as problem:
            raise _missing(row, row.reference, problem) from problem
    name = getattr(agent, "name", None)
    if name != row.agent:
        raise _missing(row, row.reference, f"it is now called {name!r}")
    return agent


def _missing(row: DeploymentRow, what: str, problem: object) -> CodeMissingError:
    return CodeMissingError(deployment_id=row.deployment_id, agent=row.agent, what=what, problem=str(problem))
