"""Every store of AgentSpan keeps the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import ClassVar

import pytest

from agentspan.persistence.memory import MemoryStore
from agentspan.persistence.postgres import PostgresStore
from agentspan.persistence.sqlite import InlineSqliteStore, SqliteStore
from agentspan.persistence.store import Store
from agentspan.testing.store_contract import Reopen, StoreContract
from tests.support.postgres import PostgresServer


class TestMemoryStore(StoreContract):
    @pytest.fixture
    async def reopen(self) -> Reopen:
        disk = MemoryStore()

        async def reopen() -> Store:
            return disk

        return reopen


class TestSqliteStore(StoreContract):
    KIND: ClassVar[type[SqliteStore]] = SqliteStore

    @pytest.fixture
    async def reopen(self, tmp_path: Path) -> AsyncIterator[Reopen]:
        opened: list[SqliteStore] = []

        async def reopen() -> Store:
            opened.append(await self.KIND.connect(tmp_path / "store.db"))
            return opened[-1]

        yield reopen
        for store in opened:
            await store.close()


class TestInlineSqliteStore(TestSqliteStore):
    KIND = InlineSqliteStore


class TestPostgresStore(StoreContract):
    @pytest.fixture
    async def reopen(self, postgres: PostgresServer) -> AsyncIterator[Reopen]:
        opened: list[PostgresStore] = []
        url = postgres.emptied_url()

        async def reopen() -> Store:
            opened.append(await PostgresStore.connect(url))
            return opened[-1]

        yield reopen
        for store in opened:
            await store.close()
