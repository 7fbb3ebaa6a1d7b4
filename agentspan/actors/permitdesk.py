"""The end of the supervisor's at which processes ask for permits for model calls: `Permits`, and waiting for them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from agentspan.models.permits import Permits

WAIT_MAX_S = 10.0
"""A wait is answered at the latest after this; well under a lease, so that whoever waits is known to live."""


class PermitDesk:
    """One per supervisor. What is in it is lost with its process, and said again by those that hold permits."""

    def __init__(self, permits: Permits, *, boot: str) -> None:
        """`boot` names this desk: who hears another one from it says everything again."""
        self.permits = permits
        self._boot = boot
        self._granted: dict[str, list[str]] = {}
        """Granted and not told yet, by asker."""
        self._bells: dict[str, asyncio.Event] = {}
        self._alarm: asyncio.TimerHandle | None = None

    async def exchange(
        self,
        client: str,
        boot: str = "",
        wishes: Sequence[Sequence[Any]] = (),
        spares: Sequence[Sequence[Any]] = (),
        held: Sequence[Sequence[Any]] = (),
        done: Sequence[Sequence[Any]] = (),
        throttled: Sequence[Sequence[Any]] = (),
        models: Sequence[str] = (),
        wait_s: float = 0.0,
    ) -> dict[str, Any]:
        """Say what is wanted, held, done, and refused by a provider, and hear what is granted. May be delivered twice.

        Args:
            client: The asking process.
            boot: The desk it spoke to before.
            wishes: `[permit ID, model, tokens guessed]`, as are `spares` (granted at once or not at all) and `held`.
            spares: See above.
            held: See above.
            done: `[permit ID, model, tokens it cost or None, tokens guessed, whether a call was made]`.
            throttled: `[model, seconds to wait or None]`.
            models: Those it waits for, to be told why.
            wait_s: How long to wait for a grant if there is none.

        Returns:
            `{"boot", "granted": [permit ID], "spares": [permit ID], "why": {model: text}}`.
        """
        permits, now = self.permits, self._now()
        permits.hear(client, now)
        granted = self._granted.setdefault(client, [])
        for permit_id, model, tokens in held:
            permits.hold(client, permit_id, model, tokens)
        for model, retry_after_s in throttled:
            permits.throttle(model, now, retry_after_s)
        for permit_id, model, cost, guessed, is_used in done:
            permits.done(permit_id, model, now, cost=cost, guessed=guessed, is_used=is_used)
        for permit_id, model, tokens in wishes:
            if permits.wish(client, permit_id, model, tokens) and permit_id not in granted:
                granted.append(permit_id)
        self._pump()
        lucky = [one for one, model, tokens in spares if permits.spare(client, one, model, tokens, now)]
        if wait_s > 0 and not granted and boot in ("", self._boot):
            await self._wait(client, min(wait_s, WAIT_MAX_S))
        now = self._now()
        return {
            "boot": self._boot,
            "granted": self._granted.pop(client, []),
            "spares": lucky,
            "why": {model: text for model in models if (text := permits.why(model, now))},
        }

    async def _wait(self, client: str, wait_s: float) -> None:
        bell = self._bells.setdefault(client, asyncio.Event())
        bell.clear()
        try:
            async with asyncio.timeout(wait_s):
                await bell.wait()
        except TimeoutError:
            pass
        finally:
            if self._bells.get(client) is bell:
                del self._bells[client]

    def _pump(self) -> None:
        now = self._now()
        for client, ids in self.permits.pump(now).items():
            self._granted.setdefault(client, []).extend(ids)
            bell = self._bells.get(client)
            if bell is not None:
                bell.set()
        for client in [client for client in self._granted if not self.permits.knows(client)]:
            del self._granted[client]
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        due = self.permits.next_at(now)
        if due is not None:
            self._alarm = asyncio.get_running_loop().call_later(max(0.001, due - now), self._pump)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
