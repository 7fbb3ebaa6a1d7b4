"""Who serves a home: one lock, one descriptor.

The server (or the embedded cluster of a script) holds an exclusive lock on `<home>/server.lock` for as long as its process
lives; the kernel lets go of it however the process ends. So "is a server up?" has one answer, and a stale descriptor or pid
file is nothing to clean up: a descriptor counts only while the lock is held.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from weakref import WeakSet

from agentspan.errors import ServerError

TRIES = 10
TRY_PAUSE_S = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """Where the server of a home is; written once it answers."""

    address: str
    """Ray address (`host:port`)."""
    pid: int
    store_url: str
    version: str
    started_at: float
    embedded: bool = False
    """It lives inside a user's program and ends with it."""
    ray_client: str | None = None
    """`ray://host:port`, when the Ray Client port is open."""


_held: WeakSet[Lease] = WeakSet()


def _forget_in_child() -> None:
    """A forked child is not the server, and must not keep the lock when the parent is gone."""
    for lease in list(_held):
        lease.forget()


os.register_at_fork(after_in_child=_forget_in_child)


class Lease:
    """The right to serve a home. `take` and `release` are idempotent."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._lock_path = home / "server.lock"
        self._path = home / "server.json"
        self._file: int | None = None

    def take(self) -> bool:
        """Become the server of this home. False when another process is."""
        if self._file is not None:
            return True
        self._home.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Not inherited: a child that outlived this process would keep the lock.
        file = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        for _ in range(TRIES):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(TRY_PAUSE_S)  # Somebody may only be asking (`is_held`), which takes a moment.
        else:
            os.close(file)
            return False
        self._path.unlink(missing_ok=True)
        self._file = file
        _held.add(self)
        return True

    def publish(self, descriptor: Descriptor) -> None:
        """Tell others where the server is. Only the holder may."""
        if self._file is None:
            raise ServerError(message="Only the process that holds the lease may publish a descriptor.")
        draft = self._path.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(asdict(descriptor), indent=1))
        draft.chmod(0o600)
        draft.replace(self._path)

    def withdraw(self) -> None:
        """Tell others that the server does not answer for now."""
        if self._file is not None:
            self._path.unlink(missing_ok=True)

    def release(self) -> None:
        """Stop being the server."""
        file, self._file = self._file, None
        if file is not None:
            self._path.unlink(missing_ok=True)
            os.close(file)

    def forget(self) -> None:
        """Close this process's copy of the lock; the descriptor stays for the process that holds the other."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def is_held(self) -> bool:
        """Whether a process serves this home now."""
        if self._file is not None:
            return True
        try:
            file = os.open(self._lock_path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(file)
        return False

    def read(self) -> Descriptor | None:
        """The descriptor of the server that is up, or None (also while it is still starting)."""
        if not self.is_held():
            return None
        try:
            return Descriptor(**json.loads(self._path.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None
