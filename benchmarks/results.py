"""The results file: one section for each measure, each with the date, machine and command that it comes from."""

from __future__ import annotations

import datetime
import json
import os
import platform
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.driving import ROOT

RESULTS = ROOT / "benchmarks/results/performance.json"


def machine() -> str:
    """One line: processor, cores, memory, kernel, Python."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip() + ", "
            break
    return (
        f"{model}{os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.release().partition('-')[0]}, "
        f"Python {platform.python_version()}"
    )


@dataclass
class Results:
    """What was measured, and where it is kept."""

    path: Path
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    kept: bool = True
    """Whether it is written to the file."""
    _taken: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path, *, kept: bool = True) -> Results:
        """What the file holds; nothing when there is none."""
        if not kept or not path.exists():
            return cls(path, kept=kept)
        return cls(path, json.loads(path.read_text())["sections"])

    def begin(self, *, loaded: bool) -> None:
        """Say where what comes next is from."""
        self._taken = {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "machine": machine(),
            "command": " ".join(["python -m benchmarks", *sys.argv[1:]]),
            "loaded": loaded,
        }

    def put(self, name: str, section: dict[str, Any]) -> None:
        """Take in one section, and write the file, so that a run that is broken off leaves what it has."""
        self.sections[name] = json.loads(json.dumps({"taken": self._taken, **section}))
        if self.kept:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps({"format": 1, "sections": self.sections}, indent=1, sort_keys=True)
            self.path.write_text(text + "\n")
