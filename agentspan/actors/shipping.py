"""An agent's code on its way to the cluster: packed where it is written, signed by the server, loaded by its actors.

A deployment is *by reference* when the agent is an attribute of an installed module: only the name is kept. Otherwise
it is *by value*: pickled together with the local code it refers to (`localcode`). Both are signed with the server's
key, and nothing is imported or unpickled before the signature was checked: a pickle is a program.

See docs/decisions/0002-code-by-reference-or-value.md.
"""

from __future__ import annotations

import dataclasses
import hmac
import importlib
import json
import logging
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

from ray import cloudpickle

from agentspan.actors.blame import Blame, Test, blame, pickle_problem
from agentspan.actors.localcode import Packed, Unshippable, pickle_by_value
from agentspan.actors.references import find_reference, frame, source_digest
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
CODE_BYTES_MAX = 32 * 1024 * 1024
"""The most code by value. It is read whenever an actor meets the deployment for the first time."""
SECRET_CHARS_MIN = 12
"""Shorter values of secret variables are not looked for: they occur in code by chance."""

_SECRET_NAME = re.compile(r"(^|_)((API|ACCESS|SECRET|PRIVATE)_KEY|TOKEN|SECRET|PASSWORD)$", re.IGNORECASE)


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


def pack(agent: Deployable, *, kind: str = "agent", clock: Callable[[], float] = time.time) -> DeploymentRow:
    """Make a deployment of an agent, still unsigned.

    The ID is a hash of the content: the same agent packed again, in another run of the same program, has the same ID.

    Args:
        kind: `agent`, or the name of the framework adapter that runs it.
        clock: Tells `created_at`, UTC seconds.

    Raises:
        UnshippableCodeError: Something it refers to cannot leave this process, or must not; names it and the way to it.
    """
    spec = _plain_spec(agent)
    python = python_version()
    reference = find_reference(agent)
    code: bytes | None = None
    parts: tuple[str | bytes, ...]
    if reference is not None:
        parts = (reference.text, reference.distribution, reference.version, source_digest(agent, reference))
    else:
        packed = _pickle(agent)
        code = packed.code
        parts = (python, packed.fingerprint)
    _refuse_secrets(agent, code or b"", spec)
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


def python_version() -> str:
    """The Python that code by value is tied to: `3.11`. Bytecode changes with every minor version."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


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


def _pickle(agent: Deployable) -> Packed:
    try:
        packed = pickle_by_value(agent)
    except Exception as problem:  # Pickling runs the objects' own code, which may raise anything.
        raise _refusal(agent, pickle_problem, str(problem)) from problem
    if len(packed.code) > CODE_BYTES_MAX:
        raise _refusal(agent, _too_large, str(_oversize(len(packed.code))))
    return packed


def _refusal(agent: Deployable, test: Test, otherwise: str) -> UnshippableCodeError:
    found = blame(_parts(agent), test) or Blame("it cannot be shipped as a whole", otherwise, None)
    remedy = {} if found.remedy is None else {"remedy": found.remedy}
    return UnshippableCodeError(agent=agent.name, culprit=found.culprit, problem=found.problem, **remedy)


def _parts(agent: Deployable) -> Iterator[tuple[str, Any]]:
    """What an agent is made of, by the names its author knows."""
    facts = dict(getattr(agent, "__dict__", {}))
    tools: Mapping[str, Any] = facts.pop("tool_defs", {})
    facts.pop("tools", None)
    for name, definition in tools.items():
        yield f"tool {name!r}", getattr(definition, "func", None)
        yield f"tool {name!r}", definition
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from ((f'{name}["{key}"]', item) for key, item in value.items())
        elif isinstance(value, tuple):
            yield from ((f"{name}[{index}]", item) for index, item in enumerate(value))
        else:
            yield name.lstrip("_"), value


# --- what must not travel ------------------------------------------------------------------------------------------


def _refuse_secrets(agent: Deployable, code: bytes, spec: dict[str, Any]) -> None:
    """Refuse code or a spec that contains the value of an environment variable with a secret's name.

    Only literal copies are found; it is a guard against mistakes, not against intent.
    """
    text = json.dumps(spec, ensure_ascii=False)
    for variable, value in os.environ.items():
        if len(value) < SECRET_CHARS_MIN or not _SECRET_NAME.search(variable):
            continue
        literal = value.encode("utf-8", "surrogateescape")
        if literal not in code and value not in text:
            continue
        problem = f"It holds the value of the environment variable {variable}, and keys do not travel with code"
        remedy = f"Read os.environ[{variable!r}] inside the tool, and set it where the server runs."

        found = blame(_parts(agent), _Holds(literal, problem))
        culprit = found.culprit if found else "its description (metadata, base_url, schemas) cannot be stored"
        raise UnshippableCodeError(agent=agent.name, culprit=culprit, problem=problem, remedy=remedy)


class _Holds:
    """A test for `blame`: whether a part holds these bytes."""

    def __init__(self, literal: bytes, problem: str) -> None:
        self._literal = literal
        self._problem = problem

    def __call__(self, part: Any) -> Unshippable | None:
        return Unshippable(self._problem) if self._literal in _code_of(part) else None


def _too_large(part: Any) -> Unshippable | None:
    size = len(_code_of(part))
    return _oversize(size) if size > CODE_BYTES_MAX else None


def _oversize(size: int) -> Unshippable:
    mib = 1024 * 1024
    return Unshippable(
        f"It takes {size / mib:.0f} MiB, and the code of an agent at most {CODE_BYTES_MAX // mib} MiB",
        "Load it inside the tool, from a file or a service.",
    )


def _code_of(part: Any) -> bytes:
    try:
        return pickle_by_value(part).code
    except Exception:  # By itself it may not pickle, as parts of a whole that does; then it is not the one.
        return b""


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
    found = python_version()
    if row.python != found:
        raise CodeMismatchError(deployment_id=row.deployment_id, agent=row.agent, made_by=row.python, found=found)
    assert row.code is not None, "a signed deployment by value has code"
    try:
        return cloudpickle.loads(row.code)
    except (ImportError, AttributeError) as problem:
        raise _missing(row, getattr(problem, "name", None) or "a module", problem) from problem


def _load_reference(row: DeploymentRow) -> Any:
    assert row.reference is not None, "a signed deployment by reference has one"
    module, _, attribute = row.reference.partition(":")
    try:
        agent = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as problem:
        raise _missing(row, row.reference, problem) from problem
    name = getattr(agent, "name", None)
    if name != row.agent:
        raise _missing(row, row.reference, f"it is now called {name!r}")
    return agent


def _missing(row: DeploymentRow, what: str, problem: object) -> CodeMissingError:
    return CodeMissingError(deployment_id=row.deployment_id, agent=row.agent, what=what, problem=str(problem))
