"""The server's process, from outside: start it apart from this terminal, wait for it, end it, read its log.

Whether a server is up is decided by the home's lease alone; a PID is only used while its lease is held.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

from agentspan.actors.lease import Descriptor, Lease
from agentspan.errors import ServerError, ServerUnavailableError

if TYPE_CHECKING:
    from agentspan.config import Settings

MODULE = "agentspan.actors.server"
START_MAX_S = 60.0
STOP_MAX_S = 30.0
KILL_MAX_S = 10.0
LOOK_EVERY_S = 0.05
LOG_BYTES_MAX = 10_000_000
"""A log longer than this is set aside (`server.log.1`) when the next server starts."""
FOLLOW_EVERY_S = 0.2
BLOCK_BYTES = 8192
ANOTHER_IS_UP = 3
"""The server's own exit code for it."""
STARTS_MAX = 3

T = TypeVar("T")
_started: list[subprocess.Popen[bytes]] = []
"""Kept, so that Python does not warn of children that outlive their objects: that is what they are for."""


def log_path(settings: Settings) -> Path:
    """Where the server of this home writes what it has to say."""
    return settings.home.expanduser().absolute() / "server.log"


def command(ray_client_port: int | None, num_cpus: int | None) -> list[str]:
    """The server's command line. `-P`: what lies in the current folder must not shadow a module."""
    line = [sys.executable, "-P", "-m", MODULE]
    if ray_client_port is not None:
        line += ["--ray-client-port", str(ray_client_port)]
    if num_cpus is not None:
        line += ["--num-cpus", str(num_cpus)]
    return line


def environment(settings: Settings) -> dict[str, str]:
    """The server's environment: ours, with the paths made absolute."""
    home = str(settings.home.expanduser().absolute())
    return {**os.environ, "AGENTSPAN_HOME": home, "AGENTSPAN_STORE": settings.store_url, "PYTHONUNBUFFERED": "1"}


def become(settings: Settings, line: list[str]) -> NoReturn:
    """Turn this process into the server, so that whoever supervises it (systemd, a container) holds the server."""
    settings.home.expanduser().mkdir(parents=True, exist_ok=True, mode=0o700)
    os.execve(line[0], line, environment(settings))


def spawn(settings: Settings, line: list[str]) -> subprocess.Popen[bytes]:
    """Start the server in a session of its own: no terminal, no Ctrl-C of ours, and this process may end."""
    home = settings.home.expanduser().absolute()
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = log_path(settings)
    if size(path) > LOG_BYTES_MAX:
        path.replace(path.with_name("server.log.1"))
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        process = subprocess.Popen(
            line,
            env=environment(settings),
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    finally:
        os.close(log)
    _started.append(process)
    return process


def start(settings: Settings, line: list[str], *, wait: bool) -> Descriptor | None:
    """Start a server and wait until it says where it is. Returns None when not waiting.

    Raises:
        ServerUnavailableError: It ended, or did not come up in time; carries the last lines of its log.
    """
    lease = Lease(settings.home.expanduser())
    path = log_path(settings)
    for _ in range(STARTS_MAX):
        said = size(path)
        published = _stamp(settings.descriptor_path)
        process = spawn(settings, line)
        if not wait:
            return None
        descriptor = _first_descriptor(settings, lease, process, published)
        if descriptor is not None:
            return descriptor
        if process.poll() == ANOTHER_IS_UP:
            descriptor = until(lambda: lease.read(), START_MAX_S) if lease.is_held() else None
            if descriptor is not None:
                return descriptor
            continue
        raise ServerUnavailableError(where=str(settings.home), problem=_failure(process, path, said))
    raise ServerUnavailableError(where=str(settings.home), problem="another server keeps starting and ending.")


def _first_descriptor(
    settings: Settings, lease: Lease, process: subprocess.Popen[bytes], published: tuple[int, int] | None
) -> Descriptor | None:
    """The descriptor that a server which has just been started publishes; None when it ends, or takes too long.

    The descriptor's file is waited for, not the lease: asking for the lease takes it for a moment, and the server would
    find it taken.
    """
    path = settings.descriptor_path

    def is_decided() -> bool:
        return _stamp(path) not in (None, published) or process.poll() is not None

    return lease.read() if until(is_decided, START_MAX_S) else None


def _failure(process: subprocess.Popen[bytes], path: Path, said: int) -> str:
    code = process.poll()
    if code is None:
        what = f"it did not come up within {START_MAX_S:g} s; process {process.pid} goes on trying."
    else:
        what = f"it ended with exit code {code} while it started."
    lines = [line for line in tail(path, 15, since=said) if line.strip()]
    said_last = "\n  ".join(lines)
    return f"{what} The end of {path}:\n  {said_last}" if lines else f"{what} It wrote nothing to {path}."


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def stop(settings: Settings) -> tuple[Descriptor, bool] | None:
    """End the server: politely, after a deadline by force. Returns what was stopped and whether it took force.

    Only the process in the descriptor is signalled, and only while it holds the lease. None: no server is up.

    Raises:
        ServerError: It is embedded in a program, belongs to somebody else, or does not end.
    """
    lease = Lease(settings.home.expanduser())
    if not lease.is_held():
        return None
    descriptor = until(lambda: lease.read() or not lease.is_held(), START_MAX_S)
    if descriptor is True:
        return None
    if not isinstance(descriptor, Descriptor):
        raise ServerError(
            message=f"A server of {settings.home} is starting and does not come up; see {log_path(settings)}."
        )
    if descriptor.embedded:
        raise ServerError(
            message=f"The server of {settings.home} is embedded in process {descriptor.pid} "
            f"({program(descriptor.pid)}). It ends with that program; nothing was stopped."
        )
    for number, deadline_s in ((signal.SIGTERM, STOP_MAX_S), (signal.SIGKILL, KILL_MAX_S)):
        _signal(descriptor.pid, number)
        if until(lambda: not _holds(lease, descriptor), deadline_s):
            return descriptor, number is signal.SIGKILL
    raise ServerError(message=f"Process {descriptor.pid} got SIGKILL and still holds the lease of {settings.home}.")


def _holds(lease: Lease, descriptor: Descriptor) -> bool:
    """Whether that server is up. Another one may have taken over by now, which is as good as an end."""
    if not lease.is_held():
        return False
    now = lease.read()
    return now is None or now.pid == descriptor.pid


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # It ended by itself; the lease says the rest.
    except PermissionError:
        raise ServerError(message=f"The server (process {pid}) belongs to another user; it was not stopped.") from None


def program(pid: int) -> str:
    """The command line of a process, for people."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return b" ".join(words).decode(errors="replace").strip()[:200] or "unknown"
    except OSError:
        pass  # Not Linux.
    try:
        shown = subprocess.run(
            ["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return shown.stdout.strip()[:200] or "unknown"


def until(check: Callable[[], T], deadline_s: float) -> T | None:
    """The first true answer, or None when the deadline passes."""
    deadline = time.monotonic() + deadline_s
    while True:
        answer = check()
        if answer:
            return answer
        if time.monotonic() >= deadline:
            return None
        time.sleep(LOOK_EVERY_S)


def size(path: Path) -> int:
    """Bytes of a file; 0 when there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def tail(path: Path, count: int, *, since: int = 0, end: int | None = None) -> list[str]:
    """The last lines of a file, or of the part of it between two positions."""
    start = end = size(path) if end is None else end
    if count <= 0 or end <= since:
        return []
    block = b""
    with path.open("rb") as file:
        while start > since and block.count(b"\n") <= count:
            start = max(since, start - BLOCK_BYTES)
            file.seek(start)
            block = file.read(end - start)
    return block.decode(errors="replace").splitlines()[-count:]


def following(path: Path, position: int) -> Iterator[str]:
    """Lines from a position on as they are written, for ever; goes on with the new file when the log is set aside."""
    inode: int | None = None
    rest = b""
    while True:
        try:
            found = path.stat()
        except FileNotFoundError:
            time.sleep(FOLLOW_EVERY_S)
            continue
        if found.st_size < position or inode not in (None, found.st_ino):
            position, rest = 0, b""
        inode = found.st_ino
        if found.st_size == position:
            time.sleep(FOLLOW_EVERY_S)
            continue
        with path.open("rb") as file:
            file.seek(position)
            rest += file.read()
            position = file.tell()
        *lines, rest = rest.split(b"\n")
        yield from (line.decode(errors="replace") for line in lines)
