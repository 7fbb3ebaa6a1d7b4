"""Stores written by released versions stay readable, and their executions go on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from agentspan.actors.driver import Driver
from agentspan.actors.performer import AgentPerformer
from agentspan.agents import Agent
from agentspan.engine.admit import Signal
from agentspan.persistence.reading import read_events, read_result, read_status
from agentspan.persistence.sqlite import SqliteStore
from agentspan.testing import ScriptedModel, call, say
from tests.data.make_store import pay

DATA = Path(__file__).parents[2] / "data"
STORES = sorted(DATA.glob("store-v*.db"))


@pytest.fixture(params=STORES, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return Path(shutil.copy(request.param, tmp_path / "s.db"))


async def test_a_finished_execution_reads_as_it_did(path: Path):
    async with SqliteStore.open(path) as store:
        result = await read_result(store, "ex-done")
        assert (result.output, str(result.status), result.metadata) == ("All noted.", "COMPLETED", {"team": "blue"})
        assert [(one.name, one.result) for one in result.tool_calls] == [
            ("note", "kept a"),
            ("note", "kept " + "b" * 20_000),
        ]
        page = await read_events(store, "ex-done", after=0)
        assert [event["seq"] for event in page["events"]] == list(range(1, len(page["events"]) + 1))
        assert page["events"][-1]["type"] == "done"


async def test_a_waiting_execution_goes_on_from_where_it_was(path: Path):
    async with SqliteStore.open(path) as store:
        status = await read_status(store, "ex-waits")
        assert status.is_waiting
        assert status.pending_tool is not None
        assert (status.pending_tool.tool_name, status.pending_tool.arguments) == ("pay", {"cents": 7})
        await store.send(Signal(signal_id="s1", execution_id="ex-waits", kind="approve", by="ada"))
        taken = await store.take_over("ex-waits", host={})
        model = ScriptedModel([call("pay", cents=7), say("Paid.")])
        performer = AgentPerformer(Agent("payer", tools=[pay]), model=lambda name, url: model, store=store)
        driver = Driver(
            execution_id="ex-waits", epoch=taken.epoch, crashed=taken.crashed, store=store, performer=performer
        )
        assert (await driver.run()).status == "COMPLETED"
        assert [one.result for one in (await read_result(store, "ex-waits")).tool_calls] == ["paid 7"]


def test_there_is_a_store_of_every_format_version():
    assert STORES, "no stored data to read"
