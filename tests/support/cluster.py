"""Real servers for tests, each a process of its own with a private home, and ways to kill and look at them.

Tests wait for conditions with deadlines, never for time to pass; they kill only what they started.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from agentspan.actors.lease import Descriptor, Lease
from agentspan.agents.results import AgentResult
from agentspan.config import Settings
from agentspan.handle import read_back
from agentspan.persistence.opening import open_store
from agentspan.persistence.reading import read_result, read_show
from agentspan.persistence.store import Store

T = TypeVar("T")

DEADLINE_S = 60.0
QUICK = {
    "AGENTSPAN_STANDBY": "1",
    "AGENTSPAN_HIBERNATE_AFTER_S": "0.3",
    "AGENTSPAN_SCAN_INTERVAL_S": "0.5",
    "AGENTSPAN_PING_TIMEOUT_S": "2",
    "AGENTSPAN_RECOVERIES_MAX": "2",
    "AGENTSPAN_RECOVERY_BACKOFF_S": "0.1",
    "AGENTSPAN_RESOURCES_WAIT_S": "1",
    "OPENAI_API_KEY": "sk-test",
}
"""Settings under which what takes minutes in production takes a test's time."""


def until(what: str, look: Callable[[], T | None], *, within_s: float = DEADLINE_S) -> T:
    """The first true answer of `look`."""
    deadline = time.monotonic() + within_s
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"within {within_s:g} s there was no {what}; last: {found!r}")
        time.sleep(0.01)


def private_home() -> Path:
    """A home whose path is short: Ray puts sockets below it, and their paths are limited to 107 bytes."""
    return Path(tempfile.mkdtemp(prefix="as-", dir="/tmp"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(home: Path, **more: str) -> dict[str, str]:
    """The environment of a server or a client of this home, and of nothing else."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AGENTSPAN_", "RAY_"))}
    return {**kept, **QUICK, "AGENTSPAN_HOME": str(home), "RAY_TMPDIR": str(home), **more}


class Server:
    """A server process. It can be killed and started again on the same home; so can its clients."""

    def __init__(self, home: Path, **settings: str) -> None:
        self.home = home
        self.settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._clients: list[subprocess.Popen[str]] = []

    @property
    def environment(self) -> dict[str, str]:
        return environment(self.home, **self.settings)

    def start(self, *options: str) -> Descriptor:
        """Bring it up and return once it answers."""
        self.launch(*options)
        return until("server", self._up)

    def launch(self, *options: str) -> None:
        """Start its process."""
        log = (self.home / "server.log").open("ab")
        starts_cluster = "AGENTSPAN_ADDRESS" not in self.settings
        with log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "agentspan.actors.server"),
                    *(("--num-cpus", "2") if starts_cluster else ()),
                    *options,
                ],
                env=self.environment,
                cwd=self.home,  # Nothing of the project is importable from here but what is installed.
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def is_running(self) -> bool:
        """Whether its process is there; it may not answer yet."""
        return self._process is not None and self._process.poll() is None

    def _up(self) -> Descriptor | None:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"the server ended with {self._process.returncode}:\n{self.log()[-3000:]}")
        return Lease(self.home).read()

    def kill(self) -> None:
        """SIGKILL the server process; the kernel and Ray end what it started."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def stop(self) -> None:
        """End it in order. Idempotent."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def log(self) -> str:
        return (self.home / "server.log").read_text(errors="replace")

    def dispose(self) -> None:
        """Stop it, see that none of its processes is left, and remove its home."""
        self.stop()
        for client in self._clients:
            if client.poll() is None:
                client.kill()
            client.communicate()
        # Ray's two agents of a killed node wait a minute for it to come back. They hold nothing of ours.
        kill(*self.processes("ray::DashboardAgent"), *self.processes("ray::RuntimeEnvAgent"))
        until("end of its processes", lambda: not self.processes())
        shutil.rmtree(self.home, ignore_errors=True)

    # --- looking at it from outside

    def processes(self, named: str = "") -> dict[int, str]:
        """Every process of this home, by pid; with `named`, those whose title contains it."""
        return {pid: title for pid, title in processes_of(self.home).items() if named in title}

    def supervisor_pid(self) -> int:
        return until("supervisor", lambda: next(iter(self.processes("SupervisorActor")), None))

    def client(self, script: str, *arguments: str, **more: str) -> subprocess.Popen[str]:
        """Run a Python program as a client of this home, in a process that may be taken down with the cluster."""
        client = subprocess.Popen(
            [sys.executable, script, *arguments],
            env={**self.environment, "PYTHONPATH": str(Path(__file__).parents[2]), **more},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._clients.append(client)
        return client

    def ask(self, script: str, *arguments: str, within_s: float = DEADLINE_S, **more: str) -> Any:
        """Run such a program to its end and return the JSON it printed last."""
        return answer(self.client(script, *arguments, **more), within_s=within_s)

    # --- its store, read without it

    def read(self, question: Callable[[Store], Coroutine[Any, Any, T]]) -> T:
        async def with_store() -> T:
            store = await open_store(self.settings.get("AGENTSPAN_STORE") or Settings(home=self.home).store_url)
            try:
                return await question(store)
            finally:
                await store.close()

        return asyncio.run(with_store())

    def show(self, execution_id: str) -> dict[str, Any]:
        return self.read(lambda store: read_show(store, execution_id))

    def result(self, execution_id: str, *, within_s: float = DEADLINE_S) -> AgentResult:
        """The result, once there is one."""
        ended = ("COMPLETED", "FAILED", "TERMINATED", "TIMED_OUT", "QUARANTINED")
        until(f"end of {execution_id}", lambda: self.show(execution_id)["status"] in ended, within_s=within_s)
        plain = self.read(lambda store: read_result(store, execution_id)).to_dict()
        result: AgentResult = read_back(AgentResult, plain)
        return result


def processes_of(home: Path) -> dict[int, str]:
    """The titles of all processes of a home but this one, by pid."""
    found = {}
    mark = f"AGENTSPAN_HOME={home}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if mark not in (entry / "environ").read_bytes().split(b"\0"):
                continue
            title = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue  # It ended while we looked, or is not ours.
        if title:
            found[int(entry.name)] = title
    return found


def answer(process: subprocess.Popen[str], *, within_s: float = DEADLINE_S) -> Any:
    """Wait for a client program and return the JSON of the last line it printed."""
    try:
        out, err = process.communicate(timeout=within_s)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"the client did not end within {within_s:g} s\n{out[-1000:]}\n{err[-3000:]}") from None
    if process.returncode != 0:
        raise AssertionError(f"the client ended with {process.returncode}\n{out[-1000:]}\n{err[-3000:]}")
    return json.loads(out.strip().splitlines()[-1])


def kill(*pids: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # It ended by itself.


def is_alive(pid: int) -> bool:
    """Whether a process runs or could run again (a zombie cannot)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")
