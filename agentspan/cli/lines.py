"""Events as lines for people: time, what, and the rest on one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.text import Text

from agentspan.agents.events import AgentEvent, EventType
from agentspan.cli.asks import ask_words, decide_with, short_call, subject
from agentspan.cli.text import STATUS_STYLES, call_text, one_line

LINE_CHARS = 2000

_Look = tuple[str, str]
"""Sign and style."""
_LOOKS: dict[str, _Look] = {
    EventType.STARTED: ("▶", "cyan"),
    EventType.THINKING: ("…", "bright_black"),
    EventType.MESSAGE: ("●", ""),
    EventType.TOOL_CALL: ("→", "blue"),
    EventType.TOOL_RESULT: ("←", "blue"),
    EventType.HANDOFF: ("⇒", "magenta"),
    EventType.WAITING: ("?", "bold yellow"),
    EventType.DECISION: ("!", "yellow"),
    EventType.SIGNAL: ("!", "magenta"),
    EventType.GUARDRAIL_PASS: ("✓", "green"),
    EventType.GUARDRAIL_FAIL: ("✗", "red"),
    EventType.NODE_START: ("┌", "cyan"),
    EventType.NODE_END: ("└", "cyan"),
    EventType.CUSTOM: ("·", "bright_black"),
    EventType.ERROR: ("✗", "red"),
    EventType.RECOVERED: ("↻", "bold magenta"),
    EventType.DONE: ("■", "bold"),
}


def event_line(event: AgentEvent) -> Text:
    """One event on one line."""
    sign, style = _LOOKS.get(str(event.type), ("·", ""))
    at = event.at.astimezone().strftime("%H:%M:%S") if event.at else " " * 8
    line = Text.assemble((at, "bright_black"), "  ", (sign, style), " ", (f"{event.type!s:<11}", style), " ")
    if event.agent_path:
        line.append(f"[{event.agent_path}] ", "bright_black")
    # What happens inside a sub-graph is moved in, as far as it is deep.
    line.append("  " * len(event.data.get("ns") or ()))
    tell = _TELL.get(str(event.type), _plain)
    line.append_text(tell(event))
    return line


def _plain(event: AgentEvent) -> Text:
    return Text(one_line(event.content or "", LINE_CHARS))


def _dim(event: AgentEvent) -> Text:
    return Text(one_line(event.content or "", LINE_CHARS), style="bright_black")


def _call(event: AgentEvent) -> Text:
    return Text(call_text(event.tool_name, event.args, LINE_CHARS))


def _result(event: AgentEvent) -> Text:
    error = event.data.get("error")
    attempt = f" (attempt {event.attempt})" if event.attempt and event.attempt > 1 else ""
    told = Text(f"{event.tool_name}{attempt}: ")
    if error is not None:
        return told.append(one_line(error, LINE_CHARS), "red")
    return told.append(one_line(event.result, LINE_CHARS))


def _handoff(event: AgentEvent) -> Text:
    return Text(f"to {event.target}")


def _node_start(event: AgentEvent) -> Text:
    return Text(str(event.data.get("node")))


def _node_end(event: AgentEvent) -> Text:
    told, error = Text(str(event.data.get("node"))), event.data.get("error")
    return told if error is None else told.append(f": {one_line(error, LINE_CHARS)}", "red")


def _custom(event: AgentEvent) -> Text:
    return Text(one_line(event.data.get("value"), LINE_CHARS), style="bright_black")


def _waiting(event: AgentEvent) -> Text:
    ask, verdicts = str(event.data.get("ask", "decision")), event.data.get("verdicts", ())
    call = short_call(event.call_id or "") if event.data.get("asks", 1) > 1 else None
    told = Text(f"for {ask_words(ask, verdicts)}", style="yellow")
    command = f"agent-span {decide_with(event.execution_id, ask, verdicts, call)}"
    told.append(f" ({command}): ", "bright_black")
    row = {"tool": event.tool_name, "arguments": event.args, "question": event.content, "ask": ask}
    return told.append(subject(row), "default")


def _decision(event: AgentEvent) -> Text:
    by = event.data.get("by")
    told = Text(f"{event.tool_name}: {verdict_words(str(event.data.get('verdict', '')))}")
    if event.data.get("edited"):
        told.append(f" with {one_line(event.args)}")
    told.append(f" by {by}" if by else "")
    return told.append(f": {one_line(event.content, LINE_CHARS)}" if event.content else "")


def _signal(event: AgentEvent) -> Text:
    by = event.data.get("by")
    told = Text(str(event.data.get("command", "")))
    told.append(f" by {by}" if by else "")
    what = event.data.get("message", event.content)
    return told.append(f": {one_line(what, LINE_CHARS)}" if what is not None else "")


def _error(event: AgentEvent) -> Text:
    where = f"{event.tool_name}: " if event.tool_name else ""
    attempt = f" (attempt {event.attempt})" if event.attempt else ""
    told = Text(f"{where}{one_line(event.content or '', LINE_CHARS)}{attempt}", style="red")
    return told.append(", will be tried again", "bright_black") if event.will_retry else told


def _done(event: AgentEvent) -> Text:
    status = str(event.data.get("status", ""))
    reason = event.data.get("finish_reason")
    told = Text(status, style=STATUS_STYLES.get(status, ""))
    return told.append(f" ({reason})" if reason else "")


_TELL: dict[str, Callable[[AgentEvent], Text]] = {
    EventType.THINKING: _dim,
    EventType.TOOL_CALL: _call,
    EventType.TOOL_RESULT: _result,
    EventType.HANDOFF: _handoff,
    EventType.NODE_START: _node_start,
    EventType.NODE_END: _node_end,
    EventType.CUSTOM: _custom,
    EventType.WAITING: _waiting,
    EventType.DECISION: _decision,
    EventType.SIGNAL: _signal,
    EventType.ERROR: _error,
    EventType.DONE: _done,
}


def verdict_words(verdict: str) -> str:
    """A verdict as what was done."""
    return {"approve": "approved", "reject": "rejected", "respond": "answered"}.get(verdict, verdict)


def step_text(step: dict[str, Any]) -> Text:
    """One record of the journal, in a few words."""
    teller = _STEPS.get(step["kind"])
    return Text(step["kind"]) if teller is None else teller(step)


def _step_model(step: dict[str, Any]) -> Text:
    calls = ", ".join(call_text(call["name"], call.get("arguments"), 80) for call in step.get("calls", ()))
    told = Text(one_line(step["text"], 120) if step.get("text") else "")
    return told.append(f"{' ' if told else ''}→ {calls}", "blue") if calls else told


def _step_tool(step: dict[str, Any]) -> Text:
    return Text(f"{step['name']} → {one_line(step.get('result'), 120)}")


def _step_failure(step: dict[str, Any]) -> Text:
    name = f"{step['name']}: " if step.get("name") else ""
    told = Text(f"{name}{one_line(step['error'], 120)}", style="red")
    return told.append(", will be tried again", "bright_black") if step.get("retry_at") else told


def _step_decided(step: dict[str, Any]) -> Text:
    by = f" by {step['by']}" if step.get("by") else ""
    edited = f" with {one_line(step['arguments'], 80)}" if step.get("arguments") is not None else ""
    reason = f": {one_line(step['reason'], 120)}" if step.get("reason") else ""
    return Text(f"{step['name']} {verdict_words(step['verdict'])}{edited}{by}{reason}", style="yellow")


def _step_recovered(step: dict[str, Any]) -> Text:
    lost = ", ".join(f"{call['name']} (attempt {call['attempt']}: {call['action']})" for call in step.get("calls", ()))
    in_flight = lost or ("model call" if step.get("models") else "graph" if step.get("graphs") else "")
    return Text(
        f"after a crash, as epoch {step['epoch']}" + (f"; in flight: {in_flight}" if in_flight else ""), "magenta"
    )


def _step_started(step: dict[str, Any]) -> Text:
    origin = f"goes on from {step['forked_from']}: " if step.get("forked_from") else ""
    return Text(f"{origin}{one_line(step['prompt'], 120)}")


def _step_graph(step: dict[str, Any]) -> Text:
    """What happened in the graph, in order: nodes, and how often anything else."""
    told = Text()
    for count, item in _counted(step["told"]):
        told.append(", " if told else "")
        data = item.get("data", {})
        match item["type"]:
            case "node_start":
                told.append(f"{data['node']} began")
            case "node_end":
                told.append(f"{data['node']} failed" if "error" in data else f"{data['node']} ended")
            case "tool_call" | "tool_result":
                sign = "→" if item["type"] == "tool_call" else "←"
                told.append(f"{sign} {item.get('tool_name')}", "blue")
            case kind:
                told.append(kind, "bright_black")
        told.append(f" ×{count}" if count > 1 else "")
    return told


def _counted(items: Any) -> list[tuple[int, Any]]:
    """Neighbours that say the same, but for where, as one."""
    found: list[tuple[int, Any]] = []
    for item in items:
        if found and _likeness(found[-1][1]) == _likeness(item):
            found[-1] = (found[-1][0] + 1, found[-1][1])
        else:
            found.append((1, item))
    return found


def _likeness(item: Any) -> tuple[Any, ...]:
    data = item.get("data", {})
    return item["type"], data.get("node"), "error" in data, item.get("tool_name")


def _step_graph_waits(step: dict[str, Any]) -> Text:
    asks = [{**ask, "tool": ask["name"], "question": ask.get("question", "")} for ask in step["asks"]]
    return Text(one_line("; ".join(subject({"arguments": None, **ask}) for ask in asks), 120), style="yellow")


def _step_finished(step: dict[str, Any]) -> Text:
    error = f": {one_line(step['error'], 120)}" if step.get("error") else ""
    return Text(f"{step['status']} ({step['finish_reason']}){error}", style=STATUS_STYLES.get(step["status"], ""))


_STEPS: dict[str, Callable[[dict[str, Any]], Text]] = {
    "started": _step_started,
    "session": lambda step: Text(f"{len(step['messages'])} messages of the session's last execution"),
    "recovered": _step_recovered,
    "model": _step_model,
    "model_failed": _step_failure,
    "tool": _step_tool,
    "tool_failed": _step_failure,
    "decided": _step_decided,
    "message": lambda step: Text(one_line(step["message"], 120)),
    "delivered": lambda step: Text(f"{step['name']} ← {len(step['messages'])} messages"),
    "control": lambda step: Text(f"{step['command']} {one_line(step.get('text', ''), 120)}".strip()),
    "forked": lambda step: Text("the state it goes on from"),
    "graph": _step_graph,
    "graph_waits": _step_graph_waits,
    "graph_held": lambda step: Text("at a step border"),
    "graph_ended": lambda step: Text(one_line(step.get("output"), 120)),
    "graph_failed": _step_failure,
    "stop_checked": lambda step: Text("stop" if step["stop"] else "go on"),
    "finished": _step_finished,
}
