"""Settings, built once at the edge and handed inward as a value.

Every field can be set by an environment variable `AGENTSPAN_<FIELD>`; nothing reads the environment at import.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from agentspan.errors import ConfigurationError
from agentspan.limits import parse_limits

NAMESPACE = "agentspan"
"""The Ray namespace of every AgentSpan actor."""


_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|[smhdw])")


def seconds_of(text: str) -> float:
    """Seconds of a span of time: `500ms`, `90s`, `30m`, `12h`, `30d`, `2w`.

    Raises:
        ValueError: It is none; says how to write one.
    """
    match = _SPAN.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError(f"{text!r} is not a duration. Write a number and a unit: 90s, 30m, 12h, 30d or 2w.")
    return float(match[1]) * _UNITS_S[match[2]]


def _span(value: Any) -> Any:
    return (seconds_of(value) if value.strip() else None) if isinstance(value, str) else value


class Settings(BaseSettings):
    """How AgentSpan runs here. Times are in seconds."""

    model_config = SettingsConfigDict(env_prefix="AGENTSPAN_", frozen=True, extra="ignore")

    home: Path = Field(default_factory=lambda: Path.home() / ".agentspan")
    """Where the store, the server's key and its descriptor live."""
    store: str | None = Field(default=None, repr=False)  # It may hold a password.
    """Store URL; None is `sqlite:///<home>/agentspan.db`."""
    address: str | None = None
    """A Ray address or `ray://host:port` to join; None joins the server recorded in `home`, or starts an embedded one."""
    hibernate_after_s: float = Field(default=5.0, ge=0)
    """How long a waiting execution keeps its process."""
    standby: int = Field(default=2, ge=0, le=64)
    """Actors kept running ahead of need. Each costs about 90 MB and 0.4 % of a core."""
    recoveries_max: int = Field(default=5, ge=0)
    """Crashes in a row without progress before an execution is given up with an error."""
    recovery_backoff_s: float = Field(default=0.5, ge=0)
    """Wait before the second recovery in a row; doubles each time, at most 30 s. The first is at once."""
    scan_interval_s: float = Field(default=2.0, gt=0)
    """How often the supervisor compares the store with the living actors."""
    ping_timeout_s: float = Field(default=15.0, gt=0)
    """How long an actor may leave a ping unanswered before it counts as hung and is replaced."""
    model_retries_max: int = Field(default=6, ge=0)
    """Retries of a failing model call, as attempts of the same step."""
    model_timeout_s: float = Field(default=600.0, gt=0)
    """The longest a model may take to answer."""
    call_timeout_s: float = Field(default=60.0, gt=0)
    """Deadline of every remote call a client makes, beside the time it asked to wait."""
    parallel_tools_max: int = Field(default=64, ge=1)
    """Threads for blocking tools in one actor, whether it runs one execution or many."""
    resources_wait_s: float = Field(default=30.0, ge=0)
    """How long a tool call waits when no node has the resources it asks for (one may be coming up), before it fails."""
    placement: Literal["dedicated", "packed"] = "dedicated"
    """Where executions run: each in a process of its own, or many together in host processes. A deployment and a start
    can say otherwise."""
    host_capacity: int = Field(default=500, ge=1, le=5000)
    """Packed executions in one host process."""
    hosts_max: int | None = Field(default=None, ge=1)
    """Host processes; one for each core of the cluster by default. What has no room waits as QUEUED."""
    retention: Annotated[float | None, BeforeValidator(_span)] = Field(default=None, gt=0)
    """How long executions are kept after their end, as `30d` or `12h`; then the server removes them with all that only they
    refer to. Kept until `agent-span gc` by default."""
    actors_max: int | None = Field(default=None, ge=1)
    """Dedicated executions with a process at the same time; no limit by default. Others wait as QUEUED, in order."""
    model_limits: str = ""
    """What all executions together may ask of models: `openai rpm=500 tpm=200k in_flight=20; anthropic/claude-opus-* rpm=50`
    (see `agentspan.limits`). Calls beyond it wait for a permit."""

    @field_validator("model_limits")
    @classmethod
    def _check_limits(cls, text: str) -> str:
        parse_limits(text)
        return text

    @classmethod
    def from_env(cls, **given: Any) -> Settings:
        """Read the environment, with `given` on top.

        Raises:
            ConfigurationError: Names every setting that cannot be used.
        """
        try:
            return cls(**{name: value for name, value in given.items() if value is not None})
        except ValidationError as problem:
            faults = "; ".join(
                f"{'AGENTSPAN_' + str(fault['loc'][0]).upper() if fault['loc'] else 'settings'}: {fault['msg']}"
                for fault in problem.errors()
            )
            raise ConfigurationError(problem=f"Unusable settings: {faults}") from None

    @property
    def store_url(self) -> str:
        """The store's URL, with the default filled in."""
        return self.store or f"sqlite:///{self.home.expanduser().absolute() / 'agentspan.db'}"

    @property
    def descriptor_path(self) -> Path:
        """The file that says where the server of this home is."""
        return self.home.expanduser() / "server.json"

    @property
    def key_path(self) -> Path:
        """The key that signs stored code."""
        return self.home.expanduser() / "server.key"


def check_placement(placement: str | None) -> str | None:
    """Refuse a placement that there is none of.

    Raises:
        ConfigurationError: Says which there are.
    """
    if placement not in (None, "dedicated", "packed"):
        raise ConfigurationError(problem=f"placement is {placement!r}; choose 'dedicated' or 'packed'.")
    return placement
