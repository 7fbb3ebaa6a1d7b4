"""Under a steady load a store that is swept stays as large as it is, whatever executions leave behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from agentspan.persistence.memory import MemoryStore
from agentspan.persistence.postgres import PostgresStore
from agentspan.persistence.sqlite import SqliteStore
from agentspan.persistence.sqlite_file import CHECKPOINT_PAGES, PAGE_BYTES
from agentspan.persistence.store import Store
from agentspan.testing.store_rules.building import ask, begin, entry, finish, new, signal, step
from agentspan.testing.store_rules.threads import point, these, wrote
from agentspan.testing.store_rules.values import BIG
from tests.support.postgres import PostgresServer

EACH_ROUND = 4
KEPT_ROUNDS = 2
WARM_ROUNDS = 5
ROUNDS = 13
MORE_MAX = 1.15
"""How much larger it may be than when the first executions had been removed: pages that are half full, not rows that stay."""


async def live(store: Store, name: str, at: float, session: str) -> None:
    """One execution with everything that executions leave in a store: records, a snapshot, a thread, large values of its own
    and shared ones, a question and its answer, metadata."""
    await store.create(new(name, session_id=session, metadata={"for": name}, created_at=at, idempotency_key=name))
    await store.take_over(name, host={"pid": 1})
    await store.commit(
        step(name, entry(1, own=name + BIG, shared=BIG), opens=[ask(name, "c1")], snapshot={"text": name * 50})
    )
    await store.send(signal(name, "approve", signal_id=f"s-{name}", call_id="c1"))
    thread = these(point("p1", text=name * 100), wrote("p1", "task", 0, name + BIG, ns="sub"))
    await store.commit(step(name, entry(2), thread=thread, consumed=[f"s-{name}"], closes=["c1"]))
    await finish(store, name, seq=3, updated_at=at)


async def sizes(store: Store, size: Callable[[], int | None]) -> list[int]:
    """The store's size after each round, with a sweep in each."""
    found = []
    await begin(store, "open", created_at=0.0)
    for number in range(ROUNDS):
        for one in range(EACH_ROUND):
            await live(store, f"e-{number:03}-{one}", float(number), f"session-{one}")
        await store.gc(finished_before=float(number - KEPT_ROUNDS), dry_run=False)
        found.append(size() or int((await store.info())["bytes"]))
    assert len(await store.rows(limit=1000)) == EACH_ROUND * (KEPT_ROUNDS + 1) + 1
    return found


def assert_level(found: list[int]) -> None:
    warm = max(found[:WARM_ROUNDS])
    assert max(found[WARM_ROUNDS:]) <= warm * MORE_MAX, found
    assert warm > 20_000, found


async def test_a_sqlite_store_stays_as_large_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with SqliteStore.open(path) as store:
        found = await sizes(store, lambda: None)
        assert_level(found)
        log = path.with_name("store.db-wal").stat().st_size
        assert log < 2 * CHECKPOINT_PAGES * PAGE_BYTES, "the log is moved into the file again and again"
    assert path.stat().st_size == found[-1]


async def test_a_postgres_store_stays_as_large_as_it_is(postgres: PostgresServer) -> None:
    store = await PostgresStore.connect(postgres.emptied_url())

    def vacuumed() -> None:
        with postgres.admin() as db:  # What autovacuum does, without the wait for it.
            tables = db.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'shared'").fetchall()
            db.execute(f"VACUUM {', '.join(f'shared.{name}' for (name,) in tables)}")

    try:
        assert_level(await sizes(store, vacuumed))
    finally:
        await store.close()


async def test_a_store_in_memory_stays_as_large_as_it_is() -> None:
    assert_level(await sizes(MemoryStore(), lambda: None))
