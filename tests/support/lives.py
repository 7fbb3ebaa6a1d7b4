"""One execution from its first life to its last, with its people, its side effects, and its deaths. No Ray.

`Play` is everything a test says about a run: an agent, its model, a prompt, and what people do when. `live` plays it on
a disk through crash points, starting one incarnation after the other as a supervisor would, and returns a `Story` with
all that is left to check. What must always hold is checked here, while it runs:

* P2: a model or tool call whose result is on record does not run again;
* P3: what runs is on record as something to be run; every try of a call has a higher attempt than the one before and the
  same idempotency key, and a retry waits for its time;
* P7: no model ever sees a tool call without its result.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from agentspan.actors.driver import Driver, Outcome
from agentspan.actors.performer import AgentPerformer
from agentspan.actors.toolcall import ToolOutcome, attempt
from agentspan.agents import ToolContext
from agentspan.agents.agent import Agent
from agentspan.agents.spec import OnCrash, ToolSpec
from agentspan.agents.tool_def import ToolDef
from agentspan.engine import records as r
from agentspan.engine.admit import Signal
from agentspan.engine.decide import CallModel, CallTool, CheckStop, Effect
from agentspan.engine.records import from_plain
from agentspan.engine.state import ExecutionState, to_snapshot
from agentspan.engine.view import status_of
from agentspan.models.base import Model, ModelReply, ModelRequest, OnToken
from agentspan.persistence.loading import load_state
from agentspan.persistence.memory import MemoryStore
from agentspan.persistence.reading import read_events
from agentspan.persistence.store import (
    Commit,
    ExecutionRow,
    JournalEntry,
    Loaded,
    NewExecution,
    PendingRow,
    Receipt,
    Store,
)
from agentspan.persistence.threads import Report
from agentspan.testing.crash import Crash, CrashingStore, CrashPoint, crash_at
from tests.support.virtual_time import clock, jump

LIVES_MAX = 60
"""More incarnations than this are a loop."""
NEVER = 10**9


@dataclass(frozen=True)
class Moment:
    """What a person can know when deciding whether their time has come."""

    state: ExecutionState
    row: ExecutionRow
    undecided: Sequence[PendingRow]
    """Calls that wait for somebody."""
    running: frozenset[str]
    """Names of the tools (and `model`) that run at this moment."""
    asleep: bool
    """No actor lives, and nothing but a person can go on."""

    def asks(self, kind: str) -> bool:
        """Something of this kind waits and nobody has decided on it."""
        return any(call.ask == kind for call in self.undecided)


@dataclass(frozen=True)
class Act:
    """One thing a person does, once, when its time has come."""

    when: Callable[[Moment], bool]
    kind: str
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Play:
    """A run as a test tells it."""

    name: str
    agent: Callable[[Ledger], Agent]
    model: Model
    prompt: Any = "go"
    acts: Sequence[Act] = ()
    session: Play | None = None
    """A run of the same agent that ends first and whose conversation this one continues."""
    hibernate_after_s: float = 5.0
    timeout_s: float | None = None


async def lossy(
    tool: ToolDef, arguments: dict[str, Any], context: ToolContext, *, note: Callable[[str], None]
) -> ToolOutcome:
    """An `Elsewhere` that does the work, but whose process dies with the result of each first attempt."""
    outcome = await attempt(tool, arguments, context, executor=None)
    if context.attempt == 1:
        return ToolOutcome(error="Its process died.", error_type="ToolLostError", is_lost=True)
    return outcome


class Ledger:
    """The outside world's own book of what was done to it. It survives every crash."""

    def __init__(self, disk: MemoryStore, execution_id: str) -> None:
        self.disk = disk
        self.execution_id = execution_id
        self.tries: dict[str, list[int]] = {}
        """Attempts by idempotency key, in the order they began."""
        self.running: list[str] = []
        self.violations: list[str] = []
        self.on_change: Callable[[], Any] | None = None

    async def begin(
        self, key: str, name: str, attempt: int, look: Callable[[list[r.AnyRecord]], Sequence[str]]
    ) -> None:
        """Write down a try. `look` says what is wrong with it, given what is on record at this moment."""
        records = await records_of(self.disk, self.execution_id)
        self.violations += [f"{key}, attempt {attempt}: {fault}" for fault in look(records)]
        before = self.tries.setdefault(key, [])
        if before and attempt <= before[-1]:
            self.violations.append(f"P3: {key} was tried as attempt {attempt} after attempt {before[-1]}")
        before.append(attempt)
        self.running.append(name)
        if self.on_change is not None:
            await self.on_change()

    def end(self, name: str) -> None:
        self.running.remove(name)


class LedgerModel:
    """A model that keeps the book."""

    def __init__(self, model: Model, ledger: Ledger) -> None:
        self._model = model
        self._ledger = ledger

    async def complete(self, request: ModelRequest, *, on_token: OnToken | None = None) -> ModelReply:
        turn = int(request.idempotency_key.rpartition(":")[2])

        def look(records: list[r.AnyRecord]) -> list[str]:
            answers = sum(isinstance(record, r.ModelAnswered) for record in records)
            failures = [record for record in records if isinstance(record, r.ModelFailed) and record.retry_at]
            faults = []
            if answers >= turn:
                faults.append("P2: ran again although its answer is on record")
            if answers < turn - 1:
                faults.append("P3: ran before what it follows from was on record")
            if any(one.attempt == request.attempt - 1 and (one.retry_at or 0) > clock() for one in failures):
                faults.append("ran before its retry was due")
            return faults

        await self._ledger.begin(request.idempotency_key, "model", request.attempt, look)
        self._ledger.violations += [f"P7: {fault}" for fault in dangling(request.messages)]
        try:
            return await self._model.complete(request, on_token=on_token)
        finally:
            self._ledger.end("model")

    async def aclose(self) -> None:
        await self._model.aclose()


def dangling(messages: Sequence[dict[str, Any]]) -> list[str]:
    """What is wrong with a conversation: tool calls without results right behind them, results without calls."""
    faults: list[str] = []
    open_calls: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            if message["tool_call_id"] in open_calls:
                open_calls.remove(message["tool_call_id"])
            else:
                faults.append(f"result of {message['tool_call_id']} without its call")
            continue
        faults += [f"call {call_id} without its result" for call_id in open_calls]
        open_calls = [call["id"] for call in message.get("tool_calls") or ()]
    return faults + [f"call {call_id} without its result" for call_id in open_calls]


class CrashingPerformer:
    """Makes every effect a call to the outside: it may die before the effect began, or with its outcome lost."""

    def __init__(self, performer: AgentPerformer, point: CrashPoint, ledger: Ledger) -> None:
        self._performer = performer
        self._point = point
        self._ledger = ledger
        self.spec = performer.spec
        self.notes = performer.notes

    async def perform(self, state: ExecutionState, effect: Effect, report: Report) -> r.AnyRecord:
        if isinstance(effect, CallModel):
            return await self._point.through("model", lambda: self._performer.call_model(state, effect, report))
        if isinstance(effect, CallTool):
            return await self._call_tool(state, effect, report)
        if isinstance(effect, CheckStop):
            return await self._point.through("stop_when", lambda: self._performer.check_stop(state, effect))
        return await self._performer.perform(state, effect, report)

    def hold(self) -> None:
        self._performer.hold()

    async def _call_tool(self, state: ExecutionState, effect: CallTool, report: Report) -> r.AnyRecord:
        call = state.call(effect.path, effect.call_id)
        assert call is not None
        key = f"{state.execution_id}:{effect.path}:{effect.call_id}"

        def look(records: list[r.AnyRecord]) -> list[str]:
            return tool_faults(records, effect, self.spec.tools[call.name])

        async def perform() -> r.AnyRecord:
            await self._ledger.begin(key, call.name, effect.attempt, look)
            try:
                return await self._performer.call_tool(state, effect, report)
            finally:
                self._ledger.end(call.name)

        return await self._point.through(f"tool:{call.name}", perform)

    async def on_start(self, state: ExecutionState) -> None:
        await self._performer.on_start(state)

    async def on_end(self, state: ExecutionState, record: r.Finished) -> None:
        await self._performer.on_end(state, record)


def tool_faults(records: Sequence[r.AnyRecord], effect: CallTool, tool: ToolSpec) -> list[str]:
    """What is wrong with starting this attempt, given what is on record."""
    faults = []
    asked = approvals = lost = 0
    planned = False
    for record in records:
        match record:
            case r.ModelAnswered():
                planned = planned or any(call.call_id == effect.call_id for call in record.calls)
                asked += any(call.call_id == effect.call_id and call.ask is not None for call in record.calls)
            case r.Recovered():
                lost += any(call.call_id == effect.call_id for call in record.calls)
            case r.Decided() if record.call_id == effect.call_id:
                approvals += record.verdict == "approve"
            case r.ToolReturned() if record.call_id == effect.call_id:
                faults.append("P2: ran again although its result is on record")
            case r.ToolFailed() if record.call_id == effect.call_id:
                if record.retry_at is None:
                    faults.append("P2: ran again although it failed for good")
                elif record.attempt == effect.attempt - 1 and record.retry_at > clock():
                    faults.append("ran before its retry was due")
            case _:
                pass
    if not planned:
        faults.append("P3: ran before the answer that asked for it was on record")
    if tool.on_crash is OnCrash.ASK:
        asked += lost
    if tool.on_crash is OnCrash.FAIL and lost:
        faults.append("P3: ran again after a crash although it must not")
    if approvals < asked:
        faults.append(f"P6: ran with {approvals} approvals of {asked}")
    return faults


class People:
    """Do each act once when its time has come; after a crash they do not know, so they send everything again."""

    def __init__(self, disk: Store, ledger: Ledger, execution_id: str, acts: Sequence[Act]) -> None:
        self._disk = disk
        self._ledger = ledger
        self._execution_id = execution_id
        self._acts = list(acts)
        self._sent: list[Signal] = []
        self.driver: Driver | None = None

    async def look(self, *, asleep: bool = False) -> bool:
        """Act if it is time. True if anything was sent."""
        loaded = await self._disk.load(self._execution_id)
        undecided = await self._disk.pending(self._execution_id)
        moment = Moment(load_state(loaded), loaded.row, undecided, frozenset(self._ledger.running), asleep)
        acted = False
        while self._acts and self._acts[0].when(moment) and not moment.state.is_finished:
            act = self._acts.pop(0)
            signal = Signal(
                signal_id=f"s{len(self._sent)}",
                execution_id=self._execution_id,
                kind=act.kind,  # type: ignore[arg-type]
                at=clock(),
                by="tess",
                **act.fields,
            )
            accepted = await self._disk.send(signal)
            assert accepted.is_new
            self._sent.append(signal)
            acted = True
            moment = replace(moment, undecided=await self._disk.pending(self._execution_id))
        if acted and self.driver is not None:
            self.driver.poke()
        return acted

    async def send_again(self) -> None:
        """Deliver every signal a second time, as a client does that lost the answer."""
        if (await self._disk.row(self._execution_id)).status in ("COMPLETED", "FAILED", "TERMINATED", "TIMED_OUT"):
            return
        for signal in self._sent:
            accepted = await self._disk.send(signal)
            assert accepted.signal.signal_id == signal.signal_id


@dataclass
class Story:
    """What is left of an execution when it has ended."""

    execution_id: str
    state: ExecutionState
    row: ExecutionRow
    journal: list[JournalEntry]
    records: list[r.AnyRecord]
    events: list[dict[str, Any]]
    ledger: Ledger
    calls: list[str]
    """The calls to the outside that went through the crash point."""
    lives: int
    outcomes: list[str]


async def live(
    play: Play,
    *,
    points: Sequence[CrashPoint] = (),
    execution_id: str = "ex-1",
    disk: MemoryStore | None = None,
    snapshots: int = 0,
) -> Story:
    """Play until it has ended. Each crash takes the next of `points`; the lives after the last one are undisturbed.

    With `snapshots` 1, every other commit of a life carries one, from the first; with 2, from the second.
    """
    disk = disk or MemoryStore(clock=clock)
    if play.session is not None:
        await live(replace(play.session, session=None), execution_id="ex-0", disk=disk)
    ledger = Ledger(disk, execution_id)
    agent = play.agent(ledger)
    await create(disk, execution_id, agent.name, play)
    people = People(disk, ledger, execution_id, play.acts)
    ledger.on_change = people.look
    waiting = list(points)
    point = waiting.pop(0) if waiting else crash_at(NEVER)
    calls: list[str] = []
    outcomes: list[str] = []
    for life in range(1, LIVES_MAX):
        if point.dead:
            calls += point.calls
            point = waiting.pop(0) if waiting else crash_at(NEVER)
        store = CrashingStore(_Watched(disk, people, snapshots), point)  # type: ignore[arg-type]
        try:
            taken = await store.take_over(execution_id, host={"life": life})
            model = LedgerModel(play.model, ledger)
            performer = AgentPerformer(
                agent,
                model=lambda name, url: model,  # noqa: B023
                store=store,
                clock=clock,
                elsewhere=lossy,
            )
            driver = people.driver = Driver(
                execution_id=execution_id,
                epoch=taken.epoch,
                crashed=taken.crashed,
                store=store,
                performer=CrashingPerformer(performer, point, ledger),
                hibernate_after_s=play.hibernate_after_s,
                clock=clock,
            )
            outcome = await driver.run()
        except Crash:
            outcomes.append("crashed")
            outcome = None
        finally:
            people.driver = None
            ledger.running.clear()
        if outcome is None:
            await people.send_again()
            row = await disk.row(execution_id)
            if row.status in ("COMPLETED", "FAILED", "TERMINATED", "TIMED_OUT"):
                break
            continue
        outcomes.append(outcome.ended)
        if outcome.ended == "finished":
            break
        await _rest(disk, people, execution_id, outcome)
    else:
        raise AssertionError(f"{play.name}: not over after {LIVES_MAX} lives: {outcomes[-5:]}")
    calls += point.calls
    return await _told(disk, execution_id, ledger, calls, life, outcomes)


async def create(disk: Store, execution_id: str, agent: str, play: Play) -> None:
    started = r.Started(
        at=clock(), agent=agent, prompt=play.prompt, session_id="chat" if play.session else "", timeout_s=play.timeout_s
    )
    session_id = "chat" if play.session is not None or execution_id == "ex-0" else ""
    await disk.create(
        NewExecution(
            execution_id=execution_id,
            request_id=f"req-{execution_id}",
            agent=agent,
            deployment_id="d1",
            started=r.to_plain(started),
            session_id=session_id,
            created_at=clock(),
        )
    )


class _Watched:
    """The disk, with people who look at it after every commit that landed, whoever is left to hear of it."""

    def __init__(self, disk: MemoryStore, people: People, snapshots: int) -> None:
        self._disk = disk
        self._people = people
        self._snapshots = snapshots

    async def commit(self, commit: Commit) -> Receipt:
        receipt = await self._disk.commit(commit)
        await self._people.look()
        return replace(receipt, bytes_written=NEVER) if self._snapshots else receipt

    async def load(self, execution_id: str) -> Loaded:
        # A driver that believes in large deltas writes a snapshot as soon as it may.
        loaded = await self._disk.load(execution_id)
        return replace(loaded, entries_bytes=NEVER) if self._snapshots == 1 else loaded

    def __getattr__(self, name: str) -> Any:
        return getattr(self._disk, name)


async def _rest(disk: Store, people: People, execution_id: str, outcome: Outcome) -> None:
    """Between two lives: what came in meanwhile, the next timer, or somebody who does something."""
    row = await disk.row(execution_id)
    assert not row.resident
    if row.inbox:
        return
    if outcome.wake_at is not None:
        assert row.wake_at == outcome.wake_at
        await jump(max(0.0, outcome.wake_at - clock()))
        return
    await jump(100.0)
    if not await people.look(asleep=True):
        raise AssertionError(f"it sleeps and nobody will wake it: {row}")


async def records_of(disk: Store, execution_id: str) -> list[r.AnyRecord]:
    return [from_plain(entry.kind, entry.body) for entry in await disk.journal(execution_id)]


async def _told(
    disk: Store, execution_id: str, ledger: Ledger, calls: list[str], lives: int, outcomes: list[str]
) -> Story:
    loaded = await disk.load(execution_id)
    events: list[dict[str, Any]] = []
    while page := (await read_events(disk, execution_id, len(events), limit=2))["events"]:
        events += page
    return Story(
        execution_id=execution_id,
        state=load_state(loaded),
        row=loaded.row,
        journal=await disk.journal(execution_id),
        records=await records_of(disk, execution_id),
        events=events,
        ledger=ledger,
        calls=calls,
        lives=lives,
        outcomes=outcomes,
    )


# --- what must hold of a story --------------------------------------------------------------------------------------


def faults_of(story: Story) -> list[str]:
    """Broken promises that need no other story to be seen."""
    faults = list(story.ledger.violations)
    row, state, journal = story.row, story.state, story.journal
    if [entry.seq for entry in journal] != list(range(len(journal))):
        faults.append(f"journal with gaps: {[entry.seq for entry in journal]}")
    if [event["seq"] for event in story.events] != list(range(1, row.events + 1)):
        faults.append(f"P10: events {[event['seq'] for event in story.events]}, the row says {row.events}")
    if journal[-1].kind != "finished" or sum(entry.kind == "finished" for entry in journal) != 1:
        faults.append("the last record, and only it, is 'finished'")
    if row.status != status_of(state).value or row.seq != state.seq or row.events != state.events:
        faults.append(f"the row disagrees with the state: {row.status}/{status_of(state)}, seq {row.seq}/{state.seq}")
    if row.resident or row.wake_at is not None or row.pending:
        faults.append(f"an ended execution leaves something behind: {row}")
    faults += _twice(story.records)
    epochs = [entry.epoch for entry in journal]
    if epochs != sorted(epochs):
        faults.append(f"P4: an old epoch wrote after a new one: {epochs}")
    return faults


def _twice(records: Sequence[r.AnyRecord]) -> list[str]:
    """P2, P5: things that are on record twice."""
    seen: set[Any] = set()
    faults = []
    turn = 0
    for record in records:
        match record:
            case r.ModelAnswered():
                turn += 1
                key: Any = None
            case r.ToolReturned() | r.MessagesDelivered():
                key = ("result", record.call_id)
            case r.ToolFailed():
                key = ("result", record.call_id) if record.retry_at is None else ("try", record.call_id, record.attempt)
            case r.ModelFailed():
                key = ("model", turn, record.attempt)
            case r.Decided() | r.MessageReceived() | r.Controlled():
                key = ("signal", record.signal_id)
            case r.SessionLoaded():
                key = "session"
            case _:
                key = None
        if key is not None and key in seen:
            faults.append(f"on record twice: {key}")
        seen.add(key)
    return faults


TIMES = frozenset({"started_at", "updated_at", "deadline_at", "asked_at", "decided_at", "retry_at", "model_retry_at"})
LIVES = frozenset({"seq", "events", "recoveries", "attempt", "attempts", "model_attempt"})


def essence(state: ExecutionState, *, without: frozenset[str] = frozenset()) -> str:
    """The state without what a crash may change: times, attempts, and how many lives it took."""
    return json.dumps(_without(to_snapshot(state), TIMES | LIVES | without), sort_keys=True, indent=1)


def _without(value: Any, keys: frozenset[str]) -> Any:
    if isinstance(value, dict):
        return {key: _without(item, keys) for key, item in value.items() if key not in keys}
    if isinstance(value, (list, tuple)):
        return [_without(item, keys) for item in value]
    return value


def signals_of(story: Story) -> list[str]:
    """The signals that took effect."""
    return sorted(record.signal_id for record in story.records if hasattr(record, "signal_id"))
