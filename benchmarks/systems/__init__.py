"""The systems that are compared: one file each, which does the same task in that system's own idiom.

`TITLES` is the order of the tables. A system is opened by `benchmarks.worker` in a process of its own.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from benchmarks.model import model_name

TITLES = {
    "bare": "bare openai loop, nothing kept",
    "agentspan-packed": "AgentSpan, packed, SQLite",
    "agentspan-packed-postgres": "AgentSpan, packed, Postgres",
    "agentspan-dedicated": "AgentSpan, dedicated, SQLite",
    "dbos-sqlite": "DBOS, SQLite",
    "dbos-postgres": "DBOS, Postgres",
    "langgraph-sqlite": "LangGraph, AsyncSqliteSaver",
    "langgraph-postgres": "LangGraph, AsyncPostgresSaver",
    "restate": "Restate",
    "bare-uvloop": "bare openai loop on uvloop",
}
DEFAULT = tuple(name for name in TITLES if name != "bare-uvloop")
MODULES = {"agentspan": "agentspan_", "dbos": "dbos_", "langgraph": "langgraph_", "restate": "restate_", "bare": "bare"}


ABSENT = "AGENTSPAN_BENCH_ABSENT"
"""An environment variable for tests: the package that is to be missing."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one execution is to do."""

    turns: int
    delay_ms: int = 0
    tag: str = ""

    @property
    def model(self) -> str:
        """The scripted model's name."""
        return model_name(self.turns, self.delay_ms, self.tag)

    @property
    def steps(self) -> int:
        """Durable steps: the model's answers and the tool's results."""
        return 2 * self.turns + 1


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a system runs."""

    url: str
    """Of the model."""
    folder: Path
    """On disk, empty at first, and the same when the system is opened again after a kill."""
    variant: tuple[str, ...] = field(default=())
    """The words after the system's name."""


class System(Protocol):
    """One system, opened in this process."""

    versions: dict[str, str]

    async def open(self, place: Place) -> None:
        """Start what there is to start. Goes on with what a killed process left unfinished, where the system does."""

    async def run(self, job: Job) -> str:
        """One execution, from its start to its result, which is returned."""

    async def settle(self) -> None:
        """Return when the system has nothing left to do from before."""

    async def victim(self, job: Job) -> int | None:
        """The process to kill under the one execution that runs; None: the one that called `run`."""

    async def close(self) -> None:
        """Stop it all."""


def load(name: str) -> tuple[type[Any], tuple[str, ...]]:
    """The class of a system, and the variant that its name asks for.

    Raises:
        ImportError: Its package is not installed.
    """
    system, *variant = name.split("-")
    if absent := os.environ.get(ABSENT):
        raise ImportError(f"{absent} is said to be absent")
    return importlib.import_module(f"benchmarks.systems.{MODULES[system]}").TheSystem, tuple(variant)
