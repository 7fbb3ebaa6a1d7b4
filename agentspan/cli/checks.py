"""What `doctor` looks at on this machine. Each check reads, changes nothing that lasts, and says what to do."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from agentspan.config import Settings

State = Literal["ok", "warn", "fail"]

DISK_LOW_BYTES = 2_000_000_000
DISK_FULL_BYTES = 200_000_000
SOCKETS = 20
"""About what one node of Ray binds."""
RAY_SOCKET_PATH = "/ray/session_2025-01-01_00-00-00_000000_0000000/sockets/plasma_store"
SOCKET_PATH_MAX = 107
FILES_MIN = 4096
CLOCK_LOOK_S = 0.1
CLOCK_DRIFT_MAX_S = 0.02
FILE_CLOCK_SKEW_MAX_S = 2.0
WRITTEN_IN = 1_700_000_000.0
"""An instant in 2023: a clock before it was never set."""
NETWORK_FILE_SYSTEMS = ("nfs", "cifs", "smb", "fuse.sshfs", "9p", "afs", "ceph", "gluster", "lustre")
COMPILED_SHARE_MIN = 0.5
_RAY_SAMPLE = (
    "__init__.py",
    "_private/worker.py",
    "actor.py",
    "remote_function.py",
    "util/__init__.py",
    "exceptions.py",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding."""

    name: str
    state: State
    detail: str
    advice: str = ""
    """What to do; empty when there is nothing to do."""


def python() -> Check:
    """This interpreter."""
    found = ".".join(map(str, sys.version_info[:3]))
    fits = (3, 11) <= sys.version_info[:2] < (3, 15)
    return Check(
        name="Python",
        state="ok" if fits else "fail",
        detail=f"{found} ({sys.executable})",
        advice="" if fits else "AgentSpan needs Python 3.11 to 3.14.",
    )


def ray_version() -> Check:
    """The installed Ray."""
    try:
        found = metadata.version("ray")
    except metadata.PackageNotFoundError:
        return Check(name="Ray", state="fail", detail="not installed", advice="Install it: pip install 'ray>=2.50,<3'")
    parts = tuple(int(part) for part in found.split(".")[:2])
    fits = (2, 50) <= parts < (3, 0)
    return Check(
        name="Ray", state="ok" if fits else "fail", detail=found, advice="" if fits else "AgentSpan needs ray>=2.50,<3."
    )


def ray_bytecode() -> Check:
    """Whether Ray is compiled. If not, every actor compiles it again when it starts."""
    spec = importlib.util.find_spec("ray")
    if spec is None or spec.origin is None:
        return Check(name="Ray bytecode", state="fail", detail="Ray is not installed")
    folder = Path(spec.origin).parent
    sources = [folder / part for part in _RAY_SAMPLE if (folder / part).exists()]
    compiled = [source for source in sources if Path(importlib.util.cache_from_source(str(source))).exists()]
    if len(compiled) >= COMPILED_SHARE_MIN * len(sources):
        return Check(name="Ray bytecode", state="ok", detail="compiled")
    return Check(
        name="Ray bytecode",
        state="warn",
        detail="not compiled: starting an actor takes 1 s instead of 0.4 s",
        advice=f"Run once: {sys.executable} -m compileall -q -j 0 {folder.parent}",
    )


def ray_auth(settings: Settings) -> Check:
    """How Ray's processes know each other."""
    name = "Ray authentication"
    mode = os.environ.get("RAY_AUTH_MODE", "")
    if mode and mode != "token":
        return Check(
            name=name,
            state="warn",
            detail=f"RAY_AUTH_MODE={mode}: whoever reaches Ray's ports can run code here",
            advice="Unset RAY_AUTH_MODE, or set it to token.",
        )
    token = os.environ.get("RAY_AUTH_TOKEN_PATH", "")
    path = Path(token) if token else settings.home.expanduser() / "ray.token"
    if not path.exists():
        if os.environ.get("RAY_AUTH_TOKEN") or (mode and not token):
            return Check(name=name, state="ok", detail="token, from this shell's environment")
        state: State = "fail" if token else "ok"
        advice = f"{path} is not there; unset RAY_AUTH_TOKEN_PATH or put the cluster's token there." if token else ""
        return Check(name=name, state=state, detail="token, made when a server first starts", advice=advice)
    if path.stat().st_mode & 0o077:
        return Check(
            name=name, state="warn", detail=f"token in {path}, which others can read", advice=f"Run: chmod 600 {path}"
        )
    return Check(name=name, state="ok", detail=f"token in {path}")


def ray_client() -> Check:
    """What `ray://` needs."""
    if importlib.util.find_spec("grpc") is not None:
        return Check(name="Ray Client", state="ok", detail="grpcio is installed")
    return Check(
        name="Ray Client",
        state="ok",
        detail="grpcio is not installed; only connecting over ray:// needs it (pip install 'agentspan[client]')",
    )


def ports() -> Check:
    """Whether Ray can listen."""
    opened: list[socket.socket] = []
    try:
        for _ in range(SOCKETS):
            one = socket.socket()
            opened.append(one)
            one.bind(("127.0.0.1", 0))
            one.listen(1)
        with socket.create_connection(opened[0].getsockname(), timeout=1):
            pass
    except OSError as problem:
        return Check(
            name="Ports",
            state="fail",
            detail=f"cannot listen and connect on 127.0.0.1: {problem}",
            advice="Look for a firewall, a sandbox, or a used-up port range (sysctl net.ipv4.ip_local_port_range).",
        )
    finally:
        for one in opened:
            one.close()
    return Check(name="Ports", state="ok", detail="free ports on 127.0.0.1, and they connect")


def limits() -> Check:
    """How many files a process may open. Each actor takes dozens in Ray's processes."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= FILES_MIN:
        return Check(name="Open files", state="ok", detail=f"limit {soft}")
    return Check(
        name="Open files",
        state="warn",
        detail=f"limit {soft}; a few dozen actors use it up",
        advice=f"Before starting the server: ulimit -n {min(65536, hard) if hard > 0 else 65536}",
    )


def temp_folder() -> Check:
    """Where Ray keeps its sockets: their paths have a hard limit."""
    folder = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    length = len(folder.rstrip("/") + RAY_SOCKET_PATH)
    if length <= SOCKET_PATH_MAX:
        return Check(name="Temporary folder", state="ok", detail=folder)
    return Check(
        name="Temporary folder",
        state="fail",
        detail=f"{folder} is too long: Ray's socket paths would have {length} characters, of {SOCKET_PATH_MAX} at most",
        advice="Set RAY_TMPDIR=/tmp for the server.",
    )


def home(settings: Settings) -> Iterator[Check]:
    """AGENTSPAN_HOME: there, ours, and nobody else's."""
    path = settings.home.expanduser().absolute()
    if not path.exists():
        place = next(parent for parent in path.parents if parent.exists())
        can = os.access(place, os.W_OK | os.X_OK)
        yield Check(
            name="Home",
            state="ok" if can else "fail",
            detail=f"{path}, made when something is first stored"
            if can
            else f"{path} is not there and {place} is not writable",
            advice="" if can else "Set AGENTSPAN_HOME to a folder you can write to.",
        )
        return
    if not path.is_dir() or not os.access(path, os.W_OK | os.X_OK):
        problem = "is not a folder" if not path.is_dir() else "is not writable"
        advice = "Set AGENTSPAN_HOME to a folder you can write to."
        yield Check(name="Home", state="fail", detail=f"{path} {problem}", advice=advice)
        return
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        yield Check(
            name="Home",
            state="warn",
            detail=f"{path} is open to others (mode {mode:o}); prompts, results and keys are in it",
            advice=f"Run: chmod 700 {path}",
        )
    else:
        yield Check(name="Home", state="ok", detail=f"{path} (mode {mode:o})")
    key = settings.key_path
    if key.exists() and key.stat().st_mode & 0o077:
        yield Check(
            name="Key",
            state="warn",
            detail=f"{key}, which signs agents' code, is open to others",
            advice=f"Run: chmod 600 {key}",
        )


def disk(settings: Settings) -> Iterator[Check]:
    """Room for the store, and for Ray's files."""
    path = settings.home.expanduser().absolute()
    place = next(one for one in (path, *path.parents) if one.exists())
    for name, where in (("Disk (home)", place), ("Disk (temporary)", Path(tempfile.gettempdir()))):
        free = shutil.disk_usage(where).free
        state: State = "fail" if free < DISK_FULL_BYTES else "warn" if free < DISK_LOW_BYTES else "ok"
        advice = (
            ""
            if state == "ok"
            else "Make room; `agent-span gc` removes old executions. A full disk stops every commit."
        )
        yield Check(name=name, state=state, detail=f"{free / 1e9:.1f} GB free at {where}", advice=advice)


def file_system(settings: Settings) -> Check | None:
    """SQLite's log does not work on network file systems."""
    path = settings.home.expanduser().absolute()
    kind = _file_system_of(path)
    if kind is None or not settings.store_url.startswith("sqlite:") or not kind.startswith(NETWORK_FILE_SYSTEMS):
        return None
    return Check(
        name="File system",
        state="fail",
        detail=f"{path} is on {kind}, where SQLite's write-ahead log is not safe",
        advice="Set AGENTSPAN_HOME to a folder on a local disk.",
    )


def _file_system_of(path: Path) -> str | None:
    try:
        mounts = Path("/proc/mounts").read_text(errors="replace").splitlines()
    except OSError:
        return None  # Not Linux.
    best, kind = "", None
    for mount in mounts:
        _, where, found, *_ = mount.split(" ")
        where = where.replace("\\040", " ")
        if len(where) >= len(best) and path.is_relative_to(where):
            best, kind = where, found
    return kind


def clock(settings: Settings) -> Iterator[Check]:
    """Deadlines, listings and retention need a wall clock that goes, and goes evenly."""
    wall, steady = time.time(), time.monotonic()
    time.sleep(CLOCK_LOOK_S)
    drift = abs((time.time() - wall) - (time.monotonic() - steady))
    if wall < WRITTEN_IN:
        yield Check(name="Clock", state="fail", detail=f"it says {time.ctime(wall)}", advice="Set the clock (NTP).")
    elif drift > CLOCK_DRIFT_MAX_S:
        yield Check(
            name="Clock",
            state="warn",
            detail=f"the wall clock moved {drift * 1000:.0f} ms against the monotonic clock in {CLOCK_LOOK_S:g} s",
            advice="It is being set, or the machine was suspended. Timers may fire early or late.",
        )
    else:
        yield Check(name="Clock", state="ok", detail=time.strftime("%Y-%m-%d %H:%M:%S %z"))
    path = settings.home.expanduser()
    if path.is_dir() and os.access(path, os.W_OK):
        with tempfile.NamedTemporaryFile(dir=path, prefix=".doctor-") as file:
            skew = os.stat(file.name).st_mtime - time.time()
        if abs(skew) > FILE_CLOCK_SKEW_MAX_S:
            yield Check(
                name="File clock",
                state="warn",
                detail=f"files in {path} are stamped {skew:+.1f} s off this machine's clock",
                advice="The disk belongs to another machine; keep the home on a local disk.",
            )
