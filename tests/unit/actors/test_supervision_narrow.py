"""Supervision at its narrow places: hand-overs, hiccups of the store and of Ray, and restarts of the server."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from pydantic import BaseModel

from agentspan.actors.desk import Desk
from agentspan.agents import Agent
from agentspan.engine import records as r
from agentspan.engine.apply import apply
from agentspan.engine.decide import decide
from agentspan.engine.state import ExecutionState
from agentspan.errors import StoreUnavailableError
from agentspan.testing import call, say
from tests.support.virtual_time import jump, until, virtual
from tests.unit.actors.test_supervision import SETTINGS, SHELF, house


@virtual
async def test_a_supervisor_that_dies_during_a_hand_over_leaves_work_that_is_due_now():
    async with house(call("work"), call("work"), say("Done."), settings=SHELF) as home:
        await home.supervision.shelf.wait_filled()
        eid = await home.submit(timeout_s=3600.0)
        await home.at_work()
        await home.supervision.shelf.wait_filled()
        home.fleet.living(eid).die()
        await home.at_work(2)
        await until(lambda: eid in [n for n, _ in home.fleet.created[3:]])
        seen = asyncio.Event()

        async def after(c):
            if not c.change.resident and not c.entries:
                seen.set()

        home.store.after_commit = after
        take_over = home.store.take_over

        async def hang(*a, **k):
            await asyncio.Event().wait()

        home.store.take_over = hang
        home.gate.set()
        await seen.wait()
        home.store.after_commit = None
        home.store.take_over = take_over
        await home.replace_supervisor()  # Its predecessor died just here.
        assert await home.supervision.wait_settled(eid, 7200)
        assert (await home.store.row(eid)).status == "COMPLETED"


@virtual
async def test_a_hand_over_survives_a_store_that_is_away_for_a_moment():
    async with house(call("work"), call("work"), say("Done."), settings=SHELF) as home:
        await home.supervision.shelf.wait_filled()
        eid = await home.submit(timeout_s=3600.0)
        await home.at_work()
        await home.supervision.shelf.wait_filled()
        home.fleet.living(eid).die()
        await home.at_work(2)
        await until(lambda: eid in [n for n, _ in home.fleet.created[3:]])
        real = home.store.take_over
        n = [0]

        async def once(*a, **k):
            n[0] += 1
            if n[0] == 1:
                raise StoreUnavailableError(where="disk", problem="busy")
            return await real(*a, **k)

        home.store.take_over = once
        home.gate.set()
        assert await home.supervision.wait_settled(eid, 7200)
        assert (await home.store.row(eid)).status == "COMPLETED"


@virtual
async def test_a_slow_homecoming_takes_nothing_from_the_next_stay():
    async with house(
        call("work"), call("refund", order="1"), call("work"), say("Done."), settings=SHELF, hibernate_after_s=1.0
    ) as home:
        await home.supervision.shelf.wait_filled()
        eid = await home.submit()
        await home.at_work()
        await home.supervision.shelf.wait_filled()
        # machine is busy: the homecoming's create takes 5 s (RayFleet: up to 60)
        real = home.fleet.create
        slow = [True]

        async def create(name):
            if name == eid and slow[0]:
                slow[0] = False
                await asyncio.sleep(5)  # a slow start of a process
            return await real(name)

        home.fleet.create = create
        home.fleet.living(eid).die()
        await home.at_work(2)
        home.gate.set()
        await jump(1.6)  # hibernated, WAITING for approval; old homecoming still creating
        home.gate.clear()
        await home.supervision.send(home.signal(eid))
        await home.at_work(3)
        await jump(10)
        home.gate.set()
        await home.end(eid)
        assert [a for _, a in home.tries] == [1, 2, 1], home.tries


@virtual
async def test_the_actor_of_a_resting_execution_does_not_outlive_its_supervisor():
    async with house(call("refund", order="1"), say("x"), hibernate_after_s=1.0) as home:
        eid = await home.submit()
        await until(lambda: home.fleet.runs)
        seen = asyncio.Event()

        async def after(c):
            if not c.change.resident:
                seen.set()

        home.store.after_commit = after
        await seen.wait()
        await home.replace_supervisor()  # died right after the hibernation's commit
        await jump(3600)
        await home.store.row(eid)
        assert await home.fleet.names() == []


@virtual
async def test_giving_up_leaves_no_standby_behind():
    s = replace(SHELF, recoveries_max=0)
    async with house(settings=s) as home:
        await home.supervision.shelf.wait_filled()
        for i in range(3):
            eid = await home.submit(f"r{i}")
            await home.at_work(i + 1)
            await home.supervision.shelf.wait_filled()
            home.fleet.living(eid).die()
            await home.end(eid)
            await home.supervision.shelf.wait_filled()
        await jump(60)
        assert len(await home.fleet.names()) == s.standby


@virtual
async def test_the_scan_goes_on_after_any_error():
    async with house() as home:
        real = home.store.unfinished
        n = [0]

        async def unf():
            n[0] += 1
            if n[0] == 2:
                raise RuntimeError("transient")
            return await real()

        home.store.unfinished = unf
        await jump(5)
        eid = await home.create_unseen()
        await jump(60)
        assert (await home.store.row(eid)).status != "QUEUED"


@virtual
async def test_restarts_of_the_server_are_not_held_against_an_execution():
    async with house() as home:
        eid = await home.submit()
        await home.at_work()
        for _i in range(5):
            for a in home.fleet.actors:
                a.die()  # whole server goes (SIGTERM or power)
            await home.replace_supervisor()
            await jump(3600)
            row = await home.store.row(eid)
        assert row.status == "RUNNING"


def test_a_stop_while_paused_keeps_the_answer_that_is_on_record():
    class Out(BaseModel):
        n: int

    spec = Agent("a", model="scripted/x", output_type=Out).spec()
    state = ExecutionState(execution_id="e")
    apply(state, r.Started(at=1.0, agent="a", prompt="x"))
    apply(state, r.Controlled(at=2.0, signal_id="p", command="pause"))
    apply(state, r.ModelAnswered(at=3.0, text='{"n":1}', output={"n": 1}))
    apply(state, r.Controlled(at=4.0, signal_id="s", command="stop"))
    (record,) = decide(state, spec, 5.0).records
    assert (record.finish_reason, record.output) == ("stop", {"n": 1})


@virtual
async def test_a_signal_after_a_failed_attach_leaves_the_living_actor_alone():
    async with house() as home:
        eid = await home.submit()
        await home.at_work()
        await home.supervision.stop()
        home.supervision = home.supervisor()
        real = home.store.row
        n = [0]

        async def row(e):
            n[0] += 1
            if n[0] == 1:
                raise StoreUnavailableError(where="disk", problem="busy")
            return await real(e)

        home.store.row = row
        await home.supervision.start()
        await jump(0.5)
        await home.supervision.send(home.signal(eid, "pause"))
        await jump(5)
        assert not home.fleet.killed


@virtual
async def test_an_actor_that_cannot_be_killed_does_not_keep_its_execution_from_waking():
    async with house(call("refund", order="1"), say("Done."), hibernate_after_s=1.0) as home:
        eid = await home.submit()
        await until(lambda: home.fleet.runs)
        a = home.fleet.living(eid)
        real = a.kill
        n = [0]

        def kill():
            n[0] += 1
            if n[0] == 1:
                raise RuntimeError("ray is not initialized / GCS away")
            real()

        a.kill = kill
        await jump(5)
        await home.supervision.send(home.signal(eid))
        await jump(3600)
        r = await home.store.row(eid)
        assert r.status == "COMPLETED"


@virtual
async def test_a_supervisor_stopped_while_a_stay_is_left_can_start_again():
    async with house(
        call("work"), call("refund", order="1"), say("Done."), settings=SHELF, hibernate_after_s=1.0
    ) as home:
        await home.supervision.shelf.wait_filled()
        eid = await home.submit()
        await home.at_work()
        await home.supervision.shelf.wait_filled()
        real = home.fleet.create

        async def create(name):
            if name == eid:
                await asyncio.sleep(20)
            return await real(name)

        home.fleet.create = create
        home.fleet.living(eid).die()
        await home.at_work(2)
        home.gate.set()
        await jump(3)
        await home.supervision.stop()
        await home.supervision.start()
        await home.supervision.send(home.signal(eid))
        await jump(3600)
        r = await home.store.row(eid)
        assert r.status == "COMPLETED"


@virtual
async def test_a_machine_that_cannot_start_processes_for_a_while_fails_no_execution():
    async with house(settings=SETTINGS) as home:
        home.fleet.failures = 4
        eid = await home.submit()
        home.gate.set()
        await jump(120)
        r = await home.store.row(eid)
        assert r.status == "COMPLETED"


@virtual
async def test_a_hung_standby_does_not_fail_a_deployment():
    async with house(settings=SHELF) as home:
        await home.supervision.shelf.wait_filled()
        a = home.fleet.actors[0]

        async def warm(d):
            await asyncio.sleep(60)
            raise TimeoutError()

        a.warm = warm  # What a hung actor looks like.
        d = Desk(home.store, home.supervision, key=b"k" * 32, where="x")
        row = {
            "deployment_id": "d9",
            "agent": "new",
            "kind": "agent",
            "source": "reference",
            "reference": "a:b",
            "code": None,
            "signature": "",
            "spec": {},
            "python": "3.11",
            "created_at": 1.0,
        }
        assert "value" in await d.call("deploy", {"row": row})
        assert await home.store.current_deployment("new") is not None
        assert not home.fleet.actors[0].alive
