"""The records of a graph's runs onto a state; see `apply`."""

from __future__ import annotations

from agentspan.engine import records as r
from agentspan.engine.misfit import misfit
from agentspan.engine.state import Call, ExecutionState, Frame, GraphRun


def running_graph(state: ExecutionState, record: r.Record, path: str, run: int | None = None) -> GraphRun:
    """The graph of a frame whose run is on."""
    frame = state.frames.get(path)
    graph = frame.graph if frame is not None else None
    if frame is None or graph is None:
        misfit(state, record, f"frame {path!r} is no graph")
        raise AssertionError
    if graph.ended or frame.calls or frame.model_error is not None or not state.session_loaded:
        misfit(state, record, "no run of the graph is on")
    if run not in (None, graph.run):
        misfit(state, record, f"run {graph.run} of the graph is on, not run {run}")
    return graph


def graph_told(state: ExecutionState, record: r.GraphTold) -> None:
    graph = running_graph(state, record, record.path)
    for told in record.told:
        data = told.get("data", {})
        if told["type"] == "node_start":
            graph.running[data["task_id"]] = data["node"]
        elif told["type"] == "node_end":
            graph.running.pop(data["task_id"], None)
    state.model_calls += record.model_calls
    state.prompt_tokens += record.prompt_tokens
    state.completion_tokens += record.completion_tokens
    state.total_tokens += record.total_tokens


def graph_waits(state: ExecutionState, record: r.GraphWaits) -> None:
    graph = running_graph(state, record, record.path, record.run)
    if not record.asks:
        misfit(state, record, "it waits for nothing")
    graph.running, graph.answers, graph.checkpoint_id = {}, {}, record.checkpoint_id
    state.frames[record.path].calls = [
        Call(plan=ask, phase="asking", ask=ask.ask, arguments=ask.arguments, asked_at=record.at) for ask in record.asks
    ]


def close_asks(state: ExecutionState, record: r.Record, frame: Frame) -> None:
    """Once every ask is answered the next run may begin; a graph goes no further with only some of them."""
    graph = frame.graph
    if graph is None:
        misfit(state, record, f"frame {frame.path!r} is no graph")
        raise AssertionError
    if any(call.phase != "done" for call in frame.calls):
        return
    graph.answers = {call.call_id: call.result for call in frame.calls if call.ask == "interrupt"}
    graph.passed = graph.checkpoint_id
    graph.run, graph.attempt = graph.run + 1, 1
    frame.calls = []


def graph_held(state: ExecutionState, record: r.GraphHeld) -> None:
    running_graph(state, record, record.path, record.run).running = {}


def graph_ended(state: ExecutionState, record: r.GraphEnded) -> None:
    graph = running_graph(state, record, record.path, record.run)
    graph.ended, graph.state, graph.running = True, record.state, {}
    state.frames[record.path].output = record.output


def graph_failed(state: ExecutionState, record: r.GraphFailed) -> None:
    running_graph(state, record, record.path, record.run).running = {}
    state.frames[record.path].model_error = record.error
