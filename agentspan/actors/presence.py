"""Whether a process that said it was running something is still there.

Each takes one byte of `<home>/clients.lock`. The kernel lets go of it however the process ends, and a look is one call. A
pid would not do: it is given to others later, and means nothing in another container on the same home.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import threading
from pathlib import Path
from typing import Any

_BYTES = 2**48
_PLACE_CHARS = 16

_lock = threading.Lock()
_files: dict[tuple[int, Path], int] = {}
"""One open file for each process and path, never closed: closing any would let go of all locks the process has in it."""
_ours: set[tuple[int, Path, int]] = set()
"""The bytes that this process holds: the kernel does not tell a process about its own locks. A fork inherits none."""


class Presence:
    """The mark of one part of this process in a home. `leave` is idempotent."""

    def __init__(self, home: Path) -> None:
        """Take a mark.

        Raises:
            OSError: The home's file system has no locks, or the home cannot be written.
        """
        self._path = home.absolute() / "clients.lock"
        self._byte = 1 + secrets.randbelow(_BYTES)
        with _lock:
            self._file = _opened(self._path)
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, self._byte)
            _ours.add((os.getpid(), self._path, self._byte))
        self.mark: dict[str, Any] = {"place": _place(self._file), "byte": self._byte}
        """Plain data that `is_there` tells it by, in any process."""

    def is_there(self, mark: dict[str, Any]) -> bool:
        """Whether whoever has this mark lives. Of another home nobody can tell, so that counts as living."""
        if mark["place"] != self.mark["place"]:
            return True
        with _lock:
            if (os.getpid(), self._path, mark["byte"]) in _ours:
                return True
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, mark["byte"])
            except OSError:
                return True
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, mark["byte"])
            return False

    def leave(self) -> None:
        """Let go of the mark."""
        with _lock:
            if (os.getpid(), self._path, self._byte) in _ours:
                _ours.discard((os.getpid(), self._path, self._byte))
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, self._byte)


def _opened(path: Path) -> int:
    key = (os.getpid(), path)
    file = _files.get(key)
    if file is None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = _files[key] = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    return file


def _place(file: int) -> str:
    """What tells this home from others; written by whoever comes first."""
    fcntl.lockf(file, fcntl.LOCK_EX, 1, 0)
    try:
        place = os.pread(file, _PLACE_CHARS, 0)
        if len(place) < _PLACE_CHARS:
            place = secrets.token_hex(_PLACE_CHARS // 2).encode()
            os.pwrite(file, place, 0)
    finally:
        fcntl.lockf(file, fcntl.LOCK_UN, 1, 0)
    return place.decode()
