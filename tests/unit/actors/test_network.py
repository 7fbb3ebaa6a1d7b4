"""What is known of a cluster before Ray tries to join it, and where its processes listen."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentspan.actors.environment import token_source
from agentspan.actors.network import SWITCH, check_entry, is_listening, is_on_loopback_alone, loopback
from agentspan.actors.server import serve
from agentspan.config import Settings
from agentspan.errors import ConfigurationError, ServerUnavailableError


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address where nobody listens, and nobody else can begin to."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_where_nobody_listens_is_said_at_once(nobody: str, scheme: str) -> None:
    with pytest.raises(ServerUnavailableError, match="nobody listens"):
        check_entry(scheme + nobody)
    assert not is_listening(nobody)


@pytest.mark.parametrize("address", ["host:", "host:port", "ray://somewhere", "ray://"])
def test_what_is_no_address_is_said_so(address: str) -> None:
    with pytest.raises(ConfigurationError, match="is no address"):
        check_entry(address)


def test_what_ray_finds_by_itself_is_left_to_it() -> None:
    check_entry("auto")


def test_loopback_lasts_for_the_start_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import ray_constants

    monkeypatch.delenv(SWITCH, raising=False)
    before = ray_constants.ENABLE_RAY_CLUSTER
    with loopback(True):
        assert os.environ[SWITCH] == "0"
        assert ray_constants.ENABLE_RAY_CLUSTER is False
    assert SWITCH not in os.environ
    assert ray_constants.ENABLE_RAY_CLUSTER is before


def test_the_users_own_setting_of_the_switch_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "1")
    with loopback(True):
        assert os.environ[SWITCH] == "1"
    assert os.environ[SWITCH] == "1"


@pytest.mark.parametrize(
    ("environ", "source"),
    [
        ({}, "~/.ray/auth_token"),
        ({"RAY_AUTH_TOKEN_PATH": "/a/token"}, "/a/token"),
        ({"RAY_AUTH_TOKEN": "s3cret", "RAY_AUTH_TOKEN_PATH": "/a/token"}, "RAY_AUTH_TOKEN"),
        ({"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "s3cret"}, "RAY_AUTH_MODE"),
    ],
)
def test_where_the_token_is_from_is_said_without_it(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], source: str
) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert source in token_source()
    assert "s3cret" not in token_source()


@pytest.mark.parametrize(
    ("address", "num_cpus", "match"),
    [("ray://127.0.0.1:10001", None, "on a node of its cluster"), ("127.0.0.1:6379", 2, "--num-cpus")],
)
def test_a_server_of_another_cluster_refuses_what_it_cannot_do(
    tmp_path: Path, address: str, num_cpus: int | None, match: str
) -> None:
    home = tmp_path / "home"
    with pytest.raises(ConfigurationError, match=match):
        serve(Settings(home=home, address=address), num_cpus=num_cpus)
    assert not home.exists()


@pytest.mark.parametrize(
    ("address", "outer", "alone"),
    [
        ("127.0.0.1:{port}", "127.0.0.1", True),  # Connected to a cluster on loopback.
        ("127.0.0.1:{port}", "127.0.0.2", True),
        ("10.0.0.1:{port}", "127.0.0.1", False),
        ("auto", "127.0.0.1", False),
    ],
)
def test_which_clusters_listen_on_loopback_alone(
    monkeypatch: pytest.MonkeyPatch, address: str, outer: str, alone: bool
) -> None:
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: outer)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert is_on_loopback_alone(address.format(port=listener.getsockname()[1])) is alone
