"""A way to tell the supervisor of a home to look at an execution now, for processes that only have the store.

A signal stored by the command line would be found by the supervisor's next scan; the bell saves the wait. It is a datagram
with an execution ID, to a socket in the home that only the home's owner can write to. Nothing depends on it arriving: what
counts is in the store.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger("agentspan.doorbell")

ID_BYTES_MAX = 200


def bell_path(home: Path) -> Path:
    """Where the bell of a home is."""
    return home / "supervisor.sock"


def ring(home: Path, execution_id: str) -> bool:
    """Ring for an execution. False when nobody listens; the scan finds the signal then."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bell:
        bell.setblocking(False)
        try:
            bell.sendto(execution_id.encode(), str(bell_path(home)))
        except OSError:
            return False
    return True


class _Listener(asyncio.DatagramProtocol):
    def __init__(self, on_ring: Callable[[str], None]) -> None:
        self._on_ring = on_ring

    def datagram_received(self, data: bytes, addr: object) -> None:
        self._on_ring(data[:ID_BYTES_MAX].decode("utf-8", "replace"))


async def listen(home: Path, on_ring: Callable[[str], None]) -> asyncio.BaseTransport | None:
    """Answer the bell of a home, replacing a listener that died. None where that is not possible (a path too long)."""
    path = bell_path(home)
    bell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    bell.setblocking(False)
    try:
        path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            bell.bind(str(path))
        finally:
            os.umask(before)
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: _Listener(on_ring), sock=bell)
    except OSError as problem:
        bell.close()
        log.warning("doorbell.none", extra={"path": str(path), "problem": str(problem)})
        return None
    return transport
