"""From what a graph stopped for to the questions people are asked.

An `interrupt()` becomes one ask under the interrupt's own ID, which stays the same over crashes and is another for the
next question of the same node. The formats of langchain's HumanInTheLoopMiddleware are recognised, so that a person
approves the tool call and not a dict about it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from pydantic_core import to_jsonable_python

from agentspan.engine.hashing import arguments_hash
from agentspan.engine.records import PlannedCall
from agentspan.frameworks.langgraph.running.decisions import allowed_decisions, edit_schema

_QUESTION_KEYS = ("question", "prompt", "message", "query", "description", "instruction", "text")


def planned_interrupts(tasks: Iterable[Any]) -> tuple[PlannedCall, ...]:
    """One ask for each interrupt of the tasks of a `StateSnapshot`, in their order.

    Where the snapshot has those of sub-graphs in it, the node that asks is the one inside.
    """
    asks: dict[str, PlannedCall] = {}
    for task in tasks:
        for ask in planned_interrupts(getattr(task.state, "tasks", ())):
            asks.setdefault(ask.call_id, ask)
        for found in task.interrupts:
            if found.id not in asks:
                asks[found.id] = planned_interrupt(found, task.name)
    return tuple(asks.values())


def planned_interrupt(found: Any, node: str) -> PlannedCall:
    """The ask for one `Interrupt` of a node."""
    value = plain(found.value)
    schema = getattr(found, "response_schema", None)
    schema = schema if isinstance(schema, dict) else None
    actions = _actions(value, schema)
    if actions is None:
        arguments = value if isinstance(value, dict) else {"value": value}
        return _ask(found.id, node, arguments, question=_question(value), response_schema=schema)
    kind = "decisions" if "action_requests" in value else "decision"
    form = {"kind": kind, "actions": actions}
    if len(actions) == 1:
        only = actions[0]
        asked = value if kind == "decision" else value["action_requests"][0]
        return _ask(
            found.id,
            only["name"],
            only["args"],
            question=_description(asked.get("description"), only["name"]),
            form=form,
            response_schema=schema,
            parameters=edit_schema(schema),
        )
    question = f"{len(actions)} calls wait: {', '.join(action['name'] for action in actions)}"
    arguments = {"action_requests": value["action_requests"]}
    return _ask(found.id, node, arguments, question=question, form=form, response_schema=schema)


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


def refused_again(asks: Sequence[PlannedCall], problem: Exception) -> tuple[PlannedCall, ...]:
    """The same questions once more, after the graph's own validation refused an answer (nothing of it was stored)."""
    which = "The last answer" if len(asks) == 1 else "One of the last answers"
    text = re.sub(r"\n\s+For further information visit \S+", "", str(problem))
    return tuple(replace(ask, question=f"{ask.question}\n{which} was refused: {text}".strip()) for ask in asks)


def plain(value: Any) -> Any:
    """A value as people are shown it: JSON data, with what has no JSON form as text."""
    return to_jsonable_python(value, fallback=str, bytes_mode="base64", inf_nan_mode="constants")


def _ask(call_id: str, name: str, arguments: dict[str, Any], **more: Any) -> PlannedCall:
    return PlannedCall(
        call_id=call_id,
        name=name,
        raw="",
        arguments=arguments,
        arguments_hash=arguments_hash(name, arguments),
        ask="interrupt",
        **more,
    )


def _question(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return next((value[key] for key in _QUESTION_KEYS if isinstance(value.get(key), str)), "")
    return ""


def _description(text: Any, name: str) -> str:
    """What a person is told beside the call. The middleware's own words say nothing that the call does not."""
    if not isinstance(text, str):
        return ""
    own = text.partition(f"\n\nTool: {name}\nArgs: ")[0]
    return "" if own == "Tool execution requires approval" else own


def _actions(value: Any, schema: dict[str, Any] | None) -> list[dict[str, Any]] | None:
    """The tool calls a HumanInTheLoopMiddleware asks about; None if it is another kind of interrupt."""
    if not isinstance(value, dict):
        return None
    if value.get("type") == "tool_approval" and isinstance(value.get("name"), str):
        return [_action(value["name"], value.get("args"), allowed_decisions(schema))]
    requests, configs = value.get("action_requests"), value.get("review_configs")
    if not isinstance(requests, list) or not isinstance(configs, list) or not requests:
        return None
    if not all(isinstance(request, dict) and isinstance(request.get("name"), str) for request in requests):
        return None
    allowed = {
        config["action_name"]: config.get("allowed_decisions")
        for config in configs
        if isinstance(config, dict) and "action_name" in config
    }
    return [
        _action(request["name"], request.get("args", request.get("arguments")), allowed.get(request["name"]))
        for request in requests
    ]


def _action(name: str, args: Any, allowed: Any) -> dict[str, Any]:
    action: dict[str, Any] = {"name": name, "args": args if isinstance(args, dict) else {}}
    if isinstance(allowed, list):
        action["allowed"] = allowed
    return action
