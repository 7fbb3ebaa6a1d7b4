"""The verbs a client can ask, as plain data in and out.

One desk serves both sides: inside the supervisor with a `Supervision`, and in a client without a server (`supervision`
None), where it reads the store and stores signals, and refuses what needs actors. Errors travel as data too, because an
exception that crosses Ray Client loses its class.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import agentspan.errors as errors
from agentspan.actors.accepting import PACKED
from agentspan.actors.admission import Standing
from agentspan.actors.permitdesk import PermitDesk
from agentspan.actors.queueing import standings, wants_place, with_standing
from agentspan.actors.supervision import LOOK_EVERY_S, SETTLED, Supervision
from agentspan.engine.admit import Signal
from agentspan.errors import AgentspanError, ServerError, ServerUnavailableError
from agentspan.persistence.reading import (
    describe_pending,
    describe_row,
    read_events,
    read_history,
    read_outcome,
    read_show,
    read_status,
)
from agentspan.persistence.store import DeploymentRow, Store, runs_in_client
from agentspan.processes import whoami

log = logging.getLogger("agentspan.desk")

THREAD_READS = frozenset({"checkpoint", "checkpoints", "list_checkpoints", "checkpoint_writes", "places"})
UNHEARD_BY_GRAPHS = {"message": "message", "guide": "note"}
POLL_MAX_S = 30.0
"""A long poll answers at the latest after this, so that a lost client is not waited for."""


class Desk:
    """Answers `call(verb, args)`. Every verb is idempotent: Ray may deliver it twice."""

    def __init__(
        self,
        store: Store,
        supervision: Supervision | None,
        *,
        key: bytes,
        where: str,
        permits: PermitDesk | None = None,
    ) -> None:
        self._store = store
        self._supervision = supervision
        self._key = key
        self._where = where
        self._permits = permits

    async def call(self, verb: str, args: dict[str, Any]) -> dict[str, Any]:
        """Perform a verb: `{"value": …}` or `{"error": {"type": …, "facts": {…}}}`."""
        try:
            method = getattr(self, f"on_{verb}", None)
            if method is None:
                raise ServerError(message=f"This server knows no verb {verb!r}; client and server versions differ.")
            return {"value": await method(**args)}
        except AgentspanError as problem:
            return {"error": pack_error(problem)}
        except Exception as problem:  # The desk serves many clients; one bad call must not end it.
            log.exception("verb.failed", extra={"verb": verb})
            return {"error": pack_error(ServerError(message=f"The server failed at {verb}: {problem!r}"))}

    def _live(self) -> Supervision:
        if self._supervision is None:
            raise ServerUnavailableError(
                where=self._where, problem="no server is up. Start it with `agent-span server start`."
            )
        return self._supervision

    # --- writing

    async def on_deploy(self, row: dict[str, Any]) -> dict[str, Any]:
        from agentspan.actors.shipping import sign

        deployment = sign(DeploymentRow(**row), self._key)
        is_new = await self._store.save_deployment(deployment)
        if self._supervision is not None:
            await self._supervision.refresh_limits()
        if self._supervision is not None and is_new:
            if deployment.spec.get("placement") == PACKED:
                self._supervision.hosts.warm(deployment.deployment_id, all_hosts=True)
            else:
                await self._supervision.shelf.warm(deployment.deployment_id)
        return {"deployment_id": deployment.deployment_id, "is_new": is_new}

    async def on_submit(self, new: dict[str, Any], tokens: bool = False) -> dict[str, Any]:
        return await self._live().submit(new, tokens=tokens)

    async def on_send(self, signal: dict[str, Any]) -> dict[str, Any]:
        wanted = Signal(**signal)
        if wanted.kind in UNHEARD_BY_GRAPHS:
            await self._refuse_for_graphs(wanted)
        if self._supervision is None:
            # Stored all the same: it takes effect when the server is up again.
            accepted = await self._store.send(wanted)
            return {"is_new": accepted.is_new, "signal": asdict(accepted.signal)}
        sent = await self._supervision.send(wanted)
        return {"is_new": sent["is_new"], "signal": asdict(sent["signal"])}

    async def _refuse_for_graphs(self, signal: Signal) -> None:
        """Before it is stored: a graph has no queue that a node reads, and makes its model calls itself."""
        row = await self._store.row(signal.execution_id)
        deployment = await self._store.deployment(row.deployment_id)
        if deployment is not None and deployment.kind != "agent":
            what = UNHEARD_BY_GRAPHS[signal.kind]
            raise errors.UnheardSignalError(execution_id=row.execution_id, agent=row.agent, signal=what)

    async def on_wake(self, execution_id: str) -> None:
        """Have an unfinished execution looked at now; one in quarantine is tried again."""
        await self._store.row(execution_id)
        live = self._live()
        await self._store.release(execution_id)
        await live.wake(execution_id)

    async def on_permits(self, **said: Any) -> dict[str, Any]:
        """What processes that call models say to the permit desk (`PermitDesk.exchange`)."""
        if self._permits is None:
            raise ServerError(message="No model limits are set on this server.")
        return await self._permits.exchange(**said)

    async def on_gc(self, finished_before: float, dry_run: bool = True) -> dict[str, Any]:
        return asdict(await self._store.gc(finished_before=finished_before, dry_run=dry_run))

    # --- reading

    async def on_ping(self) -> dict[str, Any]:
        from agentspan import __version__

        supervision = self._supervision
        return {
            "version": __version__,
            "live": supervision is not None,
            "residents": len(supervision.residents()) if supervision else 0,
            "standby": supervision.shelf.count if supervision else 0,
            "hosts": supervision.hosts.describe() if supervision else [],
            "queued": supervision.queued if supervision else 0,
            "model_limits": self._permits.permits.describe() if self._permits else [],
            "process": whoami(),
            "recoveries_max": supervision.recoveries_max if supervision else None,
        }

    async def on_ready(self) -> dict[str, Any]:
        """Return once the standby shelf is full and no host is coming up."""
        await self._live().shelf.wait_filled()
        await self._live().hosts.wait_up()
        return await self.on_ping()

    async def on_status(self, execution_id: str) -> dict[str, Any]:
        status = (await read_status(self._store, execution_id)).to_dict()
        standing = await self._standing(execution_id)
        if standing is not None and status["reason"] is None and not status["is_complete"]:
            status["reason"], status["ahead"] = standing.words(), standing.ahead
        return status

    async def _standing(self, execution_id: str) -> Standing | None:
        """Its place in line, if it is in line."""
        if self._supervision is not None:
            return self._supervision.standing(execution_id)
        row = await self._store.row(execution_id)
        now = time.time()
        if row.resident or row.status in SETTLED or not wants_place(row, now=now):
            return None
        return (await standings(self._store, now=now)).get(execution_id)

    async def on_result(self, execution_id: str, timeout_s: float) -> dict[str, Any]:
        """The result, once there is one. After at most POLL_MAX_S `{"settled": False}`: ask again."""
        if self._supervision is not None:
            settled = await self._supervision.wait_settled(execution_id, min(timeout_s, POLL_MAX_S))
        else:
            settled = (await self._store.row(execution_id)).status in SETTLED
            if not settled and timeout_s > 0:
                self._live()
        if not settled:
            return {"settled": False}
        result, state = await read_outcome(self._store, execution_id)
        return {"settled": True, "result": result.to_dict(), "state": state}

    async def on_events(
        self, execution_id: str, after: int, timeout_s: float, after_token: int = 0, tokens: bool = False
    ) -> dict[str, Any]:
        """A page of events, waiting up to `timeout_s` for the first.

        `{"events": [dict], "next": int, "tokens": [str], "next_token": int, "settled": bool}`.
        """
        timeout_s = min(timeout_s, POLL_MAX_S)
        supervision = self._supervision
        ticket = supervision.ticket(execution_id) if supervision is not None else None
        if supervision is not None:
            page = await supervision.poll(execution_id, after, after_token, timeout_s, tokens)
            if page is not None and (page["events"] or page["tokens"]):
                return {**page, "settled": False}
            if page is not None and not page["closed"]:
                return {**page, "settled": False}
        page = await self._stored_page(execution_id, after)
        if page["events"] or page["settled"] or timeout_s <= 0:
            return page
        self._live()
        assert ticket is not None
        in_client = runs_in_client((await self._store.row(execution_id)).deployment_id)
        try:
            async with asyncio.timeout(timeout_s):
                while in_client:
                    await asyncio.sleep(LOOK_EVERY_S)
                    page = await self._stored_page(execution_id, after)
                    if page["events"] or page["settled"]:
                        return page
                await ticket.wait()
        except TimeoutError:
            return page
        return await self._stored_page(execution_id, after)

    async def _stored_page(self, execution_id: str, after: int) -> dict[str, Any]:
        row = await self._store.row(execution_id)
        page: dict[str, Any] = {"events": [], "next": after, "tokens": [], "next_token": 0}
        if row.events > after:
            page |= await read_events(self._store, execution_id, after)
        return {**page, "settled": row.status in SETTLED and page["next"] >= row.events}

    async def on_find(self, prefix: str) -> str:
        return await self._store.find(prefix)

    async def on_rows(self, **query: Any) -> list[dict[str, Any]]:
        rows = await self._store.rows(**query)
        found: Mapping[str, Standing | None] = {}
        now = time.time()
        if self._supervision is not None:
            found = {row.execution_id: self._supervision.standing(row.execution_id) for row in rows}
        elif any(not row.resident and row.status not in SETTLED and wants_place(row, now=now) for row in rows):
            found = await standings(self._store, now=now)
        return [with_standing(describe_row(row), found.get(row.execution_id)) for row in rows]

    async def on_row(self, execution_id: str) -> dict[str, Any]:
        return describe_row(await self._store.row(execution_id))

    async def on_show(self, execution_id: str) -> dict[str, Any]:
        return with_standing(await read_show(self._store, execution_id), await self._standing(execution_id))

    async def on_history(self, execution_id: str, limit: int | None = None) -> list[dict[str, Any]]:
        return [state.to_dict() for state in await read_history(self._store, execution_id, limit)]

    async def on_thread(self, method: str, args: dict[str, Any]) -> Any:
        """Read a thread: one of the reading methods of `ThreadStore`."""
        if method not in THREAD_READS:
            raise ServerError(message=f"Threads are not read with {method!r}.")
        found = await getattr(self._store, method)(**args)
        if isinstance(found, list):
            return [asdict(item) for item in found]
        return None if found is None else asdict(found)

    async def on_pending(self) -> list[dict[str, Any]]:
        return [describe_pending(row) for row in await self._store.pending()]

    async def on_deployment(self, agent: str | None = None, deployment_id: str | None = None) -> dict[str, Any] | None:
        """One deployment without its code, by ID or the current one by name."""
        if deployment_id is not None:
            row = await self._store.deployment(deployment_id)
        else:
            row = await self._store.current_deployment(str(agent))
        return None if row is None else {**asdict(row), "code": None}

    async def on_code(self, execution_id: str = "", deployment_id: str | None = None) -> dict[str, Any]:
        """A deployment, or the one an execution is pinned to, code included, after its signature was checked."""
        from agentspan.actors.shipping import verify

        if deployment_id is None:
            deployment_id = (await self._store.row(execution_id)).deployment_id
        row = await self._store.deployment(deployment_id)
        if row is None:
            whose = f"The deployment of execution {execution_id!r}" if execution_id else f"Deployment {deployment_id!r}"
            raise errors.DeploymentError(message=f"{whose} is not in the store.")
        verify(row, self._key)
        return asdict(row)

    async def on_deployments(self) -> list[dict[str, Any]]:
        return [{**asdict(row), "code": None} for row in await self._store.deployments()]

    async def on_info(self) -> dict[str, Any]:
        return await self._store.info()


def pack_error(problem: AgentspanError) -> dict[str, Any]:
    """An error as data."""
    return {"type": type(problem).__name__, "facts": problem.facts}


def unpack_error(packed: dict[str, Any]) -> AgentspanError:
    """The error from its data; one of a class this version does not know becomes a `ServerError` with its facts."""
    cls = getattr(errors, packed["type"], None)
    if isinstance(cls, type) and issubclass(cls, AgentspanError):
        return cls(**packed["facts"])
    return ServerError(message=f"{packed['type']}: {packed['facts']}")
