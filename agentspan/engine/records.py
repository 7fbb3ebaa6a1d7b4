"""The entries of a journal. Each says that something happened; none says what to do about it.

A record is written before the state advances, in one transaction with everything that follows from it. Stored form: a
plain dict under a short kind name, default-valued fields left out. Fields are only ever added, with a default, so that
old journals stay readable; a new meaning gets a new kind.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar, Literal, get_args

Ask = Literal["approval", "question", "message", "crash", "interrupt", "breakpoint"]
"""Why a call waits: a person approves it; a person answers it; a message answers it; its outcome is unknown; a graph
called `interrupt()`; a graph stopped at a static breakpoint."""

Verdict = Literal["approve", "reject", "respond"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCall:
    """A tool call as the model's answer asked for it, checked before anything ran."""

    call_id: str
    name: str
    raw: str
    """The argument text exactly as the model wrote it; it goes back into the conversation unchanged."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Members the provider wants back with the call in the conversation."""
    arguments: dict[str, Any] | None = None
    arguments_hash: str = ""
    """What an approval is bound to (P6)."""
    ask: Ask | None = None
    question: str = ""
    response_schema: dict[str, Any] | None = None
    parameters: dict[str, Any] | None = None
    """JSON schema of the arguments, for calls a person may edit."""
    error: str | None = None
    """Why the call is not run at all; the model hears it."""
    form: dict[str, Any] = field(default_factory=dict)
    """Interrupts: how a verdict becomes the value the graph goes on with (`engine.answers`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InterruptedCall:
    """A call that was in flight when its process died, and what was made of it (P3)."""

    path: str
    call_id: str
    name: str
    attempt: int
    """The attempt that was lost."""
    action: Literal["retry", "ask", "fail"]
    arguments: dict[str, Any] | None = None
    arguments_hash: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The base of all records. `at` is the wall clock in UTC seconds when it was made."""

    KIND: ClassVar[str]
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(Record):
    """The execution was accepted. Always seq 0, written with the execution's row."""

    KIND: ClassVar[str] = "started"
    agent: str
    prompt: Any
    """Text, or a list of chat messages."""
    session_id: str = ""
    session_from: str | None = None
    """The execution whose conversation this one continues."""
    timeout_s: float | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    graph: dict[str, Any] | None = None
    """For a graph: its input and how it is to be run (`frameworks.langgraph.starting`). None for a native agent."""
    forked_from: str | None = None
    """The execution this one goes on from."""
    forked_step: int | None = None
    """Which of its states: a seq of its journal, or a step of its graph; None is the last."""
    forked_state: Any = None
    """What to change in that state first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forked(Record):
    """The state of another execution, copied so that this one stands alone."""

    KIND: ClassVar[str] = "forked"
    snapshot: dict[str, Any] | None = None
    """None for a graph, whose state is in its thread."""
    error: str | None = None
    """Why the state cannot be gone on from; it ends the execution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionLoaded(Record):
    """The conversation of the session's previous execution, copied so that this one stands alone."""

    KIND: ClassVar[str] = "session"
    messages: list[dict[str, Any]]
    error: str | None = None
    """Why it cannot be gone on from; it ends the execution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered(Record):
    """A new incarnation took over from one that died."""

    KIND: ClassVar[str] = "recovered"
    epoch: int
    calls: tuple[InterruptedCall, ...] = ()
    models: tuple[str, ...] = ()
    """Paths of the frames whose model call was in flight."""
    graphs: tuple[str, ...] = ()
    """Paths of the frames whose graph was running."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAnswered(Record):
    """A model call returned. With it, the intent to run each of its tool calls is on record."""

    KIND: ClassVar[str] = "model"
    path: str = ""
    attempt: int = 1
    text: str = ""
    thinking: str = ""
    calls: tuple[PlannedCall, ...] = ()
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    served_by: str = ""
    output: Any = None
    """Structured output, when the agent has an output type and the text fits it."""
    output_error: str | None = None
    """Why the text does not fit the output type; the model is asked again with this."""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFailed(Record):
    """A model call failed. With `retry_at` it will be tried again; without, the execution fails."""

    KIND: ClassVar[str] = "model_failed"
    path: str = ""
    attempt: int = 1
    error: str
    error_type: str = ""
    retry_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolReturned(Record):
    """A tool call returned."""

    KIND: ClassVar[str] = "tool"
    path: str = ""
    call_id: str
    name: str
    attempt: int = 1
    result: Any = None
    state_set: dict[str, Any] = field(default_factory=dict)
    state_del: tuple[str, ...] = ()
    """What the tool changed in `ToolContext.state`, by top-level key."""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFailed(Record):
    """A tool call raised or ran out of time. With `retry_at` it will be tried again; without, the model hears it."""

    KIND: ClassVar[str] = "tool_failed"
    path: str = ""
    call_id: str
    name: str
    attempt: int = 1
    error: str
    error_type: str = ""
    retry_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolLost(Record):
    """A tool call's own process died, and the tool wants a person to say what now: its outcome is unknown."""

    KIND: ClassVar[str] = "tool_lost"
    path: str = ""
    call_id: str
    name: str
    attempt: int = 1
    error: str
    arguments: dict[str, Any] | None = None
    arguments_hash: str = ""
    """As in `InterruptedCall`, so that readers of the record know what the person is asked about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided(Record):
    """A person's decision on one call took effect."""

    KIND: ClassVar[str] = "decided"
    signal_id: str
    path: str = ""
    call_id: str
    name: str
    verdict: Verdict
    arguments: dict[str, Any] | None = None
    """Edited arguments, validated; None runs what was shown."""
    reason: str = ""
    value: Any = None
    by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageReceived(Record):
    """A message for the execution's queue."""

    KIND: ClassVar[str] = "message"
    signal_id: str
    message: Any
    by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessagesDelivered(Record):
    """A waiting call took messages from the queue; they are its result."""

    KIND: ClassVar[str] = "delivered"
    path: str = ""
    call_id: str
    name: str
    messages: list[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Controlled(Record):
    """An operator's signal: hold, go on, end soon, end now, or a note for every model call from now on."""

    KIND: ClassVar[str] = "control"
    signal_id: str
    command: Literal["pause", "resume", "stop", "cancel", "guide"]
    text: str = ""
    by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StopChecked(Record):
    """The agent's `stop_when` was asked after a turn."""

    KIND: ClassVar[str] = "stop_checked"
    path: str = ""
    turn: int
    stop: bool
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphTold(Record):
    """What a running graph did: nodes that started and ended, what their models said, what they streamed.

    Tells exactly one event per item. The graph's state is not in it; that is in the thread, in the same commit.
    """

    KIND: ClassVar[str] = "graph"
    path: str = ""
    told: tuple[dict[str, Any], ...]
    """Fields of `AgentEvent`, `type` among them; node events have `data` with `node`, `task_id` and `ns`."""
    model_calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphWaits(Record):
    """A run of the graph stopped for people. Once all of `asks` are answered it goes on as the next run."""

    KIND: ClassVar[str] = "graph_waits"
    path: str = ""
    run: int
    asks: tuple[PlannedCall, ...]
    checkpoint_id: str = ""
    """For a breakpoint: the checkpoint it stopped at, so that it is passed once and only once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphHeld(Record):
    """A run of the graph was asked to stop at the next step border, and did. The same run goes on from there."""

    KIND: ClassVar[str] = "graph_held"
    path: str = ""
    run: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphEnded(Record):
    """The graph came to its end."""

    KIND: ClassVar[str] = "graph_ended"
    path: str = ""
    run: int
    output: Any = None
    """Its natural answer, as plain data."""
    state: bytes = b""
    """What `invoke` returns, as the adapter encodes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphFailed(Record):
    """The graph raised."""

    KIND: ClassVar[str] = "graph_failed"
    path: str = ""
    run: int
    error: str
    error_type: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished(Record):
    """The execution ended. Always the last record."""

    KIND: ClassVar[str] = "finished"
    status: str
    finish_reason: str
    output: Any = None
    error: str | None = None


AnyRecord = (
    Started
    | SessionLoaded
    | Recovered
    | ModelAnswered
    | ModelFailed
    | ToolReturned
    | ToolFailed
    | ToolLost
    | Decided
    | MessageReceived
    | MessagesDelivered
    | Controlled
    | StopChecked
    | Forked
    | GraphTold
    | GraphWaits
    | GraphHeld
    | GraphEnded
    | GraphFailed
    | Finished
)

KINDS: dict[str, type[Record]] = {cls.KIND: cls for cls in get_args(AnyRecord)}

_NESTED: dict[tuple[str, str], type] = {
    ("model", "calls"): PlannedCall,
    ("graph_waits", "asks"): PlannedCall,
    ("recovered", "calls"): InterruptedCall,
}


def _defaults(cls: type) -> dict[str, Any]:
    return {
        f.name: f.default
        if f.default is not MISSING
        else (f.default_factory() if f.default_factory is not MISSING else MISSING)
        for f in fields(cls)
    }


_FIELDS: dict[type, tuple[tuple[str, Any], ...]] = {
    cls: tuple(_defaults(cls).items()) for cls in (*KINDS.values(), PlannedCall, InterruptedCall)
}


def to_plain(record: Any) -> dict[str, Any]:
    """The stored form of a record: its fields that differ from their defaults, nested records too."""
    plain: dict[str, Any] = {}
    for name, default in _FIELDS[type(record)]:
        value = getattr(record, name)
        if default is not MISSING and value == default and type(value) is type(default):
            continue
        if isinstance(value, tuple):
            value = [to_plain(item) if type(item) in _FIELDS else item for item in value]
        plain[name] = value
    return plain


def from_plain(kind: str, plain: dict[str, Any]) -> AnyRecord:
    """Build a record from its stored form.

    Raises:
        ValueError: The kind or a field is unknown, or one is missing: written by a newer version, or damaged.
    """
    cls = KINDS.get(kind)
    if cls is None:
        raise ValueError(f"unknown record kind {kind!r}")
    values = dict(plain)
    try:
        for name, value in values.items():
            if isinstance(value, list) and (kind, name) in _NESTED:
                values[name] = tuple(_NESTED[kind, name](**item) for item in value)
            elif isinstance(value, list) and (kind, name) in _TUPLES:
                values[name] = tuple(value)
        return cls(**values)  # type: ignore[return-value]
    except TypeError as problem:
        raise ValueError(f"record of kind {kind!r}: {problem}") from None


_TUPLES = {("recovered", "models"), ("recovered", "graphs"), ("tool", "state_del"), ("graph", "told")}
