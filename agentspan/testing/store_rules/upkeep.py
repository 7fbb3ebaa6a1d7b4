"""Deployments, retention, facts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from agentspan.persistence.store import DeploymentRow, Store
from agentspan.testing.store_rules.building import ask, begin, begin_asking, entry, finish, new, signal, step
from agentspan.testing.store_rules.values import BIG


def _deployment(deployment_id: str, **fields: Any) -> DeploymentRow:
    made: dict[str, Any] = {
        "agent": "helper",
        "kind": "agent",
        "source": "value",
        "reference": None,
        "code": b"\x80pickle",
        "signature": "sig",
        "spec": {"model": "m", "tools": [{"name": "t"}]},
        "python": "3.11",
        "created_at": 1.0,
    } | fields
    return DeploymentRow(deployment_id=deployment_id, **made)


class UpkeepRules:
    """Rules for what outlives executions, and for removing them."""

    async def test_the_deployment_saved_last_is_current(self, store: Store, reopen: Any) -> None:
        one, two = _deployment("d1"), _deployment("d2", source="reference", reference="m:a", code=None)
        assert await store.save_deployment(one)
        assert await store.save_deployment(two)
        assert await store.current_deployment("helper") == two
        assert await store.deployment("d1") == one
        assert not await store.save_deployment(replace(one, created_at=9.0))
        assert await (await reopen()).current_deployment("helper") == one
        assert await store.deployment("d9") is None
        assert await store.current_deployment("nobody") is None

    async def test_deployments_are_listed_by_name_without_their_code(self, store: Store) -> None:
        await store.save_deployment(_deployment("d1", agent="zoe"))
        await store.save_deployment(_deployment("d2", agent="adam"))
        await store.save_deployment(_deployment("d3", agent="zoe"))
        listed = await store.deployments()
        assert [(row.agent, row.deployment_id) for row in listed] == [("adam", "d2"), ("zoe", "d3")]
        assert [row.code for row in listed] == [None, None]
        assert listed[0].spec == {"model": "m", "tools": [{"name": "t"}]}

    async def test_a_dry_run_tells_what_gc_would_remove(self, store: Store) -> None:
        await begin(store, "old")
        await store.commit(step("old", entry(1, result=BIG), snapshot={"result": BIG}))
        await finish(store, "old", seq=2, updated_at=10.0)
        dry = await store.gc(finished_before=20.0)
        assert (dry.executions, dry.records, dry.blobs, dry.dry_run) == (1, 3, 1, True)
        assert list(dry.execution_ids) == ["old"]
        assert dry.bytes > len(BIG)
        assert (await store.row("old")).status == "COMPLETED"
        real = await store.gc(finished_before=20.0, dry_run=False)
        assert replace(real, dry_run=True) == dry
        assert await store.rows() == []
        assert (await store.gc(finished_before=20.0)).executions == 0

    async def test_gc_leaves_what_is_younger_unfinished_or_quarantined(self, store: Store) -> None:
        for name, updated_at in (("old", 10.0), ("young", 20.0)):
            await begin(store, name)
            await finish(store, name, updated_at=updated_at)
        await begin(store, "running", created_at=1.0)
        await begin(store, "damaged", created_at=1.0)
        await store.quarantine("damaged", error="x")
        assert list((await store.gc(finished_before=20.0, dry_run=False)).execution_ids) == ["old"]
        assert sorted(row.execution_id for row in await store.rows()) == ["damaged", "running", "young"]

    async def test_gc_keeps_big_values_that_others_refer_to(self, store: Store) -> None:
        for name in ("old", "kept"):
            await begin(store, name)
            await store.commit(step(name, entry(1, shared=BIG, own=name + BIG)))
        await finish(store, "old", seq=2, updated_at=1.0)
        assert (await store.gc(finished_before=5.0, dry_run=False)).blobs == 1
        assert (await store.load("kept")).entries[1].body == {"shared": BIG, "own": "kept" + BIG}
        await finish(store, "kept", seq=2, updated_at=1.0)
        assert (await store.gc(finished_before=5.0, dry_run=False)).blobs == 2

    async def test_gc_removes_the_oldest_first_up_to_a_limit(self, store: Store) -> None:
        for number in (2, 0, 1):
            await begin(store, f"e{number}")
            await finish(store, f"e{number}", updated_at=float(number))
        sweep = await store.gc(finished_before=9.0, dry_run=False, limit=2)
        assert list(sweep.execution_ids) == ["e0", "e1"]
        assert [row.execution_id for row in await store.rows()] == ["e2"]

    async def test_gc_keeps_what_an_unfinished_session_goes_on_from(self, store: Store) -> None:
        await begin(store, "first", session_id="s")
        await finish(store, "first", updated_at=1.0)
        await begin(store, "second", session_id="s")
        assert (await store.gc(finished_before=5.0, dry_run=False)).executions == 0
        await finish(store, "second", updated_at=1.0)
        assert (await store.gc(finished_before=5.0, dry_run=False)).executions == 2

    async def test_gc_keeps_a_session_while_one_of_it_has_not_begun(self, store: Store) -> None:
        await begin(store, "first", session_id="s")
        started = {"at": 2.0, "agent": "helper", "prompt": "hi", "session_id": "s", "session_from": ""}
        await store.create(new("later", session_id="s", started=started))
        await finish(store, "first", updated_at=1.0)
        assert (await store.gc(finished_before=5.0, dry_run=False)).executions == 0
        await store.take_over("later", host={"pid": 1})
        assert (await store.gc(finished_before=5.0, dry_run=False)).executions == 1

    async def test_after_gc_nothing_of_an_execution_is_left(self, store: Store) -> None:
        await begin_asking(store, ask("e1", "c1"))
        await store.send(signal("e1", "approve", signal_id="s1"))
        await finish(store, "e1", seq=2, updated_at=1.0)
        await store.gc(finished_before=5.0, dry_run=False)
        await begin(store, "e1")
        row = await store.row("e1")
        assert (row.seq, row.inbox, row.pending, row.metadata) == (0, 0, 0, {})
        assert len(await store.journal("e1")) == 1
        assert (await store.send(signal("e1", "message", signal_id="s1"))).signal.kind == "message"

    async def test_info_counts_by_status(self, store: Store) -> None:
        await store.create(new("e1"))
        await begin(store, "e2")
        await begin(store, "e3")
        facts = await store.info()
        assert facts["statuses"] == {"QUEUED": 1, "RUNNING": 2}
        assert {"kind", "where", "schema_version", "bytes"} <= facts.keys()

    async def test_close_can_be_called_twice(self, store: Store) -> None:
        await store.close()
        await store.close()
