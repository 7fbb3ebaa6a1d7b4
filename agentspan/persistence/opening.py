"""From a store URL to a store."""

from __future__ import annotations

from pathlib import Path

from agentspan.errors import ConfigurationError
from agentspan.persistence.store import Store

_FORMS = "Give the path of a file, or sqlite:///relative/path or sqlite:////absolute/path"


async def open_store(url: str | Path) -> Store:
    """Open the store a setting names, on the running event loop.

    Args:
        url: The path of a SQLite file, or `sqlite:///` and its path (so an absolute one has four slashes).

    Raises:
        ConfigurationError: This version has no such store.
        StoreVersionError, StoreUnavailableError: As `SqliteStore.connect`.
    """
    from agentspan.persistence.sqlite import SqliteStore

    return await SqliteStore.connect(sqlite_path(url))


def sqlite_path(url: str | Path) -> Path:
    """The file a store URL means. Raises ConfigurationError."""
    if isinstance(url, Path):
        return url
    if url.startswith(("memory:", ":memory:")) or url in ("memory", "sqlite://", "sqlite:///:memory:"):
        raise ConfigurationError(
            problem=f"A store in memory ({url}) belongs to one process, and executions run in others. {_FORMS}; "
            "in tests, pass a MemoryStore to the driver."
        )
    if url.startswith(("postgres://", "postgresql://", "postgresql+")):
        raise ConfigurationError(problem=f"This version of AgentSpan has no Postgres store yet. {_FORMS}.")
    if url.startswith("sqlite:///"):
        path = url.removeprefix("sqlite:///")
    elif "://" in url or url.startswith(("sqlite:", "file:")):
        raise ConfigurationError(problem=f"{url!r} is not a store AgentSpan knows. {_FORMS}.")
    else:
        path = url
    if not path or path.endswith("/"):
        raise ConfigurationError(problem=f"{url!r} names no file. {_FORMS}.")
    return Path(path)
