"""What the engine needs to know of an agent: plain data, no callables.

The live `Agent` holds functions and classes; its spec is what is stored with a deployment, shown in `agent-span show`,
and handed to the pure engine. Two agents with the same spec behave the same as far as the engine can tell.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class ToolKind(str, Enum):
    """How a tool call is answered."""

    FUNCTION = "function"
    """Our process runs the user's function."""
    HUMAN = "human"
    """A person answers (`human_tool`)."""
    MESSAGE = "message"
    """The next message sent to the execution answers (`wait_for_message_tool`)."""


class OnCrash(str, Enum):
    """What to do with a call that was in flight when its process died (P3)."""

    RETRY = "retry"
    ASK = "ask"
    FAIL = "fail"


class RetryPolicy(str, Enum):
    """How the delay between attempts grows: d, d, d … / d, 2d, 3d … / d, 2d, 4d …"""

    FIXED = "fixed"
    LINEAR_BACKOFF = "linear_backoff"
    EXPONENTIAL_BACKOFF = "exponential_backoff"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """One tool as data. Delays and timeouts are in seconds; `None` means no limit."""

    name: str
    description: str
    parameters: dict[str, Any]
    """JSON schema of the arguments, an object schema."""
    kind: ToolKind = ToolKind.FUNCTION
    approval_required: bool = False
    timeout_seconds: float | None = None
    retry_count: int = 2
    retry_delay_seconds: float = 2.0
    retry_policy: RetryPolicy = RetryPolicy.LINEAR_BACKOFF
    max_calls: int | None = None
    on_crash: OnCrash = OnCrash.RETRY
    batch_size: int = 1
    """MESSAGE only: how many queued messages one call takes."""
    blocking: bool = True
    """MESSAGE only: False answers at once with what is queued, even nothing."""
    response_schema: dict[str, Any] | None = None
    """HUMAN only: JSON schema the answer must fit."""
    needs: dict[str, float] = field(default_factory=dict)
    """FUNCTION only: what a call asks of a node, by Ray's names; empty for one that runs in its execution's process."""

    def delay_before(self, attempt: int) -> float:
        """Seconds to wait before `attempt` (2 is the first retry), attempts lost in a crash not counted."""
        retries = attempt - 2
        match self.retry_policy:
            case RetryPolicy.FIXED:
                return self.retry_delay_seconds
            case RetryPolicy.LINEAR_BACKOFF:
                return self.retry_delay_seconds * (retries + 1)
            case RetryPolicy.EXPONENTIAL_BACKOFF:
                return float(self.retry_delay_seconds * 2**retries)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSpec:
    """One agent as data."""

    name: str
    model: str
    tools: dict[str, ToolSpec] = field(default_factory=dict)
    max_turns: int = 25
    max_tokens: int | None = None
    temperature: float | None = None
    timeout_seconds: float | None = None
    max_concurrency: int | None = None
    """How many executions of it may be at work at a time, of all versions together."""
    base_url: str | None = None
    output_schema: dict[str, Any] | None = None
    """JSON schema of `output_type`, or None for text."""
    output_name: str | None = None
    has_stop_when: bool = False
    """Whether the agent carries a `stop_when` that has to be asked after every turn."""
    metadata: dict[str, Any] = field(default_factory=dict)
