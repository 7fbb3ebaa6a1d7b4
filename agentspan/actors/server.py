"""The server process: a Ray cluster of one node, the supervisor in it, and nothing else. `python -m agentspan.actors.server`

Everything it starts dies with it, and everything it knows is in the store, so a SIGKILL and a clean stop leave the same
thing behind: executions that go on when it is started again.
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

from agentspan import __version__
from agentspan.actors.environment import prepare
from agentspan.actors.lease import Descriptor, Lease
from agentspan.config import Settings
from agentspan.errors import ConfigurationError

log = logging.getLogger("agentspan.server")

GATE_WAIT_S = 30.0
"""How long Ray Client may take to open its port."""


def serve(settings: Settings, *, ray_client_port: int | None = None, num_cpus: int | None = None) -> int:
    """Serve a home until SIGTERM or SIGINT. Returns an exit code: 0 after a clean stop, 3 when another server is up."""
    lease = Lease(settings.home.expanduser())
    if not lease.take():
        log.error("Another server is up for this home.")
        return 3
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    prepare(settings.home.expanduser())
    from agentspan.actors import cluster

    gate: subprocess.Popen[bytes] | None = None
    try:
        address = cluster.start_local(settings, num_cpus=num_cpus)
        # Ray installs handlers of its own when it starts; ours end the process in order.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
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
        stop.wait()
        log.info("server.stopping")
    finally:
        if gate is not None:
            gate.terminate()
            gate.wait(10)
        cluster.leave()
        lease.release()
    return 0


def _ray_client_server(address: str, port: int) -> subprocess.Popen[bytes]:
    """Open the Ray Client port, on loopback, and return once it takes connections; needs the `client` extra."""
    command = [sys.executable, "-m", "ray.util.client.server"]
    command += ["--address", address, "--host", "127.0.0.1", "--port", str(port), "--mode", "proxy"]
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
    return serve(Settings.from_env(), ray_client_port=options.ray_client_port, num_cpus=options.num_cpus)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
