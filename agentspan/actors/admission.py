"""Who may have a process now, and who waits: in the store, as QUEUED, in order.

Three things can be in an execution's way, looked at in this order:

* its **session**: executions of one session run one at a time, in the order in which they were started, because each goes
  on with the conversation of the one before. One that waits for a person has not ended, so it still holds its session;
* its **agent**: no more of an agent's executions have a place than its `max_concurrency`;
* **room**: places on the server, of processes or in hosts. A free place goes to the agent that has the fewest, so that
  one agent's long line holds nobody else's up.

Who has a place is *inside*: from being let in until it ends or hibernates. Who waits for a person after the grace period
has none, and gets in line again when it wakes: by its age, so before those that have not begun.

Started from inside another one (a tool that starts an agent and waits for it), an execution shares the place of its
parent: if it had to wait for the parent's, neither would ever go on.

No clock, no store, no Ray: the supervisor keeps one, and a command that only reads makes one of the rows it finds.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Order = tuple[float, str]
"""Oldest first; the ID only so that no two are the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """An execution that is to have a place, as far as it matters here."""

    execution_id: str
    agent: str
    created_at: float
    """UTC seconds."""
    session_id: str = ""
    packed: bool = False
    parent: str = ""
    """The execution inside which it was started."""
    tokens: bool = False

    @property
    def order(self) -> Order:
        return (self.created_at, self.execution_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Why an execution waits, and its place in line."""

    why: str
    """`session`, `agent` or `room`."""
    ahead: int
    """How many of its session, or else of its agent, are let in before it."""
    agent: str
    limit: int | None = None
    """The agent's `max_concurrency`."""
    behind: str = ""
    """The execution of its session that has to end first."""

    def words(self) -> str:
        """For people, in a sentence or two."""
        if self.why == "session":
            return f"Waits for {self.behind}, which is before it in its session; {_before(self.ahead)}"
        if self.why == "agent":
            return f"Waits for its agent {self.agent!r} (max_concurrency {self.limit}); {_before(self.ahead)}"
        return f"Waits for room on the server; {_before(self.ahead)}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return {"why": self.why, "ahead": self.ahead, "behind": self.behind or None, "reason": self.words()}


def _before(count: int) -> str:
    if count == 0:
        return "it is next."
    return "1 execution is before it." if count == 1 else f"{count} executions are before it."


class Admission:
    """Places, and the executions in line for one."""

    def __init__(self, places: Mapping[bool, int | None]) -> None:
        """`places`: how many there are, for packed executions (True) and for others; None is any number."""
        self._places = dict(places)
        self._limits: dict[str, int] = {}
        self._inside: dict[str, Claim] = {}
        self._taken: Counter[bool] = Counter()
        self._of_agent: Counter[str] = Counter()
        self._waiting: dict[str, Claim] = {}
        self._lines: dict[tuple[bool, str], list[Order]] = {}
        """By kind of place and agent: those of whom no session is in the way."""
        self._sessions: dict[tuple[str, str], list[Order]] = {}
        """All that have not ended, at work or not."""
        self._session_of: dict[str, tuple[tuple[str, str], Order]] = {}
        self._at_work: dict[tuple[str, str], set[str]] = {}
        """Of each session, those inside; seldom more than one."""

    # --- rules

    def limit(self, limits: Mapping[str, int]) -> None:
        """Say how many executions each agent may have inside; those not named, any number. Ask for `next` afterwards."""
        self._limits = dict(limits)

    def resize(self, *, packed: bool, places: int | None) -> None:
        """Another number of places of a kind. Nobody who has one loses it. Ask for `next` afterwards."""
        self._places[packed] = places

    def admits(self, claim: Claim) -> bool:
        """Whether it would be let in at once."""
        if claim.parent in self._inside:
            return True
        if self._is_full(claim.agent) or not self._has_room(claim.packed) or self._blocker(claim) is not None:
            return False
        line = self._lines.get((claim.packed, claim.agent))
        return not line or claim.order <= line[0]

    def _is_full(self, agent: str) -> bool:
        limit = self._limits.get(agent)
        return limit is not None and self._of_agent[agent] >= limit

    def _has_room(self, packed: bool) -> bool:
        places = self._places[packed]
        return places is None or self._taken[packed] < places

    def _blocker(self, claim: Claim) -> str | None:
        """The execution that has to end, or to rest, before its session lets this one in."""
        key = (claim.agent, claim.session_id)
        members = self._sessions.get(key)
        if members and members[0] < claim.order:
            return members[0][1]
        return next((eid for eid in self._at_work.get(key, ()) if eid != claim.execution_id), None)

    # --- coming and going

    def hold(self, claim: Claim) -> bool:
        """Take note of an execution that has not ended. Idempotent. Returns whether its session has to end another first."""
        if not claim.session_id:
            return False
        key = (claim.agent, claim.session_id)
        if claim.execution_id not in self._session_of:
            self._step_back(key)
            insort(self._sessions.setdefault(key, []), claim.order)
            self._session_of[claim.execution_id] = (key, claim.order)
            self._step_up(key)
        return self._sessions[key][0] < claim.order

    def enter(self, claim: Claim, *, at_once: bool = False) -> bool:
        """Take a place, or get in line. `at_once`: it has a process already, or is to end; it is let in whatever there is."""
        self.hold(claim)
        if claim.execution_id in self._inside:
            return True
        if at_once or self.admits(claim):
            self.withdraw(claim.execution_id)
            self._inside[claim.execution_id] = claim
            self._taken[claim.packed] += 1
            self._of_agent[claim.agent] += 1
            if claim.session_id:
                key = (claim.agent, claim.session_id)
                self._step_back(key)
                self._at_work.setdefault(key, set()).add(claim.execution_id)
            return True
        self.wait(claim)
        return False

    def wait(self, claim: Claim) -> None:
        """Get in line. Idempotent."""
        self.hold(claim)
        if claim.execution_id not in self._waiting:
            self._waiting[claim.execution_id] = claim
            self._line_up(claim)

    def _line_up(self, claim: Claim) -> None:
        line = self._lines.setdefault((claim.packed, claim.agent), [])
        if self._blocker(claim) is None and not _is_in(line, claim.order):
            insort(line, claim.order)

    def _step_up(self, key: tuple[str, str]) -> None:
        """Let the first of a session stand in its agent's line, if nothing of the session is in its way."""
        claim = self._first(key)
        if claim is not None:
            self._line_up(claim)

    def _step_back(self, key: tuple[str, str]) -> None:
        """Take the first of a session out of its agent's line: the session may not be its own any more."""
        claim = self._first(key)
        if claim is not None:
            _remove(self._lines, (claim.packed, claim.agent), claim.order)

    def _first(self, key: tuple[str, str]) -> Claim | None:
        members = self._sessions.get(key)
        return self._waiting.get(members[0][1]) if members else None

    def withdraw(self, execution_id: str) -> None:
        """Leave the line, still being one of its session. Idempotent."""
        claim = self._waiting.pop(execution_id, None)
        if claim is not None:
            _remove(self._lines, (claim.packed, claim.agent), claim.order)

    def leave(self, execution_id: str) -> None:
        """Give up a place, still being one of its session. Idempotent."""
        claim = self._inside.pop(execution_id, None)
        if claim is None:
            return
        self._taken[claim.packed] -= 1
        self._of_agent[claim.agent] -= 1
        if not self._of_agent[claim.agent]:
            del self._of_agent[claim.agent]
        if claim.session_id:
            key = (claim.agent, claim.session_id)
            self._at_work[key].discard(execution_id)
            if not self._at_work[key]:
                del self._at_work[key]
            self._step_up(key)

    def forget(self, execution_id: str) -> None:
        """It has ended: give up all it has here. Idempotent."""
        self.withdraw(execution_id)
        self.leave(execution_id)
        if execution_id in self._session_of:
            key, order = self._session_of.pop(execution_id)
            _remove(self._sessions, key, order)
            self._step_up(key)

    def next(self) -> Claim | None:
        """Who is to be let in now; the caller lets it `enter`, and asks again."""
        for packed in self._places:
            if not self._has_room(packed):
                continue
            heads = [
                (self._of_agent[agent], line[0])
                for (kind, agent), line in self._lines.items()
                if kind is packed and line and not self._is_full(agent)
            ]
            if heads:
                return self._waiting[min(heads)[1][1]]
        return None

    # --- reading

    def standing(self, execution_id: str) -> Standing | None:
        """Why it waits and its place in line; None when it does not wait for a place."""
        claim = self._waiting.get(execution_id)
        if claim is None:
            return None
        blocker = self._blocker(claim)
        if blocker is not None:
            ahead = bisect_left(self._sessions[claim.agent, claim.session_id], claim.order)
            return Standing(why="session", ahead=max(1, ahead), agent=claim.agent, behind=blocker)
        ahead = bisect_left(self._lines[claim.packed, claim.agent], claim.order)
        if self._is_full(claim.agent):
            return Standing(why="agent", ahead=ahead, agent=claim.agent, limit=self._limits[claim.agent])
        return Standing(why="room", ahead=ahead, agent=claim.agent)

    def waiting(self, execution_id: str) -> Claim | None:
        """The claim of one that is in line."""
        return self._waiting.get(execution_id)

    def sessions(self) -> Iterator[str]:
        """The executions that hold, or wait for, a session."""
        return iter(list(self._session_of))

    def __len__(self) -> int:
        """How many are in line."""
        return len(self._waiting)


def _is_in(line: list[Order], order: Order) -> bool:
    place = bisect_left(line, order)
    return line[place : place + 1] == [order]


def _remove(lines: dict[Any, list[Order]], key: Any, order: Order) -> None:
    line = lines.get(key, [])
    if _is_in(line, order):
        del line[bisect_left(line, order)]
    if not line:
        lines.pop(key, None)
