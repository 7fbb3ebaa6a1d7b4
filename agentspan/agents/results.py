"""What an execution is and came to: status, pending decisions, result. Plain data, readable from the store alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import Enum
from typing import Any

from pydantic_core import to_jsonable_python


class Status(str, Enum):
    """Where an execution stands."""

    QUEUED = "QUEUED"
    """Accepted; waits for room on the cluster."""
    RUNNING = "RUNNING"
    WAITING = "WAITING"
    """Goes on when a person, a message or a timer does."""
    PAUSED = "PAUSED"
    """An operator holds it."""
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    TERMINATED = "TERMINATED"
    """Cancelled or stopped."""
    TIMED_OUT = "TIMED_OUT"
    QUARANTINED = "QUARANTINED"
    """Its stored state failed a check or it kept crashing; it does not run until an operator acts."""

    @property
    def is_terminal(self) -> bool:
        """It has ended for good: nothing can change it any more."""
        return self in (Status.COMPLETED, Status.FAILED, Status.TERMINATED, Status.TIMED_OUT)

    @property
    def is_settled(self) -> bool:
        """Waiting for it is pointless: it has ended, or is quarantined."""
        return self.is_terminal or self is Status.QUARANTINED

    def __str__(self) -> str:
        return self.value


class FinishReason(str, Enum):
    """Why an execution ended."""

    STOP = "stop"
    """The model was done."""
    LENGTH = "length"
    """The model's answer was cut off at `max_tokens`."""
    TOOL_CALLS = "tool_calls"
    ERROR = "error"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    GUARDRAIL = "guardrail"
    REJECTED = "rejected"
    STOPPED = "stopped"
    """`stop()` was called, or `stop_when` said so."""
    MAX_TURNS = "max_turns"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens of all model calls together. Usages add up with `+`."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0

    def __add__(self, other: TokenUsage) -> TokenUsage:
        if not isinstance(other, TokenUsage):
            return NotImplemented
        return TokenUsage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.total_tokens + other.total_tokens,
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return _plain(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingTool(Mapping[str, Any]):
    """One call that waits for a decision. Fields by attribute, or by key as `pending["tool_name"]`.

    Two keys have names of their own that existing programs read: `parameters` (the arguments) and `taskRefName` (the
    call ID).
    """

    call_id: str
    tool_name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    """What the call will run with when it is approved."""
    kind: str = "approval"
    """`approval` (approve or reject), `question` (respond), `message` (send one), `crash` (the outcome of an attempt is
    unknown: approve to try again, reject, or respond with the result), `interrupt` (a graph asks), `breakpoint` (a graph
    stopped before or after a node: approve to go on)."""
    question: str = ""
    """What the person is asked."""
    response_schema: dict[str, Any] | None = None
    """JSON schema the answer must fit; None takes anything."""
    arguments_hash: str = ""
    """Pass it with a decision to make sure that it is for the arguments you saw."""
    asked_at: datetime | None = None
    agent_name: str = ""
    verdicts: tuple[str, ...] = ()
    """Which of `approve`, `reject` and `respond` can be the answer, the one most people want first."""

    def __getitem__(self, key: str) -> Any:
        name = _PENDING_KEYS.get(key, key)
        if name not in _PENDING_FIELDS:
            raise KeyError(key)
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        yield from _PENDING_FIELDS
        yield from _PENDING_KEYS

    def __len__(self) -> int:
        return len(_PENDING_FIELDS) + len(_PENDING_KEYS)

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return _plain(self)


_PENDING_FIELDS = tuple(part.name for part in fields(PendingTool))
_PENDING_KEYS = {"parameters": "arguments", "taskRefName": "call_id"}


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentStatus:
    """How an execution stands at one moment."""

    execution_id: str = ""
    status: Status = Status.QUEUED
    is_complete: bool = False
    """It will not go on by itself: ended, or quarantined."""
    is_running: bool = False
    is_waiting: bool = False
    """Somebody has to decide, answer or send something: see `pending`."""
    reason: str | None = None
    """Why it ended, what is wrong, or what it waits in line for."""
    ahead: int | None = None
    """In line for a place: how many executions of its session, or else of its agent, come before it. Else None."""
    output: Any = None
    current_task: str | None = None
    """What it is doing, in a few words."""
    messages: list[dict[str, Any]] = field(default_factory=list)
    """The conversation so far, as chat messages."""
    pending_tool: PendingTool | None = None
    """The first of `pending`."""
    pending: list[PendingTool] = field(default_factory=list)
    """Every call that waits, each decided by itself."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return _plain(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallRecord:
    """One tool call of an execution and what came of it."""

    call_id: str
    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    result: Any = None
    error: str | None = None
    attempts: int = 1
    status: str = "completed"
    """`completed`, `failed`, `rejected` or `answered` when it is over; otherwise what it waits for."""
    decided_by: str | None = None
    """Who approved, rejected or answered it."""
    decided_at: datetime | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return _plain(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentResult:
    """What an execution came to."""

    output: Any = None
    """The model's final text, or an instance of the agent's `output_type`."""
    execution_id: str = ""
    status: Status = Status.COMPLETED
    finish_reason: FinishReason | None = None
    error: str | None = None
    token_usage: TokenUsage = field(default_factory=TokenUsage)
    messages: list[dict[str, Any]] = field(default_factory=list)
    """The conversation, as chat messages."""
    tool_calls: list[ToolCallRecord] = field(default_factory=list)
    session_id: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    state: Any = None
    """For a graph: what its `invoke` returns."""

    @property
    def is_success(self) -> bool:
        """It completed."""
        return self.status is Status.COMPLETED

    @property
    def is_failed(self) -> bool:
        """It failed or ran out of time, or is quarantined. A cancelled execution is neither a success nor a failure."""
        return self.status in (Status.FAILED, Status.TIMED_OUT, Status.QUARANTINED)

    @property
    def is_rejected(self) -> bool:
        """A person rejected at least one call, even if the agent then found another way to its end."""
        return self.finish_reason is FinishReason.REJECTED or any(call.status == "rejected" for call in self.tool_calls)

    @property
    def correlation_id(self) -> None:
        """Always None; some existing programs read it."""
        return None

    def to_dict(self) -> dict[str, Any]:
        """As JSON data; a typed output becomes its JSON form."""
        return _plain(self)

    def print_result(self) -> None:
        """Print the output and a summary to the terminal, in colour where there is one."""
        body = self.output if isinstance(self.output, str) else _pretty(self.output)
        if self.error:
            body = f"{body}\n\n{self.error}" if self.output is not None else self.error
        facts = f"{self.status}"
        if self.finish_reason:
            facts += f" ({self.finish_reason})"
        facts += f" · {self.token_usage.total_tokens} tokens · {len(self.tool_calls)} tool calls · {self.execution_id}"
        try:
            from rich.console import Console  # Only here: most programs that read results never print one.
            from rich.panel import Panel
            from rich.text import Text
        except ImportError:
            print(f"{body}\n\n{facts}")
            return
        # Text, not markup: an answer may contain square brackets.
        colour = "green" if self.is_success else "red" if self.is_failed else "yellow"
        Console().print(Panel(Text(body), title=Text("Result"), subtitle=Text(facts), border_style=colour))


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryState:
    """One of the states an execution went through."""

    step: int
    """Give it to `fork` to go on from here. For an agent the number of a record, for a graph LangGraph's step (from -1)."""
    at: datetime | None = None
    source: str = ""
    """What made it: the kind of record (`model`, `tool`, …), or LangGraph's source (`input`, `loop`, `update`, `fork`)."""
    next: tuple[str, ...] = ()
    """What comes next: nodes of the graph, or the model and tools of an agent. Empty at the end."""
    values: Any = None
    """The state: a graph's values; for an agent `{"messages": […], "state": {…}}`."""
    checkpoint_id: str = ""
    """LangGraph's name of it; empty for an agent."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return _plain(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentInfo:
    """One registered version of an agent."""

    registered_name: str
    """The name executions are started by."""
    agent_name: str
    deployment_id: str = ""
    """Changes with the code and the definition."""
    source: str = ""
    """Where its code comes from: `package.module:attribute`, or `value` when the code itself was shipped."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return _plain(self)


def _plain(value: Any) -> dict[str, Any]:
    return {part.name: _plain_value(getattr(value, part.name)) for part in fields(value)}


def _plain_value(value: Any) -> Any:
    if isinstance(value, (TokenUsage, PendingTool, ToolCallRecord)):
        return _plain(value)
    if isinstance(value, (list, tuple)):
        return [_plain_value(item) for item in value]
    # A result is shown, not stored: what has no JSON form is better shown as text than not at all.
    return to_jsonable_python(value, fallback=str, bytes_mode="base64")


def _pretty(value: Any) -> str:
    return "" if value is None else json.dumps(_plain_value(value), indent=2, ensure_ascii=False)
