"""The contract of every store, as tests. A store that passes it can carry AgentSpan.

    class TestMyStore(StoreContract):
        @pytest.fixture
        async def reopen(self, tmp_path):
            opened = []

            async def reopen():
                opened.append(await MyStore.connect(tmp_path / "store"))
                return opened[-1]

            yield reopen
            for store in opened:
                await store.close()

`reopen()` opens the same storage again, beside what is open already: as another process would. Needs pytest and
pytest-asyncio with `asyncio_mode = "auto"`. The tests are in `store_rules`, by subject.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from agentspan.persistence.store import Store
from agentspan.testing.store_rules.commits import CommitRules
from agentspan.testing.store_rules.executions import ExecutionRules
from agentspan.testing.store_rules.interrupts import InterruptRules
from agentspan.testing.store_rules.signals import SignalRules
from agentspan.testing.store_rules.thread_owners import ThreadOwnerRules
from agentspan.testing.store_rules.threads import ThreadRules
from agentspan.testing.store_rules.upkeep import UpkeepRules
from agentspan.testing.store_rules.values import ValueRules

Reopen = Callable[[], Awaitable[Store]]


class StoreContract(
    ExecutionRules,
    CommitRules,
    SignalRules,
    InterruptRules,
    ValueRules,
    UpkeepRules,
    ThreadRules,
    ThreadOwnerRules,
):
    """Subclass it, and supply the fixture `reopen`."""

    @pytest.fixture
    async def reopen(self) -> Reopen:
        """A function that opens the storage under test; every call is another process's view of it."""
        raise NotImplementedError("A subclass of StoreContract supplies the fixture `reopen`.")

    @pytest.fixture
    async def store(self, reopen: Reopen) -> Store:
        """The store under test, empty."""
        return await reopen()
