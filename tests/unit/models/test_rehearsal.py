"""The call to nowhere that standbys make ahead of time."""

from __future__ import annotations

import logging

import pytest

from agentspan.models import ModelRegistry
from agentspan.models.openai_client import OpenAIModel


async def test_a_warm_registry_has_made_one_call_and_only_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    texts: list[str] = []
    complete = OpenAIModel.complete

    async def noted(self: OpenAIModel, *args: object, **kwargs: object) -> object:
        reply = await complete(self, *args, **kwargs)  # type: ignore[arg-type]
        texts.append(reply.text)
        return reply

    monkeypatch.setattr(OpenAIModel, "complete", noted)
    registry = ModelRegistry(environ={})
    with caplog.at_level(logging.ERROR):
        await registry.warm()
        await registry.warm()
    await registry.aclose()
    assert texts == ["ok"]
    assert not caplog.records


async def test_a_rehearsal_that_fails_is_logged_and_no_more(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    async def broken(*_: object, **__: object) -> None:
        raise OSError("no sockets")

    monkeypatch.setattr(OpenAIModel, "complete", broken)
    await ModelRegistry(environ={}).warm()
    assert "rehearsal.failed" in caplog.text
