"""What a system costs: CPU and memory, over all the processes it started, read from /proc (Linux only).

A system's first process carries a mark in its environment. All that inherit the mark belong to it, and the children of
those that overwrite their environment (Postgres does), whoever their parent has become.
"""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

MARK = "AGENTSPAN_BENCH_SYSTEM"
TICKS_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Process:
    """One process at one moment."""

    pid: int
    parent: int
    started: int
    """Ticks since boot: with the pid, it names a process for good."""
    title: str
    cpu_s: float
    """User and system time, with that of children that ended and were waited for."""


def processes(mark: str) -> list[Process]:
    """The system's processes that live now."""
    everybody: dict[int, Process] = {}
    ours: set[int] = set()
    sign = f"{MARK}={mark}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            title = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue  # It has just ended, or is not ours to look at.
        if fields[0] == "Z" or not title:
            continue
        pid = int(entry.name)
        ticks = sum(int(fields[place]) for place in (11, 12, 13, 14))
        everybody[pid] = Process(
            pid=pid, parent=int(fields[1]), started=int(fields[19]), title=title, cpu_s=ticks / TICKS_S
        )
        if sign in environment.split(b"\0"):
            ours.add(pid)
    grown = True
    while grown:
        more = {pid for pid, process in everybody.items() if process.parent in ours} - ours
        grown = bool(more)
        ours |= more
    return [everybody[pid] for pid in sorted(ours)]


def kind(title: str) -> str:
    """A short name for what a process does."""
    words = title.split()
    if "benchmarks.worker" in title:
        return "client"
    if title.startswith("ray::"):
        return words[0].partition(".")[0].partition(":")[0] + "::" + title[5:].split()[0].partition(".")[0]
    if title.startswith("postgres"):
        return "postgres"
    for name in (
        "restate-server",
        "hypercorn",
        "raylet",
        "gcs_server",
        "dashboard",
        "runtime_env",
        "monitor",
        "multiprocessing",
    ):
        if name in title:
            return {"multiprocessing": "hypercorn"}.get(name, name)
    return words[0].rpartition("/")[2][:24]


@dataclass(frozen=True)
class Account:
    """What a system's processes have used up to a moment. The difference of two is what happened between."""

    cpu_s: dict[tuple[int, int], tuple[str, float]]

    @classmethod
    def of(cls, mark: str) -> Account:
        """Read it now."""
        return cls({(one.pid, one.started): (kind(one.title), one.cpu_s) for one in processes(mark)})

    def since(self, earlier: Account) -> dict[str, float]:
        """Seconds of CPU between two moments, by kind of process. A process that both began and ended in between counts
        where its parent waited for it."""
        kinds: dict[str, float] = defaultdict(float)
        for key, (name, used) in self.cpu_s.items():
            kinds[name] += used - earlier.cpu_s.get(key, ("", 0.0))[1]
        return dict(kinds)


def memory_bytes(pid: int, what: str = "Pss") -> int:
    """Memory of a process: `Pss` shares what is shared among those who share it; `Rss` counts it in full."""
    try:
        rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(row.split()[1]) * 1024 for row in rows if row.startswith(f"{what}:")), 0)
