"""Shared by all benchmarks: the machine, percentiles, the scripted model server."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def describe_machine() -> str:
    """One line: cores, memory, kernel, Python and the versions that matter."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    names = ("agentspan", "ray", "openai", "pydantic", "aiosqlite", "langgraph", "uvloop")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    return (
        f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}; {versions}"
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the sorted values lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered) + 0.5) - 1))]


def p50(values: Sequence[float]) -> float:
    return percentile(values, 0.5)


def line(name: str, values_s: Sequence[float]) -> str:
    """A row for seconds, shown in milliseconds."""
    return (
        f"  {name:<44} p50 {p50(values_s) * 1e3:9.2f} ms   p99 {percentile(values_s, 0.99) * 1e3:9.2f} ms   "
        f"min {min(values_s) * 1e3:9.2f} ms   n={len(values_s)}"
    )


def ratio(name: str, ours: Sequence[float], theirs: Sequence[float], target: str) -> str:
    """The ratio of medians, beside its target."""
    return f"  {name:<44} {p50(ours) / p50(theirs):.2f} ×  (first target {target})"


@contextlib.contextmanager
def private_home() -> Iterator[Path]:
    """A home for the time of a benchmark; its path is short because Ray's socket paths are limited."""
    home = Path(tempfile.mkdtemp(prefix="as-bench-", dir="/tmp"))
    os.environ["AGENTSPAN_HOME"] = str(home)
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextlib.contextmanager
def model_server(tool_turns: int) -> Iterator[str]:
    """The scripted OpenAI-compatible server, in a process of its own. Yields its base URL."""
    command = [sys.executable, str(ROOT / "tests/support/model_server.py"), "--tool-turns", str(tool_turns)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(10)
