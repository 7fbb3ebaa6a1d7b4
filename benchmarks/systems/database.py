"""A Postgres server for one system, the same for all: fsync and synchronous_commit on, on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.postgres import PostgresServer

KEPT = "postgres.url"
"""The file in a system's folder that says where its server is: URL, version, folder."""


@contextmanager
def postgres(folder: Path) -> Iterator[tuple[str, str]]:
    """A server for as long as this lasts. Yields a URL and the version."""
    kept = folder / KEPT
    if kept.exists():
        # The process that started it was killed; the server, another process, went on.
        url, version, _ = kept.read_text().splitlines()
        yield url, version
        return
    server = PostgresServer()
    try:
        server.start()
        with server.admin() as db:
            row = db.execute("SHOW server_version").fetchone()
            assert db.execute("SHOW synchronous_commit").fetchone() == ("on",)
        assert row is not None
        kept.write_text(f"{server.url()}\n{row[0]}\n{server.folder}\n")
        yield server.url(), str(row[0])
    finally:
        server.dispose()
