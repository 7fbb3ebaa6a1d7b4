"""A Ray cluster of several nodes on this machine, in a process of its own, and ways to kill its nodes.

The process at the bottom holds `ray.cluster_utils.Cluster`; it adds a node for each line of its input and ends with it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.cluster import Server, environment, is_alive, kill, processes_of, until


@dataclass(frozen=True)
class RayNode:
    """One simulated machine."""

    node_id: str
    raylet: int
    """The pid whose children are the node's workers."""

    def workers(self) -> list[int]:
        """The processes that the raylet started and that live."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                except OSError:
                    continue  # It ended while we looked.
                if int(parent) == self.raylet:
                    found.append(int(entry.name))
        return found

    def kill(self) -> None:
        """SIGKILL the raylet and all of its workers: what losing a machine does to everybody else."""
        workers = self.workers()
        kill(self.raylet, *workers)
        until("end of the node", lambda: not any(map(is_alive, workers)))


class RayNodes:
    """A cluster: a head, and the nodes that were added to it."""

    def __init__(self, home: Path, port: int) -> None:
        """Bring up a head with one core."""
        with (home / "nodes.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.nodes", str(home), str(port)],
                env=environment(home, RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0"),
                cwd=Path(__file__).parents[2],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.home = home
        self.port = port
        self.address = f"127.0.0.1:{port}"
        self._all: list[RayNode] = []
        self.head = self._next()

    def add(self) -> RayNode:
        """Another node with one core."""
        assert self._process.stdin is not None
        print("add", file=self._process.stdin, flush=True)
        return self._next()

    def _next(self) -> RayNode:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the cluster's process ended; see nodes.log"
        node = RayNode(**json.loads(line))
        self._all.append(node)
        return node

    def kill(self) -> None:
        """SIGKILL all of it, the head's control service first."""
        kill(*(pid for pid, title in processes_of(self.home).items() if "gcs_server" in title))
        for node in self._all:
            node.kill()
        self._process.kill()
        self._process.communicate()

    def dispose(self, server: Server) -> None:
        """End what is left of it: everything that has its home, but nothing else."""
        self._process.kill()
        self._process.communicate()
        kill(*server.processes())


@contextmanager
def joined(server: Server, address: str) -> Iterator[RayNode]:
    """A node with plenty of cores that joins the cluster of a server."""
    node = subprocess.Popen(
        [sys.executable, "-m", "tests.support.nodes", str(server.home), "--join", address],
        env={**server.environment, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0" if address.startswith("127.") else "1"},
        cwd=Path(__file__).parents[2],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert node.stdout is not None
    line = node.stdout.readline()
    assert line, "the node did not come up"
    running = RayNode(**json.loads(line))
    try:
        yield running
    finally:
        running.kill()
        node.kill()
        node.communicate()


def _join(home: str, address: str) -> None:
    from agentspan.actors.environment import prepare

    prepare(Path(home))
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    wanted = RayParams(
        gcs_address=address,
        num_cpus=16,
        object_store_memory=100_000_000,
        node_manager_port=0,
        min_worker_port=0,
        max_worker_port=0,
        include_log_monitor=False,
        dashboard_agent_listen_port=0,
    )
    node = Node(wanted, head=False, shutdown_at_exit=False, spawn_reaper=False)
    (raylet,) = node.all_processes["raylet"]
    print(json.dumps({"node_id": node.node_id, "raylet": raylet.process.pid}), flush=True)
    raylet.process.wait()


def _main(home: str, port: str) -> None:
    from agentspan.actors.environment import prepare

    prepare(Path(home))
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    arguments = {"num_cpus": 1, "include_dashboard": False, "gcs_server_port": int(port)}
    while True:
        node = cluster.add_node(**arguments)
        (raylet,) = node.all_processes["raylet"]
        print(json.dumps({"node_id": node.node_id, "raylet": raylet.process.pid}), flush=True)
        arguments = {"num_cpus": 1}
        if not sys.stdin.readline():
            return


if __name__ == "__main__":
    if "--join" in sys.argv:
        _join(sys.argv[1], sys.argv[3])
    else:
        _main(*sys.argv[1:])
