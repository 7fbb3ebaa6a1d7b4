"""The harness's side of a worker, and of the model server."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.accounts import MARK, Account, processes
from benchmarks.systems import Job
from benchmarks.systems.database import KEPT

ROOT = Path(__file__).resolve().parent.parent
CLOSE_S = 60.0


class MissingError(Exception):
    """The system cannot be measured here; says why."""


class Model:
    """The scripted model server's process."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "benchmarks.model"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()

    def arrivals(self, tag: str) -> list[float]:
        """When the requests of a tag arrived, in seconds since 1970."""
        with urllib.request.urlopen(f"{self.url.removesuffix('/v1')}/arrivals/{tag}", timeout=10) as answer:
            return list(json.loads(answer.read()))

    def wait_for(self, tag: str, count: int, timeout_s: float, after: float = 0.0) -> list[float]:
        """The arrivals after an instant, as soon as there are `count`.

        Raises:
            TimeoutError: There were not as many in time.
        """
        until = time.monotonic() + timeout_s
        while True:
            found = [at for at in self.arrivals(tag) if at > after]
            if len(found) >= count:
                return found
            if time.monotonic() > until:
                raise TimeoutError(f"{len(found)} of {count} requests of {tag!r} in {timeout_s:.0f} s")
            time.sleep(0.005)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(10)
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextlib.contextmanager
def model_process() -> Iterator[Model]:
    """The model server, for as long as this lasts."""
    model = Model()
    try:
        yield model
    finally:
        model.close()


class Worker:
    """One system's process. Its folder is short, because Ray's socket paths are limited, and on disk."""

    def __init__(self, name: str, model: Model, folder: Path | None = None) -> None:
        self.name = name
        self.folder = folder or Path(tempfile.mkdtemp(prefix="as-bench-", dir="/tmp"))
        self.mark = self.folder.name
        self._log = (self.folder / "worker.log").open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", name, model.url, str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=ROOT,
            env={**os.environ, MARK: self.mark},
        )
        opened = self._answer()
        if "missing" in opened:
            self.remove()
            raise MissingError(opened["missing"])
        self.versions: dict[str, str] = opened["versions"]

    @property
    def folders(self) -> list[Path]:
        """Where the system keeps its data."""
        kept = self.folder / KEPT
        return [self.folder, *([Path(kept.read_text().splitlines()[2])] if kept.exists() else [])]

    @property
    def pid(self) -> int:
        """The worker's own process."""
        return self._process.pid

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait(CLOSE_S)
            raise RuntimeError(f"{self.name} failed:\n{(self.folder / 'worker.log').read_text()[-3000:]}")
        return dict(json.loads(line))

    def tell(self, **command: Any) -> dict[str, Any]:
        """Give a command and wait for what it answers."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def run(self, job: Job, executions: int = 1) -> tuple[dict[str, Any], dict[str, float]]:
        """Do the job so many times at once. What it took, and the CPU that it cost, by kind of process."""
        before = Account.of(self.mark)
        answer = self.tell(run=asdict(job), executions=executions)
        return answer, Account.of(self.mark).since(before)

    def kill(self) -> float:
        """SIGKILL the worker alone; what it started goes on. Returns when."""
        at = time.time()
        self._process.send_signal(signal.SIGKILL)
        self._let_go()
        return at

    def _let_go(self) -> None:
        """Wait for the end of a process that is as good as gone, and close what leads to it."""
        self._process.wait(CLOSE_S)
        for stream in (self._process.stdin, self._process.stdout, self._log):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def close(self) -> None:
        """Let the system close, make sure that none of its processes is left, and remove its folder."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(CLOSE_S)
        self.remove()

    def remove(self) -> None:
        """Whatever is left of it."""
        kill_all(self.mark)
        self._let_go()
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)


def kill_all(mark: str) -> None:
    """SIGKILL every process of a system, until there is none."""
    while left := processes(mark):
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        time.sleep(0.02)
