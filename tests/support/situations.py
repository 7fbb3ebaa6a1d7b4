"""Named situations an execution can be in, and one record of every kind to meet them with."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from agentspan.agents.spec import AgentSpec, OnCrash, ToolKind, ToolSpec
from agentspan.engine import records as r
from agentspan.engine.apply import apply
from agentspan.engine.state import ExecutionState, to_snapshot
from agentspan.persistence.codec import pack, unpack

T0 = 1_700_000_000.0
PARAMETERS = {"type": "object", "properties": {"x": {"type": "integer"}}}


def tool(name: str, **options: Any) -> ToolSpec:
    return ToolSpec(name=name, description="", parameters=PARAMETERS, **options)


SPEC = AgentSpec(
    name="hero",
    model="scripted/hero",
    tools={
        one.name: one
        for one in (
            tool("work"),
            tool("refund", approval_required=True),
            tool("ask", kind=ToolKind.HUMAN),
            tool("listen", kind=ToolKind.MESSAGE),
            tool("pair", kind=ToolKind.MESSAGE, batch_size=2),
            tool("peek", kind=ToolKind.MESSAGE, blocking=False),
            tool("wire", on_crash=OnCrash.ASK),
            tool("launch", on_crash=OnCrash.FAIL),
        )
    },
)


def plan(call_id: str, name: str = "work", ask: r.Ask | None = None, **fields: Any) -> r.PlannedCall:
    values: dict[str, Any] = {"raw": '{"x": 1}', "arguments": {"x": 1}, "arguments_hash": "h1" if ask else "", **fields}
    return r.PlannedCall(call_id=call_id, name=name, ask=ask, **values)


def started(**fields: Any) -> r.Started:
    return r.Started(**{"at": T0, "agent": "hero", "prompt": "go", **fields})


def answered(*calls: r.PlannedCall, text: str = "", **fields: Any) -> r.ModelAnswered:
    return r.ModelAnswered(at=T0, text=text, calls=calls, **fields)


def control(command: Any, **fields: Any) -> r.Controlled:
    return r.Controlled(at=T0, signal_id=f"s-{command}", command=command, **fields)


def lost(action: Any, call_id: str = "c1", name: str = "work", attempt: int = 1) -> r.InterruptedCall:
    return r.InterruptedCall(path="", call_id=call_id, name=name, attempt=attempt, action=action)


def recovered(
    *calls: r.InterruptedCall, models: Sequence[str] = (), graphs: Sequence[str] = (), epoch: int = 2
) -> r.Recovered:
    return r.Recovered(at=T0, epoch=epoch, calls=calls, models=tuple(models), graphs=tuple(graphs))


def returned(call_id: str = "c1", result: Any = "ok", **fields: Any) -> r.ToolReturned:
    return r.ToolReturned(at=T0, call_id=call_id, name="work", result=result, **fields)


def tool_failed(call_id: str = "c1", retry_at: float | None = None, attempt: int = 1) -> r.ToolFailed:
    return r.ToolFailed(at=T0, call_id=call_id, name="work", error="boom", attempt=attempt, retry_at=retry_at)


def model_failed(retry_at: float | None = None, attempt: int = 1) -> r.ModelFailed:
    return r.ModelFailed(at=T0, error="boom", attempt=attempt, retry_at=retry_at)


def decided(verdict: Any, call_id: str = "c1", **fields: Any) -> r.Decided:
    return r.Decided(at=T0, signal_id=f"s-{verdict}", call_id=call_id, name="work", verdict=verdict, **fields)


def message(text: Any = "hi") -> r.MessageReceived:
    return r.MessageReceived(at=T0, signal_id=f"m-{text}", message=text)


def delivered(*messages: Any, call_id: str = "c1") -> r.MessagesDelivered:
    return r.MessagesDelivered(at=T0, call_id=call_id, name="listen", messages=list(messages))


def stop_checked(turn: int, stop: bool = False, error: str | None = None) -> r.StopChecked:
    return r.StopChecked(at=T0, turn=turn, stop=stop, error=error)


def finished(status: str = "COMPLETED", reason: str = "stop") -> r.Finished:
    return r.Finished(at=T0, status=status, finish_reason=reason, output="done")


def graph_started(**fields: Any) -> r.Started:
    return started(**{"agent": "app", "graph": {"input": b"\x80"}, **fields})


def interrupt_ask(call_id: str = "i1", name: str = "review", **fields: Any) -> r.PlannedCall:
    given: dict[str, Any] = {"raw": "", "arguments": {"draft": "d"}, "arguments_hash": f"hash-{call_id}"}
    return r.PlannedCall(**{"call_id": call_id, "name": name, "ask": "interrupt", **given, **fields})


def breakpoint_ask(checkpoint_id: str = "cp1", node: str = "ship") -> r.PlannedCall:
    return interrupt_ask(f"breakpoint-{checkpoint_id}", node, ask="breakpoint", arguments={"before": [node]})


def node_told(kind: str, node: str, task_id: str, ns: Sequence[str] = ()) -> dict[str, Any]:
    return {"type": kind, "data": {"node": node, "task_id": task_id, "ns": list(ns)}}


def told(*items: dict[str, Any], **usage: int) -> r.GraphTold:
    return r.GraphTold(at=T0, told=items, **usage)


def graph_waits(*asks: r.PlannedCall, run: int = 1, checkpoint_id: str = "") -> r.GraphWaits:
    return r.GraphWaits(at=T0, run=run, asks=asks, checkpoint_id=checkpoint_id)


def graph_held(run: int = 1) -> r.GraphHeld:
    return r.GraphHeld(at=T0, run=run)


def graph_ended(run: int = 1, output: Any = "done", state: bytes = b"\x81") -> r.GraphEnded:
    return r.GraphEnded(at=T0, run=run, output=output, state=state)


def graph_failed(run: int = 1) -> r.GraphFailed:
    return r.GraphFailed(at=T0, run=run, error="ValueError: boom", error_type="ValueError")


_RUNNING = (started(), answered(plan("c1")))
_GRAPH = (graph_started(), told(node_told("node_start", "draft", "t1")))
_GRAPH_ASKS = (*_GRAPH, graph_waits(interrupt_ask("i1"), interrupt_ask("i2", "check")))
_AT_BREAKPOINT = (*_GRAPH, graph_waits(breakpoint_ask(), checkpoint_id="cp1"))

SITUATIONS: dict[str, tuple[r.AnyRecord, ...]] = {
    "fresh": (),
    "session due": (started(session_id="chat", session_from="ex-0"),),
    "model due": (started(),),
    "model retry waiting": (started(), model_failed(retry_at=T0 + 3)),
    "model failed for good": (started(), model_failed()),
    "tool running": _RUNNING,
    "tool running, turn 2": (*_RUNNING, returned(), answered(plan("c1-b"), plan("c2"))),
    "tool retry waiting": (*_RUNNING, tool_failed(retry_at=T0 + 2)),
    "two tools, one asking": (started(), answered(plan("c1"), plan("c2", "refund", "approval"))),
    "two tools, one done": (started(), answered(plan("c1"), plan("c2")), returned("c2")),
    "approval asked": (started(), answered(plan("c1", "refund", "approval"))),
    "question asked": (started(), answered(plan("c1", "ask", "question"))),
    "message asked": (started(), answered(plan("c1", "listen", "message"))),
    "message there": (started(), message(), answered(plan("c1", "listen", "message"))),
    "crash asked": (started(), answered(plan("c1", "wire")), recovered(lost("ask", name="wire"))),
    "between turns": (*_RUNNING, returned()),
    "stop checked": (*_RUNNING, returned(), stop_checked(1)),
    "stop met": (*_RUNNING, returned(), stop_checked(1, stop=True)),
    "answered": (started(), answered(text="Done.")),
    "output re-asked": (started(), answered(text="no", output_error="Answer with JSON.")),
    "paused, tool running": (*_RUNNING, control("pause")),
    "paused, model due": (started(), control("pause")),
    "stopping, tool running": (*_RUNNING, control("stop")),
    "stopping, approval asked": (started(), answered(plan("c1", "refund", "approval")), control("stop")),
    "cancelled": (*_RUNNING, control("cancel", text="enough")),
    "finished": (started(), answered(text="Done."), finished()),
    "fork due": (started(forked_from="ex-0", forked_step=3),),
    "graph: fork due": (graph_started(forked_from="ex-0"),),
    "graph: run due": (graph_started(),),
    "graph: node running": _GRAPH,
    "graph: held": (*_GRAPH, control("pause"), graph_held(), control("resume")),
    "graph: two asked": _GRAPH_ASKS,
    "graph: one answered": (*_GRAPH_ASKS, decided("respond", "i2", value="fine")),
    "graph: run 2 due": (*_GRAPH_ASKS, decided("respond", "i2", value="fine"), decided("approve", "i1")),
    "graph: at a breakpoint": _AT_BREAKPOINT,
    "graph: past a breakpoint": (*_AT_BREAKPOINT, decided("approve", "breakpoint-cp1")),
    "graph: paused, running": (*_GRAPH, control("pause")),
    "graph: paused, asked": (*_GRAPH_ASKS, control("pause")),
    "graph: stopping, running": (*_GRAPH, control("stop")),
    "graph: stopping, asked": (*_GRAPH_ASKS, control("stop")),
    "graph: ended": (*_GRAPH, graph_ended()),
    "graph: ended, paused": (*_GRAPH, control("pause"), graph_ended()),
    "graph: failed": (*_GRAPH, graph_failed()),
}


def as_stored(value: Any) -> Any:
    """Plain data after a trip through storage."""
    return unpack(pack(value).data, {}.get)


def state_of(records: Sequence[r.AnyRecord]) -> ExecutionState:
    state = ExecutionState(execution_id="ex-1")
    for record in records:
        apply(state, copy.deepcopy(record))
    return state


_ORIGIN = to_snapshot(state_of(SITUATIONS["between turns"]))

RECORDS: dict[str, r.AnyRecord] = {
    "started": started(),
    "session": r.SessionLoaded(at=T0, messages=[{"role": "user", "content": "before"}]),
    "recovered (nothing lost)": recovered(),
    "recovered (c1 again)": recovered(lost("retry")),
    "recovered (c1 asks)": recovered(lost("ask")),
    "recovered (c1 failed)": recovered(lost("fail")),
    "recovered (model again)": recovered(models=[""]),
    "recovered (no such frame)": recovered(models=["nobody"]),
    "model (text)": answered(text="Hello."),
    "model (call)": answered(plan("n1")),
    "model (call refused)": answered(plan("n1", error="no such tool", arguments=None)),
    "model (approval)": answered(plan("n1", "refund", "approval")),
    "model_failed (retry)": model_failed(retry_at=T0 + 1),
    "model_failed (final)": model_failed(),
    "tool": returned(),
    "tool (state)": returned(state_set={"k": 1}, state_del=("gone",)),
    "tool_failed (retry)": tool_failed(retry_at=T0 + 1),
    "tool_failed (final)": tool_failed(),
    "tool_lost": r.ToolLost(at=T0, call_id="c1", name="work", error="died", arguments={"x": 1}, arguments_hash="h"),
    "decided (approve)": decided("approve"),
    "decided (approve, edited)": decided("approve", arguments={"x": 2}),
    "decided (reject)": decided("reject", reason="no"),
    "decided (respond)": decided("respond", value="by hand"),
    "message": message("new"),
    "delivered": delivered("hi"),
    "delivered (nothing)": delivered(),
    "control (pause)": control("pause"),
    "control (resume)": control("resume"),
    "control (stop)": control("stop"),
    "control (cancel)": control("cancel"),
    "control (guide)": control("guide", text="Be brief."),
    "stop_checked (turn 1)": stop_checked(1),
    "stop_checked (turn 1, met)": stop_checked(1, stop=True),
    "stop_checked (turn 9)": stop_checked(9),
    "finished": finished(),
    "finished (no end)": finished("RUNNING"),
    "finished (no status)": finished("GONE"),
    "finished (no reason)": finished(reason="whim"),
    "forked (graph)": r.Forked(at=T0),
    "forked (agent)": r.Forked(at=T0, snapshot=_ORIGIN),
    "forked (no snapshot)": r.Forked(at=T0, snapshot={"format": 99}),
    "recovered (graph again)": recovered(graphs=[""]),
    "decided (i1)": decided("respond", "i1", value="yes"),
    "decided (breakpoint)": decided("approve", "breakpoint-cp1"),
    "graph (node starts)": told(node_told("node_start", "send", "t2")),
    "graph (node ends)": told(node_told("node_end", "draft", "t1"), {"type": "message", "content": "Hi."}),
    "graph (usage)": told(model_calls=1, prompt_tokens=2, completion_tokens=3, total_tokens=5),
    "graph_waits": graph_waits(interrupt_ask("i9")),
    "graph_waits (run 2)": graph_waits(breakpoint_ask("cp2"), run=2, checkpoint_id="cp2"),
    "graph_waits (for nothing)": graph_waits(),
    "graph_held": graph_held(),
    "graph_ended": graph_ended(),
    "graph_ended (run 2)": graph_ended(run=2),
    "graph_failed": graph_failed(),
}


def situation(name: str) -> ExecutionState:
    return state_of(SITUATIONS[name])
