"""Accepting executions: the row is written, and a place taken or a place in line, before anybody is told an ID."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from agentspan.actors.accepting import accepted, forked, wants_packed
from agentspan.actors.admission import Admission, Claim
from agentspan.actors.hosts import Hosts
from agentspan.actors.queueing import limits_of
from agentspan.actors.shelf import Shelf, Standby
from agentspan.errors import AgentNotFoundError, UnstorableValueError
from agentspan.persistence.store import Store, runs_in_client


class CareFor(Protocol):
    """Let an execution in, or have it wait in line."""

    def __call__(self, claim: Claim, *, standby: Standby | None = None) -> None: ...


class Intake:
    """The way in to a `Supervision`."""

    def __init__(
        self,
        store: Store,
        admission: Admission,
        shelf: Shelf,
        hosts: Hosts,
        *,
        mint: Callable[[], str],
        clock: Callable[[], float],
        care_for: CareFor,
        wake_later: Callable[[str, float], None],
        let_next_in: Callable[[], None],
    ) -> None:
        self._store = store
        self._admission = admission
        self._shelf = shelf
        self._hosts = hosts
        self._mint = mint
        self._clock = clock
        self._care_for = care_for
        self._wake_later = wake_later
        self._let_next_in = let_next_in
        self._deployments: set[str] = set()
        """Those whose limits are known here."""

    async def submit(self, new: dict[str, Any], *, tokens: bool = False) -> dict[str, Any]:
        """Accept an execution. When this returns, P1 holds for it.

        `new` has `request_id, agent, prompt`, and may have `deployment_id` (else the agent's current version),
        `session_id, idempotency_key, timeout_s, metadata, placement`; for a graph `graph`, for a fork `forked_from, forked_step,
        forked_state`.
        """
        if new.get("forked_from") is not None:
            new = await forked(self._store, new)
        deployment_id = new.get("deployment_id")
        if deployment_id is None:
            deployment = await self._store.current_deployment(new["agent"])
            if deployment is None:
                raise await self._not_found(new["agent"])
            deployment_id = deployment.deployment_id
        # What runs in its client needs no actor of ours.
        is_ours, packed = not runs_in_client(deployment_id), wants_packed(new)
        if is_ours and deployment_id not in self._deployments:
            await self.refresh_limits()
            self._deployments.add(deployment_id)
        now = self._clock()
        claim = Claim(
            execution_id="",
            agent=new["agent"],
            created_at=now,
            session_id=new.get("session_id") or "",
            packed=packed,
            parent=new.get("parent") or "",
            tokens=tokens,
        )
        standby = self._shelf.take() if is_ours and not packed and self._admission.admits(claim) else None
        execution_id = standby.actor.name if standby else self._mint()
        claim = replace(claim, execution_id=execution_id)
        # Before anything is awaited: what comes later to the same session stands behind it.
        busy = is_ours and self._admission.hold(claim)
        request = accepted(new, execution_id=execution_id, deployment_id=deployment_id, now=now, session_is_busy=busy)
        try:
            created = await self._store.create(request)
        except UnstorableValueError:
            self._give_back(claim, standby)
            raise
        except BaseException:
            # It may be stored all the same; then a standby of that name would have every later start refused.
            self._admission.forget(execution_id)
            if standby is not None:
                standby.actor.kill()
            raise
        if not created.is_new:
            self._give_back(claim, standby)
        elif is_ours:
            self._remember(deployment_id, packed)
            self._care_for(claim, standby=standby)
            if request.wake_at is not None:
                self._wake_later(execution_id, request.wake_at)
        return {"execution_id": created.execution_id, "is_new": created.is_new}

    def _give_back(self, claim: Claim, standby: Standby | None) -> None:
        self._admission.forget(claim.execution_id)
        self._let_next_in()
        if standby is not None:
            self._shelf.put_back(standby)

    async def refresh_limits(self) -> None:
        """Read each agent's `max_concurrency` off its current deployment, and let in whom it lets in now."""
        deployments = await self._store.deployments()
        self._deployments.update(row.deployment_id for row in deployments)
        self._admission.limit(limits_of(deployments))
        self._let_next_in()

    def _remember(self, deployment_id: str, packed: bool) -> None:
        if packed:
            self._hosts.warm(deployment_id)
        else:
            self._shelf.remember(deployment_id)

    async def _not_found(self, agent: str) -> AgentNotFoundError:
        known = [row.agent for row in await self._store.deployments()]
        hint = f"Deployed are: {', '.join(known[:20])}. " if known else ""
        return AgentNotFoundError(agent=agent, hint=hint)
