"""What must be true of every execution, whatever was done to it. Judged from its journal and by the ledger.

A process that was stopped and has lost its execution may still be in the middle of a tool when it is let go on: the effect
happens late, under the same key (P4 says so). Those are counted apart; all else has to be zero.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from agentspan.persistence.store import ExecutionRow, JournalEntry
from tests.soak.agents import NODES, OUTPUTS, TALK_TURNS, TOOLS

VERDICTS = ("stuck", "lost", "failed", "recorded steps run twice", "effects without a record", "two writers")

Entry = dict[str, Any]


@dataclass
class Flight:
    """One execution as the soak asked for it."""

    key: str
    kind: str
    placement: str
    session: str | None = None
    turn: int = 0
    execution_id: str | None = None
    asked_at: float = 0.0
    refused: bool = False
    """The last request was answered with an error."""
    acknowledged: list[str] = field(default_factory=list)
    """IDs of signals that were accepted."""


@dataclass
class Book:
    """What is kept of an execution that was judged: enough to judge what the ledger hears of it later."""

    recorded: dict[str, tuple[float, int]]
    """Call or node → when it was recorded, and as which attempt."""


class Judge:
    """Keeps the tally."""

    def __init__(self) -> None:
        self.tally: Counter[str] = Counter()
        self.problems: list[str] = []
        self.late_effects = 0
        self.ended = 0
        self.steps = 0
        self.recoveries = 0
        self._books: dict[str, Book] = {}
        self._entries: dict[str, list[Entry]] = defaultdict(list)
        self._stopped: dict[int, list[float]] = defaultdict(list)

    def stopped(self, pid: int, at: float) -> None:
        """A process was stopped; what it tells the ledger from then on may be late."""
        self._stopped[pid].append(at)

    def blame(self, verdict: str, what: str) -> None:
        self.tally[verdict] += 1
        self.problems.append(f"{verdict}: {what}")

    def hear(self, entries: list[Entry]) -> None:
        """What the ledger has heard since the last time."""
        for entry in entries:
            execution_id, _, rest = entry["key"].partition(":")
            entry["name"] = rest.rpartition(":")[2]
            book = self._books.get(execution_id)
            if book is None:
                self._entries[execution_id].append(entry)
            else:
                self._judge_entry(execution_id, entry, book)

    # --- one execution

    def judge(self, flight: Flight, row: ExecutionRow, journal: list[JournalEntry]) -> None:
        """Judge an execution that has ended, once."""
        execution_id = row.execution_id
        self.ended += 1
        self.recoveries += row.recoveries
        who = f"{execution_id} ({flight.kind}, {flight.placement})"
        if row.status != "COMPLETED":
            self.blame("failed", f"{who} is {row.status}: {row.error}")
        if [entry.seq for entry in journal] != list(range(row.seq + 1)):
            self.blame("lost", f"{who}: records are missing: {[entry.seq for entry in journal]}")
        epochs = [entry.epoch for entry in journal]
        if epochs != sorted(epochs):
            self.blame("two writers", f"{who}: epochs {epochs}")
        book = self._books[execution_id] = Book(self._recorded(who, flight, journal))
        self.steps += sum(entry.kind == "model" for entry in journal) + len(book.recorded)
        self._judge_decisions(who, flight, journal)
        entries = self._entries.pop(execution_id, [])
        for entry in entries:
            self._judge_entry(execution_id, entry, book)
        self._judge_writers(who, entries, journal)
        attempts = Counter((entry["name"], entry["attempt"]) for entry in entries)
        if flight.kind in TOOLS:
            for (name, attempt), count in attempts.items():
                if count > 1:
                    self.blame("recorded steps run twice", f"{who}: attempt {attempt} of {name} was made {count} times")
        missing = [name for name in book.recorded if name not in {name for name, _ in attempts}]
        if missing:
            self.blame("lost", f"{who}: recorded, but the ledger has not heard of {missing}")
        if row.status == "COMPLETED":
            self._judge_result(who, flight, journal, book)

    def _recorded(self, who: str, flight: Flight, journal: list[JournalEntry]) -> dict[str, tuple[float, int]]:
        recorded: dict[str, tuple[float, int]] = {}
        for entry in journal:
            body = entry.body
            if entry.kind == "tool":
                names = [(body["call_id"], body.get("attempt", 1))]
            elif entry.kind == "graph":
                names = [
                    (told["data"]["node"], 1)
                    for told in body["told"]
                    if told["type"] == "node_end" and not told["data"].get("error")
                ]
            else:
                continue
            for name, attempt in names:
                if name in recorded and name != "ask":  # A node that asks ends each time it does.
                    self.blame("recorded steps run twice", f"{who}: {name} is on record twice")
                recorded[name] = (body["at"], attempt)
        return recorded

    def _judge_entry(self, execution_id: str, entry: Entry, book: Book) -> None:
        recorded = book.recorded.get(entry["name"])
        if recorded is None:
            self.blame("effects without a record", f"{execution_id}: {entry}")
            return
        at, attempt = recorded
        if entry["attempt"] > attempt:
            self.blame("recorded steps run twice", f"{execution_id}: {entry}, recorded as attempt {attempt}")
        elif entry["at"] > at:
            if any(entry["at"] >= stopped for stopped in self._stopped.get(entry["pid"], ())):
                self.late_effects += 1
            else:
                self.blame("recorded steps run twice", f"{execution_id}: {entry}, recorded at {at}")

    def _judge_writers(self, who: str, entries: list[Entry], journal: list[JournalEntry]) -> None:
        made_by = {(entry["name"], entry["attempt"]): entry["pid"] for entry in entries}
        writers: dict[int, set[int]] = defaultdict(set)
        for entry in journal:
            if entry.kind == "tool":
                pid = made_by.get((entry.body["call_id"], entry.body.get("attempt", 1)))
                if pid is not None:
                    writers[entry.epoch].add(pid)
        for epoch, pids in writers.items():
            if len(pids) > 1:
                self.blame("two writers", f"{who}: epoch {epoch} was written by {sorted(pids)}")

    def _judge_decisions(self, who: str, flight: Flight, journal: list[JournalEntry]) -> None:
        decided = Counter(entry.body["signal_id"] for entry in journal if entry.kind == "decided")
        for signal_id in flight.acknowledged:
            if decided[signal_id] != 1:
                self.blame("lost", f"{who}: an accepted decision took effect {decided[signal_id]} times")

    def _judge_result(self, who: str, flight: Flight, journal: list[JournalEntry], book: Book) -> None:
        wanted = TOOLS[flight.kind] if flight.kind in TOOLS else len(NODES[flight.kind])
        if len(book.recorded) != wanted:
            self.blame("lost", f"{who}: {len(book.recorded)} of {wanted} steps: {sorted(book.recorded)}")
        output = journal[-1].body.get("output")
        if OUTPUTS[flight.kind] is not None and output != OUTPUTS[flight.kind]:
            self.blame("lost", f"{who}: its output is {output!r}")
        if flight.kind == "talker" and flight.turn:
            talk = next((entry.body["messages"] for entry in journal if entry.kind == "session"), [])
            said = [message["content"] for message in talk if message["role"] == "user"]
            if said != [f"turn {turn}" for turn in range(flight.turn)]:
                self.blame("lost", f"{who}: turn {flight.turn} of {TALK_TURNS} goes on from {said}")
