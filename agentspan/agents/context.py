"""What user functions are told about the execution they run in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

INSIDE: ContextVar[str] = ContextVar("agentspan_inside", default="")
"""The execution whose code runs here; empty outside of any. What is started from inside one says so."""


@dataclass(slots=True)
class ToolContext:
    """What a tool may know of its call. Annotate a parameter with it and it is passed in; the model never sees it.

    A change to `state` is kept when the call completes, and is thrown away when it fails. `dependencies` are the
    agent's live objects; they are not stored.
    """

    execution_id: str = ""
    session_id: str = ""
    agent_name: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    dependencies: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    """Shared by all tools of the execution; JSON data only."""
    attempt: int = 1
    """1 for the first try; higher after a failure or a crash."""
    idempotency_key: str = ""
    """The same for every attempt of this call. Hand it to whatever the tool changes, so that it changes once."""
    call_id: str = ""
    tool_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstructionsContext:
    """What a function that writes an agent's instructions may know. It is asked before every model call."""

    execution_id: str = ""
    session_id: str = ""
    agent_name: str = ""
    state: Mapping[str, Any] = field(default_factory=dict)
    """`ToolContext.state` as it stands; changes made here are not kept."""
    dependencies: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StopContext:
    """What `stop_when` decides on. Fields can be read by name or as `context["result"]`."""

    result: str = ""
    """The text of the model's last answer."""
    turn: int = 0
    """Model answers so far, from 1."""
    messages: Sequence[dict[str, Any]] = ()
    """The conversation so far, as chat messages, without the instructions."""

    @property
    def iteration(self) -> int:
        """`turn`, by the name that existing programs read."""
        return self.turn

    def __getitem__(self, name: str) -> Any:
        if name not in _STOP_KEYS:
            raise KeyError(f"{name!r}; there are {', '.join(_STOP_KEYS)}")
        return getattr(self, name)

    def get(self, name: str, default: Any = None) -> Any:
        """The field `name`, or `default` when there is none."""
        return self[name] if name in _STOP_KEYS else default


_STOP_KEYS = ("result", "turn", "iteration", "messages")
