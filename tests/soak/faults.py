"""What is done to a server in a soak: its processes are killed and stopped, its database restarted, its disk filled.

The dice decide what, when and to whom; the seed is theirs. Times of the machine are not, so a seed plays the same faults in
the same order, not the same microseconds.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from agentspan.actors.hosts import is_host
from agentspan.errors import StoreUnavailableError
from agentspan.persistence.store import ExecutionRow, Store
from agentspan.processes import Process, born
from tests.soak.model import SoakModel
from tests.support.cluster import Server
from tests.support.postgres import PostgresServer

WEIGHTS = {
    "kill actor": 5.0,
    "kill host": 4.0,
    "kill supervisor": 3.0,
    "kill actor and supervisor": 1.0,
    "stop actor": 2.0,
    "stop host": 3.0,
    "stop supervisor": 1.0,
    "model trouble": 4.0,
    "kill server": 1.5,
    "kill raylet": 0.7,
    "kill gcs": 0.7,
    "kill client": 0.5,
    "disk full": 2.0,
    "postgres restart": 1.5,
    "postgres connections": 1.0,
}
DISK_MB = 512
FILL_BLOCK = 1 << 20
KEEP_EVERY_S = 1.0
WHOLE = ("kill server", "kill raylet", "kill gcs")
WHOLE_EVERY_S = 60.0
"""All of a server at most so often: it takes its time to start, and nothing else happens until it has."""


class SmallDisk:
    """A file system of its own that can be filled to the last byte."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        file = os.open(self._ballast, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            for size in (FILL_BLOCK, 4096, 1):
                block = b"\0" * size
                try:
                    while True:
                        os.write(file, block)
                except OSError:
                    continue
        finally:
            os.close(file)

    def free(self) -> None:
        self._ballast.unlink(missing_ok=True)


@contextmanager
def small_disk() -> Iterator[SmallDisk | None]:
    """A tmpfs, where this user may mount one."""
    folder = Path(tempfile.mkdtemp(prefix="as-disk-", dir="/tmp"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m,mode=0700", "agentspan-soak", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        if mounted.returncode != 0:
            print(f"  no disk is filled: mounting a small one was refused ({mounted.stderr.strip()})", flush=True)
            yield None
        else:
            yield SmallDisk(folder)
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "--lazy", str(folder)], check=False)
        folder.rmdir()


class Faults:
    """Strikes until it is told to stop; then everything it broke is whole again."""

    def __init__(
        self,
        seed: str,
        *,
        server: Server,
        store: Store,
        model: SoakModel,
        disk: SmallDisk | None,
        postgres: PostgresServer | None,
        kill_client: Callable[[], None],
        on_stop: Callable[[int, float], None],
        every_s: float,
    ) -> None:
        self._dice = random.Random(seed)
        self._server = server
        self._store = store
        self._model = model
        self._disk = disk
        self._postgres = postgres
        self._kill_client = kill_client
        self._on_stop = on_stop
        self._every_s = every_s
        self._lasting: set[asyncio.Task[None]] = set()
        self._stopped: set[Process] = set()
        self._serving = asyncio.Lock()
        self._database = asyncio.Lock()
        self.count: Counter[str] = Counter()
        self.log: list[str] = []
        self._began = self._whole_at = time.time()

    async def strike_until(self, end: float) -> None:
        """Strike until an instant of the monotonic clock, and make good what was broken."""
        names = [name for name in WEIGHTS if self._is_possible(name)]
        try:
            while time.monotonic() < end:
                await asyncio.sleep(self._every_s * self._dice.uniform(0.3, 1.7))
                name = self._dice.choices(names, [WEIGHTS[one] for one in names])[0]
                choice, length = self._dice.random(), self._dice.uniform(0.5, 6.0)
                try:
                    await self._strike(name, choice, length)
                except (StoreUnavailableError, ProcessLookupError):
                    continue  # Another fault is at work.
        finally:
            while self._lasting:
                await asyncio.wait(self._lasting)
            for process in self._stopped:
                process.send(signal.SIGCONT)
            self._model.badness = 0.0

    def _is_possible(self, name: str) -> bool:
        if name == "disk full":
            return self._disk is not None
        return self._postgres is not None or not name.startswith("postgres")

    def _note(self, name: str, whom: object = "") -> None:
        self.count[name] += 1
        self.log.append(f"{time.time() - self._began:7.1f} s  {name} {whom}")

    async def _strike(self, name: str, choice: float, length: float) -> None:
        if name in WHOLE:
            if time.time() < self._whole_at + WHOLE_EVERY_S:
                return
            self._whole_at = time.time()
        verb, _, what = name.partition(" ")
        if what in ("actor", "host", "supervisor", "actor and supervisor"):
            victims: list[Process] = []
            for kind in what.split(" and "):
                victims += await self._find(kind, choice)
            if not victims:
                return
            self._note(name, [victim.pid for victim in victims])
            for victim in victims:
                if verb == "kill":
                    victim.kill()
                else:
                    self._last(self._stop(victim, length))
        elif name in ("kill raylet", "kill gcs"):
            found = self._server.processes("raylet/raylet" if what == "raylet" else "gcs_server")
            for pid in found:
                self._note(name, pid)
                os.kill(pid, signal.SIGKILL)
        elif name == "kill client":
            self._note(name)
            self._kill_client()
        else:
            lasting: dict[str, Callable[[float], Awaitable[None]]] = {
                "model trouble": self._trouble,
                "kill server": self._kill_server,
                "disk full": self._fill,
                "postgres restart": self._restart_postgres,
                "postgres connections": self._cut_connections,
            }
            self._last(lasting[name](length))

    def _last(self, fault: Awaitable[None]) -> None:
        task = asyncio.ensure_future(fault)
        self._lasting.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._lasting.discard(task)
        problem = None if task.cancelled() else task.exception()
        if problem is not None:
            self._note("fault failed", repr(problem)[:300])

    async def _find(self, kind: str, choice: float) -> list[Process]:
        if kind == "supervisor":
            found = [Process(pid, str(born(pid))) for pid in self._server.processes("SupervisorActor") if born(pid)]
            return found[:1]
        rows = [
            row for row in await self._store.unfinished() if row.resident and is_host(_actor(row)) == (kind == "host")
        ]
        processes = {_actor(row): process for row in rows if (process := Process.on_record(row.host)) is not None}
        alive = list(processes.values())
        return [alive[int(choice * len(alive))]] if alive else []

    async def _stop(self, victim: Process, length: float) -> None:
        if not victim.send(signal.SIGSTOP):
            return
        self._stopped.add(victim)
        self._on_stop(victim.pid, time.time())
        await asyncio.sleep(length)
        victim.send(signal.SIGCONT)
        self._stopped.discard(victim)

    async def _trouble(self, length: float) -> None:
        self._note("model trouble", f"for {length:.1f} s")
        self._model.badness = 0.5
        await asyncio.sleep(length)
        self._model.badness = 0.0

    async def _kill_server(self, length: float) -> None:
        async with self._serving:
            self._note("kill server", f"and start it after {length / 2:.1f} s")
            self._server.kill()
            await asyncio.sleep(length / 2)
            self._server.launch()

    async def keep_server(self) -> None:
        """Start a server that has ended, as whoever operates one would."""
        while True:
            await asyncio.sleep(KEEP_EVERY_S)
            if not self._server.is_running and not self._serving.locked():
                self._note("server had ended, and is started again")
                self._server.launch()

    async def _fill(self, length: float) -> None:
        assert self._disk is not None
        async with self._database:
            self._note("disk full", f"for {length:.1f} s")
            await asyncio.to_thread(self._disk.fill)
            try:
                await asyncio.sleep(length)
            finally:
                self._disk.free()

    async def _restart_postgres(self, length: float) -> None:
        assert self._postgres is not None
        async with self._database:
            self._note("postgres restart", "immediate")
            await asyncio.to_thread(self._postgres.restart, signal.SIGQUIT)

    async def _cut_connections(self, length: float) -> None:
        assert self._postgres is not None
        async with self._database:
            self._note("postgres connections")
            await asyncio.to_thread(self._postgres.terminate)


def _actor(row: ExecutionRow) -> str:
    return str(row.host.get("actor", ""))
