"""What a journal adds up to: a tree of agent frames and what hangs on it.

The state is plain data. It is changed in one place only, `apply`, one record at a time, so that a step costs what it
adds and not what came before (P8); everybody else reads it. The tree has only its root today; several frames may run at
once when agents call agents.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from agentspan.agents.results import FinishReason, Status
from agentspan.engine.hashing import arguments_hash
from agentspan.engine.records import Ask, PlannedCall

FORMAT = 1
"""Version of the snapshot form. 1: first release."""

ROOT = ""

CallPhase = Literal["asking", "ready", "done"]
Outcome = Literal["", "completed", "failed", "rejected", "answered"]


@dataclass(slots=True)
class Call:
    """One tool call of the current turn."""

    plan: PlannedCall
    phase: CallPhase
    ask: Ask | None = None
    arguments: dict[str, Any] | None = None
    """What it runs with: the model's arguments, or a person's edit of them."""
    attempt: int = 1
    """The attempt that is running or runs next, from 1."""
    failures: int = 0
    """Attempts that failed by themselves; one lost in a crash is not among them, so it takes no retry away."""
    retry_at: float | None = None
    outcome: Outcome = ""
    result: Any = None
    error: str | None = None
    asked_at: float | None = None
    decided_by: str | None = None
    decided_at: float | None = None
    approved: bool = False

    @property
    def call_id(self) -> str:
        return self.plan.call_id

    @property
    def name(self) -> str:
        return self.plan.name

    @property
    def arguments_hash(self) -> str:
        """Binds a decision to what the call would run with now."""
        return arguments_hash(self.name, self.arguments or {})

    @property
    def edited(self) -> dict[str, Any] | None:
        """What it runs with, when that is not what the model asked for."""
        return self.arguments if self.arguments != self.plan.arguments else None


@dataclass(slots=True)
class PastCall:
    """What is kept of a call when its turn is over; arguments and result are in the messages."""

    call_id: str
    name: str
    attempts: int
    outcome: Outcome
    text_result: bool
    """The result was a string, so the tool message's content is it and not JSON of it."""
    decided_by: str | None = None
    decided_at: float | None = None
    edited: dict[str, Any] | None = None
    """What it ran with, when a person changed the model's arguments."""


@dataclass(slots=True)
class GraphRun:
    """How far a graph is. What it knows is in its thread; here is only what it takes to run it again after a crash."""

    run: int = 1
    """The run that is on, or comes next: it begins with the input, and anew after each round of answers."""
    attempt: int = 1
    """How often this run was begun; each crash adds one."""
    running: dict[str, str] = field(default_factory=dict)
    """Nodes at work: task ID → name."""
    answers: dict[str, Any] = field(default_factory=dict)
    """Interrupt ID → the value its node goes on with. LangGraph does not store them; see notes on resuming."""
    checkpoint_id: str = ""
    """Where a breakpoint stopped it last."""
    passed: str = ""
    """The last checkpoint whose breakpoint a person let it pass."""
    ended: bool = False
    state: bytes = b""


SESSION_LATER = ""
"""In `session_from`: the session's newest execution that has completed when this one begins; it had not when it was started."""


@dataclass(slots=True)
class Frame:
    """One agent at work, from its prompt to its answer."""

    path: str
    agent: str
    messages: list[dict[str, Any]] = field(default_factory=list)
    """The conversation without the system prompt. Invariant: no tool call without its result, except those of
    `calls`, whose results are appended together when the last of them is done (P7)."""
    turn: int = 0
    """Model answers on record."""
    model_attempt: int = 1
    model_failures: int = 0
    """Attempts at the current turn that failed by themselves; see `Call.failures`."""
    model_retry_at: float | None = None
    model_error: str | None = None
    """The error that ended the frame, once no retry is left."""
    calls: list[Call] = field(default_factory=list)
    past_calls: list[PastCall] = field(default_factory=list)
    call_counts: dict[str, int] = field(default_factory=dict)
    answered: bool = False
    """The last model answer asked for no tool: it is the frame's answer."""
    answer: str = ""
    output: Any = None
    reasks: int = 0
    """How often the model was asked again because its text did not fit the output type."""
    last_finish: str = "stop"
    stop_checked_turn: int = 0
    stop_met: bool = False
    graph: GraphRun | None = None
    """Set when the agent is a graph; turns, messages and the like are then unused."""


@dataclass(slots=True)
class ExecutionState:
    """All there is to know about an execution between two records."""

    execution_id: str
    seq: int = -1
    """The last record applied; -1 before the first."""
    events: int = 0
    """Events numbered so far: the journal so far tells events 1 … events."""
    agent: str = ""
    prompt: Any = None
    session_id: str = ""
    session_from: str | None = None
    session_loaded: bool = False
    """What it goes on from (a session, a fork) is here; True when there is nothing."""
    start: dict[str, Any] | None = None
    """For a graph: its input and how it is to be run."""
    forked_from: str | None = None
    forked_step: int | None = None
    forked_state: Any = None
    metadata: dict[str, Any] = field(default_factory=dict)
    started_at: float = 0.0
    updated_at: float = 0.0
    deadline_at: float | None = None
    timeout_s: float | None = None
    frames: dict[str, Frame] = field(default_factory=dict)
    shared: dict[str, Any] = field(default_factory=dict)
    """`ToolContext.state`."""
    queue: list[Any] = field(default_factory=list)
    guidance: str = ""
    paused: bool = False
    stopping: bool = False
    cancelled: bool = False
    cancel_reason: str = ""
    recoveries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    model_calls: int = 0
    status: Status = Status.RUNNING
    """RUNNING until a `Finished` record; finer shades come from `view.status_of`."""
    finish_reason: FinishReason | None = None
    output: Any = None
    error: str | None = None

    @property
    def root(self) -> Frame:
        return self.frames[ROOT]

    @property
    def is_finished(self) -> bool:
        return self.status.is_terminal

    def call(self, path: str, call_id: str) -> Call | None:
        """The call of the current turn of frame `path`, or None."""
        frame = self.frames.get(path)
        if frame is None:
            return None
        return next((call for call in frame.calls if call.call_id == call_id), None)

    def open_asks(self) -> list[tuple[Frame, Call]]:
        """Calls that wait for a person or a message, oldest first."""
        return [(frame, call) for frame in self.frames.values() for call in frame.calls if call.phase == "asking"]


def edit_notice(edited: dict[str, Any] | None) -> str:
    """What the model is told before the result of a call that ran with other arguments than it asked for."""
    return "" if edited is None else f"A person changed the arguments to {_json(edited)} before this ran.\n"


def tool_message(call: Call) -> dict[str, Any]:
    """What the model is told a call came to."""
    text = call.error if call.error is not None else call.result
    if call.phase != "done":
        text = "This call was not finished: the run ended before."
    content = edit_notice(call.edited) + (text if isinstance(text, str) else _json(text))
    return {"role": "tool", "tool_call_id": call.call_id, "content": content}


def _json(value: Any) -> str:
    # A person's answer may hold what can be stored but has no JSON form, such as bytes; the model is shown it as text.
    return json.dumps(value, default=str)


def to_snapshot(state: ExecutionState) -> dict[str, Any]:
    """The state as plain data, for storing."""
    return {"format": FORMAT, **asdict(state)}


def from_snapshot(plain: dict[str, Any]) -> ExecutionState:
    """Build a state from a snapshot.

    Raises:
        ValueError: A newer format, or not a snapshot at all.
    """
    values = dict(plain)
    found = values.pop("format", None)
    if found != FORMAT:
        raise ValueError(f"snapshot format {found!r} is not one this version knows (1 … {FORMAT})")
    try:
        values["frames"] = {path: _frame(frame) for path, frame in values["frames"].items()}
        values["status"] = Status(values["status"])
        if values["finish_reason"] is not None:
            values["finish_reason"] = FinishReason(values["finish_reason"])
        return ExecutionState(**values)
    except (TypeError, KeyError, AttributeError) as problem:
        raise ValueError(f"not a snapshot: {problem}") from None


def _frame(plain: dict[str, Any]) -> Frame:
    values = dict(plain)
    values["calls"] = [Call(**{**call, "plan": PlannedCall(**call["plan"])}) for call in values["calls"]]
    values["past_calls"] = [PastCall(**call) for call in values["past_calls"]]
    if values.get("graph") is not None:
        values["graph"] = GraphRun(**values["graph"])
    return Frame(**values)
