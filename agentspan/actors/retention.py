"""Removing executions some time after their end, so that a store under a steady load stays as large as it is."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from agentspan.persistence.store import Store

log = logging.getLogger("agentspan.retention")

BATCH = 500
"""Executions asked for at a time: a sweep is never long behind, and holds little."""
EVERY_MIN_S = 1.0
EVERY_MAX_S = 300.0
PARTS = 10
"""Sweeps in the time that an execution is kept, so that it is kept a tenth too long at most."""


class Retention:
    """Sweeps in the background. `start` and `stop` are idempotent; a sweep that is cut off is done by the next one."""

    def __init__(self, store: Store, *, keep_s: float, clock: Callable[[], float] = time.time) -> None:
        """`keep_s`: seconds from an execution's end to its removal."""
        self._store = store
        self._keep_s = keep_s
        self._clock = clock
        self._every_s = min(EVERY_MAX_S, max(EVERY_MIN_S, keep_s / PARTS))
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._sweep_on())

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def sweep(self) -> int:
        """Remove all that ended long enough ago; returns how many executions."""
        removed = 0
        while True:
            swept = await self._store.gc(finished_before=self._clock() - self._keep_s, dry_run=False, limit=BATCH)
            removed += swept.executions
            if swept.executions < BATCH:
                return removed

    async def _sweep_on(self) -> None:
        while True:
            try:
                removed = await self.sweep()
                if removed:
                    log.info("retention.swept", extra={"executions": removed})
            except Exception:
                # The store is away, or worse; the next sweep finds the same executions and those since.
                log.exception("retention.failed")
            await asyncio.sleep(self._every_s)
