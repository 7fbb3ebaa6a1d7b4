"""Retention and facts for the SQLite store. Every function runs on a store's thread, inside a transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from agentspan.persistence import rules
from agentspan.persistence.sqlite_blobs import drop_owners, orphans
from agentspan.persistence.sqlite_rows import key
from agentspan.persistence.sqlite_threads import bytes_of, threads_of
from agentspan.persistence.sqlite_threads import remove as remove_threads

GC_BATCH = 50
"""Executions removed in one transaction, so that commits get their turn between two."""

# What an unfinished execution continues is kept until it ends: its conversation may not be copied yet. What one that has
# not begun will continue may be known only when it begins, so all of its session is kept until then.
_EXPIRED = (
    "SELECT id, execution_id FROM executions e WHERE unfinished = 0 AND updated_at < ? "
    "AND status IN (SELECT value FROM json_each(?)) "
    "AND id NOT IN (SELECT session_from FROM executions WHERE unfinished = 1 AND session_from IS NOT NULL) "
    "AND (session_id = '' OR NOT EXISTS (SELECT 1 FROM executions n WHERE n.agent = e.agent "
    "AND n.session_id = e.session_id AND n.session_id <> '' AND n.unfinished = 1 AND n.epoch = 0)) "
)
_FINISHED = json.dumps(sorted(rules.FINISHED))


@dataclass(slots=True)
class Removed:
    """What a sweep found."""

    execution_ids: list[str] = field(default_factory=list)
    records: int = 0
    blobs: int = 0
    bytes: int = 0

    def add(self, other: Removed) -> None:
        """Count another sweep's findings too."""
        self.execution_ids += other.execution_ids
        self.records += other.records
        self.blobs += other.blobs
        self.bytes += other.bytes


def expired(db: sqlite3.Connection, finished_before: float, limit: int) -> list[tuple[int, str]]:
    """Executions that can go: rowid and ID, oldest first."""
    found = db.execute(_EXPIRED + "ORDER BY updated_at, id LIMIT ?", (finished_before, _FINISHED, limit))
    return [(int(number), str(execution_id)) for number, execution_id in found]


def weigh(db: sqlite3.Connection, executions: Sequence[tuple[int, str]]) -> Removed:
    """What removing them would free."""
    removed = Removed(execution_ids=[execution_id for _, execution_id in executions])
    for number, _ in executions:
        count, size = db.execute(
            "SELECT count(*), total(length(body)) FROM records WHERE id >= ? AND id < ?",
            (key(number, 0), key(number + 1, 0)),
        ).fetchone()
        kept = db.execute("SELECT total(length(body)) FROM snapshots WHERE execution = ?", (number,)).fetchone()[0]
        removed.records += count
        removed.bytes += int(size + kept)
    threads = threads_of(db, removed.execution_ids)
    removed.bytes += sum(bytes_of(db, thread) for thread in threads)
    owners = [number for number, _ in executions] + [-thread for thread in threads]
    unneeded = orphans(db, owners)
    removed.blobs = len(unneeded)
    removed.bytes += sum(size for _, size in unneeded)
    return removed


def remove(db: sqlite3.Connection, executions: Sequence[tuple[int, str]], finished_before: float) -> Removed:
    """Remove those that still can go, with all that only they refer to."""
    numbers = json.dumps([number for number, _ in executions])
    still = _EXPIRED + "AND id IN (SELECT value FROM json_each(?))"
    doomed = db.execute(still, (finished_before, _FINISHED, numbers)).fetchall()
    removed = weigh(db, doomed)
    threads = threads_of(db, removed.execution_ids)
    drop_owners(db, [number for number, _ in doomed] + [-thread for thread in threads])
    remove_threads(db, threads)
    for number, _ in doomed:
        db.execute("DELETE FROM records WHERE id >= ? AND id < ?", (key(number, 0), key(number + 1, 0)))
        for table in ("snapshots", "pending", "inbox", "metadata"):
            db.execute(f"DELETE FROM {table} WHERE execution = ?", (number,))
        db.execute("DELETE FROM executions WHERE id = ?", (number,))
    return removed


def info(db: sqlite3.Connection) -> dict[str, Any]:
    """Schema version, size, executions by status, and threads."""
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    (page_bytes,) = db.execute("PRAGMA page_size").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    statuses = dict(db.execute("SELECT status, count(*) FROM executions GROUP BY status ORDER BY status").fetchall())
    (threads,) = db.execute("SELECT count(*) FROM threads").fetchone()
    return {
        "schema_version": version,
        "bytes": pages * page_bytes,
        "statuses": statuses,
        "threads": threads,
        "sqlite": sqlite3.sqlite_version,
    }
