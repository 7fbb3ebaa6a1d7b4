"""From what a client asks for to the row and the first record of an execution."""

from __future__ import annotations

from typing import Any

from agentspan.config import check_placement
from agentspan.engine import records as r
from agentspan.engine.state import SESSION_LATER
from agentspan.errors import ConfigurationError
from agentspan.persistence import forking
from agentspan.persistence.store import ExecutionRow, NewExecution, Store

PLACEMENT = "agentspan.placement"
"""Where a row's metadata says that an execution is packed. The user's own metadata, in record 0, does not have it."""
PACKED = "packed"
PARENT = "agentspan.parent"
"""Where it names the execution inside which this one was started."""
OURS = frozenset({PLACEMENT, PARENT})


def is_packed(row: ExecutionRow) -> bool:
    """Whether an execution shares its process."""
    return row.metadata.get(PLACEMENT) == PACKED


def wants_packed(new: dict[str, Any]) -> bool:
    """Whether a request asks for a shared process.

    Raises:
        ConfigurationError: It asks for something there is not.
    """
    return check_placement(new.get("placement")) == PACKED


async def forked(store: Store, new: dict[str, Any]) -> dict[str, Any]:
    """A request to fork, with what it takes over from the execution it goes on from."""
    source = new["forked_from"]
    row = await store.row(source)
    first = (await store.journal(source, limit=1))[0].body
    step, changes = new.get("forked_step"), new.get("forked_state")
    if new.get("deployment_id") not in (None, row.deployment_id):
        await _check_version(store, source, new, first)
    if first.get("graph") is None:
        if step is not None and not 0 <= step <= row.seq:
            problem = f"Execution {source!r} has no step {step}; its steps are 0 to {row.seq}."
            raise ConfigurationError(problem=problem)
        if changes is not None:
            forking.check_changes(source, changes)
    return {
        "agent": row.agent,
        "deployment_id": row.deployment_id,
        "prompt": first.get("prompt"),
        "graph": None if first.get("graph") is None else _same_thread(source, first),
        "timeout_s": first.get("timeout_s"),
        "metadata": {name: value for name, value in row.metadata.items() if name not in OURS},
        "placement": row.metadata.get(PLACEMENT),
        **new,
    }


def _same_thread(source: str, first: dict[str, Any]) -> dict[str, Any]:
    """How a graph's fork is run: its nodes see the `thread_id` that those before them saw, and find what they left under it.

    So it is when LangGraph's users go on from an earlier checkpoint. `config["metadata"]["run_id"]` is the fork's own.
    """
    graph: dict[str, Any] = first["graph"]
    return {**graph, "thread_id": graph.get("thread_id") or first.get("session_id") or source}


async def _check_version(store: Store, source: str, new: dict[str, Any], first: dict[str, Any]) -> None:
    """Refuse another version that cannot go on where an execution was. A graph's state is looked at by whoever has it."""
    deployment = await store.deployment(new["deployment_id"])
    if deployment is None:
        raise ConfigurationError(problem=f"There is no deployment {new['deployment_id']!r} to fork {source!r} with.")
    graph = first.get("graph")
    if (deployment.kind == "agent") != (graph is None):
        kinds = ("an Agent", "a graph") if graph is None else ("a graph", "an Agent")
        raise ConfigurationError(
            problem=f"Execution {source!r} is one of {kinds[0]}, and {deployment.agent!r} is {kinds[1]}."
        )
    if graph is None:
        if "messages" not in (new.get("forked_state") or {}):
            await forking.check_agent(store, source, new.get("forked_step"), deployment.spec)
        return
    for argument in ("interrupt_before", "interrupt_after"):
        names = graph.get(argument)
        gone = [name for name in names or () if name not in deployment.spec["nodes"]] if isinstance(names, list) else []
        if gone:
            raise ConfigurationError(
                problem=f"Execution {source!r} was started with {argument}={gone!r}, and {deployment.agent!r} has no such "
                "node: it would not stop there. Start a new one."
            )


def accepted(
    new: dict[str, Any], *, execution_id: str, deployment_id: str, now: float, session_is_busy: bool = False
) -> NewExecution:
    """What is stored of a request. `session_is_busy`: what it goes on from has not ended yet, so it is looked up later."""
    timeout_s = new.get("timeout_s")
    started = r.Started(
        at=now,
        agent=new["agent"],
        prompt=new["prompt"],
        session_id=new.get("session_id") or "",
        session_from=SESSION_LATER if session_is_busy and new.get("forked_from") is None else None,
        timeout_s=timeout_s,
        metadata=new.get("metadata") or {},
        graph=new.get("graph"),
        forked_from=new.get("forked_from"),
        forked_step=new.get("forked_step"),
        forked_state=new.get("forked_state"),
    )
    return NewExecution(
        execution_id=execution_id,
        request_id=new["request_id"],
        agent=new["agent"],
        deployment_id=deployment_id,
        started=r.to_plain(started),
        session_id=started.session_id,
        idempotency_key=new.get("idempotency_key"),
        created_at=now,
        wake_at=now + timeout_s if timeout_s else None,
        metadata={**started.metadata, **_notes(new)},
    )


def _notes(new: dict[str, Any]) -> dict[str, str]:
    notes = {PLACEMENT: PACKED} if wants_packed(new) else {}
    return {**notes, PARENT: new["parent"]} if new.get("parent") else notes
