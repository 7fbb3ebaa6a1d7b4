"""`agentspan.testing.crash`, as people use it to test their own agents."""

from __future__ import annotations

import inspect
from itertools import count
from typing import Any

import pytest

from agentspan.errors import StoreUnavailableError
from agentspan.models.base import ModelRequest
from agentspan.persistence.memory import MemoryStore
from agentspan.persistence.store import NewExecution, Store
from agentspan.testing import ScriptedModel, say
from agentspan.testing.crash import Crash, CrashingModel, CrashingStore, crash_at

NEW = NewExecution(
    execution_id="ex-1",
    request_id="r1",
    agent="hero",
    deployment_id="d1",
    started={"at": 1.0, "agent": "hero", "prompt": "go"},
    created_at=1.0,
)
REQUEST = ModelRequest(model="scripted/x", messages=[{"role": "user", "content": "go"}], idempotency_key="k")


async def use(store: Store, model: Any) -> None:
    await store.create(NEW)
    await store.take_over("ex-1", host={})
    await model.complete(REQUEST)


@pytest.mark.parametrize("landed", [False, True])
async def test_every_call_is_a_point_before_and_after(landed: bool):
    epochs = []
    for number in count():
        disk, model = MemoryStore(), ScriptedModel([say("Hello.")])
        point = crash_at(number, landed=landed)
        try:
            await use(CrashingStore(disk, point), CrashingModel(model, point))
        except Crash:
            assert point.dead
        if not point.fired:
            assert point.calls == ["create", "take_over", "model"]
            break
        epochs.append((await disk.row("ex-1")).epoch if await disk.rows() else None)
    assert epochs == ([0, 1, 1] if landed else [None, 0, 1])


async def test_nothing_lands_after_the_death():
    disk = MemoryStore()
    point = crash_at(0)
    store = CrashingStore(disk, point)
    for _ in range(2):
        with pytest.raises(Crash):
            await store.create(NEW)
    assert await disk.rows() == []
    assert "crash_at(0" in repr(point)


async def test_a_store_may_lose_an_answer_and_live():
    disk = MemoryStore()
    point = crash_at(0, landed=True, error=StoreUnavailableError(where="disk", problem="no answer"))
    store = CrashingStore(disk, point)
    with pytest.raises(StoreUnavailableError):
        await store.create(NEW)
    assert (point.fired, point.dead) == (True, False)
    assert not (await store.create(NEW)).is_new


async def test_every_method_of_a_store_goes_through_the_point():
    methods = [name for name, _ in inspect.getmembers(Store, inspect.isfunction) if not name.startswith("_")]
    for name in methods:
        if name == "close":
            await CrashingStore(MemoryStore(), crash_at(0)).close()
            continue
        parameters = inspect.signature(getattr(Store, name)).parameters.values()
        required = [one for one in parameters if one.default is one.empty and one.name != "self"]
        given = [None for one in required if one.kind is not one.KEYWORD_ONLY]
        named = {one.name: None for one in required if one.kind is one.KEYWORD_ONLY}
        with pytest.raises(Crash, match=name):
            await getattr(CrashingStore(MemoryStore(), crash_at(0)), name)(*given, **named)


def test_a_crash_is_no_error_that_anything_could_swallow():
    assert not issubclass(Crash, Exception)
