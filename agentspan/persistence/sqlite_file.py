"""Opening a SQLite file: is it ours, is it of this version, and bringing it up to date.

A file is looked at before anything in it is changed. Migrations are numbered, only go forward, and each is one
transaction that checks the version again once it holds the write lock, so any number of processes may open the same
new file at once.
"""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from agentspan.errors import ConfigurationError, StoreUnavailableError, StoreVersionError

SCHEMA_VERSION = 3
"""The last migration. 1: first release. 2: threads. 3: a shorter index of threads."""
APPLICATION_ID = 0x41675370
"""Marks a file as an AgentSpan store ("AgSp")."""
PAGE_BYTES = 512
"""Small, because a commit writes whole pages, and mostly little is new in each. Only new files get it."""
CHECKPOINT_PAGES = 8192
"""Pages in the write-ahead log at which a commit moves them into the file: 4 MB. The log starts over then."""
JOURNAL_BYTES_MAX = 16 * 1024 * 1024
"""What is kept of the log's file after a burst."""
READ_TIMEOUT_S = 10.0
"""How long a read waits for the file to be usable (another process recovers or closes it)."""

_LOG_HEAD_BYTES, _FRAME_HEAD_BYTES = 32, 24
"""Of the write-ahead log and of a page in it (sqlite.org/fileformat2.html, section 4)."""

PATIENT_TRIES = 500
"""Tries after which whoever holds the lock is not committing a step but doing something long."""

T = TypeVar("T")


def open_writer(path: Path, deadline_s: float) -> sqlite3.Connection:
    """Open the file for writing; make it, or migrate it, if need be.

    Raises:
        ConfigurationError: Something else lives at `path`.
        StoreVersionError: A newer AgentSpan wrote it. Nothing was changed.
        StoreUnavailableError: It cannot be opened now.
    """
    return _opened(path, lambda: _prepare(path, deadline_s))


def open_reader(path: Path) -> sqlite3.Connection:
    """Open a second connection that never writes, so that readers do not wait for the writer. The file is migrated."""

    def opening() -> sqlite3.Connection:
        db = _connect(path)
        db.execute(f"PRAGMA busy_timeout = {int(READ_TIMEOUT_S * 1000)}")
        db.execute("PRAGMA query_only = 1")
        return db

    return _opened(path, opening)


def _opened(path: Path, opening: Callable[[], sqlite3.Connection]) -> sqlite3.Connection:
    try:
        return opening()
    except sqlite3.DatabaseError as problem:
        # SQLite says so on the first read of a file that is something else, or is damaged in its first page.
        if "not a database" in str(problem) or "malformed" in str(problem):
            raise ConfigurationError(
                problem=f"{path} is not an AgentSpan store: {problem}. Nothing was changed; give another path."
            ) from problem
        raise StoreUnavailableError(where=str(path), problem=str(problem)) from problem
    except OSError as problem:
        raise StoreUnavailableError(where=str(path), problem=str(problem)) from problem


def _connect(path: Path) -> sqlite3.Connection:
    # isolation_level None: transactions begin and end where the code says so.
    return sqlite3.connect(path, timeout=0, isolation_level=None)


def _prepare(path: Path, deadline_s: float) -> sqlite3.Connection:
    if path.is_dir():
        raise ConfigurationError(problem=f"{path} is a directory; the store needs the path of a file.")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Prompts and results are in it, so it is made for its owner's eyes only; SQLite gives its side files the same mode.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600))
    db = _connect(path)
    try:
        until = time.monotonic() + deadline_s
        patiently(lambda: _check_origin(db, path), until)
        db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        patiently(lambda: db.execute("PRAGMA journal_mode = WAL").fetchall(), until)
        db.execute("PRAGMA synchronous = FULL")
        db.execute(f"PRAGMA wal_autocheckpoint = {_log_pages(db)}")
        db.execute(f"PRAGMA journal_size_limit = {JOURNAL_BYTES_MAX}")
        while patiently(lambda: _schema_version(db), until) < SCHEMA_VERSION:
            patiently(lambda: _migrate_once(db, path), until)
        patiently(lambda: _reserve_log(db, path), until)
    except BaseException:
        db.close()
        raise
    return db


def _reserve_log(db: sqlite3.Connection, path: Path) -> None:
    """Give the log the length it has when it starts over.

    A commit that makes a file longer flushes the file system's own journal as well, which takes as long as the flush of
    the commit. Zeros behind the last frame end the log for SQLite, as the end of the file does.
    """
    log = Path(f"{path.resolve()}-wal")
    wanted = _LOG_HEAD_BYTES + _log_pages(db) * (_FRAME_HEAD_BYTES + _page_bytes(db))
    with contextlib.suppress(OSError):  # It is for speed only; a full disk says so when there is something to store.
        if log.stat().st_size >= wanted:
            return
        db.execute("BEGIN IMMEDIATE")  # Nobody else changes its length meanwhile.
        try:
            with log.open("r+b", buffering=0) as file:
                file.write(bytes(max(0, wanted - file.seek(0, os.SEEK_END))))
                os.fsync(file.fileno())
        finally:
            db.execute("ROLLBACK")


def log_bytes(path: Path) -> int:
    """The bytes of the log that are in use: of its frames since it started over. While nobody writes."""
    with path.with_name(f"{path.name}-wal").open("rb") as file:
        head = file.read(_LOG_HEAD_BYTES)
        if not any(head):
            return 0
        frame_bytes = _FRAME_HEAD_BYTES + int.from_bytes(head[8:12])
        used = len(head)
        while file.read(frame_bytes)[8:16] == head[16:24]:  # The salts; a frame of an earlier round has others.
            used += frame_bytes
    return used


def _log_pages(db: sqlite3.Connection) -> int:
    return CHECKPOINT_PAGES * PAGE_BYTES // _page_bytes(db)


def _page_bytes(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA page_size").fetchone()[0])


def _schema_version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _check_origin(db: sqlite3.Connection, path: Path) -> None:
    # The tables first: another process may be migrating, and tables that can be seen have their owner's mark already.
    tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    origin = int(db.execute("PRAGMA application_id").fetchone()[0])
    version = _schema_version(db)
    if tables and origin != APPLICATION_ID:
        raise ConfigurationError(
            problem=f"{path} is the SQLite database of another program. Nothing was changed; give another path."
        )
    if version > SCHEMA_VERSION:
        raise StoreVersionError(where=str(path), found=version, known=SCHEMA_VERSION)


def _migrate_once(db: sqlite3.Connection, path: Path) -> None:
    """Apply the next migration, unless another process has."""
    db.execute("BEGIN IMMEDIATE")
    try:
        _check_origin(db, path)
        version = _schema_version(db)
        if version < SCHEMA_VERSION:
            for statement in statements(migration(version + 1)):
                db.execute(statement)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {version + 1}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def migration(number: int) -> str:
    """The text of a migration."""
    from importlib import resources  # Only a new or old file needs it; an actor's start does not.

    folder = resources.files("agentspan.persistence") / "migrations" / "sqlite"
    (file,) = [entry for entry in folder.iterdir() if entry.name.startswith(f"{number:04}_")]
    return file.read_text(encoding="utf-8")


def statements(script: str) -> Iterator[str]:
    """The statements of a script. `executescript` would commit the transaction they have to be part of."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if any(line and not line.startswith("--") for line in map(str.strip, statement.splitlines())):
        raise ValueError(f"a migration ends inside a statement: {statement[:100]!r}")


def patiently(call: Callable[[], T], until: float) -> T:
    """Repeat what finds the file locked by another process, until an instant of the monotonic clock.

    SQLite's own busy handler waits longer the more often it was refused, up to 100 ms: with 32 writers whose
    transactions take a fraction of a millisecond the unlucky ones waited for seconds. With waits that stay short and
    random they do not.
    """
    tries = 0
    while True:
        try:
            return call()
        except sqlite3.OperationalError as problem:
            if "locked" not in str(problem) or time.monotonic() >= until:
                raise
        tries += 1
        time.sleep(random.uniform(0.0001, 0.002 if tries < PATIENT_TRIES else 0.02))
