"""Retention and facts for the Postgres store. Every function is a piece of work (see `postgres_link`)."""

from __future__ import annotations

from typing import Any

from agentspan.persistence import rules
from agentspan.persistence.postgres_blobs import drop_unneeded
from agentspan.persistence.postgres_link import Batch, Last, Work
from agentspan.persistence.postgres_session import Ask
from agentspan.persistence.postgres_text import told
from agentspan.persistence.postgres_threads import remove as remove_threads
from agentspan.persistence.store import Sweep

GC_BATCH = 50
"""Executions removed in one transaction, so that commits get their turn between two."""

# What an unfinished execution continues is kept until it ends: its conversation may not be copied yet. What one that has
# not begun will continue may be known only when it begins, so all of its session is kept until then.
_EXPIRED = (
    "SELECT e.id, e.execution_id FROM executions e WHERE NOT e.unfinished AND e.updated_at < %s "
    "AND e.status = ANY(%s::text[]) AND NOT EXISTS "
    "(SELECT 1 FROM executions n WHERE n.unfinished AND n.session_from IS NOT NULL AND n.session_from = e.id) "
    "AND (e.session_id = '' OR NOT EXISTS (SELECT 1 FROM executions n WHERE n.agent = e.agent "
    "AND n.session_id = e.session_id AND n.session_id <> '' AND n.unfinished AND n.epoch = 0)) "
)
_FINISHED = sorted(rules.FINISHED)
_TABLES = (
    *("executions", "records", "snapshots", "pending", "inbox", "blobs", "blob_refs", "deployments"),
    *("current_deployments", "threads", "checkpoints", "thread_writes"),
)


def expired(finished_before: float, limit: int) -> Work[list[tuple[int, str]]]:
    """Executions that can go: number and ID, oldest first."""
    oldest = _EXPIRED + "ORDER BY e.updated_at, e.id LIMIT %s"
    (found,) = yield Last([Ask(oldest, (finished_before, _FINISHED, limit))])
    return [(number, told(execution_id)) for number, execution_id in found.rows]


def weigh(executions: list[tuple[int, str]]) -> Work[Sweep]:
    """What removing them would free."""
    numbers = [number for number, _ in executions]
    mine = "WHERE execution = ANY(%s::bigint[])"
    threads = yield from _threads_of(numbers)
    theirs = "WHERE thread = ANY(%s::bigint[])"
    owners = numbers + [-thread for thread in threads]
    records, snapshots, checkpoints, writes, blobs = yield Batch(
        [
            Ask(f"SELECT count(*), coalesce(sum(length(body)), 0)::bigint FROM records {mine}", (numbers,)),
            Ask(f"SELECT coalesce(sum(length(body)), 0)::bigint FROM snapshots {mine}", (numbers,)),
            Ask(f"SELECT coalesce(sum(length(body)), 0)::bigint FROM checkpoints {theirs}", (threads,)),
            Ask(f"SELECT coalesce(sum(length(body)), 0)::bigint FROM thread_writes {theirs}", (threads,)),
            Ask(
                "SELECT count(*), coalesce(sum(length(b.body)), 0)::bigint FROM blobs b "
                "WHERE b.id IN (SELECT blob FROM blob_refs WHERE owner = ANY(%s::bigint[])) AND NOT EXISTS "
                "(SELECT 1 FROM blob_refs o WHERE o.blob = b.id AND o.owner <> ALL(%s::bigint[]))",
                (owners, owners),
            ),
        ]
    )
    return Sweep(
        executions=len(executions),
        records=records.rows[0][0],
        blobs=blobs.rows[0][0],
        bytes=records.rows[0][1]
        + blobs.rows[0][1]
        + sum(answer.rows[0][0] for answer in (snapshots, checkpoints, writes)),
        dry_run=True,
        execution_ids=[execution_id for _, execution_id in executions],
    )


def remove(executions: list[tuple[int, str]], finished_before: float) -> Work[Sweep]:
    """Remove those that still can go, with all that only they refer to."""
    asked = [number for number, _ in executions]
    # The lock first: whoever is just about to continue one of them has to be seen.
    yield Batch([Ask("SELECT 1 FROM executions WHERE id = ANY(%s::bigint[]) ORDER BY id FOR UPDATE", (asked,))])
    still = _EXPIRED + "AND e.id = ANY(%s::bigint[]) ORDER BY e.updated_at, e.id"
    (found,) = yield Batch([Ask(still, (finished_before, _FINISHED, asked))])
    doomed = [(number, told(execution_id)) for number, execution_id in found.rows]
    sweep = yield from weigh(doomed)
    numbers = [number for number, _ in doomed]
    threads = yield from _threads_of(numbers)
    tables = {"records": "execution", "snapshots": "execution", "pending": "execution", "inbox": "execution"}
    yield Last(
        [
            *drop_unneeded(numbers + [-thread for thread in threads]),
            *remove_threads(threads),
            *(
                Ask(f"DELETE FROM {table} WHERE {key} = ANY(%s::bigint[])", (numbers,))
                for table, key in (tables | {"executions": "id"}).items()
            ),
        ]
    )
    return sweep


def _threads_of(numbers: list[int]) -> Work[list[int]]:
    (found,) = yield Batch(
        [
            Ask(
                "SELECT t.id FROM threads t JOIN executions e ON e.execution_id = t.thread_id "
                "WHERE e.id = ANY(%s::bigint[])",
                (numbers,),
            )
        ]
    )
    return [thread for (thread,) in found.rows]


def info() -> Work[dict[str, Any]]:
    """Schema version, size, executions by status, and threads."""
    version, size, statuses, threads, server = yield Last(
        [
            Ask("SELECT version FROM agentspan_store"),
            Ask(
                "SELECT coalesce(sum(pg_total_relation_size(name::regclass)), 0)::bigint FROM unnest(%s::text[]) name",
                (list(_TABLES),),
            ),
            Ask("SELECT status, count(*) FROM executions GROUP BY status ORDER BY status"),
            Ask("SELECT count(*) FROM threads"),
            Ask("SELECT current_setting('server_version')"),
        ]
    )
    return {
        "schema_version": version.rows[0][0],
        "bytes": size.rows[0][0],
        "statuses": {told(status): count for status, count in statuses.rows},
        "threads": threads.rows[0][0],
        "postgres": server.rows[0][0],
    }
