"""What a durable step costs beyond the database itself.

    python benchmarks/commit_cost.py [--dir DIR] [--samples 300] [--rounds 5]

Compares, alternating in the same run on the same disk and with the same settings (WAL, synchronous=FULL, page size):

* bare: one INSERT of 2 kB and COMMIT with the sqlite3 module, on the calling thread;
* store: `SqliteStore.commit` of one record of 2 kB, awaited on an event loop: packing, fencing, the record, the row.

Prints p50 and p99 of both per round, the ratio of the medians, and the bytes a step adds to the write-ahead log.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sqlite3
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from agentspan.persistence.sqlite import SqliteStore
from agentspan.persistence.sqlite_file import CHECKPOINT_PAGES, JOURNAL_BYTES_MAX, PAGE_BYTES, log_bytes
from agentspan.persistence.store import Commit, JournalEntry, NewExecution, RowChange

BODY_BYTES = 2000


def bare_database(path: Path, page_bytes: int) -> sqlite3.Connection:
    """A database with the store's settings and one table."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute(f"PRAGMA page_size = {page_bytes}")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    db.execute(f"PRAGMA journal_size_limit = {JOURNAL_BYTES_MAX}")
    db.execute("CREATE TABLE records (id INTEGER PRIMARY KEY, body BLOB NOT NULL)")
    return db


def bare_commit(db: sqlite3.Connection, number: int, body: bytes) -> float:
    """Seconds of one bare insert and commit."""
    began = time.perf_counter()
    db.execute("BEGIN IMMEDIATE")
    db.execute("INSERT INTO records VALUES (?, ?)", (number, body))
    db.execute("COMMIT")
    return time.perf_counter() - began


def step(execution_id: str, seq: int, body: dict[str, Any]) -> Commit:
    """A commit of one record, as a tool result makes it."""
    return Commit(
        execution_id=execution_id,
        epoch=1,
        entries=[JournalEntry(seq=seq, kind="tool", body=body, events_to=seq + 1)],
        seq=seq,
        change=RowChange(status="RUNNING", updated_at=time.time(), current_task=f"model:turn-{seq}"),
    )


def tool_body(size: int) -> dict[str, Any]:
    """The body of a tool record of about `size` bytes."""
    result = os.urandom(size // 2).hex()[: max(0, size - 90)]
    return {"at": time.time(), "call_id": "call_8f3a", "name": "search", "result": result, "seconds": 0.25}


async def begin(store: SqliteStore, execution_id: str) -> None:
    """An execution ready for its first step."""
    await store.create(
        NewExecution(
            execution_id=execution_id,
            request_id=execution_id,
            agent="bench",
            deployment_id="d" * 64,
            started={"at": time.time(), "agent": "bench", "prompt": "Refund order 8821"},
            created_at=time.time(),
        )
    )
    await store.take_over(execution_id, host={"actor": "a" * 32, "pid": os.getpid(), "node": "n" * 56})


def told(name: str, seconds: list[float]) -> str:
    """p50 and p99 in microseconds."""
    ordered = sorted(seconds)
    return f"{name} p50 {ordered[len(ordered) // 2] * 1e6:6.0f}  p99 {ordered[int(len(ordered) * 0.99)] * 1e6:6.0f} us"


async def compare(folder: Path, samples: int, rounds: int) -> None:
    """Run both, alternating sample by sample."""
    db = bare_database(folder / "bare.db", PAGE_BYTES)
    bare_all: list[float] = []
    store_all: list[float] = []
    async with SqliteStore.open(folder / "store.db") as store:
        for number in range(rounds):
            execution_id = f"{number:032x}"
            await begin(store, execution_id)
            bare: list[float] = []
            ours: list[float] = []
            for seq in range(1, samples + 1):
                body = tool_body(BODY_BYTES)
                bare.append(bare_commit(db, number * samples + seq, os.urandom(BODY_BYTES)))
                commit = step(execution_id, seq, body)
                began = time.perf_counter()
                await store.commit(commit)
                ours.append(time.perf_counter() - began)
            ratio = statistics.median(ours) / statistics.median(bare)
            print(f"round {number + 1}: {told('bare', bare)} | {told('store', ours)} | ratio {ratio:.2f}")
            bare_all += bare
            store_all += ours
    db.close()
    ratio = statistics.median(store_all) / statistics.median(bare_all)
    print(f"all:     {told('bare', bare_all)} | {told('store', store_all)} | ratio of medians {ratio:.2f}")


async def bytes_per_step(folder: Path, body_bytes: int, executions: int, steps: int = 20) -> None:
    """What `steps` steps of each of some executions, in turn, add to the log."""
    path = folder / f"bytes-{body_bytes}-{executions}.db"
    async with SqliteStore.open(path) as store:
        for number in range(executions):
            await begin(store, f"{number:032x}")
        before, groups = log_bytes(path), store.transactions
        for seq in range(1, steps + 1):
            for number in range(executions):
                await store.commit(step(f"{number:032x}", seq, tool_body(body_bytes)))
        written = (log_bytes(path) - before) / (steps * executions)
        assert store.transactions - groups == steps * executions
    print(f"bytes per step: {body_bytes} B records, {executions:2} executions in turn, {steps} steps: {written:.0f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", default=None, help="where to put the files (default: the temporary directory)")
    parser.add_argument("--samples", type=int, default=300, help="commits of each kind per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--uvloop", action="store_true", help="on uvloop, as in an actor")
    given = parser.parse_args()
    print(
        f"{platform.machine()} {platform.system()} {platform.release()}, {os.cpu_count()} cores; "
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, aiosqlite {version('aiosqlite')}, "
        f"ormsgpack {version('ormsgpack')}; page {PAGE_BYTES} B; {'uvloop' if given.uvloop else 'asyncio'}"
    )
    with tempfile.TemporaryDirectory(dir=given.dir) as folder:
        if given.uvloop:
            import uvloop

            run: Any = uvloop.run
        else:
            run = asyncio.run
        run(compare(Path(folder), given.samples, given.rounds))
        for body_bytes, executions in ((300, 1), (300, 20), (2000, 1), (2000, 20)):
            run(bytes_per_step(Path(folder), body_bytes, executions))


if __name__ == "__main__":
    sys.exit(main())
