"""Naming a process of this machine so that no other can be meant: by its PID and the moment it began.

A PID alone is given to others later, and what is on record may be older than that.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PROC = Path("/proc")
_STARTED = 19
"""Which field after the command's name in `/proc/<pid>/stat` is the start, in clock ticks since the machine's."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process of this machine. It may have ended; then nothing is done to anybody."""

    pid: int
    born: str
    """As `born` gives it."""

    @classmethod
    def on_record(cls, host: Mapping[str, Any]) -> Process | None:
        """The process that a record's host (`whoami`) means, if it is one of this machine and lives."""
        pid, birth = host.get("pid"), host.get("born")
        if host.get("hostname") != socket.gethostname() or not isinstance(pid, int) or not birth:
            return None
        process = cls(pid, str(birth))
        return process if process.is_alive() else None

    def is_alive(self) -> bool:
        """Whether it runs, or could run again: one that is stopped counts, a zombie does not."""
        return born(self.pid) == self.born

    def send(self, number: signal.Signals) -> bool:
        """Send it a signal. False when it has ended."""
        if not hasattr(os, "pidfd_open"):
            return self.is_alive() and _sent(lambda: os.kill(self.pid, number))
        try:
            # Whatever happens from here on, the descriptor means the process that is looked at next.
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            return self.is_alive() and _sent(lambda: signal.pidfd_send_signal(descriptor, number))
        finally:
            os.close(descriptor)

    def kill(self) -> bool:
        """SIGKILL: it gets no chance to say or save anything. False when it has ended."""
        return self.send(signal.SIGKILL)


def _sent(send: Any) -> bool:
    try:
        send()
    except ProcessLookupError:
        return False
    return True


def born(pid: int) -> str | None:
    """When a process began: text that no other process of this PID shares. None when there is none, or only its remains."""
    if _PROC.joinpath("self").exists():
        try:
            fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else fields[_STARTED]
    listed = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}
    )
    state, _, began = listed.stdout.strip().partition(" ")
    return None if not state or state[0] in "ZX" else began.strip()


def whoami() -> dict[str, Any]:
    """This process, as records name it: `pid`, `born`, `hostname`."""
    return {"pid": os.getpid(), "born": born(os.getpid()), "hostname": socket.gethostname()}
