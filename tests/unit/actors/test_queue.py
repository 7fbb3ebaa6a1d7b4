"""The queue of a supervisor, in virtual time: limits of agents and sessions, and what is said to those in line."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from agentspan.actors.desk import Desk
from agentspan.actors.offline import StoreConnection
from agentspan.config import Settings
from agentspan.persistence.loading import load_state
from agentspan.persistence.reading import read_result
from agentspan.persistence.store import DeploymentRow
from agentspan.testing import call, say
from tests.support.virtual_time import clock, jump, until, virtual
from tests.unit.actors.test_supervision import SETTINGS, House, house


async def deploy(home: House, limit: int | None, agent: str = "hero") -> None:
    """Deploy a version of an agent, by the supervisor."""
    row = DeploymentRow(
        deployment_id=f"{agent}-{limit}",
        agent=agent,
        kind="agent",
        source="value",
        reference=None,
        code=b"",
        signature="",
        spec={"max_concurrency": limit},
        python="3.11",
        created_at=clock(),
    )
    desk = Desk(home.store, home.supervision, key=b"k" * 32, where="here")
    assert "value" in await desk.call("deploy", {"row": {name: getattr(row, name) for name in row.__slots__}})


async def submit(home: House, count: int, first: int = 0, **fields: Any) -> list[str]:
    return [await home.submit(f"req-{first + n}", **fields) for n in range(count)]


async def status(home: House, execution_id: str) -> dict[str, Any]:
    return await Desk(home.store, home.supervision, key=b"", where="here").on_status(execution_id)


async def all_end(home: House, ids: list[str], as_what: str = "COMPLETED") -> None:
    assert [await home.end(eid) for eid in ids] == [as_what] * len(ids)


def order(home: House) -> list[str]:
    return list(dict.fromkeys(eid for eid, _, _ in home.fleet.runs))


CHAT = [call("work"), say("Done.")] * 3
"""The script of a session of three: each goes on in the conversation of the one before."""


# --- agents


@virtual
async def test_an_agents_executions_beyond_its_limit_wait_in_order_whoever_dies():
    async with house() as home:
        await deploy(home, 2)
        ids = await submit(home, 5)
        await home.at_work(2)
        await jump(10)
        assert len(home.tries) == 2
        told = await status(home, ids[4])
        assert (told["status"], told["ahead"]) == ("QUEUED", 2)
        assert told["reason"] == "Waits for its agent 'hero' (max_concurrency 2); 2 executions are before it."
        await home.replace_supervisor()
        await jump(10)
        assert len(home.tries) == 2, "a new supervisor keeps to it"
        for actor in [actor for actor in home.fleet.actors if actor.alive]:
            actor.die()
        await jump(10)
        assert (await status(home, ids[4]))["ahead"] == 2, "who recovers keeps its place"
        home.gate.set()
        await all_end(home, ids)
        assert order(home) == ids


@virtual
async def test_other_agents_are_not_held_up():
    async with house() as home:
        await deploy(home, 1)
        await submit(home, 20)
        other = await home.submit("req-other", agent="other")
        await home.at_work(2)
        assert {eid for eid, _, _ in home.fleet.runs} == {"ex-1", other}


@virtual
async def test_deploying_again_changes_the_limit_also_for_those_in_line():
    async with house() as home:
        await deploy(home, 1)
        await submit(home, 6)
        await home.at_work(1)
        await deploy(home, 3)
        await home.at_work(3)
        await jump(10)
        assert len(home.tries) == 3
        await deploy(home, None)
        await home.at_work(6)


@virtual
async def test_a_limit_set_behind_the_supervisors_back_holds_for_the_first_start_of_that_version():
    async with house() as home:
        without = Desk(home.store, None, key=b"k" * 32, where="here")
        row = DeploymentRow(
            deployment_id="d1",
            agent="hero",
            kind="agent",
            source="value",
            reference=None,
            code=b"",
            signature="",
            spec={"max_concurrency": 1},
            python="3.11",
            created_at=clock(),
        )
        await without.call("deploy", {"row": {name: getattr(row, name) for name in row.__slots__}})
        await submit(home, 3)
        await home.at_work(1)
        await jump(10)
        assert len(home.tries) == 1


@virtual
async def test_one_that_waits_for_a_person_takes_no_place_and_gets_in_line_when_it_wakes():
    async with house(call("refund", order="8"), call("work"), say("Done.")) as home:
        await deploy(home, 1)
        first, second, third = await submit(home, 3)
        await until(lambda: not home.supervision.residents())  # All three wait, one after the other.
        for execution_id in (first, second, third):
            assert (await home.store.row(execution_id)).status == "WAITING"
        await home.supervision.send(home.signal(second))
        await home.at_work(1)
        await home.supervision.send(replace(home.signal(third), signal_id="s-third"))
        await home.supervision.send(replace(home.signal(first), signal_id="s-first"))
        await jump(10)
        assert len(home.tries) == 1
        told = await status(home, third)
        assert (told["is_waiting"], told["ahead"]) == (False, 1)
        assert "max_concurrency 1" in told["reason"]
        home.gate.set()
        await all_end(home, [first, second, third])
        assert [key.split(":")[0] for key, _ in home.tries] == [second, first, third]


# --- sessions


@virtual
async def test_executions_of_a_session_go_one_after_the_other_and_each_knows_the_one_before():
    async with house(*CHAT) as home:
        ids = await submit(home, 3, session_id="chat")
        alone = await home.submit("req-alone", session_id="other")
        await home.at_work(2)
        await jump(10)
        assert {eid for eid, _, _ in home.fleet.runs} == {ids[0], alone}
        assert (await status(home, ids[2]))["reason"] == (
            f"Waits for {ids[0]}, which is before it in its session; 2 executions are before it."
        )
        await home.replace_supervisor()
        await jump(10)
        assert len(home.tries) == 2
        home.gate.set()
        await all_end(home, ids)
        prompts = [[m["role"] for m in (await read_result(home.store, eid)).messages].count("user") for eid in ids]
        assert prompts == [1, 2, 3]


@virtual
async def test_a_session_waits_for_the_person_its_execution_waits_for():
    async with house(call("refund", order="8"), say("Done.")) as home:
        first, second = await submit(home, 2, session_id="chat")
        await until(lambda: not home.supervision.residents())
        await jump(60)
        assert order(home) == [first]
        await home.replace_supervisor()
        await jump(60)
        assert order(home) == [first]
        await home.supervision.send(home.signal(first, "cancel"))
        assert await home.end(first) == "TERMINATED"
        await until(lambda: order(home) == [first, second])


@virtual
async def test_one_stopped_before_it_began_does_not_break_off_its_session():
    async with house(*CHAT) as home:
        ids = await submit(home, 3, session_id="chat")
        await home.at_work(1)
        await home.supervision.send(home.signal(ids[1], "stop"))
        assert await home.end(ids[1]) == "COMPLETED"
        home.gate.set()
        await all_end(home, ids)
        conversation = (await read_result(home.store, ids[2])).messages
        assert [m["role"] for m in conversation].count("user") == 2
        assert order(home) == [ids[0], ids[2]]


# --- what is said to those in line


@virtual
async def test_those_in_line_can_be_cancelled_and_stopped_and_run_out_of_time_without_a_process():
    async with house() as home:
        await deploy(home, 1)
        ids = await submit(home, 4)
        late = await home.submit("req-late", timeout_s=30)
        await home.at_work(1)
        await home.supervision.send(home.signal(ids[1], "cancel", text="no need"))
        await home.supervision.send(home.signal(ids[2], "stop"))
        assert await home.end(ids[1], 1.0) == "TERMINATED"
        assert await home.end(ids[2], 1.0) == "COMPLETED"
        await home.replace_supervisor()
        assert await home.end(late, 31.0) == "TIMED_OUT"
        assert order(home) == [ids[0]]
        assert (await read_result(home.store, ids[1])).error == "no need"
        assert (await status(home, ids[3]))["ahead"] == 0
        home.gate.set()
        await all_end(home, [ids[0], ids[3]])


@virtual
async def test_a_pause_takes_one_out_of_the_line_and_resume_puts_it_back_where_it_was():
    async with house() as home:
        await deploy(home, 1)
        ids = await submit(home, 4)
        await home.at_work(1)
        await home.supervision.send(home.signal(ids[1], "pause"))
        assert (await status(home, ids[1]))["status"] == "PAUSED"
        assert (await status(home, ids[3]))["ahead"] == 1
        await home.replace_supervisor()
        await home.supervision.send(home.signal(ids[1], "resume"))
        told = await status(home, ids[1])
        assert (told["status"], told["ahead"]) == ("QUEUED", 0)
        home.gate.set()
        await all_end(home, ids)
        assert order(home) == ids


@virtual
async def test_messages_to_one_in_line_are_there_when_it_begins():
    async with house() as home:
        await deploy(home, 1)
        ids = await submit(home, 2)
        await home.at_work(1)
        await home.supervision.send(home.signal(ids[1], "message", value="hello"))
        await jump(10)
        assert (await home.store.row(ids[1])).inbox == 1
        home.gate.set()
        await all_end(home, ids)
        assert load_state(await home.store.load(ids[1])).queue == ["hello"]


@virtual
async def test_one_that_has_begun_is_let_in_past_all_limits_in_order_to_end():
    async with house(call("refund", order="8"), call("work"), say("Done.")) as home:
        await deploy(home, 1)
        first, second = await submit(home, 2)
        await until(lambda: not home.supervision.residents())
        await home.supervision.send(home.signal(first))
        await home.at_work(1)
        await home.supervision.send(replace(home.signal(second), signal_id="s-second"))
        await jump(10)
        await home.supervision.send(home.signal(second, "cancel"))
        assert await home.end(second, 5.0) == "TERMINATED"


@pytest.mark.parametrize("landed", [True, False])
@virtual
async def test_a_cancel_that_meets_the_start_takes_effect_once(landed: bool):
    async with house() as home:
        await deploy(home, 1)
        first, second = await submit(home, 2)
        await home.at_work(1)
        home.gate.set()

        async def slow(commit: Any) -> None:
            # The place becomes free just while the cancellation is being written.
            if commit.execution_id == second and commit.epoch == 0:
                await home.end(first)
                await jump(1.0)

        setattr(home.store, "after_commit" if landed else "before_commit", slow)
        await home.supervision.send(home.signal(second, "cancel"))
        assert await home.end(second) == "TERMINATED"
        kinds = [entry.kind for entry in await home.store.journal(second)]
        assert (kinds.count("control"), kinds.count("finished")) == (1, 1)


# --- executions inside executions


@virtual
async def test_a_child_of_one_that_has_a_place_does_not_wait_for_it():
    async with house(settings=replace(SETTINGS, actors_max=1)) as home:
        await deploy(home, 1)
        parent = await home.submit("req-1")
        await home.at_work(1)
        child = await home.submit("req-2", parent=parent)
        other = await home.submit("req-3")
        await home.at_work(2)
        await home.replace_supervisor()
        await jump(10)
        assert {eid for eid, _, _ in home.fleet.runs} == {parent, child}
        assert (await home.store.journal(child, limit=1))[0].body.get("metadata") is None
        home.gate.set()
        await all_end(home, [parent, child, other])


@virtual
async def test_a_packed_child_is_squeezed_in_where_no_seat_is_left():
    async with house(settings=replace(SETTINGS, hosts_max=1, host_capacity=1)) as home:
        parent = await home.submit("req-1", placement="packed")
        await home.at_work(1)
        child = await home.submit("req-2", parent=parent, placement="packed")
        await home.at_work(2)
        home.gate.set()
        await all_end(home, [parent, child])


# --- reading


@virtual
async def test_the_place_in_line_can_be_told_from_the_store_alone():
    async with house(settings=replace(SETTINGS, actors_max=4)) as home:
        await deploy(home, 2)
        ids = await submit(home, 5)
        ids += await submit(home, 4, first=5, agent="other", session_id="chat")
        ids += await submit(home, 3, first=9, agent="third")
        await home.at_work(4)
        await jump(10)
        live = await Desk(home.store, home.supervision, key=b"", where="here").on_rows()

        async def opening(url: str) -> Any:
            return home.store

        offline = StoreConnection(Settings(), opening=opening, is_served=lambda: False)
        rows = await offline.call("rows", {}, 10.0)
        told = {row["execution_id"]: row["queue"] for row in rows}
        # The server's room is not in the store: who waits for nothing else waits for that.
        assert told == {row["execution_id"]: row["queue"] for row in live}
        assert sum(queue is not None for queue in told.values()) == 8
        shown = await offline.call("show", {"execution_id": ids[4]}, 10.0)
        assert shown["queue"]["why"] == "agent"
        assert (await offline.call("status", {"execution_id": ids[4]}, 10.0))["ahead"] == 2
        await offline.close()
        await asyncio.sleep(0)
