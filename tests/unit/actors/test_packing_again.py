"""Packing what was packed before: nothing is digested twice, and no change is missed."""

from __future__ import annotations

import pytest

from agentspan.actors import localcode
from agentspan.actors.shipping import pack
from agentspan.agents import Agent, tool

LIMITS = [1]
limit = 1


def twice(value: int) -> int:
    return 2 * value


@tool
def measured(value: int) -> int:
    """Measure."""
    return twice(value) + limit + len(LIMITS)


def agent() -> Agent:
    return Agent("again", model="openai/none", tools=[measured])


@pytest.fixture
def digested(monkeypatch):
    """The pickles that were digested, as they come."""
    seen = []
    of = localcode._Fingerprint.of

    def counting(self, value):
        seen.append(value)
        return of(self, value)

    monkeypatch.setattr(localcode._Fingerprint, "of", counting)
    return seen


def test_the_same_agent_is_digested_once(digested):
    given = agent()
    first = pack(given)
    before = len(digested)
    assert pack(given).deployment_id == first.deployment_id
    assert len(digested) == before


def test_a_global_that_was_set_again_is_another_version(monkeypatch):
    given = agent()
    first = pack(given)
    monkeypatch.setitem(globals(), "limit", 2)
    assert pack(given).deployment_id != first.deployment_id
    monkeypatch.undo()
    assert pack(given).deployment_id == first.deployment_id


def test_a_global_that_was_changed_in_place_is_another_version():
    given = agent()
    first = pack(given)
    LIMITS.append(2)
    try:
        assert pack(given).deployment_id != first.deployment_id
    finally:
        LIMITS.pop()


def test_a_function_that_was_written_anew_is_another_version(monkeypatch):
    given = agent()
    first = pack(given)

    def anew(value: int) -> int:
        return 3 * value

    monkeypatch.setitem(globals(), "twice", anew)
    assert pack(given).deployment_id != first.deployment_id


def test_a_function_of_a_library_instead_of_one_of_ours_is_another_version(monkeypatch):
    given = agent()
    pack(given)
    monkeypatch.setitem(globals(), "twice", abs)
    first = pack(given)
    monkeypatch.setitem(globals(), "twice", len)
    assert pack(given).deployment_id != first.deployment_id
