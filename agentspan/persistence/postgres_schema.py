"""Making and migrating the tables of the Postgres store.

Migrations are numbered, only go forward, and each is one transaction under a lock that ends with it, so any number of
processes may open the same new database at once, also through a proxy.
"""

from __future__ import annotations

from importlib import resources

import psycopg

from agentspan.errors import ConfigurationError, StoreVersionError
from agentspan.persistence.postgres_session import connect, legible_problem, unavailable
from agentspan.persistence.postgres_url import PostgresTarget

SCHEMA_VERSION = 1
"""The last migration. 1: first release."""
_LOCK = 0x416753704D696772
_DENIED = ("42501",)
"""insufficient_privilege: trying again will not help."""


def prepare(target: PostgresTarget) -> None:
    """Bring the database up to date, over a connection of its own.

    Raises:
        ConfigurationError: The schema belongs to another program, or may not be made.
        StoreVersionError: A newer AgentSpan made it. Nothing was changed.
        StoreUnavailableError: The server cannot be reached now.
    """
    db = connect(target)
    try:
        db.execute("SELECT 1")
        while _version(db, target) < SCHEMA_VERSION:
            _migrate_once(db, target)
    except psycopg.Error as problem:
        if problem.sqlstate in _DENIED:
            text = legible_problem(target, problem)
            raise ConfigurationError(
                problem=f"The Postgres store at {target.where} cannot be made: {text}. Let its user make the schema "
                f"{target.schema!r}, or make it for him."
            ) from None
        raise unavailable(target, problem) from None
    finally:
        db.close()


def _version(db: psycopg.Connection[tuple[object, ...]], target: PostgresTarget) -> int:
    tables = [
        str(name)
        for (name,) in db.execute(
            "SELECT c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
            "WHERE n.nspname = %s AND c.relkind IN ('r', 'v', 'm', 'f', 'p')",
            (target.schema,),
        )
    ]
    if "agentspan_store" not in tables:
        if tables:
            raise ConfigurationError(
                problem=f"The schema {target.schema!r} at {target.where} holds the tables of another program. Nothing "
                "was changed; give another one (?schema=…)."
            )
        return 0
    found = db.execute(f'SELECT version FROM "{target.schema}".agentspan_store').fetchone()
    version = int(str(found[0])) if found is not None else 0
    if version > SCHEMA_VERSION:
        raise StoreVersionError(where=target.where, found=version, known=SCHEMA_VERSION)
    return version


def _migrate_once(db: psycopg.Connection[tuple[object, ...]], target: PostgresTarget) -> None:
    """Apply the next migration, unless another process has."""
    with db.transaction():
        db.execute("SELECT set_config('statement_timeout', %s, true)", (str(int(target.timeout_s * 1000)),))
        db.execute(f"SELECT pg_advisory_xact_lock({_LOCK})")
        version = _version(db, target)
        if version >= SCHEMA_VERSION:
            return
        if db.execute("SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = %s", (target.schema,)).fetchone() is None:
            db.execute(f'CREATE SCHEMA "{target.schema}"')
        db.execute(f'SET LOCAL search_path = "{target.schema}"')
        db.execute(_migration(version + 1).encode())
        db.execute("UPDATE agentspan_store SET version = %s", (version + 1,))


def _migration(number: int) -> str:
    folder = resources.files("agentspan.persistence") / "migrations" / "postgres"
    (file,) = [entry for entry in folder.iterdir() if entry.name.startswith(f"{number:04}_")]
    return file.read_text(encoding="utf-8")
