"""Large values in the Postgres store: once each, kept while somebody refers to them.

Whoever adds a reference holds a lock that he shares with others who do, until his transaction ends; whoever removes
values holds it alone. So nobody refers to a value that is just being removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agentspan.persistence.codec import Large, blob_bytes
from agentspan.persistence.postgres_link import Batch, Work
from agentspan.persistence.postgres_session import Ask
from agentspan.persistence.thread_bodies import GetBlob

_LOCK = 0x41675370426C6F62
ADDING = Ask(f"SELECT pg_advisory_xact_lock_shared({_LOCK})")
"""Taken by who may add references."""
REMOVING = Ask(f"SELECT pg_advisory_xact_lock({_LOCK})")
"""Taken by who may remove values."""

_MARKS = (b"\xc7\x20\x05", b"\xc7\x20\x06")
"""How a reference to a large value begins in a body (`codec`): an extension of 32 bytes."""
_AT_ONCE = 32
"""Large values in one round: each may have many MB."""


def known(hashes: Iterable[bytes]) -> Ask:
    """Asks which of some large values are there: rows of their hash."""
    return Ask("SELECT hash FROM blobs WHERE hash = ANY(%b::bytea[])", (list(hashes),))


def keep(owner: int, blobs: Mapping[bytes, Large], there: Iterable[bytes]) -> Batch:
    """Store large values that are not there yet, and who refers to them."""
    missing = sorted(blobs.keys() - set(there))  # In one order for everybody, against deadlocks.
    batch = Batch(
        Ask(
            "INSERT INTO blobs (hash, body) VALUES (%b, %b) ON CONFLICT (hash) DO NOTHING",
            (content_hash, blob_bytes(blobs[content_hash])),
        )
        for content_hash in missing
    )
    batch.append(
        Ask(
            "INSERT INTO blob_refs SELECT %s::bigint, id FROM blobs WHERE hash = ANY(%b::bytea[]) ON CONFLICT DO NOTHING",
            (owner, list(blobs)),
        )
    )
    return batch


def size_of(blobs: Mapping[bytes, Large], there: Iterable[bytes]) -> int:
    """The bytes that `keep` writes."""
    return sum(len(blob_bytes(blobs[content_hash])) for content_hash in blobs.keys() - set(there))


def getter(bodies: Iterable[bytes]) -> Work[GetBlob]:
    """Read the large values that bodies refer to, and return what finds them by hash."""
    wanted: set[bytes] = set()
    for body in bodies:
        for mark in _MARKS:
            at = body.find(mark)
            while at >= 0:
                # It may be other bytes that only look like it; then nothing has that hash.
                wanted.add(body[at + 3 : at + 35])
                at = body.find(mark, at + 1)
    found: dict[bytes, bytes] = {}
    hashes = sorted(wanted)
    for start in range(0, len(hashes), _AT_ONCE):
        asked = hashes[start : start + _AT_ONCE]
        (answer,) = yield Batch([Ask("SELECT hash, body FROM blobs WHERE hash = ANY(%b::bytea[])", (asked,))])
        found |= {bytes(content_hash): bytes(body) for content_hash, body in answer.rows}
    return found.get


def drop_unneeded(owners: list[int]) -> list[Ask]:
    """Remove all that these refer to and nobody else does. Needs `REMOVING`."""
    return [
        Ask(
            "WITH mine AS (DELETE FROM blob_refs WHERE owner = ANY(%s::bigint[]) RETURNING blob) "
            "DELETE FROM blobs WHERE id IN (SELECT blob FROM mine) AND NOT EXISTS "
            "(SELECT 1 FROM blob_refs o WHERE o.blob = blobs.id AND o.owner <> ALL(%s::bigint[]))",
            (owners, owners),
        )
    ]


def keep_only(owner: int, hashes: Iterable[bytes]) -> list[Ask]:
    """Remove what this owner refers to no longer, and nobody else does. Needs `REMOVING`."""
    return [
        Ask(
            "WITH mine AS (DELETE FROM blob_refs r USING blobs b WHERE r.owner = %s AND b.id = r.blob "
            "AND b.hash <> ALL(%b::bytea[]) RETURNING r.blob) "
            "DELETE FROM blobs WHERE id IN (SELECT blob FROM mine) AND NOT EXISTS "
            "(SELECT 1 FROM blob_refs o WHERE o.blob = blobs.id AND o.owner <> %s)",
            (owner, list(hashes), owner),
        )
    ]
