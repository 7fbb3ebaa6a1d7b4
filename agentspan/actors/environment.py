"""What has to be in a process's environment before Ray is first imported. Imports nothing of Ray.

Ray reads its settings once, at import; set later, the driver and its children disagree (and a client with authentication
off waits 20 s for an answer it cannot get).
"""

from __future__ import annotations

import importlib
import os
import secrets
import sys
from pathlib import Path

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # A hung node is noticed after about 6 s instead of 64. Safe to have this tight because every write is fenced.
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_health_check_initial_delay_ms": "1000",
    # A worker that dies while it starts is noticed by this alone; an actor waits for it until then.
    "RAY_worker_register_timeout_seconds": "30",
    # About 11 kB each are kept of dead actors.
    "RAY_maximum_gcs_destroyed_actor_cached_count": "10000",
    # Keep Ray's own notices off our users' terminals.
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
    "RAY_SCHEDULER_EVENTS": "0",
    "RAY_DEDUP_LOGS": "0",
    # Ray would otherwise hide accelerators from actors that ask for none, with a warning about it.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


AUTH_VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
OURS = "AGENTSPAN_RAY_TOKEN_PATH"
"""Tells a token path that AgentSpan chose (in this process or a parent) from one that the user did."""


def prepare(home: Path) -> None:
    """Set what is not set already: quiet, quick to notice death, and only for holders of this home's token."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if not any(name in os.environ for name in AUTH_VARIABLES) or _is_ours():
        _use_token(str(_token(home / "ray.token")))
    os.environ.setdefault("RAY_AUTH_MODE", "token")


def token_source() -> str:
    """Where this process has its token from, for people. Never the token."""
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return "it sends none, because of RAY_AUTH_MODE"
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "the one in RAY_AUTH_TOKEN"
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return f"the one in {path or '~/.ray/auth_token'}"


def _is_ours() -> bool:
    return OURS in os.environ and os.environ.get("RAY_AUTH_TOKEN_PATH") == os.environ[OURS]


def _use_token(path: str) -> None:
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return  # It is connected already, with whatever token that took.
    os.environ["RAY_AUTH_TOKEN_PATH"] = os.environ[OURS] = path
    os.environ["RAY_AUTH_MODE"] = "token"
    if ray is None:
        return
    # Imported before us, Ray has read its settings. It can read them again; that is private, so be ready to miss it.
    try:
        raylet = importlib.import_module("ray._raylet")
        raylet.Config.initialize("")
        raylet.AuthenticationTokenLoader.instance().reset_cache()
    except (ImportError, AttributeError):
        pass


def _token(path: Path) -> Path:
    path = path.absolute()
    if not path.exists():
        # Written aside and linked, so that two processes that start together agree on one token.
        draft = path.with_suffix(f".{os.getpid()}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path
