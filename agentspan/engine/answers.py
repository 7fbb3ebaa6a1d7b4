"""How a person's verdict on a graph's interrupt becomes the value its node goes on with, and which verdicts fit.

A wrong value poisons a LangGraph task for good: it is replayed on every later attempt. So an answer is checked before it
is stored, by the same code that later makes the value. What kind of answer is wanted is in `PlannedCall.form`:

    {}                                        any value: approve is True, reject is False
    {"kind": "decisions", "actions": […]}     langchain's HumanInTheLoopMiddleware: one decision for each action
    {"kind": "decision", "actions": [one]}    the same, asked one call at a time

An action is `{"name": str, "args": dict, "allowed": [str]}`; `allowed` is what the middleware lets a person decide.
"""

from __future__ import annotations

from typing import Any, Protocol


class Asked(Protocol):
    """What is known of the interrupt: a planned call, or the row of a pending one."""

    @property
    def ask(self) -> Any: ...
    @property
    def form(self) -> dict[str, Any]: ...
    @property
    def response_schema(self) -> dict[str, Any] | None: ...


def resume_value(
    asked: Asked, verdict: str, *, arguments: dict[str, Any] | None = None, reason: str = "", value: Any = None
) -> Any:
    """The value to resume with. `misfit` says beforehand whether it will do."""
    if asked.ask == "breakpoint":
        return None
    kind = asked.form.get("kind")
    if kind is None:
        return _plain(asked, verdict, arguments, reason, value)
    if verdict == "respond" and _is_decision(value, "decisions" if kind == "decisions" else "type"):
        return value
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
    properties = (asked.response_schema or {}).get("properties")
    if isinstance(properties, dict) and "approved" in properties:
        answer: dict[str, Any] = {"approved": approved}
        if reason and "reason" in properties:
            answer["reason"] = reason
        return answer
    return approved


def _is_decision(value: Any, key: str) -> bool:
    return isinstance(value, dict) and key in value


def _decision(
    action: dict[str, Any], verdict: str, arguments: dict[str, Any] | None, reason: str, value: Any
) -> dict[str, Any]:
    if verdict == "respond":
        return {"type": "respond", "message": value if isinstance(value, str) else str(value)}
    if verdict == "reject":
        return {"type": "reject", "message": reason} if reason else {"type": "reject"}
    if arguments is not None:
        return {"type": "edit", "edited_action": {"name": action["name"], "args": arguments}}
    return {"type": "approve"}


def _decision_problem(decision: Any, action: dict[str, Any]) -> str | None:
    if not isinstance(decision, dict) or not isinstance(decision.get("type"), str):
        return "a decision is a dict with a 'type'"
    kind, allowed = decision["type"], action.get("allowed")
    if allowed is not None and kind not in allowed:
        return f"{kind!r} is not allowed for {action['name']!r}; allowed: {', '.join(allowed)}"
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
