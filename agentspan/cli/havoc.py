"""Killing a server's processes at random, and seeing what comes back: the inside of `agent-span chaos`.

Who may be killed is read from our own records: executions name the process they run in, and the supervisor names its
own, each by PID and the moment it began. Only processes of this machine are ever touched, and none that has ended and whose
PID is somebody else's by now.

The dice are drawn three times for each strike, whatever comes of it, so that a seed means the same strikes again: the same
pauses and kinds, and of the processes there are, in the order in which their executions began, the same one.
"""

from __future__ import annotations

import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

from agentspan.actors.hosts import is_host
from agentspan.agents.results import Status
from agentspan.errors import ConfigurationError, ServerError, StoreUnavailableError, UnknownExecutionError
from agentspan.processes import Process

KINDS = ("actor", "supervisor", "host")
LOOK_EVERY_S = 0.02
ROWS_MAX = 10_000
UNSETTLED = [status.value for status in Status if not status.is_settled]
SETTLED = frozenset(status.value for status in Status if status.is_settled)

Row = dict[str, Any]


class Scene(Protocol):
    """What is known of a server. Answers are the desk's, as plain data."""

    def rows(self) -> list[Row]:
        """The unfinished executions that chaos may touch, oldest first."""
        ...

    def row(self, execution_id: str) -> Row:
        """One execution. Raises UnknownExecutionError."""
        ...

    def ping(self) -> dict[str, Any]:
        """The supervisor's answer; waits for a supervisor that is just restarted."""
        ...


@dataclass(frozen=True, slots=True)
class Target:
    """A process that may be killed, and who runs in it."""

    kind: str
    name: str
    """The actor's."""
    process: Process
    rows: Sequence[Row] = ()


@dataclass(slots=True)
class Wound:
    """An execution whose process was killed under it."""

    row: Row
    """As it was just before."""
    recovered_s: float | None = None
    """From the kill to the first record of its new life, or to its end."""


@dataclass(slots=True)
class Strike:
    """One kill, and what became of it."""

    number: int
    kind: str
    name: str
    pid: int
    at_s: float
    """Since the beginning."""
    wounds: list[Wound] = field(default_factory=list)
    recovered_s: float | None = None
    """Until all that it hit was back."""

    @property
    def open(self) -> list[Wound]:
        """Those that are not back."""
        return [wound for wound in self.wounds if wound.recovered_s is None]


@dataclass(frozen=True, slots=True)
class Summary:
    """What it all came to. Times in seconds."""

    seed: int
    kills: dict[str, int]
    touched: int
    """Executions whose process was killed at least once."""
    recoveries: int
    recovery_s: tuple[float, float] | None
    """Median and greatest, of executions."""
    supervisor_s: tuple[float, float] | None
    """The same, of the supervisor."""
    lost: list[dict[str, str]]
    """What did not come back, and what was given up because its process died again and again."""


class Havoc:
    """One go of it. Not to be used twice."""

    def __init__(
        self,
        scene: Scene,
        *,
        kinds: Sequence[str] = KINDS,
        every_s: float = 10.0,
        seed: int,
        tell: Callable[[Strike, str], None],
        find: Callable[[dict[str, Any]], Process | None] = Process.on_record,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`tell` hears of each strike, as `killed`, `recovered` or `lost`."""
        self._scene = scene
        self._kinds = tuple(kinds)
        self._every_s = every_s
        self._seed = seed
        self._dice = random.Random(seed)
        self._tell = tell
        self._find = find
        self._sleep = sleep
        self._clock = clock
        self._began = clock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="chaos")
        self._over = False
        self._supervisor: tuple[Strike, Future[None]] | None = None
        self._spared = scene.ping()["recoveries_max"]
        self.strikes: list[Strike] = []

    def run(self, for_s: float, settle_s: float) -> Summary:
        """Strike until `for_s` have passed, wait up to `settle_s` for what is not back, and sum up. Ctrl-C ends it early."""
        try:
            while True:
                pause = self._every_s * self._dice.uniform(0.5, 1.5)
                kind, choice = self._dice.random(), self._dice.random()
                if self._now() + pause > for_s:
                    self._look_until(for_s)
                    break
                self._look_until(self._now() + pause)
                self._strike(kind, choice)
        except KeyboardInterrupt:
            pass  # The summary says what had been done.
        return self._end(settle_s)

    def _end(self, settle_s: float) -> Summary:
        deadline = self._now() + settle_s
        try:
            while any(strike.recovered_s is None for strike in self.strikes) and self._now() < deadline:
                self._look_until(self._now() + LOOK_EVERY_S)
        except KeyboardInterrupt:
            pass
        self._over = True
        self._pool.shutdown(wait=False)
        for strike in self.strikes:
            if strike.recovered_s is None:
                self._tell(strike, "lost")
        return self.summary()

    def _now(self) -> float:
        return self._clock() - self._began

    # --- striking

    def _strike(self, kind: float, choice: float) -> None:
        first = int(kind * len(self._kinds))
        # Whatever is there now; what is not is not killed, and the dice fall as they would have.
        for wanted in self._kinds[first:] + self._kinds[:first]:  # Where there is none of a kind, the next one.
            try:
                targets = self._targets(wanted)
            except StoreUnavailableError:
                targets = []
            if targets:
                return self._kill(targets[int(choice * len(targets))])
        return None

    def _targets(self, kind: str) -> list[Target]:
        """Who can be killed; nobody whose next crash in a row would be the one that ends it."""
        if kind == "supervisor":
            if self._supervisor is not None:
                return []
            process = self._find(self._scene.ping()["process"])
            return [] if process is None else [Target(kind, "supervisor", process)]
        by_name: dict[str, list[Row]] = {}
        for row in self._scene.rows():
            name = str(row["host"].get("actor", ""))
            if row["resident"] and is_host(name) == (kind == "host"):
                by_name.setdefault(name, []).append(row)
        return list(self._alive(kind, by_name))

    def _alive(self, kind: str, by_name: dict[str, list[Row]]) -> Iterator[Target]:
        for name, rows in by_name.items():
            process = self._find(rows[0]["host"])
            if process is not None and all(row["crashes"] < self._spared for row in rows):
                yield Target(kind, name, process, rows)

    def _kill(self, target: Target) -> None:
        at = self._now()
        if not target.process.kill():
            return  # It ended by itself a moment before.
        strike = Strike(len(self.strikes) + 1, target.kind, target.name, target.process.pid, at)
        strike.wounds = [Wound(row) for row in target.rows]
        self.strikes.append(strike)
        if target.kind == "supervisor":
            self._supervisor = strike, self._pool.submit(self._until_other, target.process)
        self._tell(strike, "killed")

    def _until_other(self, killed: Process) -> None:
        """Return once a supervisor answers that is not this one. In a thread: an answer may take long."""
        while not self._over:
            try:
                process = self._scene.ping()["process"]
                if (process["pid"], process["born"]) != (killed.pid, killed.born):
                    return
            except ServerError:
                pass  # It asks until the end, which says that there was none.
            self._sleep(LOOK_EVERY_S)

    # --- looking what comes back

    def _look_until(self, instant: float) -> None:
        while (left := instant - self._now()) > 0:
            self._look()
            self._sleep(min(left, LOOK_EVERY_S))

    def _look(self) -> None:
        for strike in self.strikes:
            if strike.recovered_s is not None:
                continue
            for wound in strike.open:
                self._look_at(strike, wound)
            if strike.kind == "supervisor" and not self._is_supervised(strike):
                continue
            if not strike.open:
                strike.recovered_s = self._now() - strike.at_s
                self._tell(strike, "recovered")

    def _look_at(self, strike: Strike, wound: Wound) -> None:
        before = wound.row
        try:
            row = self._scene.row(before["execution_id"])
        except UnknownExecutionError:
            strike.wounds.remove(wound)  # It ended, and was removed since.
            return
        except StoreUnavailableError:
            return
        rests = row["status"] in SETTLED or not row["resident"]
        if row["epoch"] > before["epoch"] and (rests or row["seq"] > before["seq"]):
            wound.recovered_s = self._now() - strike.at_s
        elif rests:
            strike.wounds.remove(wound)  # It had left its process a moment before.

    def _is_supervised(self, strike: Strike) -> bool:
        assert self._supervisor is not None
        assert self._supervisor[0] is strike
        answer = self._supervisor[1]
        if not answer.done():
            return False
        answer.result()
        self._supervisor = None
        return True

    # --- summing up

    def summary(self) -> Summary:
        """What has been done and seen so far."""
        wounds = [wound for strike in self.strikes for wound in strike.wounds]
        times = [wound.recovered_s for wound in wounds if wound.recovered_s is not None]
        supervisor = [
            one.recovered_s for one in self.strikes if one.kind == "supervisor" and one.recovered_s is not None
        ]
        lost = [
            {"kind": strike.kind, "name": strike.name, "what": "its supervisor did not answer again"}
            for strike in self.strikes
            if strike.kind == "supervisor" and strike.recovered_s is None
        ]
        touched = {wound.row["execution_id"]: wound for wound in wounds}
        for execution_id in touched:
            what = self._loss(execution_id, [one for one in wounds if one.row["execution_id"] == execution_id])
            if what:
                lost.append({"kind": "execution", "name": execution_id, "what": what})
        return Summary(
            seed=self._seed,
            kills=dict(Counter(strike.kind for strike in self.strikes)),
            touched=len(touched),
            recoveries=len(times),
            recovery_s=(statistics.median(times), max(times)) if times else None,
            supervisor_s=(statistics.median(supervisor), max(supervisor)) if supervisor else None,
            lost=lost,
        )

    def _loss(self, execution_id: str, wounds: list[Wound]) -> str:
        if any(wound.recovered_s is None for wound in wounds):
            return "it has not come back"
        try:
            row = self._scene.row(execution_id)
        except UnknownExecutionError:
            return ""
        if row["status"] == Status.QUARANTINED.value or str(row["error"]).startswith("Gave up after"):
            return str(row["error"])
        return ""


def check_local(ping: dict[str, Any]) -> None:
    """Refuse a server of another machine: a PID means nothing here.

    Raises:
        ConfigurationError: The supervisor is no process of this machine. Nothing was killed.
    """
    if Process.on_record(ping["process"]) is None:
        raise ConfigurationError(
            problem=f"The supervisor runs on {ping['process'].get('hostname')!r}, in another machine or container than this "
            "one. chaos kills by PID, so run it there."
        )
