"""Large values in the SQLite store: once each, kept while somebody refers to them.

Who refers is a number: an execution's own, or that of a thread, negated. Every function runs on a store's thread,
inside a transaction.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence

from agentspan.persistence.codec import blob_bytes


def keep_blobs(db: sqlite3.Connection, owner: int, blobs: Mapping[bytes, str | bytes]) -> int:
    """Store large values that are not there yet; returns the bytes written."""
    written = 0
    for content_hash, value in blobs.items():
        found = db.execute("SELECT id FROM blobs WHERE hash = ?", (content_hash,)).fetchone()
        if found is None:
            content = blob_bytes(value)
            blob = db.execute("INSERT INTO blobs (hash, body) VALUES (?, ?)", (content_hash, content)).lastrowid
            written += len(content)
        else:
            blob = found[0]
        db.execute("INSERT OR IGNORE INTO blob_refs VALUES (?, ?)", (owner, blob))
    return written


def orphans(db: sqlite3.Connection, owners: Sequence[int]) -> list[tuple[int, int]]:
    """The large values that nobody else refers to: rowid and size."""
    return db.execute(
        "SELECT DISTINCT r.blob, length(b.body) FROM blob_refs r JOIN blobs b ON b.id = r.blob "
        "WHERE r.execution IN (SELECT value FROM json_each(?1)) AND NOT EXISTS "
        "(SELECT 1 FROM blob_refs o WHERE o.blob = r.blob AND o.execution NOT IN (SELECT value FROM json_each(?1)))",
        (json.dumps(list(owners)),),
    ).fetchall()


def drop_owners(db: sqlite3.Connection, owners: Sequence[int]) -> None:
    """Remove all that these refer to and nobody else does."""
    unneeded = orphans(db, owners)
    db.executemany("DELETE FROM blob_refs WHERE execution = ?", [(owner,) for owner in owners])
    db.executemany("DELETE FROM blobs WHERE id = ?", [(blob,) for blob, _ in unneeded])


def keep_only(db: sqlite3.Connection, owner: int, hashes: Iterable[bytes]) -> None:
    """Remove what this owner refers to no longer, and nobody else does."""
    held = db.execute(
        "SELECT b.id, b.hash FROM blob_refs r JOIN blobs b ON b.id = r.blob WHERE r.execution = ?", (owner,)
    ).fetchall()
    needed = set(hashes)
    for blob, content_hash in held:
        if content_hash in needed:
            continue
        db.execute("DELETE FROM blob_refs WHERE execution = ? AND blob = ?", (owner, blob))
        db.execute("DELETE FROM blobs WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM blob_refs WHERE blob = ?1)", (blob,))


def refers(db: sqlite3.Connection, owner: int) -> bool:
    """Whether an owner refers to any large value."""
    return db.execute("SELECT 1 FROM blob_refs WHERE execution = ? LIMIT 1", (owner,)).fetchone() is not None
