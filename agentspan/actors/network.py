"""The network side of a Ray cluster: where its processes listen, and whether one that runs lets us in.

Left alone, Ray listens on every interface, and takes 20 s to say that it was not let in.
"""

from __future__ import annotations

import importlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from agentspan.actors.environment import token_source
from agentspan.errors import AuthenticationError, ConfigurationError, ServerUnavailableError

CONNECT_MAX_S = 10.0
LISTENING_MAX_S = 1.0
SWITCH = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Off, Ray takes 127.0.0.1 for this machine's address and listens there alone, on every platform (measured, 2.60)."""


def is_on_loopback_alone(address: str) -> bool:
    """Whether the cluster at `host:port` is one that listens on loopback alone."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if host not in ("localhost", "::1") and not host.startswith("127."):
        return False
    from ray.util import get_node_ip_address

    outer = get_node_ip_address()  # Of a process that is connected, the address of its node.
    return outer.startswith("127.") or not is_listening(f"{outer}:{port}")


def is_listening(address: str) -> bool:
    """Whether somebody takes connections at `host:port`."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=LISTENING_MAX_S).close()
    except (OSError, ValueError):
        return False
    return True


@contextmanager
def loopback(wanted: bool) -> Iterator[None]:
    """Have a cluster that is started inside the block listen on loopback alone, or join one that does.

    What the user set in the environment wins.
    """
    if not wanted or SWITCH in os.environ:
        yield
        return
    constants = importlib.import_module("ray._private.ray_constants")
    before = getattr(constants, "ENABLE_RAY_CLUSTER", None)  # Private, so a Ray without it listens as it likes.
    os.environ[SWITCH] = "0"  # For the processes that are started.
    if before is not None:
        setattr(constants, "ENABLE_RAY_CLUSTER", False)  # noqa: B010 - it may not be there
    try:
        yield
    finally:
        del os.environ[SWITCH]
        if before is not None:
            setattr(constants, "ENABLE_RAY_CLUSTER", before)  # noqa: B010


def check_entry(address: str) -> None:
    """Find out at once what Ray would try for 20 s: that nobody listens, or that the token is not the cluster's.

    Args:
        address: `host:port` or `ray://host:port`; `auto` and such are left to Ray.

    Raises:
        ConfigurationError: It is no address.
        ServerUnavailableError: Nobody listens there.
        AuthenticationError: The cluster does not take this process's token, or there is none to send.
    """
    host, found, port = address.removeprefix("ray://").rpartition(":")
    if not found and not address.startswith("ray://"):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_MAX_S).close()
    except ValueError:
        raise ConfigurationError(problem=f"{address!r} is no address; give host:port or ray://host:port.") from None
    except OSError as problem:
        raise ServerUnavailableError(where=address, problem=f"nobody listens there ({problem}).") from problem
    if not address.startswith("ray://"):
        _check_token(address)


def _check_token(address: str) -> None:
    from ray.exceptions import AuthenticationError as Refused

    try:
        setup = importlib.import_module("ray._private.authentication.authentication_token_setup")
        client = importlib.import_module("ray._raylet").GcsClient
        # Without a token at all, the client below would end the process.
        setup.ensure_token_if_auth_enabled(None, create_token_if_missing=False)
        client(address=address)
    except Refused as problem:
        raise AuthenticationError(where=address, source=token_source()) from problem
    except (ImportError, AttributeError, TypeError):
        pass  # Private, and not the same in every version. Then it takes Ray's 20 s.
    except Exception as problem:
        raise ServerUnavailableError(where=address, problem=f"{str(problem)[:300]}.") from problem
