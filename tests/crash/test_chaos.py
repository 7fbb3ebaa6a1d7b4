"""Many executions, one supervisor after the other, and a seeded run of bad luck. All of them come to their end.

`CHAOS_SEED=7 pytest tests/crash/test_chaos.py` plays one seed; a failure names its own.
"""

from __future__ import annotations

import asyncio
import os
import random
from typing import Any

import pytest

from agentspan.actors.stay import SupervisionSettings
from agentspan.actors.supervision import Supervision
from agentspan.agents import Agent, ToolContext, tool
from agentspan.engine import records as r
from agentspan.engine.admit import Signal
from agentspan.errors import AgentspanError, StoreUnavailableError
from agentspan.persistence.memory import MemoryStore
from agentspan.persistence.reading import read_events, read_result
from agentspan.testing import ScriptedModel, call, calls, fail, say
from tests.support.fake_fleet import FakeFleet
from tests.support.lives import dangling, records_of
from tests.support.virtual_time import clock, jump, run_virtual

SEEDS = [int(os.environ["CHAOS_SEED"])] if "CHAOS_SEED" in os.environ else list(range(12))
EXECUTIONS = 8
SETTINGS = SupervisionSettings(
    standby=2, recoveries_max=50, recovery_backoff_s=0.1, scan_interval_s=1.0, ping_timeout_s=3.0, starts_at_once=4
)


class Weather(MemoryStore):
    """A disk that loses answers and goes away, as the dice say."""

    def __init__(self, dice: random.Random) -> None:
        super().__init__(clock=clock)
        self.dice = dice
        self.bad = 0.0

    async def _luck(self) -> None:
        if self.dice.random() < self.bad:
            raise StoreUnavailableError(where="disk", problem="bad weather")
        await asyncio.sleep(self.dice.choice([0, 0, 0.001]))

    async def commit(self, commit: Any) -> Any:
        await self._luck()
        receipt = await super().commit(commit)
        await self._luck()
        return receipt

    async def load(self, execution_id: str) -> Any:
        await self._luck()
        return await super().load(execution_id)

    async def take_over(self, execution_id: str, **options: Any) -> Any:
        await self._luck()
        taken = await super().take_over(execution_id, **options)
        await self._luck()
        return taken

    async def create(self, new: Any) -> Any:
        await self._luck()
        created = await super().create(new)
        await self._luck()
        return created

    async def send(self, signal: Signal) -> Any:
        await self._luck()
        accepted = await super().send(signal)
        await self._luck()
        return accepted

    async def unfinished(self) -> Any:
        await self._luck()
        return await super().unfinished()


class World:
    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.store = Weather(self.dice)
        self.faults: list[str] = []
        self.attempts: dict[str, list[int]] = {}

        @tool(retry_count=20, retry_delay_seconds=1, retry_policy="fixed")
        async def work(context: ToolContext, seconds: float) -> str:
            await self.begin(context)
            await asyncio.sleep(seconds)
            if self.dice.random() < 0.1:
                raise RuntimeError("bad luck")
            context.state["done"] = [*context.state.get("done", []), context.call_id]
            return context.idempotency_key

        @tool(approval_required=True, retry_count=20)
        async def refund(context: ToolContext) -> str:
            await self.begin(context)
            return "refunded"

        model = ScriptedModel(
            [
                calls(call("work", seconds=0.5), call("work", seconds=2)),
                fail(503, times=2),
                calls(call("refund"), call("work", seconds=1)),
                call("work", seconds=8),
                say("Done."),
            ]
        )
        self.fleet = FakeFleet(self.store, Agent("hero", model="scripted/hero", tools=[work, refund]), model)
        self.count = 0
        self.supervision = self.supervisor()

    async def begin(self, context: ToolContext) -> None:
        for record in await records_of(self.store, context.execution_id):
            if isinstance(record, r.ToolReturned) and record.call_id == context.call_id:
                self.faults.append(f"P2: {context.idempotency_key} runs again")
        tried = self.attempts.setdefault(context.idempotency_key, [])
        if tried and context.attempt <= tried[-1]:
            self.faults.append(f"P3: {context.idempotency_key}: attempt {context.attempt} after {tried[-1]}")
        tried.append(context.attempt)

    def mint(self) -> str:
        self.count += 1
        return f"ex-{self.count}"

    def supervisor(self) -> Supervision:
        return Supervision(self.store, self.fleet, settings=SETTINGS, mint=self.mint, clock=clock)

    async def patiently(self, what: Any) -> Any:
        """A client: it asks again, with the same IDs, until it has an answer."""
        while True:
            try:
                return await what()
            except StoreUnavailableError:
                await jump(0.5)

    async def begin_supervision(self) -> None:
        await self.patiently(self.supervision.start)

    async def strike(self) -> None:
        alive = [actor for actor in self.fleet.actors if actor.alive]
        match self.dice.choice(["die", "die", "die", "hang", "resume", "supervisor", "creations", "weather", "sun"]):
            case "die" if alive:
                self.dice.choice(alive).die()
            case "hang" if alive:
                self.dice.choice(alive).hang()
            case "resume":
                for actor in alive:
                    actor.resume()
            case "supervisor":
                await self.supervision.stop()
                if alive and self.dice.random() < 0.3:
                    self.dice.choice(alive).die()
                self.supervision = self.supervisor()
                await self.begin_supervision()
            case "creations":
                self.fleet.failures = self.dice.randint(0, 2)
            case "weather":
                self.store.bad = 0.2
            case "sun":
                self.store.bad = 0.0

    async def person(self, execution_id: str) -> None:
        """Approves the refund, through whichever supervisor there is, and asks again until it has an answer."""
        signal = Signal(signal_id="s1", execution_id=execution_id, kind="approve", by="tess")
        while (await self.store.row(execution_id)).status != "COMPLETED":
            await jump(self.dice.choice([0.3, 4.0]))
            try:
                await self.supervision.send(signal)
                return
            except AgentspanError:
                continue  # Nothing waits yet, or the store is away.

    async def story(self) -> list[str]:
        await self.begin_supervision()
        ids: list[str] = []
        people = []
        for number in range(60):
            if number % 5 == 0 and len(ids) < EXECUTIONS:
                new = {"request_id": f"r{number}", "agent": "hero", "prompt": "go", "deployment_id": "d1"}
                ids.append((await self.patiently(lambda new=new: self.supervision.submit(new)))["execution_id"])
                people.append(asyncio.create_task(self.person(ids[-1])))
            await jump(self.dice.uniform(0.05, 0.8))
            await self.strike()
        self.store.bad, self.fleet.failures = 0.0, 0
        for execution_id in ids:
            assert await self.supervision.wait_settled(execution_id, 900.0), f"{execution_id} is not over"
        await asyncio.gather(*people)
        await jump(30)
        assert self.supervision.residents() == []
        await self.supervision.stop()
        await jump(5)
        return ids

    async def check(self, ids: list[str]) -> None:
        assert self.faults == []
        assert len(await self.store.rows(limit=100)) == EXECUTIONS, "a request that is sent again starts nothing new"
        assert len(self.attempts) == EXECUTIONS * 5, "one key for all attempts of a call"
        for execution_id in ids:
            row = await self.store.row(execution_id)
            assert (row.status, row.resident, row.inbox, row.pending) == ("COMPLETED", False, 0, 0), row
            journal = await self.store.journal(execution_id)
            assert [entry.seq for entry in journal] == list(range(len(journal)))
            epochs = [entry.epoch for entry in journal]
            assert epochs == sorted(epochs)
            events = (await read_events(self.store, execution_id, 0))["events"]
            assert [event["seq"] for event in events] == list(range(1, row.events + 1))
            result = await read_result(self.store, execution_id)
            assert result.output == "Done."
            assert [(one.name, one.status) for one in result.tool_calls] == [
                ("work", "completed"),
                ("work", "completed"),
                ("refund", "completed"),
                ("work", "completed"),
                ("work", "completed"),
            ]
            assert dangling(result.messages) == []
            decided = [one for one in await records_of(self.store, execution_id) if isinstance(one, r.Decided)]
            assert len(decided) == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_happens_every_execution_comes_to_its_end(seed: int) -> None:
    random.seed(seed)

    async def main() -> None:
        world = World(seed)
        await world.check(await world.story())

    run_virtual(main())
