"""Rival incarnations of one execution on one disk, in any order, beside a model that is a plain list.

Old incarnations do not know that they are old: they commit late, send commits again whose answer they lost, hibernate
and finish. Every operation is done on a memory store and on a SQLite file; answers and contents have to be the same.
"""

from __future__ import annotations

import asyncio
import copy
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agentspan.engine import records as r
from agentspan.engine.admit import DECISIONS, Signal, admit
from agentspan.engine.apply import apply
from agentspan.engine.decide import CallModel, CallTool, decide, recover
from agentspan.engine.records import to_plain
from agentspan.engine.state import ExecutionState, to_snapshot
from agentspan.engine.view import status_of
from agentspan.errors import (
    AgentspanError,
    ExecutionFinishedError,
    SequenceConflictError,
    StaleEpochError,
)
from agentspan.persistence.loading import load_state, pending_rows
from agentspan.persistence.memory import MemoryStore
from agentspan.persistence.sqlite import SqliteStore
from agentspan.persistence.store import Commit, JournalEntry, NewExecution, RowChange, Store
from tests.support.situations import SPEC, T0, answered, finished, plan, started

ID = "ex-1"


@dataclass
class Incarnation:
    """A driver as far as the store can tell: an epoch, what it believes the state is, and what it wrote last."""

    epoch: int
    state: ExecutionState
    last: Commit | None = None
    alive: bool = True


class Rivals(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(prefix="rivals-"))
        self.now = T0
        memory = MemoryStore(clock=lambda: self.now)
        sqlite = self.do(SqliteStore.connect(self.folder / "s.db", clock=lambda: self.now))
        self.stores: list[Store] = [memory, sqlite]
        # The model.
        self.journal: list[tuple[int, str, int]] = []
        self.epoch = 0
        self.resident = False
        self.ended = False
        self.aside = False
        self.decisions: dict[str, str] = {}
        self.taken: list[str] = []
        self.sent: list[Signal] = []
        # The rivals.
        self.incarnations: list[Incarnation] = []

    def do(self, work: Awaitable[Any]) -> Any:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        for store in self.stores:
            self.do(store.close())
        self.loop.close()
        shutil.rmtree(self.folder)

    def both(self, operation: Callable[[Store], Awaitable[Any]]) -> Any:
        """Do it on both disks; they have to answer the same, errors included."""
        answers = []
        for store in self.stores:
            try:
                answers.append(self.do(operation(store)))
            except AgentspanError as problem:
                answers.append(problem)
        told = [(type(one).__name__, one.facts) if isinstance(one, AgentspanError) else one for one in answers]
        assert told[0] == told[1]
        return answers[0]

    @initialize()
    def create(self) -> None:
        new = NewExecution(
            execution_id=ID,
            request_id="r1",
            agent="hero",
            deployment_id="d1",
            started=to_plain(started()),
            created_at=T0,
        )
        assert self.both(lambda store: store.create(new)).is_new
        self.journal.append((0, "started", 0))

    # --- lives

    @rule()
    def take_over(self) -> None:
        answer = self.both(lambda store: store.take_over(ID, host={"n": self.epoch + 1}))
        if self.ended or self.aside:
            assert isinstance(answer, ExecutionFinishedError)
            return
        assert answer.epoch == self.epoch + 1
        assert answer.crashed == (self.resident and self.epoch > 0)
        self.epoch, self.resident = answer.epoch, True
        state = load_state(self.do(self.stores[0].load(ID)))
        assert to_snapshot(state) == to_snapshot(load_state(self.do(self.stores[1].load(ID))))
        born = Incarnation(answer.epoch, state)
        self.incarnations.append(born)
        if answer.crashed:
            self.write(born, [recover(state, SPEC, epoch=born.epoch, now=self.now)])

    @rule(expected=st.integers(-1, 1))
    def two_rescuers(self, expected: int) -> None:
        """Both read the same row; only one of them takes over."""
        wanted = max(0, self.epoch + expected)
        answer = self.both(lambda store: store.take_over(ID, host={}, expected_epoch=wanted))
        if self.ended or self.aside:
            assert isinstance(answer, ExecutionFinishedError)
        elif wanted != self.epoch:
            assert isinstance(answer, StaleEpochError)
        else:
            self.epoch, self.resident = answer.epoch, True
            self.incarnations.append(Incarnation(answer.epoch, load_state(self.do(self.stores[0].load(ID)))))

    def commit(self, life: Incarnation, commit: Commit) -> Any:
        """Write, and demand what the model says must come of it."""
        known = {entry.seq for entry in commit.entries} <= {seq for seq, _, _ in self.journal}
        answer = self.both(lambda store: store.commit(commit))
        if life.epoch != self.epoch:
            assert isinstance(answer, StaleEpochError), "P4: a stale epoch wrote"
            life.alive = False
        elif isinstance(answer, (SequenceConflictError, ExecutionFinishedError)):
            life.alive = False
            assert known or self.ended
        elif not (commit.entries and known):
            self.journal += [(entry.seq, entry.kind, life.epoch) for entry in commit.entries]
            self.resident = commit.change.resident and not self.ended
        return answer

    def write(
        self,
        life: Incarnation,
        records: list[r.AnyRecord],
        *,
        consumed: tuple[str, ...] = (),
        resident: bool = True,
        snapshot: bool = False,
    ) -> Any:
        """One step as the driver makes it."""
        state = copy.deepcopy(life.state)
        waiting = {call.call_id for _, call in state.open_asks()}
        entries = []
        for record in records:
            apply(state, record)
            entries.append(JournalEntry(seq=state.seq, kind=record.KIND, body=to_plain(record), events_to=state.events))
        still = {call.call_id for _, call in state.open_asks()}
        commit = Commit(
            execution_id=ID,
            epoch=life.epoch,
            entries=entries,
            seq=state.seq,
            change=RowChange(
                status=status_of(state).value,
                updated_at=self.now,
                resident=resident and not state.is_finished,
                finish_reason=state.finish_reason.value if state.finish_reason else None,
            ),
            consumed=consumed,
            opens=pending_rows(state, exclude=waiting),
            closes=sorted(waiting - still),
            snapshot=to_snapshot(state) if snapshot else None,
        )
        answer = self.commit(life, commit)
        if life.alive:
            life.state, life.last = state, commit
            if state.is_finished:
                self.ended, self.resident = True, False
        return answer

    def anybody(self, data: st.DataObject) -> Incarnation | None:
        lives = [life for life in self.incarnations if life.alive and not life.state.is_finished]
        return data.draw(st.sampled_from(lives)) if lives else None

    @precondition(lambda self: self.incarnations)
    @rule(data=st.data(), snapshot=st.booleans())
    def step(self, data: st.DataObject, snapshot: bool) -> None:
        """Somebody, who may be long out of date, does what the engine says is next."""
        life = self.anybody(data)
        if life is None:
            return
        effects = decide(life.state, SPEC, self.now).effects
        if not effects:
            return
        effect = data.draw(st.sampled_from(effects))
        turn = life.state.root.turn
        if isinstance(effect, CallModel):
            first = data.draw(st.sampled_from([("work", None), ("refund", "approval"), ("wire", None)]))
            record: r.AnyRecord = answered(plan(f"c{turn}-0", *first), plan(f"c{turn}-1"), text=f"by {life.epoch}")
        else:
            assert isinstance(effect, CallTool)
            call = life.state.call("", effect.call_id)
            assert call is not None
            record = r.ToolReturned(
                at=self.now, call_id=call.call_id, name=call.name, attempt=effect.attempt, result=f"by {life.epoch}"
            )
        self.write(life, [record], snapshot=snapshot)

    @precondition(lambda self: self.incarnations)
    @rule(data=st.data())
    def read_the_inbox(self, data: st.DataObject) -> None:
        life = self.anybody(data)
        if life is None:
            return
        inbox = self.both(lambda store: store.inbox(ID))
        records: list[r.AnyRecord] = []
        for signal in inbox:
            record = admit(life.state, signal, self.now)
            decided = {one.call_id for one in records if isinstance(one, r.Decided)}
            if record is not None and not (isinstance(record, r.Decided) and record.call_id in decided):
                records.append(record)
        if not inbox:
            return
        self.write(life, records, consumed=tuple(signal.signal_id for signal in inbox))
        if life.alive:
            self.taken += [signal.signal_id for signal in inbox]

    @precondition(lambda self: any(life.last for life in self.incarnations))
    @rule(data=st.data())
    def send_again(self, data: st.DataObject) -> None:
        """The answer to a commit was lost; the same commit is sent again, however late."""
        life = data.draw(st.sampled_from([life for life in self.incarnations if life.last]))
        assert life.last is not None
        before = list(self.journal)
        answer = self.commit(life, life.last)
        if life.epoch == self.epoch:
            assert not isinstance(answer, AgentspanError), "sending again what landed is no error"
        assert self.journal == before

    @precondition(lambda self: self.incarnations)
    @rule(data=st.data())
    def another_record_at_the_same_place(self, data: st.DataObject) -> None:
        """Two records claim one seq: never, not even from the same epoch."""
        life = self.anybody(data)
        if life is None or life.last is None or not life.last.entries:
            return
        entry = life.last.entries[-1]
        other = replace(entry, body={**entry.body, "at": entry.body["at"] + 1})
        answer = self.both(lambda store: store.commit(replace(life.last, entries=[other])))  # type: ignore[type-var]
        assert isinstance(answer, StaleEpochError if life.epoch != self.epoch else SequenceConflictError)

    @precondition(lambda self: self.incarnations)
    @rule(data=st.data())
    def hibernate(self, data: st.DataObject) -> None:
        life = self.anybody(data)
        if life is not None:
            self.write(life, [], resident=False)
            life.alive = False

    @precondition(lambda self: self.incarnations)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        life = self.anybody(data)
        if life is not None:
            life.alive = False

    @precondition(lambda self: len(self.journal) > 4 and self.incarnations)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        life = self.anybody(data)
        if life is not None:
            self.write(life, [finished()])

    @precondition(lambda self: len(self.journal) > 2)
    @rule()
    def set_aside(self) -> None:
        self.both(lambda store: store.quarantine(ID, error="damaged"))
        if not self.ended and not self.aside:
            self.aside, self.resident = True, False
            self.epoch += 1

    @precondition(lambda self: self.aside or self.ended)
    @rule()
    def release(self) -> None:
        """It was repaired; whoever ran it before may not go on."""
        assert self.both(lambda store: store.release(ID)) == self.aside
        if self.aside:
            self.aside, self.resident = False, True

    # --- people

    @rule(data=st.data(), kind=st.sampled_from(["approve", "reject", "respond", "message", "pause", "resume"]))
    def send(self, data: st.DataObject, kind: Any) -> None:
        signal = Signal(signal_id=f"s{len(self.sent)}", execution_id=ID, kind=kind, value="v", at=self.now)
        if kind in DECISIONS:
            calls = [row.call_id for row in self.do(self.stores[0].pending(ID))] or ["c0-0"]
            signal = replace(signal, call_id=data.draw(st.sampled_from([*calls, *self.decisions])))
        answer = self.both(lambda store: store.send(signal))
        if isinstance(answer, AgentspanError):
            return
        if kind in DECISIONS:
            call_id = answer.signal.call_id
            if answer.is_new:
                assert answer.signal.signal_id == signal.signal_id
                self.decisions[call_id] = signal.signal_id
            assert answer.signal.signal_id == self.decisions[call_id], "P5: the first decision counts"
        if answer.is_new:
            self.sent.append(signal)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def send_signal_again(self, data: st.DataObject) -> None:
        signal = data.draw(st.sampled_from(self.sent))
        answer = self.both(lambda store: store.send(signal))
        assert answer.signal.signal_id == signal.signal_id

    @rule(seconds=st.sampled_from([0.5, 3.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    # --- what always holds

    @invariant()
    def both_disks_hold_what_the_model_says(self) -> None:
        memory, sqlite = (self.dump(store) for store in self.stores)
        assert memory == sqlite
        if not memory:
            return
        assert [(entry["seq"], entry["kind"], entry["epoch"]) for entry in memory["journal"]] == self.journal
        assert [seq for seq, _, _ in self.journal] == list(range(len(self.journal)))
        assert (memory["row"]["epoch"], memory["row"]["resident"]) == (self.epoch, self.resident)
        assert memory["row"]["seq"] == self.journal[-1][0]
        assert set(memory["inbox"]) == {one.signal_id for one in self.sent} - set(self.taken), "P5: none is lost"

    @invariant()
    def the_stored_state_can_be_loaded_and_no_signal_took_effect_twice(self) -> None:
        if not self.journal:
            return
        load_state(self.do(self.stores[1].load(ID)))
        named = [entry.body["signal_id"] for entry in self.do(self.stores[0].journal(ID)) if "signal_id" in entry.body]
        assert len(named) == len(set(named))

    def dump(self, store: Store) -> dict[str, Any]:
        if not self.journal:
            return {}
        return {
            "row": asdict(self.do(store.row(ID))),
            "journal": [asdict(entry) for entry in self.do(store.journal(ID))],
            "inbox": [signal.signal_id for signal in self.do(store.inbox(ID))],
            "pending": [asdict(row) for row in self.do(store.pending(ID))],
        }


Rivals.TestCase.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestRivals = Rivals.TestCase
