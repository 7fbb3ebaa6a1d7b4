"""A cluster of three nodes with a Postgres store: executions spread, and whole nodes are killed under them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree

import pytest
import ray

from agentspan.actors import cluster
from agentspan.actors.environment import prepare
from agentspan.actors.lease import Lease
from agentspan.agents import AgentRuntime, Status
from agentspan.config import Settings
from agentspan.errors import ConfigurationError
from agentspan.handle import AgentHandle
from agentspan.testing import ScriptedModel, call, say
from tests.ray.agents import gate, make_agent
from tests.ray.conftest import Shared
from tests.ray.honesty import check_honest
from tests.support.cluster import Server, answer, free_port, kill, private_home, until
from tests.support.ledger import Ledger
from tests.support.nodes import RayNode, RayNodes, joined
from tests.support.postgres import PASSWORD, PostgresServer

CLIENTS = Path(__file__).parent / "clients"
SCRIPT = ScriptedModel([call("work", n=0), call("work", n=1, hold=1), call("work", n=2), say("done")])


@dataclass
class Fixture:
    """The cluster, and a home whose settings point to it."""

    ray: RayNodes
    server: Server
    first: RayNode
    second: RayNode

    @property
    def settings(self) -> Settings:
        return Settings(
            home=self.server.home,
            address=self.ray.address,
            store=self.server.settings["AGENTSPAN_STORE"],
            standby=1,
            scan_interval_s=0.5,
            ping_timeout_s=5.0,
            recovery_backoff_s=0.1,
        )


@pytest.fixture(scope="module")
def nodes(shared: Shared, postgres: PostgresServer) -> Iterator[Fixture]:
    shared.down()
    port = free_port()
    server = Server(private_home(), AGENTSPAN_ADDRESS=f"127.0.0.1:{port}", AGENTSPAN_STORE=postgres.new_url())
    running = RayNodes(server.home, port)
    try:
        fixture = Fixture(running, server, running.add(), running.add())
        yield fixture
        running = fixture.ray
    finally:
        server.stop()
        running.dispose(server)
        server.dispose()


def listening(pids: Iterable[int]) -> list[str]:
    """The addresses at which processes take TCP connections, as the kernel writes them: hexadecimal."""
    sockets = set()
    for pid in pids:
        for one in Path(f"/proc/{pid}/fd").iterdir():
            try:
                sockets.add(one.readlink().name)
            except OSError:
                continue  # It was closed while we looked.
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in sockets:
                found.append(local.partition(":")[0])
    return found


def start_held(runtime: AgentRuntime, ledger: Ledger, agent: str, count: int, placement: str) -> list[AgentHandle]:
    """Executions that have one step on record and stand in the middle of the next."""
    handles = [runtime.start(agent, "go", placement=placement) for _ in range(count)]
    for handle in handles:
        ledger.entered(f"{handle.execution_id}:", count=2)
    return handles


def spread(runtime: AgentRuntime, handles: list[AgentHandle]) -> Counter[str | None]:
    """How many run on each node; None while they are being recovered."""
    return Counter(runtime.show(handle.execution_id)["host"].get("node") for handle in handles)


def finish(nodes: Fixture, ledger: Ledger, handles: list[AgentHandle]) -> int:
    """Let them go on to their ends, and check each. Returns how many were recovered."""
    for handle in handles:
        ledger.open(gate(handle.execution_id, 1))
    assert Counter(handle.join(60).status for handle in handles) == {Status.COMPLETED: len(handles)}
    recovered = 0
    for handle in handles:
        shown = nodes.server.show(handle.execution_id)
        assert len(check_honest(shown, ledger)) == 3
        recovered += shown["recoveries"] > 0
    return recovered


def test_a_server_of_ours_listens_on_loopback_alone(own_server: Server) -> None:
    own_server.start()
    found = listening(own_server.processes())
    assert len(found) >= 5
    assert {address for address in found if not address.endswith("0100007F")} == set()


def test_whoever_has_not_the_token_is_told_so_at_once(server: Server, runtime: AgentRuntime) -> None:
    assert (server.home / "ray.token").stat().st_mode & 0o777 == 0o600
    descriptor = Lease(server.home).read()
    assert descriptor is not None
    stranger = private_home()
    environments = {
        str(stranger / "ray.token"): {},
        "it sends none": {"RAY_AUTH_MODE": "disabled"},
        "auth_token": {"RAY_AUTH_MODE": "token", "HOME": str(stranger)},
    }
    addresses = {"AGENTSPAN_HOME": str(stranger), "AGENTSPAN_ADDRESS": descriptor.address}
    clients = {
        source: server.client(str(CLIENTS / "joining.py"), **addresses, **more) for source, more in environments.items()
    }
    for source, client in clients.items():
        told = answer(client)
        assert told["error"] == "AuthenticationError"
        assert source in told["text"]
        assert (stranger / "ray.token").read_text() not in told["text"]
    rmtree(stranger)


def test_with_a_sqlite_store_nothing_is_started_on_a_node_that_joins(
    server: Server, runtime: AgentRuntime, ledger: Ledger
) -> None:
    runtime.deploy(make_agent("bound", ledger, SCRIPT))
    descriptor = Lease(server.home).read()
    assert descriptor is not None
    with joined(server, descriptor.address) as other:
        until("the node", lambda: other.node_id in [node.node_id for node in cluster.living_nodes()])
        handles = start_held(runtime, ledger, "bound", 2, "dedicated") + start_held(
            runtime, ledger, "bound", 4, "packed"
        )
        (home,) = spread(runtime, handles)
        assert home != other.node_id
        supervisor = server.supervisor_pid()
        kill(supervisor)
        until("another supervisor", lambda: server.supervisor_pid() != supervisor)
        assert server.supervisor_pid() not in other.workers()
        for handle in handles:
            ledger.open(gate(handle.execution_id, 1))
        assert {handle.join(60).status for handle in handles} == {Status.COMPLETED}


def test_a_sqlite_store_is_refused_before_anything_is_done(nodes: Fixture) -> None:
    settings = nodes.settings.model_copy(update={"store": None})
    with pytest.raises(ConfigurationError, match=r"3 nodes.*Postgres"):
        AgentRuntime(settings=settings).server_info()
    assert not settings.key_path.exists()
    assert not (nodes.server.home / "agentspan.db").exists()
    assert not ray.is_initialized()


def test_executions_spread_and_nodes_are_killed_the_supervisors_own_among_them(nodes: Fixture, ledger: Ledger) -> None:
    # The supervisor is put on a node that is going to die, and the key that its home had is gone: nobody may need a path.
    prepare(nodes.server.home)
    cluster.join(nodes.ray.address)
    cluster.create_supervisor(nodes.settings, node=nodes.second.node_id)
    cluster.leave()
    key = nodes.settings.key_path.read_bytes()
    nodes.settings.key_path.unlink()

    with AgentRuntime(settings=nodes.settings) as runtime:
        runtime.deploy(make_agent("spread", ledger, SCRIPT))
        handles = start_held(runtime, ledger, "spread", 6, "dedicated")
        handles += start_held(runtime, ledger, "spread", 30, "packed")
        everywhere = {nodes.ray.head.node_id, nodes.first.node_id, nodes.second.node_id}
        assert set(spread(runtime, handles[:6])) == everywhere
        assert set(spread(runtime, handles[6:])) == everywhere
        on_first = spread(runtime, handles)[nodes.first.node_id]

        nodes.first.kill()
        until("recovery", lambda: nodes.first.node_id not in spread(runtime, handles))
        assert finish(nodes, ledger, handles) >= on_first

        third = nodes.ray.add()
        handles = start_held(runtime, ledger, "spread", 6, "dedicated")
        handles += start_held(runtime, ledger, "spread", 30, "packed")
        assert third.node_id in spread(runtime, handles)
        nodes.second.kill()
        until("recovery", lambda: nodes.second.node_id not in spread(runtime, handles))
        assert finish(nodes, ledger, handles) > 0
    nodes.settings.key_path.write_bytes(key)
    logs = b"".join(
        path.read_bytes() for path in nodes.server.home.rglob("*") if path.is_file() and path.name != "server.key"
    )
    for secret in (PASSWORD.encode(), key, key.hex().encode(), repr(key).encode()):
        assert secret not in logs


def test_a_server_on_the_cluster_takes_everything_up_again_when_the_whole_cluster_was_lost(
    nodes: Fixture, ledger: Ledger
) -> None:
    nodes.server.start()
    with AgentRuntime(settings=nodes.settings) as runtime:
        runtime.deploy(make_agent("lost", ledger, SCRIPT))
        handles = start_held(runtime, ledger, "lost", 2, "dedicated")
        handles += start_held(runtime, ledger, "lost", 4, "packed")
    nodes.ray.kill()
    until("end of the old cluster in the server's eyes", lambda: not nodes.settings.descriptor_path.exists())
    nodes.ray = RayNodes(nodes.server.home, nodes.ray.port)
    for handle in handles:
        ledger.open(gate(handle.execution_id, 1))
    assert {nodes.server.result(handle.execution_id).status for handle in handles} == {Status.COMPLETED}
    for handle in handles:
        check_honest(nodes.server.show(handle.execution_id), ledger)
