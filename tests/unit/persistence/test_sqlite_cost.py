"""A step costs O(step), in bytes (P8)."""

from __future__ import annotations

from pathlib import Path

from agentspan.persistence.sqlite import SqliteStore
from agentspan.persistence.sqlite_file import log_bytes
from agentspan.testing.store_rules.building import begin, entry, step


async def written_by(store: SqliteStore, first: int, steps: int, pad: int) -> float:
    before = log_bytes(store.path)
    for seq in range(first, first + steps):
        await store.commit(step("e1", entry(seq, text="x" * pad), current_task=f"model:turn-{seq}"))
    return (log_bytes(store.path) - before) / steps


async def test_a_step_writes_few_pages_however_long_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with SqliteStore.open(path) as store:
        await begin(store)
        early = await written_by(store, 1, 20, pad=250)
        await store.commit(step("e1", *(entry(seq, text="x" * 250) for seq in range(21, 2021))))
        late = await written_by(store, 2021, 20, pad=250)
        assert early < 4_000
        assert late < 5_000
        assert await written_by(store, 2041, 20, pad=2000) < 7_000


async def test_a_big_prompt_is_not_written_again_by_snapshots(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    prompt = "Wort " * 400_000
    async with SqliteStore.open(path) as store:
        await begin(store, started={"at": 1.0, "agent": "helper", "prompt": prompt})
        size = log_bytes(path)
        for seq in range(1, 11):
            await store.commit(step("e1", entry(seq), snapshot={"prompt": prompt, "n": seq}))
        assert log_bytes(path) - size < 200_000
        loaded = await store.load("e1")
        assert loaded.snapshot == {"prompt": prompt, "n": 10}
