"""From a store URL to a store."""

from __future__ import annotations

from pathlib import Path

from agentspan.errors import ConfigurationError
from agentspan.persistence.postgres_url import is_postgres, read_url, without_password
from agentspan.persistence.store import Store

_FORMS = (
    "Give the path of a file, sqlite:///relative/path, sqlite:////absolute/path, or "
    "postgresql://user:password@host:5432/database"
)


async def open_store(url: str | Path, *, inline: bool = False) -> Store:
    """Open the store a setting names, on the running event loop.

    Args:
        url: The path of a SQLite file, or `sqlite:///` and its path (so an absolute one has four slashes), or
            `postgresql://…` (see `PostgresStore.connect`).
        inline: The running loop serves nothing but this store, so one that waits for the disk may do so on its thread.

    Raises:
        ConfigurationError: This version has no such store, or its driver is not installed.
        StoreVersionError, StoreUnavailableError: As `SqliteStore.connect` and `PostgresStore.connect`.
    """
    if isinstance(url, str) and is_postgres(url):
        return await _postgres(url)
    from agentspan.persistence.sqlite import InlineSqliteStore, SqliteStore

    kind = InlineSqliteStore if inline else SqliteStore
    return await kind.connect(sqlite_path(url))


async def _postgres(url: str) -> Store:
    target = read_url(url)
    try:
        import psycopg
    except ImportError as problem:
        # It says so too when it is there without the C library it needs.
        raise ConfigurationError(
            problem=f"The Postgres store at {target.where} needs a driver: pip install 'agentspan[postgres]'"
        ) from problem
    del psycopg
    from agentspan.persistence.postgres import PostgresStore

    return await PostgresStore.connect(target)


def sqlite_path(url: str | Path) -> Path:
    """The file a store URL means. Raises ConfigurationError."""
    if isinstance(url, Path):
        return url
    if url.startswith(("memory:", ":memory:")) or url in ("memory", "sqlite://", "sqlite:///:memory:"):
        raise ConfigurationError(
            problem=f"A store in memory ({url}) belongs to one process, and executions run in others. {_FORMS}; "
            "in tests, pass a MemoryStore to the driver."
        )
    if is_postgres(url):
        raise ConfigurationError(problem=f"{without_password(url)} is a Postgres server, not a file.")
    if url.startswith("sqlite:///"):
        path = url.removeprefix("sqlite:///")
    elif "://" in url or url.startswith(("sqlite:", "file:")):
        raise ConfigurationError(problem=f"{url!r} is not a store AgentSpan knows. {_FORMS}.")
    else:
        path = url
    if not path or path.endswith("/"):
        raise ConfigurationError(problem=f"{url!r} names no file. {_FORMS}.")
    return Path(path)
