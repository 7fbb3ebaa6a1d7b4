"""Which signals an execution takes, and which call a decision is for: the same in every store (P5, P6).

    the execution has ended ── decision on a call decided before ──▶ the first decision
            │                └ anything else ─────────────────────▶ ExecutionFinishedError
    not a decision ───────────────────────────────────────────────▶ accepted
    the call waits, undecided ─▶ hash and schema fit ─────────────▶ accepted, and the call is decided
    the call was decided ─────────────────────────────────────────▶ the first decision

A signal sent again is answered before any of this, by its ID. A call may ask twice (an approval, and after a crash what
became of it); the one that waits now counts, and of those that were decided the last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from agentspan.engine.admit import DECISIONS, Signal
from agentspan.engine.answers import as_meant, misfit, resume_value
from agentspan.errors import (
    AmbiguousDecisionError,
    DecisionMismatchError,
    ExecutionFinishedError,
    InvalidDecisionError,
    NothingPendingError,
    UnknownCallError,
)
from agentspan.persistence.rules import FINISHED
from agentspan.persistence.store import Accepted, PendingRow

FindDecision = Callable[[str], Signal | None]


def needs_schema(signal: Signal) -> bool:
    """A JSON schema may have to be checked, so jsonschema (slow to import) will be needed."""
    return signal.kind in DECISIONS  # An interrupt's schema is checked whatever the verdict.


def judge(signal: Signal, *, status: str, calls: Sequence[PendingRow], first_decision: FindDecision) -> Accepted:
    """Say what becomes of a signal that was not seen before.

    Args:
        signal: What was sent.
        status: The execution's.
        calls: Its open calls, decided or not, oldest first.
        first_decision: Finds the stored decision on a call; when the call asked more than once, the last one.

    Returns:
        With `is_new`: store the signal, and mark its call decided. Without: the decision that came first.

    Raises:
        ExecutionFinishedError, NothingPendingError, UnknownCallError, AmbiguousDecisionError, DecisionMismatchError,
        InvalidDecisionError: Store nothing.
    """
    if signal.kind not in DECISIONS:
        if status in FINISHED:
            raise ExecutionFinishedError(execution_id=signal.execution_id, status=status, signal=signal.kind)
        return Accepted(signal=signal, is_new=True)
    call = _waiting_call(signal, calls)
    if call is None:
        return Accepted(signal=_decided_before(signal, status, calls, first_decision), is_new=False)
    if signal.arguments_hash is not None and signal.arguments_hash != call.arguments_hash:
        raise DecisionMismatchError(
            execution_id=signal.execution_id,
            call_id=call.call_id,
            shown=signal.arguments_hash,
            held=call.arguments_hash,
        )
    meant = as_meant(call, signal.kind, signal.value)
    if meant is not None:
        kind, reason = meant
        signal = replace(signal, kind=kind, text=reason, value=None)  # type: ignore[arg-type]
    problem = _misfit(signal, call)
    if problem is not None:
        raise InvalidDecisionError(execution_id=signal.execution_id, call_id=call.call_id, problem=problem)
    return Accepted(signal=replace(signal, call_id=call.call_id), is_new=True)


def _waiting_call(signal: Signal, calls: Sequence[PendingRow]) -> PendingRow | None:
    waiting = [call for call in calls if call.ask != "message" and call.decided_by_signal is None]
    if signal.call_id is not None:
        return next((call for call in waiting if call.call_id == signal.call_id), None)
    if len(waiting) > 1:
        raise AmbiguousDecisionError(
            execution_id=signal.execution_id, count=len(waiting), pending=_listed(waiting), signal=signal.kind
        )
    return waiting[0] if waiting else None


def _decided_before(signal: Signal, status: str, calls: Sequence[PendingRow], first_decision: FindDecision) -> Signal:
    """The decision a late one gets back; the error if there is none."""
    call_id = signal.call_id
    if call_id is None:
        decided = [call.call_id for call in calls if call.decided_by_signal is not None]
        call_id = decided[0] if len(decided) == 1 else None
    first = None if call_id is None else first_decision(call_id)
    if first is not None:
        return first
    if status in FINISHED:
        raise ExecutionFinishedError(execution_id=signal.execution_id, status=status, signal=signal.kind)
    open_calls = [call for call in calls if call.decided_by_signal is None]
    if signal.call_id is not None:
        raise UnknownCallError(
            execution_id=signal.execution_id, call_id=signal.call_id, pending=_listed(open_calls) or "nothing"
        )
    if open_calls:
        status = f"{status} for a message (send_message delivers one)"
    raise NothingPendingError(execution_id=signal.execution_id, status=status, signal=signal.kind)


def _listed(calls: Sequence[PendingRow]) -> str:
    return ", ".join(
        f"{call.call_id} ({call.tool}, takes a message: use send_message)"
        if call.ask == "message"
        else f"{call.call_id} ({call.ask} of {call.tool})"
        for call in calls
    )


def _misfit(signal: Signal, call: PendingRow) -> str | None:
    """Why the answer does not fit what was asked, in words; None if it does."""
    if call.ask in ("interrupt", "breakpoint"):
        return _interrupt_problem(signal, call)
    if signal.kind == "approve" and call.ask == "question":
        return "it is a question, not something to approve; answer it with respond(...)"
    if signal.kind == "approve" and signal.arguments is not None:
        return _schema_problem(signal.arguments, call.parameters, "the arguments")
    if signal.kind == "respond" and call.ask == "question":
        return _schema_problem(signal.value, call.response_schema, "the answer")
    return None


def _interrupt_problem(signal: Signal, call: PendingRow) -> str | None:
    given: dict[str, Any] = {"arguments": signal.arguments, "reason": signal.text, "value": signal.value}
    problem = misfit(call, signal.kind, **given)
    if problem is not None or call.ask == "breakpoint":
        return problem
    if signal.kind == "approve" and signal.arguments is not None and call.form:
        problem = _schema_problem(signal.arguments, call.parameters, "the arguments")
    problem = problem or _schema_problem(resume_value(call, signal.kind, **given), call.response_schema, "the answer")
    if problem is not None and signal.kind != "respond":
        return f"{problem}. Its node wants another kind of answer: use respond(...)"
    return problem


def _schema_problem(value: Any, schema: dict[str, Any] | None, name: str) -> str | None:
    if schema is None:
        return None
    import jsonschema
    import referencing
    import referencing.exceptions

    # An explicit registry, because the default one fetches remote references over the network.
    checker = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        checker.check_schema(schema)
        worst = jsonschema.exceptions.best_match(checker(schema, registry=referencing.Registry()).iter_errors(value))
    except (jsonschema.SchemaError, referencing.exceptions.Unresolvable):
        return None  # A schema nobody can fit must not keep a person from answering.
    if worst is None:
        return None
    place = f"{name} at {worst.json_path}" if worst.json_path != "$" else name
    return f"{place}: {worst.message[:500]}"
