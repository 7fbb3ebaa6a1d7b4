"""What can be stored, and that it comes back as it was."""

from __future__ import annotations

import math
from typing import Any

import pytest

from agentspan.errors import StaleEpochError, UnstorableValueError
from agentspan.persistence.store import Store
from agentspan.testing.store_rules.building import ask, begin, begin_asking, entry, finish, new, signal, step

BIG = "Wörter " * 20_000
VALUES: dict[str, Any] = {
    "none": None,
    "empty": ["", [], {}, b"", ()],
    "flags": [True, False, 0, 1],
    "ints": [2**63 - 1, -(2**63), 2**64 - 1, 2**64, -(2**63) - 1, 10**100, -(10**100)],
    "floats": [0.1, -0.0, 1e308, float("inf"), float("-inf")],
    "tuples": (1, ("a", [(None,)]), ()),
    "bytes": b"\x00\xff",
    "unicode": "日本語 🎉 é \x00 \u2028",
    "lone surrogate": "cut \ud83d off",
    "odd keys": {"": 1, "a b": 2, "\ud83d": {"\udc00": ["\ud800"]}},
    "big text": BIG,
    "big bytes": b"\x07" * 50_000,
    "big odd text": "\ud83d" * 20_000,
    "big in tuple": ({"deep": [BIG]},),
    "big list": [{"n": number} for number in range(3000)],
    "nested": [[[[[[[[[[[[[[[[["deep"]]]]]]]]]]]]]]]]],
}


class ValueRules:
    """Rules for bodies."""

    async def test_plain_data_comes_back_as_it_was(self, store: Store) -> None:
        await begin(store)
        await store.commit(step("e1", entry(1, **VALUES), snapshot=VALUES))
        loaded = await store.load("e1")
        (_, written) = await store.journal("e1")
        assert written.body == VALUES
        assert loaded.snapshot == VALUES
        assert type(written.body["tuples"]) is tuple
        assert type(written.body["flags"][0]) is bool

    async def test_a_nan_comes_back(self, store: Store) -> None:
        await begin(store)
        await store.commit(step("e1", entry(1, value=float("nan"))))
        assert math.isnan((await store.journal("e1"))[1].body["value"])

    async def test_signals_calls_and_metadata_keep_their_values(self, store: Store) -> None:
        await store.create(new("e0", metadata=VALUES))
        await begin_asking(store, ask("e1", "c1", arguments=VALUES, question="\ud83d?"))
        await store.send(signal("e1", "message", value=VALUES, text="\ud83d", by="ann"))
        assert (await store.row("e0")).metadata == VALUES
        assert (await store.pending("e1"))[0].arguments == VALUES
        (received,) = await store.inbox("e1")
        assert (received.value, received.text, received.by, received.at) == (VALUES, "\ud83d", "ann", 1002.0)

    async def test_texts_for_people_never_fail_a_commit(self, store: Store) -> None:
        await begin(store)
        await finish(store, "e1", status="FAILED", error="cut \ud83d off", current_task="\ud83d")
        row = await store.row("e1")
        assert (row.error, row.current_task) == ("cut ? off", "?")

    async def test_a_name_without_utf8_is_refused(self, store: Store) -> None:
        with pytest.raises(UnstorableValueError) as caught:
            await store.create(new("e1", session_id="\ud83d"))
        assert caught.value.path == "$.session_id"

    async def test_what_is_not_plain_data_is_named_by_its_path(self, store: Store) -> None:
        class Session:
            pass

        await begin(store)
        cases: dict[str, dict[str, Any]] = {
            "$.messages[3].artifact": {"messages": [0, 1, 2, {"artifact": Session()}]},
            "$.a['b c']": {"a": {"b c": {1, 2}}},
            "$.keys": {"keys": {1: "x"}},
            "$.pair[1]": {"pair": (1, Session())},
            "$.after_big[0]": {"big": BIG, "after_big": [Session]},
        }
        for path, body in cases.items():
            with pytest.raises(UnstorableValueError) as caught:
                await store.commit(step("e1", entry(1, **body)))
            assert caught.value.path == path
        with pytest.raises(UnstorableValueError):
            await store.send(signal("e1", "message", value=Session()))
        with pytest.raises(UnstorableValueError):
            await store.create(new("e2", metadata={"session": Session()}))
        assert (await store.row("e1")).seq == 0

    async def test_a_value_inside_itself_is_refused(self, store: Store) -> None:
        await begin(store)
        endless: list[Any] = []
        endless.append(endless)
        with pytest.raises(UnstorableValueError) as caught:
            await store.commit(step("e1", entry(1, endless=endless)))
        assert "levels deep" in str(caught.value)

    async def test_what_fits_a_record_fits_a_snapshot_around_it(self, store: Store) -> None:
        await begin(store)
        value: Any = "core"
        accepted = None
        for _ in range(300):
            try:
                await store.commit(step("e1", entry(1, value=[value]), epoch=9))
            except UnstorableValueError:
                break
            except StaleEpochError:  # The epoch is wrong on purpose: only packing is tried.
                accepted = value = [value]
        assert accepted is not None
        around = {"frames": {"": {"calls": [{"plan": {"result": {"value": [accepted]}}}]}}}
        await store.commit(step("e1", entry(1), snapshot=around))
        assert (await store.load("e1")).snapshot == around

    async def test_a_big_value_is_stored_once(self, store: Store) -> None:
        started = {"at": 1.0, "agent": "helper", "prompt": BIG}
        await store.create(new("e1", started=started))
        await store.take_over("e1", host={})
        first = await store.commit(step("e1", entry(1, result=BIG + "!")))
        equal = "".join([BIG, "!"])
        around = {"prompt": BIG, "again": [BIG]}
        again = await store.commit(step("e1", entry(2, result=equal), snapshot=around))
        assert first.bytes_written > len(BIG)
        assert again.bytes_written < 1000
        assert again.snapshot_bytes < 1000
        loaded = await store.load("e1")
        assert loaded.snapshot == around
        assert (await store.journal("e1"))[0].body["prompt"] == BIG

    async def test_a_listing_keeps_big_metadata(self, store: Store) -> None:
        await store.create(new("e1", metadata={"notes": BIG}))
        assert (await store.rows())[0].metadata == {"notes": BIG}
