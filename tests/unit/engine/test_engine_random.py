"""Random runs of the bare engine: whatever models, tools, people and crashes do, these things hold."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any, assert_never

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentspan.agents.spec import AgentSpec
from agentspan.engine import records as r
from agentspan.engine.admit import Signal, admit
from agentspan.engine.apply import apply
from agentspan.engine.decide import (
    CallModel,
    CallTool,
    CheckStop,
    Effect,
    LoadFork,
    LoadSession,
    RunGraph,
    decide,
    recover,
)
from agentspan.engine.events import count_events, events_of
from agentspan.engine.plan import RequestedCall, plan_calls
from agentspan.engine.prompt import conversation, ended_conversation
from agentspan.engine.records import from_plain, to_plain
from agentspan.engine.state import ExecutionState, from_snapshot, to_snapshot
from agentspan.engine.view import agent_result, status_of
from tests.support.lives import dangling
from tests.support.situations import (
    SPEC,
    T0,
    as_stored,
    breakpoint_ask,
    graph_ended,
    graph_failed,
    graph_held,
    graph_started,
    graph_waits,
    interrupt_ask,
    node_told,
    situation,
    started,
    told,
)

HITL = {"kind": "decisions", "actions": [{"name": "work", "args": {}}]}
TOOLS = [*SPEC.tools, "nothing"]
KINDS = ["approve", "reject", "respond", "message", "pause", "resume", "stop", "cancel", "guide"]
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


class Run:
    """Plays driver: does what `decide` says with outcomes that Hypothesis draws, and keeps the journal."""

    def __init__(self, data: st.DataObject, spec: AgentSpec, *, graph: bool = False) -> None:
        self.draw = data.draw
        self.spec = spec
        self.now = T0
        self.graph = graph
        self.state = ExecutionState(execution_id="ex-1")
        self.journal: list[r.AnyRecord] = []
        self.signals = 0
        origin = self.draw(st.sampled_from([{}, {"session_from": "ex-0"}, {"forked_from": "ex-0"}]))
        begin = graph_started if graph else started
        self.write(begin(**origin, timeout_s=self.draw(st.sampled_from([None, 50.0]))))

    def write(self, record: r.AnyRecord) -> None:
        stored = as_stored(to_plain(record))
        self.journal.append(record)
        apply(self.state, from_plain(record.KIND, stored))
        while records := self.conclusions():
            for conclusion in records:
                if not self.state.is_finished:
                    self.journal.append(conclusion)
                    apply(self.state, copy.deepcopy(conclusion))
        self.check()

    def conclusions(self) -> list[r.AnyRecord]:
        return decide(self.state, self.spec, self.now).records

    def check(self) -> None:
        decision = decide(self.state, self.spec, self.now)
        assert decision == decide(self.state, self.spec, self.now)
        for effect in decision.effects:
            if isinstance(effect, CallModel):
                frame = self.state.frames[effect.path]
                assert dangling(conversation(self.state, frame, "Be good.")) == [], "P7"
        assert decision.wake_at is None or decision.wake_at > self.now
        if not self.state.is_finished and not decision.effects and decision.wake_at is None:
            waits = status_of(self.state).value
            assert waits in ("WAITING", "PAUSED"), f"P1: nobody can go on, and it is {waits}"

    def step(self) -> None:
        effects = decide(self.state, self.spec, self.now).effects
        choices = ["signal", "time", "crash"] + ["effect"] * (4 if effects else 0)
        match self.draw(st.sampled_from(choices)):
            case "effect":
                self.write(self.outcome(self.draw(st.sampled_from(effects))))
            case "signal":
                self.signal()
            case "time":
                self.now += self.draw(st.sampled_from([0.5, 2.0, 20.0]))
                if records := self.conclusions():
                    self.write(records[0])
            case "crash":
                self.write(recover(self.state, self.spec, epoch=2, now=self.now))

    def outcome(self, effect: Effect) -> r.AnyRecord:
        at = self.now
        match effect:
            case CallModel():
                return self.model_outcome(effect)
            case CallTool():
                call = self.state.call(effect.path, effect.call_id)
                assert call is not None
                where: dict[str, Any] = {"at": at, "call_id": call.call_id, "name": call.name}
                where["attempt"] = effect.attempt
                match self.draw(st.sampled_from(["returned", "retry", "failed", "lost"])):
                    case "returned":
                        changes = {"state_set": {"k": self.draw(values)}} if self.draw(st.booleans()) else {}
                        return r.ToolReturned(**where, result=self.draw(values), **changes)
                    case "retry":
                        return r.ToolFailed(**where, error="boom", retry_at=at + 1)
                    case "lost":
                        return r.ToolLost(**where, error="died", arguments=call.arguments)
                return r.ToolFailed(**where, error="boom")
            case CheckStop():
                stop = self.draw(st.integers(0, 9)) == 0
                return r.StopChecked(at=at, turn=effect.turn, stop=stop)
            case LoadSession():
                return r.SessionLoaded(at=at, messages=[] if self.graph else [{"role": "user", "content": "before"}])
            case LoadFork():
                return r.Forked(at=at, snapshot=None if self.graph else to_snapshot(situation("between turns")))
            case RunGraph():
                return self.graph_outcome(effect)
            case _:
                assert_never(effect)

    def graph_outcome(self, effect: RunGraph) -> r.AnyRecord:
        match self.draw(
            st.sampled_from(["told", "told", "told", "waits", "waits", "breakpoint", "held", "ended", "failed"])
        ):
            case "told":
                kind = self.draw(st.sampled_from(["node_start", "node_end"]))
                return told(node_told(kind, "n", self.draw(st.sampled_from(["t1", "t2"]))), model_calls=1)
            case "waits":
                form = self.draw(st.sampled_from([{}, HITL]))
                count = self.draw(st.integers(1, 3))
                asks = [interrupt_ask(f"i{effect.run}-{index}", form=form) for index in range(count)]
                return graph_waits(*asks, run=effect.run)
            case "breakpoint":
                checkpoint = f"cp{effect.run}"
                return graph_waits(breakpoint_ask(checkpoint), run=effect.run, checkpoint_id=checkpoint)
            case "held":
                return graph_held(effect.run)
            case "failed":
                return graph_failed(effect.run)
        return graph_ended(effect.run, self.draw(values))

    def model_outcome(self, effect: CallModel) -> r.AnyRecord:
        match self.draw(st.sampled_from(["calls", "calls", "calls", "text", "misfit", "retry", "failed"])):
            case "text":
                return r.ModelAnswered(at=self.now, attempt=effect.attempt, text=self.draw(st.text(max_size=4)))
            case "misfit":
                return r.ModelAnswered(at=self.now, attempt=effect.attempt, text="?", output_error="Give JSON.")
            case "retry":
                return r.ModelFailed(at=self.now, attempt=effect.attempt, error="429", retry_at=self.now + 3)
            case "failed":
                return r.ModelFailed(at=self.now, attempt=effect.attempt, error="400")
        requested = [
            RequestedCall(
                call_id=self.draw(st.sampled_from(["", "a", "a", "call-1-0", f"id-{effect.turn}-{index}"])),
                name=self.draw(st.sampled_from(TOOLS)),
                arguments=self.draw(st.sampled_from(["{}", '{"x": 1}', "", "{broken"])),
            )
            for index in range(self.draw(st.integers(1, 3)))
        ]

        def validate(name: str, raw: str) -> dict[str, Any]:
            return dict(json.loads(raw or "{}"))

        calls = plan_calls(self.state.frames[effect.path], self.spec, requested, validate)
        return r.ModelAnswered(at=self.now, attempt=effect.attempt, calls=calls)

    def signal(self) -> None:
        asks = [call.call_id for _, call in self.state.open_asks()]
        weights = [*KINDS, "approve", "respond", "message", "resume"]
        kind: Any = self.draw(st.sampled_from(weights))
        if kind in ("cancel", "stop") and self.draw(st.integers(0, 3)):
            kind = "message"
        self.signals += 1
        signal = Signal(
            signal_id=f"s{self.signals}",
            execution_id="ex-1",
            kind=kind,
            call_id=self.draw(st.sampled_from([*asks, "other"])) if kind in ("approve", "reject", "respond") else None,
            value=self.draw(values),
        )
        record = admit(self.state, signal, self.now)
        if record is not None:
            self.write(record)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data())
def test_no_run_breaks_the_rules(data: st.DataObject) -> None:
    spec = replace(SPEC, has_stop_when=data.draw(st.booleans()), max_turns=6)
    run = Run(data, spec)
    for _ in range(data.draw(st.integers(1, 30))):
        if run.state.is_finished:
            break
        run.step()
    check_journal(run)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data())
def test_no_run_of_a_graph_breaks_the_rules(data: st.DataObject) -> None:
    run = Run(data, AgentSpec(name="app", model=""), graph=True)
    for _ in range(data.draw(st.integers(1, 30))):
        if run.state.is_finished:
            break
        run.step()
    check_journal(run)


def check_journal(run: Run) -> None:
    """The state is what the journal says at every place of it, and so are the events."""
    state = ExecutionState(execution_id="ex-1")
    seen: list[int | None] = []
    for seq, record in enumerate(run.journal):
        events = events_of(record, execution_id="ex-1", first=state.events + 1)
        assert count_events(record) == len(events)
        seen += [event.seq for event in events]
        apply(state, from_plain(record.KIND, as_stored(to_plain(record))))
        assert (state.seq, state.events) == (seq, len(seen))
        snapshot = to_snapshot(state)
        again = from_snapshot(as_stored(snapshot))
        assert to_snapshot(again) == snapshot
        if seq % 3 == 0:
            state = again  # Going on from a snapshot is going on from the records.
    assert seen == list(range(1, len(seen) + 1)), "P10"
    assert to_snapshot(state) == to_snapshot(run.state)
    assert dangling(ended_conversation(state.root)) == [], "P7, for the run that continues this one"
    ids = [call.call_id for call in [*state.root.past_calls, *state.root.calls]]
    assert len(ids) == len(set(ids)), "call IDs are unique within an execution"
    if state.is_finished:
        calls = agent_result(state).tool_calls
        assert [call.call_id for call in calls] == ids
