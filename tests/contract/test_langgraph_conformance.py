"""AgentSpanSaver passes LangGraph's own conformance suite, with all its capabilities, on every store."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from langgraph.checkpoint.conformance import checkpointer_test, validate

from agentspan.frameworks.langgraph.saver import AgentSpanSaver
from tests.support.savers import STORES, Disk


@pytest.mark.parametrize("kind", STORES)
async def test_langgraph_conformance(kind: str) -> None:
    @checkpointer_test(name=f"AgentSpanSaver on {kind}")
    async def ours() -> AsyncIterator[AgentSpanSaver]:
        with tempfile.TemporaryDirectory() as folder:
            async with Disk(kind, Path(folder)).saver() as saver:
                yield saver

    report = await validate(ours)

    assert report.passed_all_base(), report.to_dict()
    assert report.passed_all(), report.to_dict()
    assert not [name for name, result in report.results.items() if not result.detected]
