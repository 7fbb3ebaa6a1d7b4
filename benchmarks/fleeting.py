"""The harness's side of `benchmarks.fleet`: a home for each measure, and the end of all its processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.accounts import MARK
from benchmarks.driving import ROOT, Model, kill_all

LIMIT_S = 900.0


@contextmanager
def home() -> Iterator[dict[str, str]]:
    """The environment of a home of its own; at the end none of its processes is left."""
    folder = Path(tempfile.mkdtemp(prefix="as-bench-", dir="/tmp"))
    try:
        yield {**os.environ, "AGENTSPAN_HOME": str(folder), MARK: folder.name, "AGENTSPAN_HIBERNATE_AFTER_S": "1"}
    finally:
        kill_all(folder.name)
        shutil.rmtree(folder, ignore_errors=True)


def ask(measure: str, count: int, model: Model, environment: dict[str, str]) -> dict[str, Any]:
    """Run one measure in a process of its own.

    Raises:
        RuntimeError: It failed; with the end of what it said.
    """
    command = [sys.executable, "-m", "benchmarks.fleet", measure, str(count), model.url]
    log = Path(environment["AGENTSPAN_HOME"]) / "fleet.log"
    with log.open("wb") as said:
        done = subprocess.run(
            command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=said, timeout=LIMIT_S, check=False
        )
    if done.returncode != 0:
        raise RuntimeError(f"{measure} failed:\n{log.read_text(errors='replace')[-3000:]}")
    return dict(json.loads(done.stdout))


def alone(measure: str, count: int, model: Model) -> dict[str, Any]:
    """One measure in a new home."""
    with home() as environment:
        return ask(measure, count, model, environment)


def restart(count: int, model: Model) -> dict[str, Any]:
    """SIGKILL everything under so many running executions, start the server, wait until all of them ask the model again."""
    server = [sys.executable, "-m", "agentspan.cli", "server"]
    with home() as environment:
        subprocess.run([*server, "start"], env=environment, cwd=ROOT, check=True, capture_output=True, timeout=120)
        ask("begin", count, model, environment)
        killed_at = time.time()
        kill_all(environment[MARK])
        began_at = time.time()
        subprocess.run([*server, "start"], env=environment, cwd=ROOT, check=True, capture_output=True, timeout=120)
        up_at = time.time()
        again = sorted(model.wait_for("gone", count, LIMIT_S, after=killed_at))
        if len(again) > count:
            raise RuntimeError(f"{len(again)} model calls of {count} executions: some ran twice")
        return {
            "count": count,
            "server_up_s": up_at - began_at,
            "half_s": again[count // 2 - 1] - began_at,
            "all_s": again[-1] - began_at,
        }
