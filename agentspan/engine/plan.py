"""From a model's answer to the record of it: which calls run, which wait, which are refused.

This is settled before the answer is committed, so that what is on record is what will happen (P6): the hash an approval
is bound to is taken here, over the arguments as they were validated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentspan.agents.spec import AgentSpec, ToolKind
from agentspan.engine.decide import ask_for
from agentspan.engine.hashing import arguments_hash
from agentspan.engine.records import PlannedCall
from agentspan.engine.state import Frame

Validate = Callable[[str, str], dict[str, Any]]
"""(tool name, raw argument text) → plain arguments; raises ValueError with a text the model can act on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestedCall:
    """A tool call as a model asked for it."""

    call_id: str
    name: str
    arguments: str
    extra: dict[str, Any] = field(default_factory=dict)
    """What the provider wants back with the call, unread (Gemini's thought signatures)."""


def plan_calls(
    frame: Frame, spec: AgentSpec, requested: Sequence[RequestedCall], validate: Validate
) -> tuple[PlannedCall, ...]:
    """Check each requested call against the agent's tools and limits."""
    counts = dict(frame.call_counts)
    taken = {past.call_id for past in frame.past_calls}
    planned: list[PlannedCall] = []
    for index, call in enumerate(requested):
        counts[call.name] = counts.get(call.name, 0) + 1
        call_id = call.call_id
        if not call_id or call_id in taken:
            # Some providers leave IDs out or repeat them; ours have to be unique within the execution.
            call_id = f"{call_id or 'call'}-{frame.turn + 1}-{index}"
        taken.add(call_id)
        planned.append(_plan(call, call_id, counts[call.name], spec, validate))
    return tuple(planned)


def _plan(call: RequestedCall, call_id: str, count: int, spec: AgentSpec, validate: Validate) -> PlannedCall:
    def refused(problem: str) -> PlannedCall:
        return PlannedCall(call_id=call_id, name=call.name, raw=call.arguments or "{}", extra=call.extra, error=problem)

    tool = spec.tools.get(call.name)
    if tool is None:
        return refused(f"There is no tool {call.name!r}. The tools are: {', '.join(spec.tools) or 'none'}.")
    if tool.max_calls is not None and count > tool.max_calls:
        return refused(
            f"The tool {call.name!r} may be called at most {tool.max_calls} times in this run; go on without it."
        )
    try:
        arguments = validate(call.name, call.arguments)
    except ValueError as problem:
        return refused(str(problem))
    ask = ask_for(spec, call.name)
    question = ""
    if tool.kind is ToolKind.HUMAN:
        question = next((v for v in (arguments.get("question"), *arguments.values()) if isinstance(v, str)), "")
    return PlannedCall(
        call_id=call_id,
        name=call.name,
        raw=call.arguments or "{}",
        extra=call.extra,
        arguments=arguments,
        arguments_hash=arguments_hash(call.name, arguments) if ask else "",
        ask=ask,
        question=question,
        response_schema=tool.response_schema if ask == "question" else None,
        parameters=tool.parameters if ask == "approval" else None,
    )
