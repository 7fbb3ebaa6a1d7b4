"""The server process: a Ray cluster of one node, the supervisor in it, and nothing else. `python -m agentspan.actors.server`

Everything it starts dies with it, and everything it knows is in the store, so a SIGKILL and a clean stop leave the same
thing behind: executions that go on when it is started again.

With an address it starts nothing: it joins that cluster from one of its nodes, and sees to it that there is a supervisor,
also after the whole cluster was lost and came back empty. Then it can end and nothing else ends.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

from agentspan import __version__
from agentspan.actors.environment import prepare
from agentspan.actors.lease import Descriptor, Lease
from agentspan.actors.network import is_listening, is_on_loopback_alone, loopback
from agentspan.bridge import run_sync
from agentspan.config import Settings
from agentspan.errors import (
    AgentspanError,
    ConfigurationError,
    ServerError,
    ServerUnavailableError,
    StoreUnavailableError,
)

if TYPE_CHECKING:
    from agentspan.actors import cluster

log = logging.getLogger("agentspan.server")

WATCH_EVERY_S = 2.0
"""How often the server looks whether its cluster still works."""
LOST_AFTER_S = 5.0
"""How long the head of a cluster that was joined may be away. Ray would end this process after a minute of it."""
RETRY_S = 1.0
"""Pause before the next try when the cluster or the store does not answer."""
GATE_WAIT_S = 30.0
"""How long Ray Client may take to open its port."""
RESTART_WAIT_S = 60.0
"""How long a supervisor that was killed because it hung may take to start again."""


def serve(settings: Settings, *, ray_client_port: int | None = None, num_cpus: int | None = None) -> int:
    """Serve a home until SIGTERM or SIGINT. Returns an exit code: 0 after a clean stop, 3 when another server is up."""
    _check_address(settings, num_cpus)
    lease = Lease(settings.home.expanduser())
    if not lease.take():
        log.error("Another server is up for this home.")
        return 3
    stop = threading.Event()
    _on_signals(stop)
    prepare(settings.home.expanduser())
    try:
        while not stop.is_set():
            try:
                _serve_cluster(settings, lease, stop, ray_client_port, num_cpus)
            except (ServerUnavailableError, StoreUnavailableError) as problem:
                # Containers come up in any order, and a cluster or a database may be away for a while.
                log.error("server.waiting: %s", problem)
                stop.wait(RETRY_S)
    finally:
        lease.release()
    return 0


def _check_address(settings: Settings, num_cpus: int | None) -> None:
    if settings.address is None:
        return
    if settings.address.startswith("ray://"):
        raise ConfigurationError(
            problem=f"A server runs on a node of its cluster, and {settings.address} is the way in from elsewhere. Give "
            "AGENTSPAN_ADDRESS=host:port, as for `ray start --address`."
        )
    if num_cpus is not None:
        raise ConfigurationError(
            problem=f"--num-cpus is for a cluster that the server starts; this one joins {settings.address}."
        )


def _on_signals(stop: threading.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())


def _serve_cluster(
    settings: Settings, lease: Lease, stop: threading.Event, ray_client_port: int | None, num_cpus: int | None
) -> None:
    """Have a cluster until `stop`, or until it is lost; then the next one finds everything in the store."""
    from agentspan.actors import cluster

    gate: subprocess.Popen[bytes] | None = None
    try:
        if settings.address is None:
            # Ray Client's own servers do not find a cluster that listens on loopback alone.
            only_loopback = ray_client_port is None
            address = cluster.start_local(settings, num_cpus=num_cpus, only_loopback=only_loopback)
        else:
            address = cluster.join(settings.address)
            cluster.ensure_supervisor(settings)
        _on_signals(stop)  # Ray installs handlers of its own when it starts; ours end the process in order.
        if ray_client_port is not None:
            gate = _ray_client_server(address, ray_client_port)
        lease.publish(
            Descriptor(
                address=address,
                pid=os.getpid(),
                store_url=settings.store_url,
                version=__version__,
                started_at=time.time(),
                ray_client=f"ray://127.0.0.1:{ray_client_port}" if gate else None,
            )
        )
        log.info("server.up", extra={"address": address})
        head = None if settings.address is None else address
        _watch(cluster.RayConnection(where=address), stop, settings.ping_timeout_s, head)
        log.info("server.stopping")
    finally:
        lease.withdraw()
        if gate is not None:
            gate.terminate()
            try:
                gate.wait(10)
            except subprocess.TimeoutExpired:
                gate.kill()
        cluster.leave()


def _watch(connection: cluster.RayConnection, stop: threading.Event, ping_timeout_s: float, head: str | None) -> None:
    """Return on `stop` or when the cluster is lost. A supervisor that hangs is killed, so that Ray restarts it.

    `head` is the address of a cluster that is not ours.
    """
    from agentspan.actors import cluster

    silent_since: float | None = None
    seen_at = time.monotonic()
    while not stop.wait(WATCH_EVERY_S):
        if cluster.is_broken():
            log.error("server.cluster_lost: one of its processes has ended. Starting another one.")
            return
        if head is not None and not is_listening(head):
            if time.monotonic() - seen_at > LOST_AFTER_S:
                log.error("server.cluster_lost: nobody listens at %s. Waiting for the next one.", head)
                return
            continue
        seen_at = time.monotonic()
        try:
            run_sync(connection.call("alive", {}, ping_timeout_s))
            silent_since = None
        except ServerError as problem:
            now = time.monotonic()
            log.error("server.supervisor_silent: %s", problem)
            if silent_since is None:
                # Once: one that is just starting is silent, too, and would never get to its end.
                silent_since = now
                cluster.restart_supervisor()
            elif now - silent_since > RESTART_WAIT_S + ping_timeout_s:
                log.error("server.cluster_lost: the supervisor does not come back. Starting another cluster.")
                return


def _ray_client_server(address: str, port: int) -> subprocess.Popen[bytes]:
    """Open the Ray Client port, on loopback, and return once it takes connections; needs the `client` extra."""
    command = [sys.executable, "-m", "ray.util.client.server"]
    command += ["--address", address, "--host", "127.0.0.1", "--port", str(port), "--mode", "proxy"]
    with loopback(is_on_loopback_alone(address)):
        gate = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + GATE_WAIT_S
    while gate.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
        except OSError:
            time.sleep(0.05)
        else:
            return gate
    gate.kill()
    gate.wait()
    raise ConfigurationError(
        problem=f"Ray Client could not be opened on port {port}; see the log above. It needs a free port, and the "
        "`client` extra: pip install 'agentspan[client]'."
    )


def main(arguments: list[str]) -> int:
    """`[--ray-client-port N] [--num-cpus N]`; settings come from the environment."""
    import argparse

    parser = argparse.ArgumentParser(prog="agentspan.actors.server")
    parser.add_argument("--ray-client-port", type=int)
    parser.add_argument("--num-cpus", type=int)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        return serve(Settings.from_env(), ray_client_port=options.ray_client_port, num_cpus=options.num_cpus)
    except AgentspanError as problem:
        log.error("server.refused: %s", problem)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
