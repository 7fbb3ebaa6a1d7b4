"""Who is in line, told from the store alone: its rows and its deployments.

The line itself is nowhere stored. It follows from the rows: those that are resident have a place, those with something
to do and no place wait, oldest first. So a new supervisor has it again, and a command that only reads can tell
everybody's place without asking one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentspan.actors.accepting import PARENT, is_packed
from agentspan.actors.admission import Admission, Claim, Standing
from agentspan.agents.results import Status
from agentspan.persistence.store import (
    DeploymentRow,
    ExecutionRow,
    Store,
    runs_in_client,
)


def claim_of(row: ExecutionRow, *, tokens: bool = False) -> Claim:
    """What an execution asks for, from its row."""
    return Claim(
        execution_id=row.execution_id,
        agent=row.agent,
        created_at=row.created_at,
        session_id=row.session_id,
        packed=is_packed(row),
        parent=str(row.metadata.get(PARENT) or ""),
        tokens=tokens,
    )


def wants_place(row: ExecutionRow, *, now: float | None = None) -> bool:
    """Whether there is something to do for an execution now, as far as its row tells; one that is resident has a place.

    With `now`, also when its time has come.
    """
    if row.inbox or row.status == Status.QUEUED.value:
        return True
    if row.wake_at is None:
        return row.status == Status.RUNNING.value
    return now is not None and row.wake_at <= now


def limits_of(deployments: Sequence[DeploymentRow]) -> dict[str, int]:
    """`max_concurrency` by agent, of those that have one. The current version of an agent says it for all of them."""
    limits = {
        row.agent: row.spec.get("max_concurrency") for row in deployments if not runs_in_client(row.deployment_id)
    }
    return {agent: limit for agent, limit in limits.items() if isinstance(limit, int) and limit > 0}


async def standings(store: Store, *, now: float) -> Mapping[str, Standing]:
    """Why each execution that waits for a place does, and its place in line, from the store alone."""
    admission = Admission({False: None, True: None})
    admission.limit(limits_of(await store.deployments()))
    rows = [row for row in await store.unfinished() if not runs_in_client(row.deployment_id)]
    for row in rows:
        admission.hold(claim_of(row))
    for row in rows:
        if row.resident:
            admission.enter(claim_of(row), at_once=True)
    waiting = [claim_of(row) for row in rows if not row.resident and wants_place(row, now=now)]
    for claim in waiting:
        admission.wait(claim)
    told = {claim.execution_id: admission.standing(claim.execution_id) for claim in waiting}
    return {execution_id: standing for execution_id, standing in told.items() if standing is not None}


def with_standing(plain: dict[str, Any], standing: Standing | None) -> dict[str, Any]:
    """A row as data, with its place in line under `queue`."""
    return {**plain, "queue": None if standing is None else standing.to_dict()}
