"""One part of a soak: a server on one kind of store, a steady load of executions, people who decide, and faults."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentspan.engine.admit import Signal
from agentspan.errors import (
    DecisionError,
    ExecutionFinishedError,
    StoreUnavailableError,
    UnknownExecutionError,
)
from agentspan.persistence.opening import open_store
from agentspan.persistence.store import ExecutionRow, JournalEntry, PendingRow, Store
from tests.soak.agents import KINDS, TALK_TURNS
from tests.soak.faults import Faults, SmallDisk, small_disk
from tests.soak.judge import Flight, Judge
from tests.soak.model import SoakModel
from tests.support.cluster import Server, private_home
from tests.support.ledger import Ledger, ledger_process
from tests.support.postgres import PostgresServer, postgres_server

CLIENT = Path(__file__).with_name("client.py")
LOOK_EVERY_S = 0.5
ASK_AGAIN_S = 30.0
CLIENT_WAIT_S = 60.0
"""A start without an answer is asked for again after this, under the same key."""
PERSON_WAITS_S = 6.0
TELL_EVERY_S = 30.0
JOURNAL_MAX = 100_000
SETTINGS = {
    "AGENTSPAN_PING_TIMEOUT_S": "3",
    "AGENTSPAN_RECOVERIES_MAX": "12",
    "AGENTSPAN_MODEL_RETRIES_MAX": "60",
    "AGENTSPAN_ACTORS_MAX": "6",
    "AGENTSPAN_STANDBY": "2",
}


@dataclass(frozen=True)
class Options:
    """What was asked for."""

    seed: int
    seconds: float
    settle_s: float
    at_once: int
    every_s: float
    dedicated: float
    retention: str | None


@dataclass
class Report:
    """What came of it."""

    store: str
    judge: Judge
    faults: Counter[str]
    log: list[str]
    model_calls: int
    model_wrong: int
    sizes: list[tuple[float, int]]


class Soak:
    """Keeps `at_once` executions under way, decides what waits, and judges what ends."""

    def __init__(
        self, options: Options, name: str, server: Server, store: Store, ledger: Ledger, model: SoakModel
    ) -> None:
        self._options = options
        self._dice = random.Random(f"{options.seed}/{name}/load")
        self._server = server
        self._store = store
        self._ledger = ledger
        self._model = model
        self._client: asyncio.subprocess.Process | None = None
        self._is_ready = False
        self._client_since = 0.0
        self._flights: dict[str, Flight] = {}
        self._by_id: dict[str, Flight] = {}
        self._next_turns: list[Flight] = []
        self._made = 0
        self._heard = 0
        self._decide_at: dict[tuple[str, str], float] = {}
        self._signals: dict[tuple[str, str], Signal] = {}
        self._sizes: list[tuple[float, int]] = []
        self._began = time.monotonic()
        self.judge = Judge()

    # --- the load

    async def run(self, faults: Faults) -> None:
        """The whole of it."""
        end = self._began + self._options.seconds
        striking = asyncio.create_task(faults.strike_until(end))
        keeping = asyncio.create_task(faults.keep_server())
        talking = asyncio.create_task(self._tell(faults))
        try:
            while time.monotonic() < end:
                await self._look(feed=True)
            await striking
            deadline = time.monotonic() + self._options.settle_s
            while self._flights and time.monotonic() < deadline:
                await self._look(feed=False)
            await asyncio.sleep(2)  # For what stopped processes may still tell the ledger.
            await self._hear()
        finally:
            talking.cancel()
            striking.cancel()
            keeping.cancel()
            self.kill_client()
        for flight in self._flights.values():
            what = f"{flight.execution_id} ({flight.kind}, {flight.placement})"
            if flight.execution_id is None:
                self.judge.blame("stuck", f"{flight.key} was never accepted")
            else:
                row = await self._store.row(flight.execution_id)
                self.judge.blame("stuck", f"{what} is {row.status} in {row.current_task!r}: {row}")

    async def _look(self, *, feed: bool) -> None:
        await self._see_client()
        if feed:
            while len(self._flights) < self._options.at_once:
                self._launch(self._next())
        self._ask_again()
        await self._hear()
        try:
            await self._see_ends()
            await self._decide()
        except StoreUnavailableError:
            pass  # The next look asks again.
        await asyncio.sleep(LOOK_EVERY_S)

    def _next(self) -> Flight:
        if self._next_turns:
            return self._next_turns.pop(0)
        self._made += 1
        kind = self._dice.choices(list(KINDS), list(KINDS.values()))[0]
        placement = "dedicated" if self._dice.random() < self._options.dedicated else "packed"
        session = f"session-{self._made}" if kind == "talker" else None
        return Flight(f"soak-{self._made}", kind, placement, session)

    def _launch(self, flight: Flight) -> None:
        self._flights[flight.key] = flight
        self._request(flight)

    def _ask_again(self) -> None:
        late = [
            flight
            for flight in self._flights.values()
            if flight.execution_id is None and flight.asked_at and time.monotonic() > flight.asked_at + ASK_AGAIN_S
        ]
        if late and not any(flight.refused for flight in late):
            self.kill_client()  # It waits for a cluster that is gone. The next one is told of them all.
        for flight in late:
            self._request(flight)

    def _request(self, flight: Flight) -> None:
        client = self._client
        if client is None or client.stdin is None or not self._is_ready:
            return
        flight.refused, flight.asked_at = False, time.monotonic()
        prompt: Any = {"topic": "x", "log": []} if flight.kind in ("graph", "asker") else f"turn {flight.turn}"
        request = {"key": flight.key, "agent": flight.kind, "prompt": prompt, "session": flight.session}
        client.stdin.write(json.dumps({**request, "placement": flight.placement}).encode() + b"\n")

    # --- the client

    def kill_client(self) -> None:
        """SIGKILL the process that starts executions."""
        if self._client is not None and self._client.returncode is None:
            self._client.kill()

    async def _see_client(self) -> None:
        if self._client is not None and self._client.returncode is None:
            if not self._is_ready and time.monotonic() > self._client_since + CLIENT_WAIT_S:
                self.kill_client()  # Its cluster went away while it was joining it.
            return
        self._client_since = time.monotonic()
        self._is_ready = False
        self._client = await asyncio.create_subprocess_exec(
            sys.executable,
            str(CLIENT),
            str(self._ledger.port),
            self._model.url,
            env={**self._server.environment, "PYTHONPATH": str(CLIENT.parents[2])},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=(self._server.home / "client.log").open("ab"),
        )
        self._reading = asyncio.create_task(self._read(self._client))

    async def _read(self, client: asyncio.subprocess.Process) -> None:
        assert client.stdout is not None
        while line := await client.stdout.readline():
            said = json.loads(line)
            if said.get("ready"):
                self._is_ready = True
                for flight in self._flights.values():
                    if flight.execution_id is None:
                        self._request(flight)
                continue
            flight = self._flights.get(said["key"])
            if flight is None:
                continue
            if "error" in said:
                flight.refused, flight.asked_at = True, time.monotonic() - ASK_AGAIN_S + 2.0
            elif flight.execution_id not in (None, said["execution_id"]):
                self.judge.blame(
                    "lost", f"{flight.key} was started twice: {flight.execution_id}, {said['execution_id']}"
                )
            else:
                flight.execution_id = said["execution_id"]
                self._by_id[said["execution_id"]] = flight
        await client.wait()

    # --- ends

    async def _hear(self) -> None:
        entries = await asyncio.to_thread(self._ledger.since, self._heard)
        self._heard += len(entries)
        self.judge.hear(entries)

    async def _see_ends(self) -> None:
        # In this order: what is accepted while the store answers is not among the unfinished, and has not ended.
        accepted = [flight for flight in self._flights.values() if flight.execution_id is not None]
        unfinished = {row.execution_id for row in await self._store.unfinished()}
        ended = [flight for flight in accepted if flight.execution_id not in unfinished]
        for flight in ended:
            assert flight.execution_id is not None
            try:
                row = await self._store.row(flight.execution_id)
            except UnknownExecutionError:
                self.judge.blame("lost", f"{flight.execution_id} was accepted and is not in the store")
                del self._flights[flight.key]
                continue
            journal = await self._store.journal(flight.execution_id, limit=JOURNAL_MAX)
            await self._hear()  # What it did is in the ledger by now.
            self._end(flight, row, journal)

    def _end(self, flight: Flight, row: ExecutionRow, journal: list[JournalEntry]) -> None:
        del self._flights[flight.key], self._by_id[row.execution_id]
        for key in [key for key in self._signals if key[0] == row.execution_id]:
            del self._signals[key]
        self.judge.judge(flight, row, journal)
        if flight.kind == "talker" and flight.turn + 1 < TALK_TURNS and row.status == "COMPLETED":
            turn = flight.turn + 1
            key = f"{flight.session}-{turn}"
            self._next_turns.append(Flight(key, flight.kind, flight.placement, flight.session, turn))

    # --- people

    async def _decide(self) -> None:
        now = time.monotonic()
        for waiting in await self._store.pending(limit=1000):
            place = (waiting.execution_id, waiting.call_id)
            flight = self._by_id.get(waiting.execution_id)
            if flight is None:
                continue
            due = self._decide_at.setdefault(place, now + self._dice.uniform(0, PERSON_WAITS_S))
            if now >= due:
                await self._answer(flight, waiting, place)

    async def _answer(self, flight: Flight, waiting: PendingRow, place: tuple[str, str]) -> None:
        signal = self._signals.get(place)
        if signal is None:
            kind = "approve" if waiting.ask == "approval" else "respond"
            signal = self._signals[place] = Signal(
                signal_id=f"sig-{len(self._decide_at)}-{waiting.execution_id}",
                execution_id=waiting.execution_id,
                kind=kind,  # type: ignore[arg-type]
                call_id=waiting.call_id,
                value="yes" if kind == "respond" else None,
                by="soak",
                at=time.time(),
            )
        try:
            accepted = await self._store.send(signal)
        except (DecisionError, ExecutionFinishedError):
            return  # It was decided with the answer lost; then it has ended since.
        if accepted.is_new or accepted.signal.signal_id == signal.signal_id:
            flight.acknowledged.append(signal.signal_id)
        self._decide_at[place] = float("inf")

    # --- how it goes

    async def _tell(self, faults: Faults) -> None:
        while True:
            await asyncio.sleep(TELL_EVERY_S)
            try:
                size = int((await self._store.info())["bytes"])
            except StoreUnavailableError:
                continue
            now = time.monotonic() - self._began
            self._sizes.append((now, size))
            print(
                f"  {now:6.0f} s  {self.judge.ended} ended, {len(self._flights)} under way, {self.judge.steps} steps, "
                f"{self.judge.recoveries} recoveries, {faults.count.total()} faults, store {size / 1e6:.1f} MB, "
                f"{len(self.judge.problems)} problems",
                flush=True,
            )

    @property
    def sizes(self) -> list[tuple[float, int]]:
        """The store's size in bytes, over the seconds of the run."""
        return self._sizes


async def play(name: str, options: Options) -> Report:
    """A part of the soak, on `sqlite` or `postgres`."""
    with ExitStack() as held:
        ledger = held.enter_context(ledger_process())
        model = held.enter_context(SoakModel(random.Random(f"{options.seed}/{name}/model")))
        disk: SmallDisk | None = None
        postgres: PostgresServer | None = None
        if name == "postgres":
            postgres = held.enter_context(postgres_server())
            url = postgres.new_url()
        else:
            disk = held.enter_context(small_disk())
            url = f"sqlite:///{disk.folder / 'agentspan.db'}" if disk else ""
        settings = {**SETTINGS, **({"AGENTSPAN_STORE": url} if url else {})}
        if options.retention is not None:
            settings["AGENTSPAN_RETENTION"] = options.retention
        server = Server(private_home(), **settings)
        held.callback(server.dispose)
        print(f"  home {server.home}", flush=True)
        await asyncio.to_thread(server.start)
        async with AsyncExitStack() as closing:
            store = await open_store(url or f"sqlite:///{server.home / 'agentspan.db'}")
            closing.push_async_callback(store.close)
            soak = Soak(options, name, server, store, ledger, model)
            faults = Faults(
                f"{options.seed}/{name}/faults",
                server=server,
                store=store,
                model=model,
                disk=disk,
                postgres=postgres,
                kill_client=soak.kill_client,
                on_stop=soak.judge.stopped,
                every_s=options.every_s,
            )
            await soak.run(faults)
        if soak.judge.problems:
            kept = Path(f"/tmp/agentspan-soak-{name}-{options.seed}.log")
            kept.write_text("\n".join([*soak.judge.problems, "", *faults.log, "", server.log()]))
            print(f"  what happened is in {kept}", flush=True)
        return Report(name, soak.judge, faults.count, faults.log, model.call_count, model.went_wrong, soak.sizes)
