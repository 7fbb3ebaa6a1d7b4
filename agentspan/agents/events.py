"""What a reader of an execution's stream is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import Enum
from typing import Any

from pydantic_core import to_jsonable_python


class EventType(str, Enum):
    """What happened."""

    STARTED = "started"
    THINKING = "thinking"
    """The model's reasoning, where the provider shows it."""
    MESSAGE = "message"
    """A whole text of the model."""
    TOKEN = "token"
    """A piece of text as it streams in. Live only: not numbered, and not there for readers that come later."""
    TOOL_CALL = "tool_call"
    """The model asked for a call; told before it runs."""
    TOOL_RESULT = "tool_result"
    NODE_START = "node_start"
    """A graph's node starts; `data` has `node`, `task_id` and `ns` (the sub-graphs it is in, outermost first)."""
    NODE_END = "node_end"
    """A graph's node has ended and what it returned is stored; `data` has an `error` if it failed."""
    CUSTOM = "custom"
    """What a node wrote with the stream writer, in `data["value"]`."""
    HANDOFF = "handoff"
    WAITING = "waiting"
    """A call waits for a decision, an answer or a message."""
    DECISION = "decision"
    """A person decided."""
    SIGNAL = "signal"
    """A message or a command came in from outside."""
    GUARDRAIL_PASS = "guardrail_pass"
    GUARDRAIL_FAIL = "guardrail_fail"
    ERROR = "error"
    """Something failed; `will_retry` says whether the execution goes on by itself."""
    RECOVERED = "recovered"
    """The execution goes on after a crash."""
    DONE = "done"
    """The last event."""

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentEvent:
    """One event of an execution. Only the fields that its type needs are set."""

    type: EventType | str
    """An `EventType`; plain text for a type that a newer server tells and this version does not know."""
    execution_id: str = ""
    seq: int | None = None
    """Its place in the stream, without gaps; None for what is live only. Resume after it with `after=seq`."""
    at: datetime | None = None
    content: str | None = None
    tool_name: str | None = None
    args: Any = None
    result: Any = None
    call_id: str | None = None
    attempt: int | None = None
    target: str | None = None
    """HANDOFF: the agent that takes over."""
    output: Any = None
    guardrail_name: str | None = None
    will_retry: bool = False
    agent_path: str = ""
    """Which agent of the tree it is about; empty for the root."""
    data: dict[str, Any] = field(default_factory=dict)
    """What else there is to say about this type."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON data, without what is not set. `from_dict` gives the event again."""
        plain: dict[str, Any] = {"type": str(self.type)}
        for part in fields(self):
            value = getattr(self, part.name)
            unset = {} if part.name == "data" else part.default
            if part.name == "type" or (type(value) is type(unset) and value == unset):
                continue
            plain[part.name] = to_jsonable_python(value, fallback=str, bytes_mode="base64")
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> AgentEvent:
        """The event of `to_dict`. Fields that this version does not know are left out, so older readers go on reading.

        Raises:
            KeyError: There is no `type`.
        """
        known = {part.name for part in fields(cls)}
        values = {name: value for name, value in plain.items() if name in known}
        values["type"] = _event_type(plain["type"])
        if isinstance(values.get("at"), str):
            values["at"] = datetime.fromisoformat(values["at"])
        return cls(**values)


def _event_type(text: str) -> EventType | str:
    try:
        return EventType(text)
    except ValueError:
        return text
