"""Packed placement over a fleet of hosts that die, hang and come back, all in virtual time."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import replace

import pytest

from agentspan.actors.desk import Desk
from agentspan.actors.hosts import HOST_PREFIX, KEEP_EMPTY_S, SPREAD_AT, SUSPECTS_AT_ONCE, is_host
from agentspan.errors import ConfigurationError
from agentspan.testing import call, say
from tests.support.fake_fleet import FakeActor
from tests.support.virtual_time import jump, until, virtual
from tests.unit.actors.test_supervision import SETTINGS, House, house

PACKED = replace(SETTINGS, hosts_max=3, host_capacity=100)


async def submit(home: House, count: int, placement: str = "packed", first: int = 0) -> list[str]:
    return [await home.submit(f"req-{first + n}", placement=placement) for n in range(count)]


def hosts(home: House) -> list[FakeActor]:
    return [actor for actor in home.fleet.actors if actor.alive and is_host(actor.name)]


def loads(home: House) -> list[int]:
    return [len(actor.tenants) for actor in hosts(home)]


def apart(home: House) -> list[str]:
    """The executions that have a process of their own."""
    return [actor.name for actor in home.fleet.actors if actor.alive and not is_host(actor.name)]


def pulse(home: House) -> None:
    """Let the work that is under way end, and hold what comes after it."""
    home.gate.set()
    home.gate.clear()


async def all_end(home: House, ids: list[str]) -> None:
    assert Counter([await home.end(eid) for eid in ids]) == {"COMPLETED": len(ids)}


# --- where they run


@virtual
async def test_a_packed_execution_runs_on_a_host_which_its_row_names():
    async with house(settings=PACKED) as home:
        (eid,) = await submit(home, 1)
        await home.at_work()
        assert home.fleet.created == [(f"{HOST_PREFIX}1", -1)]
        assert (await home.store.row(eid)).host["actor"] == f"{HOST_PREFIX}1"
        home.gate.set()
        await all_end(home, [eid])
        await until(lambda: not home.supervision.residents())
        assert len(hosts(home)) == 1, "the host stays for the next"
        assert await submit(home, 1, "dedicated", first=1)
        await until(lambda: len(home.fleet.created) == 2)
        assert not is_host(home.fleet.created[1][0])


@virtual
async def test_executions_are_spread_over_as_many_hosts_as_there_may_be():
    async with house(settings=PACKED) as home:
        await submit(home, 90)
        await home.at_work(90)
        assert len(hosts(home)) == 3
        assert max(loads(home)) - min(loads(home)) <= 40
        assert max(loads(home)) < 60


@virtual
async def test_a_few_executions_share_one_host():
    async with house(settings=PACKED) as home:
        await submit(home, SPREAD_AT)
        await home.at_work(SPREAD_AT)
        assert loads(home) == [SPREAD_AT]


@virtual
async def test_a_host_that_nobody_needs_is_ended_after_a_while():
    async with house(say("Hello."), settings=PACKED) as home:
        await all_end(home, await submit(home, 3))
        await jump(KEEP_EMPTY_S - 10)
        assert len(hosts(home)) == 1
        await jump(20)
        assert hosts(home) == []
        await all_end(home, await submit(home, 1, first=3))
        assert hosts(home)[0].name == f"{HOST_PREFIX}2"


@virtual
async def test_a_placement_there_is_none_of_is_refused_before_anything_is_stored():
    async with house(settings=PACKED) as home:
        with pytest.raises(ConfigurationError, match="packed"):
            await submit(home, 1, "stacked")
        assert await home.store.rows() == []


@virtual
async def test_the_users_metadata_is_not_touched_and_a_fork_is_packed_too():
    async with house(say("Hello."), settings=PACKED) as home:
        eid = await home.submit("req-1", placement="packed", metadata={"team": "a"})
        await all_end(home, [eid])
        first = (await home.store.journal(eid, limit=1))[0].body
        assert first["metadata"] == {"team": "a"}
        new = {"request_id": "req-2", "forked_from": eid, "forked_step": 0}
        fork = (await home.supervision.submit(new))["execution_id"]
        await all_end(home, [fork])
        assert is_host((await home.store.row(fork)).host.get("actor", HOST_PREFIX))
        assert (await home.store.journal(fork, limit=1))[0].body["metadata"] == {"team": "a"}
        assert all(is_host(name) for name, _ in home.fleet.created)


# --- no room


@virtual
async def test_what_has_no_room_waits_as_queued_and_is_started_in_order():
    async with house(settings=replace(PACKED, hosts_max=2, host_capacity=5)) as home:
        ids = await submit(home, 14)
        await home.at_work(10)
        await jump(5)
        assert sorted(loads(home)) == [5, 5]
        assert home.supervision.queued == 4
        rows = {row.execution_id: row.status for row in await home.store.rows()}
        assert [eid for eid in ids if rows[eid] == "QUEUED"] == ids[10:]
        desk = Desk(home.store, home.supervision, key=b"", where="here")
        status = await desk.on_status(ids[12])
        assert (status["reason"], status["ahead"]) == ("Waits for room on the server; 2 executions are before it.", 2)
        assert (await desk.on_status(ids[0]))["reason"] is None
        home.gate.set()
        await all_end(home, ids)
        assert [eid for eid, _, _ in home.fleet.runs][10:] == ids[10:]
        assert home.supervision.queued == 0


@virtual
async def test_dedicated_executions_wait_for_a_process_too():
    async with house(settings=replace(SETTINGS, actors_max=2)) as home:
        ids = await submit(home, 5, "dedicated")
        await home.at_work(2)
        await jump(10)
        assert len(home.tries) == 2
        await home.replace_supervisor()
        await jump(10)
        assert len(home.tries) == 2, "a new supervisor keeps to it"
        home.gate.set()
        await all_end(home, ids)
        assert [eid for eid, _, _ in home.fleet.runs] == ids


@virtual
async def test_room_grows_with_the_cluster_and_those_in_line_get_it():
    async with house(settings=replace(PACKED, hosts_max=None, starts_at_once=None, host_capacity=5)) as home:
        await jump(5)
        await submit(home, 18)
        await home.at_work(10)
        await jump(5)
        assert (len(hosts(home)), home.supervision.queued) == (2, 8)
        home.fleet.cores_now = 4
        await home.at_work(18)
        assert (len(hosts(home)), home.supervision.queued) == (4, 0)
        home.fleet.cores_now = 1
        await jump(5)
        assert len(hosts(home)) == 4, "what runs is left where it is"


# --- deaths


@virtual
async def test_a_host_that_dies_has_its_executions_go_on_spread_over_the_others():
    async with house(settings=replace(PACKED, hosts_max=2)) as home:
        ids = await submit(home, 100)
        await home.at_work(100)
        victim = max(hosts(home), key=lambda actor: len(actor.tenants))
        lost = set(victim.tenants)
        assert len(lost) >= 40
        victim.die()
        await home.at_work(100 + len(lost))
        await jump(3)
        assert len(hosts(home)) == 2, "another one came up"
        assert sum(loads(home)) == 100
        assert max(loads(home)) < 70
        rows = {row.execution_id: row for row in await home.store.rows(limit=200)}
        assert {eid: (row.epoch, row.recoveries) for eid, row in rows.items()} == {
            eid: (2, 1) if eid in lost else (1, 0) for eid in ids
        }
        home.gate.set()
        await all_end(home, ids)
        tries = Counter(home.tries)
        assert set(tries.values()) == {1}, "no attempt was made twice"
        assert all(row.crashes == 0 for row in await home.store.rows(limit=200)), "progress clears it"


@virtual
async def test_who_is_on_a_dying_host_twice_in_a_row_goes_on_in_a_process_of_its_own():
    async with house(settings=PACKED) as home:
        ids = await submit(home, 3)
        await home.at_work(3)
        hosts(home)[0].die()
        await home.at_work(6)
        hosts(home)[0].die()
        await home.at_work(9)
        assert hosts(home) == []
        assert sorted(home.fleet.created[-3:]) == [(eid, 3) for eid in ids]
        await home.replace_supervisor()
        await until(lambda: len(home.supervision.residents()) == 3)
        await jump(3)
        home.gate.set()
        await all_end(home, ids)
        assert len(home.tries) == 9, "a new supervisor attaches to them there"


@virtual
async def test_suspects_that_made_progress_go_back_to_a_host_and_make_room_for_the_next():
    count = 3 * SUSPECTS_AT_ONCE
    async with house(*[call("work")] * 4, say("Done."), settings=replace(PACKED, hosts_max=1)) as home:
        ids = await submit(home, count)
        await home.at_work(count)
        hosts(home)[0].die()
        await home.at_work(2 * count)
        hosts(home)[0].die()
        await home.at_work(2 * count + SUSPECTS_AT_ONCE)
        first = apart(home)
        for _ in range(2):  # A step that clears them, and the one they had begun when they were told.
            pulse(home)
            await jump(5)
        assert len(apart(home)) == SUSPECTS_AT_ONCE
        assert not set(apart(home)) & set(first)
        assert sum(loads(home)) == SUSPECTS_AT_ONCE
        home.gate.set()
        await all_end(home, ids)
        assert all(row.recoveries == 2 for row in await home.store.rows(limit=200)), "moving is no crash"


@virtual
async def test_who_is_suspected_again_stays_in_a_process_of_its_own():
    async with house(*[call("work")] * 6, say("Done."), settings=PACKED) as home:
        (eid,) = await submit(home, 1)
        for tries in (1, 5):
            for death in range(2):
                await home.at_work(tries + death)
                assert apart(home) == []
                hosts(home)[0].die()
            await home.at_work(tries + 2)
            assert apart(home) == [eid]
            for step in range(2):
                pulse(home)
                await home.at_work(tries + 3 + step)
                await jump(5)
        assert apart(home) == [eid]
        home.gate.set()
        await all_end(home, [eid])


@virtual
async def test_one_that_kills_its_host_each_time_is_given_up_and_takes_nobody_with_it():
    async with house(settings=PACKED) as home:
        ids = await submit(home, 10)
        bad = ids[4]

        def work(context):
            if context.execution_id == bad:
                actor = next(actor for actor in home.fleet.actors if actor.alive and bad in actor.tenants)
                asyncio.get_running_loop().call_soon(actor.die)

        home.on_work = work
        assert await home.end(bad) == "FAILED"
        assert (await home.store.row(bad)).error.startswith("Gave up after 4 crashes")
        home.gate.set()
        good = [eid for eid in ids if eid != bad]
        await all_end(home, good)
        assert max(row.recoveries for row in await home.store.rows() if row.execution_id in good) <= 2


@virtual
async def test_a_driver_that_raises_leaves_its_host_to_the_others(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.CRITICAL)
    async with house(settings=PACKED) as home:
        ids = await submit(home, 4)

        def stumble(context):
            if context.execution_id == ids[0] and context.attempt == 1:
                asyncio.current_task().cancel()

        home.on_work = stumble
        await home.at_work(5)
        home.gate.set()
        await all_end(home, ids)
        assert len(home.fleet.created) == 1
        assert home.fleet.killed == []


@virtual
async def test_a_hung_host_is_replaced():
    async with house(settings=PACKED) as home:
        ids = await submit(home, 5)
        await home.at_work(5)
        hosts(home)[0].hang()
        await home.at_work(10)
        home.gate.set()
        await all_end(home, ids)
        assert home.fleet.killed == [f"{HOST_PREFIX}1"]


@virtual
async def test_a_host_that_does_not_come_up_is_tried_again(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.CRITICAL)
    async with house(say("Hello."), settings=PACKED) as home:
        home.fleet.failures = 3
        ids = await submit(home, 20)
        await all_end(home, ids)


# --- supervisors come and go


@virtual
async def test_a_new_supervisor_attaches_to_what_runs_on_living_hosts_and_recovers_the_rest():
    async with house(settings=PACKED) as home:
        ids = await submit(home, 60)
        await home.at_work(60)
        await home.supervision.stop()
        victim = hosts(home)[0]
        lost = set(victim.tenants)
        victim.die()
        home.supervision = home.supervisor()
        await home.supervision.start()
        await home.at_work(60 + len(lost))
        rows = {row.execution_id: row for row in await home.store.rows(limit=200)}
        assert {eid: row.epoch for eid, row in rows.items()} == {eid: 2 if eid in lost else 1 for eid in ids}
        assert all(row.crashes == 0 for row in rows.values()), "a restart is held against nobody"
        home.gate.set()
        await all_end(home, ids)
        numbers = [int(name.removeprefix(HOST_PREFIX)) for name, _ in home.fleet.created]
        assert len(numbers) == len(set(numbers)), "a name is not used twice"


@virtual
async def test_a_run_that_ends_while_nobody_supervises_is_over_and_its_host_is_used_again():
    async with house(settings=PACKED) as home:
        ids = await submit(home, 5)
        await home.at_work(5)
        await home.supervision.stop()
        home.gate.set()
        await jump(10)
        home.supervision = home.supervisor()
        await home.supervision.start()
        await all_end(home, ids + await submit(home, 5, first=5))
        assert len(home.fleet.created) == 1


# --- waiting


@virtual
async def test_waiting_executions_leave_nothing_on_the_host_and_wake_in_their_hundreds():
    async with house(
        call("refund", order="8"), say("Done."), settings=replace(PACKED, hosts_max=2, host_capacity=50)
    ) as home:
        ids = await submit(home, 300)
        await until(lambda: not home.supervision.residents())
        assert sum(loads(home)) == 0
        assert home.supervision.queued == 0
        assert {row.status for row in await home.store.rows(limit=400)} == {"WAITING"}
        for eid in ids:
            await home.supervision.send(home.signal(eid))
        await all_end(home, ids)
        assert {(row.epoch, row.recoveries) for row in await home.store.rows(limit=400)} == {(2, 0)}
