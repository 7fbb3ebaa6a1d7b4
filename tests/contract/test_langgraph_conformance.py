"""AgentSpanSaver passes LangGraph's own conformance suite, with all its capabilities, on every store."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.conformance import checkpointer_test, validate

from agentspan.frameworks.langgraph.saving.ports import StoreThreads
from agentspan.frameworks.langgraph.saving.saver import AgentSpanSaver
from tests.support.postgres import PostgresServer
from tests.support.savers import STORES, Disk


@pytest.mark.parametrize("kind", STORES)
async def test_langgraph_conformance(kind: str) -> None:
    @checkpointer_test(name=f"AgentSpanSaver on {kind}")
    async def ours() -> AsyncIterator[AgentSpanSaver]:
        with tempfile.TemporaryDirectory() as folder:
            async with Disk(kind, Path(folder)).saver() as saver:
                yield saver

    await _check(ours)


async def test_langgraph_conformance_on_postgres(postgres: PostgresServer) -> None:
    @checkpointer_test(name="AgentSpanSaver on Postgres")
    async def ours() -> AsyncIterator[AgentSpanSaver]:
        port = StoreThreads(postgres.emptied_url())
        try:
            yield AgentSpanSaver(port)
        finally:
            await port.aclose()

    await _check(ours)


async def _check(ours: Any) -> None:
    report = await validate(ours)

    assert report.passed_all_base(), report.to_dict()
    assert report.passed_all(), report.to_dict()
    assert not [name for name, result in report.results.items() if not result.detected]
