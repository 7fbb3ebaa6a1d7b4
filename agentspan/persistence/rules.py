"""What every store checks before it writes: fencing, order, and what a status means. Pure functions, no storage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from agentspan.agents.results import Status
from agentspan.errors import ExecutionFinishedError, SequenceConflictError, StaleEpochError, UnstorableValueError
from agentspan.persistence.store import Commit, NewExecution

QUEUED = Status.QUEUED.value
RUNNING = Status.RUNNING.value
COMPLETED = Status.COMPLETED.value
QUARANTINED = Status.QUARANTINED.value
FINISHED = frozenset(status.value for status in Status if status.is_terminal) - {QUARANTINED}
"""Statuses no record follows any more."""
SETTLED = FINISHED | {QUARANTINED}
"""Statuses a supervisor has nothing to do for."""

STARTED_EVENTS = 1
"""Events told by record 0. How many a stored record tells never changes (`engine.events`), so the store may know it."""
CANDIDATES_MAX = 5
"""Full IDs named to somebody whose short one fits several."""


class StoredEntry(NamedTuple):
    """A record as it lies in the store; two of them are the same record when they are equal."""

    seq: int
    kind: str
    epoch: int
    events_to: int
    body: bytes


def is_new(
    commit: Commit,
    entries: Sequence[StoredEntry],
    *,
    status: str,
    epoch: int,
    seq: int,
    stored: Callable[[int, int], Sequence[StoredEntry]],
) -> bool:
    """Whether a commit is to be written (True) or is in the store already (False).

    Args:
        commit: The commit, and `entries`, its records in stored form.
        entries: See above.
        status: What the store holds now, as are `epoch` and `seq`.
        epoch: See above.
        seq: See above.
        stored: Reads the records from one seq to another, inclusive.

    Raises:
        StaleEpochError: Another incarnation holds the execution.
        SequenceConflictError: The records do not follow the tail and are not there already.
        ExecutionFinishedError: They follow a journal that has its last record.
    """
    if commit.epoch != epoch:
        raise StaleEpochError(execution_id=commit.execution_id, offered=commit.epoch, held=epoch)
    first = commit.seq - len(entries) + 1
    if [entry.seq for entry in entries] != list(range(first, commit.seq + 1)):
        raise SequenceConflictError(execution_id=commit.execution_id, seq=entries[0].seq, held=seq)
    if first == seq + 1:
        if status in SETTLED and (entries or commit.change.status != status):
            raise ExecutionFinishedError(execution_id=commit.execution_id, status=status, signal="a commit")
        return True
    if entries and commit.seq <= seq and list(stored(first, commit.seq)) == list(entries):
        return False
    raise SequenceConflictError(execution_id=commit.execution_id, seq=first, held=seq)


def check_names(**names: str | None) -> None:
    """Refuse names (IDs, keys) that have no UTF-8: they are searched for, so they cannot be stored as anything else.

    Raises:
        UnstorableValueError: Says which one.
    """
    for name, value in names.items():
        if value is not None and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise UnstorableValueError(
                    path=f"$.{name}", found="text with lone surrogates", hint="use well-formed Unicode for names."
                ) from None


def check_new(new: NewExecution) -> None:
    """`check_names` for an execution."""
    check_names(
        execution_id=new.execution_id,
        request_id=new.request_id,
        agent=new.agent,
        deployment_id=new.deployment_id,
        session_id=new.session_id,
        idempotency_key=new.idempotency_key,
    )


def legible(text: str) -> str:
    """Text for people that every database can keep: lone surrogates become question marks."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def name_candidates(candidates: Sequence[str]) -> str:
    """The IDs a short one fits, for people."""
    more = ", …" if len(candidates) > CANDIDATES_MAX else ""
    return ", ".join(candidates[:CANDIDATES_MAX]) + more
