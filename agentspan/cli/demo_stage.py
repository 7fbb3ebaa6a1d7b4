"""The demo's processes: how they are started, killed without mercy, and cleared away.

Everything happens below a private, temporary home, and only processes started here are ever killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from agentspan.actors.lease import Lease
from agentspan.cli import demo_ledger
from agentspan.config import Settings
from agentspan.testing.scripted import LEDGER_VARIABLE

T = TypeVar("T")

DEADLINE_S = 60.0
"""Nothing in the demo takes longer than a few seconds; a machine that is busy with other things gets this long."""
LOOK_EVERY_S = 0.01
HOME_CHARS_MAX = 40
"""Ray puts sockets below the home, and a socket's path has at most about 100 characters."""


class DemoFailed(Exception):
    """The story cannot go on. Its text says what was waited for, and what a process said last."""


class Stage:
    """A private home, and the processes that play in it. `close` ends and removes all of it."""

    def __init__(self) -> None:
        place = tempfile.gettempdir()
        if len(place) + len("/agentspan-12345678") > HOME_CHARS_MAX and os.path.isdir("/tmp"):
            place = "/tmp"
        self.home = Path(tempfile.mkdtemp(prefix="agentspan-", dir=place))
        self.settings = Settings(home=self.home, address=None, store=None)
        self.tool_ledger = self.home / "tools.jsonl"
        self.model_ledger = self.home / "models.jsonl"
        self._lease = Lease(self.home)
        self._log = self.home / "demo.log"
        self._started: list[subprocess.Popen[bytes]] = []

    @property
    def environment(self) -> dict[str, str]:
        """This shell's, without what it says about other homes and clusters."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AGENTSPAN_", "RAY_"))}
        return {
            **kept,
            "AGENTSPAN_HOME": str(self.home),
            "RAY_TMPDIR": str(self.home),
            demo_ledger.VARIABLE: str(self.tool_ledger),
            LEDGER_VARIABLE: str(self.model_ledger),
        }

    def _launch(self, *command: str) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the demo alone; it ends the others in its own way.
            )
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        self._started.append(process)
        return process

    def program(self) -> subprocess.Popen[bytes]:
        """Run the user's program."""
        return self._launch("agentspan.cli.demo_program")

    async def ask(self, program: subprocess.Popen[bytes], **wanted: str) -> str:
        """Have the program do something, and return its answer."""
        assert program.stdin is not None
        assert program.stdout is not None
        said = b""

        def answer() -> str | None:
            nonlocal said
            assert program.stdout is not None
            said += program.stdout.read() or b""
            self._check_runs(program, "the program")
            lines = [line for line in said.split(b"\n")[:-1] if line.startswith(b'{"answer"')]
            return json.loads(lines[0])["answer"] if lines else None

        try:
            program.stdin.write(json.dumps(wanted).encode() + b"\n")
            program.stdin.flush()
        except BrokenPipeError:
            pass  # It ended; waiting for its answer says so, and what it said last.
        return await self.until(f"the program's answer to {wanted}", answer)

    async def server(self) -> subprocess.Popen[bytes]:
        """Start a server as `agent-span server start` does, and return once it answers."""
        process = self._launch("agentspan.actors.server")

        def is_up() -> bool:
            self._check_runs(process, "the server")
            return self._lease.read() is not None

        await self.until("the server to come up", is_up)
        return process

    def _check_runs(self, process: subprocess.Popen[bytes], name: str) -> None:
        if process.poll() is not None:
            raise DemoFailed(f"{name} ended with code {process.returncode}.\n{self.last_words()}")

    async def until(self, what: str, look: Callable[[], T | None], *, within_s: float = DEADLINE_S) -> T:
        """The first true answer of `look`."""
        deadline = time.monotonic() + within_s
        while not (found := look()):
            if time.monotonic() > deadline:
                raise DemoFailed(f"waited {within_s:g} s for {what}.\n{self.last_words()}")
            await asyncio.sleep(LOOK_EVERY_S)
        return found

    async def kill_all_of(self, process: subprocess.Popen[bytes]) -> int:
        """SIGKILL a process and everything below it, and return, once all are gone, how many they were."""
        family = family_of(process.pid)
        for pid in family:
            kill(pid)
        process.wait()
        await self.until("killed processes to be gone", lambda: not any(is_alive(pid) for pid in family))
        self._started.remove(process)
        return len(family)

    def last_words(self) -> str:
        """The end of what the processes wrote to stderr."""
        return self._log.read_text(errors="replace")[-2000:] if self._log.exists() else ""

    def close(self, *, keep: bool) -> None:
        """End what still runs and, unless `keep`, remove the home. Idempotent."""
        family = [pid for process in self._started for pid in family_of(process.pid)]
        for pid in family:
            kill(pid)
        while self._started:
            self._started.pop().wait()
        deadline = time.monotonic() + 5.0
        while any(is_alive(pid) for pid in family) and time.monotonic() < deadline:
            time.sleep(LOOK_EVERY_S)
        if not keep:
            shutil.rmtree(self.home, ignore_errors=True)


def kill(pid: int) -> None:
    """SIGKILL: the process gets no chance to say or save anything."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # It went with its parent.


def family_of(pid: int) -> list[int]:
    """A process and all its descendants, parents first."""
    children: dict[int, list[int]] = {}
    for child, parent, _ in _processes():
        children.setdefault(parent, []).append(child)
    family = [pid]
    for member in family:
        family += children.get(member, [])
    return family


def is_alive(pid: int) -> bool:
    """Whether a process runs or could run again (a zombie cannot)."""
    return any(known == pid and state[0] not in "ZX" for known, _, state in _processes())


def _processes() -> list[tuple[int, int, str]]:
    """(pid, parent's pid, state) of every process: from /proc where there is one, because `ps` may not be installed."""
    if not os.path.isdir("/proc/self"):
        listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,stat="], capture_output=True, text=True, check=True)
        return [(int(pid), int(parent), state) for pid, parent, state in map(str.split, listed.stdout.splitlines())]
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                stat = Path("/proc", name, "stat").read_text()
            except OSError:
                continue  # It ended while we looked.
            state, parent = stat.rpartition(")")[2].split()[:2]
            found.append((int(name), int(parent), state))
    return found
