"""How a person's verdict on a graph's interrupt becomes the value its node goes on with, and which verdicts fit.

A wrong value poisons a LangGraph task for good: it is replayed on every later attempt. So an answer is checked before it
is stored, by the same code that later makes the value. What kind of answer is wanted is in `PlannedCall.form`:

    {}                                        any value: approve is True, reject is False
    {"kind": "decisions", "actions": […]}     langchain's HumanInTheLoopMiddleware: one decision for each action
    {"kind": "decision", "actions": [one]}    the same, asked one call at a time

An action is `{"name": str, "args": dict, "allowed": [str]}`; `allowed` is what the middleware lets a person decide.

Where an ask can be approved or rejected as such, `respond({"approved": bool})` means just that (`as_meant`): programs
written for the existing SDK answer everything so. Other asks get the dict itself.
"""

from __future__ import annotations

import json
from typing import Any, Protocol


class Asked(Protocol):
    """What is known of the interrupt: a planned call, or the row of a pending one."""

    @property
    def ask(self) -> Any: ...
    @property
    def form(self) -> dict[str, Any]: ...
    @property
    def response_schema(self) -> dict[str, Any] | None: ...


def as_meant(asked: Asked, verdict: str, value: Any) -> tuple[str, str] | None:
    """The verdict and reason that an answer `{"approved": bool, "reason": …}` stands for; None if it is what it says."""
    if verdict != "respond" or not isinstance(value, dict) or not isinstance(value.get("approved"), bool):
        return None
    if asked.ask not in ("approval", "crash", "breakpoint") and not (asked.ask == "interrupt" and "kind" in asked.form):
        return None
    if value["approved"]:
        return "approve", ""
    return "reject", str(value.get("reason") or "")


def verdicts(asked: Asked) -> list[str]:
    """The verdicts that can be an answer, what people will want most first; empty where only a message is one."""
    match asked.ask:
        case "message":
            return []
        case "question":
            return ["respond", "reject"]
        case "breakpoint":
            return ["approve"]
        case "interrupt" if "actions" in asked.form:
            return _allowed_verdicts(asked.form)
        case "interrupt" if "approved" not in _properties(asked):
            return ["respond", "approve", "reject"]
        case _:
            return ["approve", "reject", "respond"]


def _allowed_verdicts(form: dict[str, Any]) -> list[str]:
    actions = form["actions"]
    found = [
        verdict
        for verdict in ("approve", "reject", "respond")
        if all(_is_allowed(action, verdict) for action in actions)
    ]
    if len(actions) == 1 and "approve" not in found and _is_allowed(actions[0], "edit"):
        found.insert(0, "approve")  # With other arguments.
    if len(actions) > 1 and "respond" not in found:
        found.append("respond")  # With a decision for each.
    return found


def _is_allowed(action: dict[str, Any], kind: str) -> bool:
    allowed = action.get("allowed")
    return allowed is None or kind in allowed


def resume_value(
    asked: Asked, verdict: str, *, arguments: dict[str, Any] | None = None, reason: str = "", value: Any = None
) -> Any:
    """The value to resume with. `misfit` says beforehand whether it will do."""
    if asked.ask == "breakpoint":
        return None
    kind = asked.form.get("kind")
    if kind is None:
        return _plain(asked, verdict, arguments, reason, value)
    ready = _ready_made(asked.form, value) if verdict == "respond" else None
    if ready is not None:
        return ready
    decisions = [_decision(action, verdict, arguments, reason, value) for action in asked.form["actions"]]
    return {"decisions": decisions} if kind == "decisions" else decisions[0]


def misfit(
    asked: Asked, verdict: str, *, arguments: dict[str, Any] | None = None, reason: str = "", value: Any = None
) -> str | None:
    """Why this verdict cannot be an answer, in words for a person; None if it can. The schema is checked elsewhere."""
    if asked.ask == "breakpoint":
        if verdict != "approve" or arguments is not None:
            return "it is a breakpoint: approve it to go on, or cancel the execution"
        return None
    kind = asked.form.get("kind")
    if kind is None:
        return None
    actions = asked.form["actions"]
    if verdict == "approve" and arguments is not None and len(actions) != 1:
        return f"it asks about {len(actions)} calls at once; to edit them, respond with {{'decisions': [...]}}"
    answer = resume_value(asked, verdict, arguments=arguments, reason=reason, value=value)
    decisions = answer.get("decisions") if kind == "decisions" else [answer]
    if not isinstance(decisions, list) or len(decisions) != len(actions):
        found = len(decisions) if isinstance(decisions, list) else type(decisions).__name__
        return f"it needs a list of {len(actions)} decisions, one for each call in order, not {found}"
    for index, (decision, action) in enumerate(zip(decisions, actions, strict=True)):
        problem = _decision_problem(decision, action)
        if problem is not None:
            return problem if len(actions) == 1 else f"decision {index} ({action['name']}): {problem}"
    return None


def _plain(asked: Asked, verdict: str, arguments: dict[str, Any] | None, reason: str, value: Any) -> Any:
    if verdict == "respond":
        return value
    approved = verdict == "approve"
    if approved and arguments is not None:
        return arguments
    properties = _properties(asked)
    if "approved" in properties:
        answer: dict[str, Any] = {"approved": approved}
        if reason and "reason" in properties:
            answer["reason"] = reason
        return answer
    return approved


def _properties(asked: Asked) -> dict[str, Any]:
    properties = (asked.response_schema or {}).get("properties")
    return properties if isinstance(properties, dict) else {}


def _ready_made(form: dict[str, Any], value: Any) -> Any:
    """The answer in the middleware's own form, if that is what a person gave; one decision will do for one call."""
    if not isinstance(value, dict):
        return None
    if form["kind"] == "decisions":
        if "decisions" in value:
            return value
        return {"decisions": [value]} if "type" in value and len(form["actions"]) == 1 else None
    if "type" in value:
        return value
    decisions = value.get("decisions")
    return decisions[0] if isinstance(decisions, list) and len(decisions) == 1 else None


def _decision(
    action: dict[str, Any], verdict: str, arguments: dict[str, Any] | None, reason: str, value: Any
) -> dict[str, Any]:
    if verdict == "respond":
        # Tools return data as JSON, and so does a person in a tool's stead.
        text = value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        return {"type": "respond", "message": text}
    if verdict == "reject":
        return {"type": "reject", "message": reason} if reason else {"type": "reject"}
    if arguments is not None:
        return {"type": "edit", "edited_action": {"name": action["name"], "args": arguments}}
    return {"type": "approve"}


def _decision_problem(decision: Any, action: dict[str, Any]) -> str | None:
    if not isinstance(decision, dict) or not isinstance(decision.get("type"), str):
        return "a decision is a dict with a 'type'"
    kind = decision["type"]
    if not _is_allowed(action, kind):
        return f"{kind!r} is not allowed for {action['name']!r}; allowed: {', '.join(action['allowed'])}"
    if kind not in ("approve", "edit", "reject", "respond"):
        return f"there is no decision {kind!r}; there are approve, edit, reject and respond"
    if kind == "edit":
        edited = decision.get("edited_action")
        if not isinstance(edited, dict) or not isinstance(edited.get("name"), str):
            return "an edit needs 'edited_action' with 'name' and 'args'"
        if not isinstance(edited.get("args"), dict):
            return "an edit needs 'edited_action' with 'args', a dict"
    if kind == "respond" and not isinstance(decision.get("message"), str):
        return "a 'respond' decision needs a 'message', text"
    if kind == "reject" and not isinstance(decision.get("message", ""), str):
        return "the 'message' of a 'reject' decision is text"
    return None
