"""One connection to Postgres: opened when needed, reopened when lost, closed when unused. Used by one thread at a time.

Nothing is kept in the server's session, so the connection may go through a proxy that pools transactions: the schema and
the time limit are set for each transaction, and statements are prepared only where the URL says so.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import psycopg
from psycopg import pq

from agentspan.errors import ConfigurationError, StoreUnavailableError
from agentspan.persistence.postgres_url import PostgresTarget, secrets_of

log = logging.getLogger("agentspan.store")

CONNECT_MAX_S = 10
BODY_IN_ERROR_MAX = 300
_KEEPALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
_SETUP = "SELECT set_config('search_path', %s, true), set_config('statement_timeout', %s, true)"
_NEVER_HEALS = (
    "password authentication failed",
    "no pg_hba.conf entry",
    "no password supplied",
    " does not exist",
    "invalid connection option",
    "invalid URI",
    "SSL is not enabled on the server",
)


class Merger(Protocol):
    """Makes one statement of several alike, from different pieces of work."""

    def merge(self, asks: Sequence[Ask]) -> Ask:
        """One statement that does what all of them do."""
        ...

    def split(self, answer: Answer, asks: Sequence[Ask]) -> list[Answer]:
        """What each of them would have been answered."""
        ...


@dataclass(frozen=True, slots=True)
class Ask:
    """One statement."""

    sql: str
    params: Sequence[Any] = ()
    merger: Merger | None = None
    """Set if it may be merged with others that have the same one."""


class Answer(NamedTuple):
    """What a statement gave."""

    rows: list[tuple[Any, ...]]
    changed: int


class LostError(Exception):
    """The connection broke. `was_decided` is False when nothing of the transaction can have been kept."""

    def __init__(self, problem: BaseException, *, was_decided: bool) -> None:
        super().__init__(str(problem))
        self.problem = problem
        self.was_decided = was_decided


class PostgresSession:
    """A connection that looks after itself."""

    def __init__(self, target: PostgresTarget) -> None:
        self._target = target
        self._db: psycopg.Connection[Any] | None = None
        self._timeout_ms = str(int(target.timeout_s * 1000))
        self._committing = False

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return self._db is not None

    def ready(self) -> None:
        """Make a connection if there is none that lives. Between transactions only.

        Raises:
            ConfigurationError: It cannot be made, and trying again will not help.
            StoreUnavailableError: It cannot be made now.
        """
        if self._db is not None and not _is_quiet(self._db):
            # The server has said goodbye meanwhile (a restart): nothing was sent, so nobody needs to know.
            self.drop()
        if self._db is None:
            self._db = connect(self._target)

    def begin(self, mode: str, *more: Ask) -> list[Ask]:
        """The statements that start a transaction."""
        return [Ask(f"BEGIN {mode}"), Ask(_SETUP, (self._target.schema, self._timeout_ms)), *more]

    def run(self, given: Sequence[Ask], *, committing: bool = False) -> list[Answer]:
        """Send statements together, and wait for all their answers. Those that can be merged are.

        Raises:
            LostError: The connection broke.
            psycopg.Error: A statement was refused; the transaction is to be rolled back.
        """
        db = self._db
        if db is None:
            raise LostError(psycopg.OperationalError("the connection was closed"), was_decided=False)
        self._committing = self._committing or committing
        asks, places = _merged(given)
        try:
            with db.pipeline():
                cursors = [db.cursor(binary=True).execute(ask.sql, ask.params or None) for ask in asks]
            answers = [
                Answer(cursor.fetchall() if cursor.description is not None else [], cursor.rowcount)
                for cursor in cursors
            ]
        except psycopg.Error as problem:
            if db.closed or db.broken or isinstance(problem, psycopg.InterfaceError):
                raise self._lost(problem) from problem
            raise
        finally:
            if committing and not db.closed and db.info.transaction_status == pq.TransactionStatus.IDLE:
                self._committing = False
        return answers if places is None else _apart(answers, given, places)

    def rollback(self) -> None:
        """Give up the transaction, if there is one."""
        db = self._db
        if db is None:
            return
        self._committing = False
        if db.info.transaction_status == pq.TransactionStatus.IDLE:
            return
        try:
            db.execute("ROLLBACK")
        except psycopg.Error:
            self.drop()

    def drop(self) -> None:
        """Close the connection."""
        db, self._db = self._db, None
        self._committing = False
        if db is not None:
            with contextlib.suppress(psycopg.Error, OSError):
                db.close()

    def cut(self) -> None:
        """Wake up a thread that waits for a server which does not answer. May be called from any thread."""
        db = self._db
        if db is None:
            return
        try:
            number = os.dup(db.fileno())
        except (psycopg.Error, OSError):
            return  # Closed meanwhile.
        with socket.socket(fileno=number) as twin, contextlib.suppress(OSError):
            twin.shutdown(socket.SHUT_RDWR)

    def _lost(self, problem: BaseException) -> LostError:
        lost = LostError(problem, was_decided=self._committing)
        self.drop()
        return lost

    def unavailable(self, problem: BaseException) -> StoreUnavailableError:
        """The error for callers."""
        return unavailable(self._target, problem)


_Places = list[tuple[Merger | None, list[int]]]
"""For each statement that was sent, which of the given ones it stands for."""


def _merged(given: Sequence[Ask]) -> tuple[Sequence[Ask], _Places | None]:
    """What to send; None if it is what was given."""
    alike: dict[Merger, list[int]] = {}
    for index, ask in enumerate(given):
        if ask.merger is not None:
            alike.setdefault(ask.merger, []).append(index)
    if all(len(places) == 1 for places in alike.values()):
        return given, None
    asks: list[Ask] = []
    places: _Places = []
    for index, ask in enumerate(given):
        if ask.merger is None:
            asks.append(ask)
            places.append((None, [index]))
        elif alike[ask.merger][0] == index:
            same = alike[ask.merger]
            asks.append(ask.merger.merge([given[one] for one in same]) if len(same) > 1 else ask)
            places.append((ask.merger if len(same) > 1 else None, same))
    return asks, places


def _apart(answers: Sequence[Answer], given: Sequence[Ask], places: _Places) -> list[Answer]:
    """The answers to what was given, from those to what was sent."""
    found: dict[int, Answer] = {}
    for answer, (merger, indexes) in zip(answers, places, strict=True):
        each = [answer] if merger is None else merger.split(answer, [given[index] for index in indexes])
        found.update(zip(indexes, each, strict=True))
    return [found[index] for index in range(len(given))]


def connect(target: PostgresTarget) -> psycopg.Connection[Any]:
    """Connect. Raises as `PostgresSession.ready` does."""
    wait_s = max(2, min(CONNECT_MAX_S, int(target.timeout_s)))
    options: dict[str, Any] = {**_KEEPALIVE, "tcp_user_timeout": int(target.timeout_s * 1000)}
    options |= {"connect_timeout": wait_s, "application_name": "agentspan", "client_encoding": "utf8"}
    try:
        given = psycopg.conninfo.conninfo_to_dict(target.conninfo)
        db = psycopg.connect(**(options | given), autocommit=True, prepare_threshold=3 if target.prepare else None)
    except psycopg.Error as problem:
        text = legible_problem(target, problem)
        if any(sign in text for sign in _NEVER_HEALS):
            raise ConfigurationError(problem=f"The Postgres store at {target.where} cannot be used: {text}") from None
        raise StoreUnavailableError(where=target.where, problem=text) from None
    encoding = db.info.parameter_status("server_encoding")
    if encoding not in (None, "UTF8"):
        db.close()
        raise ConfigurationError(
            problem=f"The database at {target.where} has the encoding {encoding}. Make one with ENCODING 'UTF8'."
        )
    log.debug("store.connected", extra={"where": target.where})
    return db


def unavailable(target: PostgresTarget, problem: BaseException) -> StoreUnavailableError:
    """The error for callers."""
    return StoreUnavailableError(where=target.where, problem=legible_problem(target, problem))


def legible_problem(target: PostgresTarget, problem: BaseException) -> str:
    """What the driver says, in one line, without passwords and not endless."""
    text = " ".join(str(problem).split()) or type(problem).__name__
    if any(len(secret) > 3 and secret in text for secret in secrets_of(target.conninfo)):
        return f"{type(problem).__name__} (its text names a password)"
    return text[:BODY_IN_ERROR_MAX]


def _is_quiet(db: psycopg.Connection[Any]) -> bool:
    """Whether the server has sent nothing unasked: it does so only to say that the connection ends."""
    if db.closed:
        return False
    poll = select.poll()
    poll.register(db.fileno(), select.POLLIN)
    return not poll.poll(0)
