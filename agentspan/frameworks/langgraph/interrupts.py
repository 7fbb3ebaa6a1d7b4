"""From what a graph stopped for to the questions people are asked.

An `interrupt()` becomes one ask under the interrupt's own ID, which stays the same over crashes and is another for the
next question of the same node. The formats of langchain's HumanInTheLoopMiddleware are recognised, so that a person
approves the tool call and not a dict about it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic_core import to_jsonable_python

from agentspan.engine.hashing import arguments_hash
from agentspan.engine.records import PlannedCall

_QUESTION_KEYS = ("question", "prompt", "message", "query", "description", "instruction", "text")


def planned_interrupts(tasks: Iterable[Any]) -> tuple[PlannedCall, ...]:
    """One ask for each interrupt of the tasks of a `StateSnapshot`, in their order."""
    asks: dict[str, PlannedCall] = {}
    for task in tasks:
        for found in task.interrupts:
            asks.setdefault(found.id, planned_interrupt(found, task.name))
    return tuple(asks.values())


def planned_interrupt(found: Any, node: str) -> PlannedCall:
    """The ask for one `Interrupt` of a node."""
    value = plain(found.value)
    schema = getattr(found, "response_schema", None)
    actions = _actions(value)
    if actions is None:
        arguments = value if isinstance(value, dict) else {"value": value}
        return _ask(found.id, node, arguments, _question(value), schema=schema if isinstance(schema, dict) else None)
    kind = "decisions" if "action_requests" in value else "decision"
    form = {"kind": kind, "actions": actions}
    if len(actions) == 1:
        only = actions[0]
        question = str(value.get("description") or value.get("action_requests", [{}])[0].get("description") or "")
        return _ask(found.id, only["name"], only["args"], question, form=form)
    question = f"{len(actions)} calls wait: {', '.join(action['name'] for action in actions)}"
    return _ask(found.id, node, {"action_requests": value["action_requests"]}, question, form=form)


def planned_breakpoint(checkpoint_id: str, nodes: Sequence[str], *, when: str) -> PlannedCall:
    """The ask for a static breakpoint (`interrupt_before`, `interrupt_after`) at a checkpoint."""
    names = ", ".join(nodes)
    question = f"The graph stopped {when} {names}. Approve to go on."
    return PlannedCall(
        call_id=f"breakpoint-{checkpoint_id}",
        name=names,
        raw="",
        arguments={when: list(nodes)},
        arguments_hash=arguments_hash(names, {when: list(nodes)}),
        ask="breakpoint",
        question=question,
    )


def refused_again(ask: PlannedCall, problem: str) -> PlannedCall:
    """The same question once more, after the graph's own validation refused an answer (nothing of it was stored)."""
    from dataclasses import replace

    return replace(ask, question=f"{ask.question}\nThe last answer was refused: {problem}".strip())


def plain(value: Any) -> Any:
    """A value as people are shown it: JSON data, with what has no JSON form as text."""
    return to_jsonable_python(value, fallback=str, bytes_mode="base64", inf_nan_mode="constants")


def _ask(
    call_id: str,
    name: str,
    arguments: dict[str, Any],
    question: str,
    *,
    schema: dict[str, Any] | None = None,
    form: dict[str, Any] | None = None,
) -> PlannedCall:
    return PlannedCall(
        call_id=call_id,
        name=name,
        raw="",
        arguments=arguments,
        arguments_hash=arguments_hash(name, arguments),
        ask="interrupt",
        question=question,
        response_schema=schema,
        form=form or {},
    )


def _question(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return next((value[key] for key in _QUESTION_KEYS if isinstance(value.get(key), str)), "")
    return ""


def _actions(value: Any) -> list[dict[str, Any]] | None:
    """The tool calls a HumanInTheLoopMiddleware asks about; None if it is another kind of interrupt."""
    if not isinstance(value, dict):
        return None
    if value.get("type") == "tool_approval" and isinstance(value.get("name"), str):
        return [_action(value["name"], value.get("args"), value.get("allowed_decisions"))]
    requests, configs = value.get("action_requests"), value.get("review_configs")
    if not isinstance(requests, list) or not isinstance(configs, list) or not requests:
        return None
    if not all(isinstance(request, dict) and isinstance(request.get("name"), str) for request in requests):
        return None
    allowed = {config["action_name"]: config.get("allowed_decisions") for config in configs if "action_name" in config}
    return [
        _action(request["name"], request.get("args", request.get("arguments")), allowed.get(request["name"]))
        for request in requests
    ]


def _action(name: str, args: Any, allowed: Any) -> dict[str, Any]:
    action: dict[str, Any] = {"name": name, "args": args if isinstance(args, dict) else {}}
    if isinstance(allowed, list):
        action["allowed"] = allowed
    return action
