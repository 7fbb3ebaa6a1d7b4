"""The comparisons: every system does the same, in turns, so that a slow minute of the machine slows all of them.

Each measure returns a section of the results, with all the figures of its rounds. A round that would begin after the
measure's share of the time is left out; the first never is.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.driving import MissingError, Model, Worker
from benchmarks.systems import Job
from benchmarks.tracing import traced

Section = dict[str, Any]

CROWD, CROWD_TURNS = 200, 10
MARKS = (50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 1000)
WINDOW = 50
"""Turns whose median is the cost of a turn at some length."""
KILL_DELAY_MS = 1500
KILL_WAIT_S = 60.0


@dataclass
class Contest:
    """The systems that are here, open all the time, and those that are not, with the reason."""

    model: Model
    names: tuple[str, ...]
    rounds: int = 5
    crowd: int = CROWD
    workers: dict[str, Worker] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def open(self) -> None:
        """Open them all."""
        for name in self.names:
            try:
                self.workers[name] = Worker(name, self.model)
                print(f"  {name}: {self.workers[name].versions}", flush=True)
            except MissingError as problem:
                self.missing[name] = str(problem)
                print(f"  {name}: missing: {problem}", flush=True)

    def close(self) -> None:
        """Close them all, one by one, whatever happens."""
        problems = []
        for worker in self.workers.values():
            try:
                worker.close()
            except Exception as problem:
                problems.append(problem)
        if problems:
            raise problems[0]

    @property
    def versions(self) -> dict[str, dict[str, str]]:
        return {name: worker.versions for name, worker in self.workers.items()}

    def turns(self, seconds: float, rounds: int | None = None) -> Iterator[int]:
        """The rounds of a measure that has so many seconds."""
        until = time.monotonic() + seconds
        for number in range(rounds or self.rounds):
            if number and time.monotonic() > until:
                say(f"out of time after {number} rounds")
                return
            yield number

    def each(self, do: Callable[[str, Worker], Any]) -> None:
        """In turn. A system that fails is not measured any further, and the results say why."""
        for name in list(self.workers):
            worker = self.workers[name]
            try:
                worker.tell(settle=True)
                do(name, worker)
            except (RuntimeError, TimeoutError, BrokenPipeError) as problem:
                self.missing[name] = f"failed: {str(problem)[-300:]}"
                say(f"{name} failed: {problem}")
                self.workers.pop(name).remove()

    def one(self, seconds: float) -> Section:
        """One execution alone, of 1 and of 20 turns: seconds from start to result."""
        took: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for turns in (1, 20):
            self.each(lambda name, worker, turns=turns: worker.run(Job(turns=turns)))
        for _ in self.turns(seconds, 2 * self.rounds):
            for turns in (1, 20):

                def once(name: str, worker: Worker, turns: int = turns) -> None:
                    answer, _ = worker.run(Job(turns=turns))
                    took[name][str(turns)].append(answer["seconds"])

                self.each(once)
        return {"seconds": took}

    def throughput(self, seconds: float, delay_ms: int) -> Section:
        """Many executions at once: steps per second, and CPU of a step over all processes."""
        job = Job(turns=CROWD_TURNS, delay_ms=delay_ms)
        steps = self.crowd * job.steps
        found: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.each(lambda name, worker: worker.run(Job(turns=1, delay_ms=delay_ms), min(20, self.crowd)))

        def once(name: str, worker: Worker) -> None:
            answer, cpu_s = worker.run(job, self.crowd)
            kinds = {kind: used / steps * 1e3 for kind, used in cpu_s.items() if used > 0}
            rate = steps / answer["seconds"]
            found[name].append({"steps_s": rate, "cpu_ms": sum(kinds.values()), "cpu_ms_by_kind": kinds})
            say(f"{name} {rate:.0f} steps/s, {sum(kinds.values()):.2f} ms of CPU each")

        names = [name for name in self.workers if "dedicated" not in name]  # It is not for crowds.
        for _ in self.turns(seconds):
            self.each(lambda name, worker: once(name, worker) if name in names else None)
        return {"executions": self.crowd, "turns": CROWD_TURNS, "delay_ms": delay_ms, "rounds": found}

    def length(self, seconds: float, turns: int) -> Section:
        """One long execution: what a turn costs when so many came before it, by the model server's clock."""
        found: dict[str, dict[str, Any]] = {}
        late: dict[str, str] = {}
        until = time.monotonic() + seconds
        job_of = {name: Job(turns=turns, tag=f"length.{name.replace('-', '.')}.{turns}") for name in self.workers}

        def once(name: str, worker: Worker) -> None:
            if time.monotonic() > until:
                say(f"{name} left out: no time")
                late[name] = "left out, as the time was over"
                return
            _, cpu_s = worker.run(job_of[name])
            at = self.model.arrivals(job_of[name].tag)
            gaps = [after - before for before, after in itertools.pairwise(at)]
            ends = [end for end in MARKS if end <= turns]
            found[name] = {
                "turn_ms": {str(end): median(gaps[end - WINDOW : end]) * 1e3 for end in ends},
                "seconds": {str(end): at[end] - at[0] for end in ends},
                "cpu_ms": sum(cpu_s.values()) / job_of[name].steps * 1e3,
            }
            say(f"{name} {at[-1] - at[0]:.1f} s for {turns} turns")

        self.each(once)
        return {"turns": turns, "window": WINDOW, "systems": found, "late": late}

    def written(self, executions: int) -> Section:
        """Bytes handed to the kernel for files, of executions of 20 turns: one after the other, and as many at once."""
        found: dict[str, dict[str, float]] = defaultdict(dict)
        problems: list[str] = []

        def once(name: str, worker: Worker) -> None:
            if name.startswith("bare") or "dedicated" in name:
                return  # The one writes nothing; the other writes what a packed one does.
            for how, at_once in (("alone", 1), ("together", executions)):
                worker.run(Job(turns=20), at_once)
                try:
                    with traced(worker.mark, worker.folders) as tally:
                        for _ in range(executions // at_once):
                            worker.run(Job(turns=20), at_once)
                except FileNotFoundError as problem:
                    problems.append(str(problem))
                    return
                found[name][how] = tally.bytes_written / executions
            say(f"{name} {found[name]['alone'] / 1e3:.0f} kB alone, {found[name]['together'] / 1e3:.0f} kB together")

        self.each(once)
        return {"turns": 20, "executions": executions, "bytes": found, "untraced": sorted(set(problems))}

    def recovery(self, seconds: float) -> Section:
        """SIGKILL of the process that runs an execution, while the model is asked → the model is asked again."""
        took: dict[str, list[float]] = defaultdict(list)

        def once(name: str, worker: Worker, number: int) -> None:
            if name.startswith("bare"):
                return
            tag = f"kill.{number}.{name.replace('-', '.')}"
            job = {"turns": 2, "delay_ms": KILL_DELAY_MS, "tag": tag}
            worker.tell(begin=job)
            self.model.wait_for(tag, 2, KILL_WAIT_S)
            pid = worker.tell(victim=job)["pid"]
            if pid is None:
                killed_at = worker.kill()
                self.workers[name] = Worker(name, self.model, worker.folder)
            else:
                killed_at = kill(pid)
            again = self.model.wait_for(tag, 1, KILL_WAIT_S, after=killed_at)[0]
            took[name].append(again - killed_at)
            say(f"{name} {took[name][-1]:.2f} s")
            self.model.wait_for(tag, 4, KILL_WAIT_S)
            time.sleep(KILL_DELAY_MS / 1e3)

        for number in self.turns(seconds):
            self.each(lambda name, worker, number=number: once(name, worker, number))
        return {"seconds": took}


def kill(pid: int) -> float:
    """SIGKILL a process, or with a negative number a group. Returns when."""
    at = time.time()
    if pid < 0:
        os.killpg(-pid, signal.SIGKILL)
    else:
        os.kill(pid, signal.SIGKILL)
    return at


def say(text: str) -> None:
    """Show that it goes on."""
    print(f"  {text}", file=sys.stderr, flush=True)
