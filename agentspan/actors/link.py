"""This process's one way to a cluster, shared by its runtimes, because Ray connects a process to one cluster at a time.

The functions block, and are to be called from one thread that lives as long as the process: the kernel ends an embedded
cluster's processes when the thread that started them ends.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from agentspan import __version__
from agentspan.actors import cluster
from agentspan.actors.lease import Descriptor, Lease
from agentspan.config import Settings
from agentspan.errors import ConfigurationError, ServerUnavailableError

START_WAIT_S = 60.0
"""How long to wait for a server that is just starting, or is being started again."""
LOOK_EVERY_S = 0.05


@dataclass(slots=True, kw_only=True)
class Link:
    """A connection to a server, joined or started here."""

    connection: cluster.RayConnection
    target: str
    """What it is a connection to: an address, or a home."""
    users: int = 1
    owns_ray: bool = True
    """False when the program had connected Ray itself: then it stays connected."""
    descriptor: Descriptor | None = None
    """The server of a home, which may be started again elsewhere."""
    lease: Lease | None = None
    """Held by whoever is the server: this process, when it is embedded."""


_current: Link | None = None


def enter(settings: Settings, *, lost: Link | None = None) -> Link:
    """The process's link, made if there is none.

    Args:
        lost: The caller's link to a server that went away. A dedicated server is waited for, because somebody is going
            to start it again; an embedded one ended with its program, so the next one may start here.

    Raises:
        ConfigurationError: The process is connected to another cluster.
        ServerUnavailableError: There is no server, and it is not for this process to start one.
    """
    global _current
    if lost is not None and _current is lost:
        _drop(lost)
    target = settings.address or str(settings.home.expanduser().absolute())
    if _current is not None:
        if _current.target != target:
            raise ConfigurationError(
                problem=f"This process is connected to the AgentSpan server of {_current.target}, and Ray connects a "
                f"process to one cluster at a time. Shut that runtime down before using {target}."
            )
        _current.users += 1
        return _current
    _current = _open(settings, target, lost)
    return _current


def leave(link: Link) -> None:
    """Let go of the link; the last user disconnects the process, and ends an embedded server."""
    link.users -= 1
    if link.users <= 0 and _current is link:
        _drop(link)


def _drop(link: Link) -> None:
    global _current
    _current = None
    if link.owns_ray:
        cluster.leave()
    if link.lease is not None:
        link.lease.release()


def _open(settings: Settings, target: str, lost: Link | None) -> Link:
    address = settings.address
    if cluster.is_connected():
        cluster.ensure_supervisor(settings)
        where = address or "the connected Ray cluster"
        return Link(connection=cluster.RayConnection(where=where), target=target, owns_ray=False)
    if address is not None:
        cluster.join(address)
        if not address.startswith("ray://"):
            try:
                cluster.ensure_supervisor(settings)
            except BaseException:
                cluster.leave()
                raise
        return Link(connection=cluster.RayConnection(where=address), target=target)
    lease = Lease(settings.home.expanduser())
    may_serve = lost is None or lost.descriptor is None or lost.descriptor.embedded
    deadline = time.monotonic() + START_WAIT_S
    while True:
        if may_serve and lease.take():
            return _embed(settings, target, lease)
        descriptor = lease.read()
        if descriptor is not None:
            try:
                return _join(lease, descriptor, target)
            except ServerUnavailableError:
                if lease.read() == descriptor:
                    raise
                # It went away meanwhile: look for its successor.
        if time.monotonic() > deadline:
            held = "a server holds the lease but does not come up." if lease.is_held() else "it went away."
            raise ServerUnavailableError(where=target, problem=held)
        time.sleep(LOOK_EVERY_S)


def _join(lease: Lease, descriptor: Descriptor, target: str) -> Link:
    cluster.join(descriptor.address)
    connection = cluster.RayConnection(where=descriptor.address, is_up=lambda: lease.read() == descriptor)
    return Link(connection=connection, target=target, descriptor=descriptor)


def _embed(settings: Settings, target: str, lease: Lease) -> Link:
    try:
        address = cluster.start_local(settings)
        descriptor = Descriptor(
            address=address,
            pid=os.getpid(),
            store_url=settings.store_url,
            version=__version__,
            started_at=time.time(),
            embedded=True,
        )
        lease.publish(descriptor)
    except BaseException:
        cluster.leave()
        lease.release()
        raise
    connection = cluster.RayConnection(where=address, is_up=lambda: not cluster.is_broken())
    return Link(connection=connection, target=target, descriptor=descriptor, lease=lease)
