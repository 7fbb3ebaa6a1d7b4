"""The large values of a memory store."""

from __future__ import annotations

from agentspan.persistence.codec import BlobMemo, Large, blob_bytes


class Blobs:
    """Large values by hash."""

    def __init__(self) -> None:
        self.memo = BlobMemo()
        self.kept: dict[bytes, bytes] = {}

    def get(self, content_hash: bytes) -> bytes | None:
        """One value."""
        return self.kept.get(content_hash)

    def add(self, content_hash: bytes, value: Large) -> int:
        """Keep a value; returns the bytes written."""
        if content_hash in self.kept:
            return 0
        self.kept[content_hash] = blob_bytes(value)
        return len(self.kept[content_hash])

    def drop(self, content_hashes: set[bytes]) -> None:
        """Remove values that nobody refers to."""
        for content_hash in content_hashes:
            self.kept.pop(content_hash, None)
