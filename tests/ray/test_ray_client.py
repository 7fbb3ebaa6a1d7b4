"""The whole client face from a process that is not part of the cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentspan.actors.lease import Lease
from tests.support.cluster import Server, free_port
from tests.support.ledger import Ledger

REMOTE = str(Path(__file__).parent / "clients" / "remote.py")


def address(server: Server) -> str:
    descriptor = Lease(server.home).read()
    assert descriptor is not None
    assert descriptor.ray_client is not None
    return descriptor.ray_client


@pytest.mark.usefixtures("runtime")
def test_everything_works_through_ray_client(server: Server, ledger: Ledger) -> None:
    told = server.ask(REMOTE, str(ledger.port), address(server))

    assert told == {
        "deployed": "remote",
        "pending": ["refund"],
        "output": "refunded 9",
        "by_name": "refunded 9",
        "events": ["started", "tool_call", "waiting", "decision", "tool_result", "message", "done"],
        "seqs": [1, 2, 3, 4, 5, 6, 7],
        "refused": "UnknownExecutionError",
        "timed_out": "ServerTimeoutError",
    }


@pytest.mark.usefixtures("runtime")
def test_an_address_where_nobody_listens_is_told_at_once(server: Server, ledger: Ledger) -> None:
    nowhere = f"ray://127.0.0.1:{free_port()}"

    told = server.ask(REMOTE, str(ledger.port), nowhere, within_s=20)

    assert told["error"] == "ServerUnavailableError"
    assert nowhere in told["text"]
