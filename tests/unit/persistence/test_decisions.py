"""What a decision's schema check does and does not do."""

from __future__ import annotations

import urllib.request
from typing import Any

import pytest

from agentspan.errors import InvalidDecisionError
from agentspan.persistence.decisions import judge, needs_schema
from agentspan.testing.store_rules.building import ask, signal


def respond(value: Any, schema: dict[str, Any]) -> bool:
    call = ask("e1", "c1", ask="question", response_schema=schema)
    sent = signal("e1", "respond", value=value)
    return judge(sent, status="WAITING", calls=[call], first_decision=lambda call_id: None).is_new


def test_a_schema_never_reaches_for_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: pytest.fail("a schema was fetched"))
    assert respond("x", {"$ref": "http://example.com/schema.json"})


def test_references_inside_a_schema_are_followed() -> None:
    schema = {"$defs": {"color": {"enum": ["red"]}}, "type": "array", "items": {"$ref": "#/$defs/color"}}
    assert respond(["red"], schema)
    with pytest.raises(InvalidDecisionError, match=r"the answer at \$\[1\]: 'blue' is not one of \['red'\]"):
        respond(["red", "blue"], schema)


def test_a_long_problem_is_cut() -> None:
    with pytest.raises(InvalidDecisionError) as caught:
        respond("x" * 10_000, {"type": "number"})
    assert len(str(caught.value)) < 800


def test_only_what_may_be_checked_needs_the_checker() -> None:
    # An interrupt's schema is held against what a verdict becomes, too.
    assert all(needs_schema(signal("e1", kind)) for kind in ("respond", "approve", "reject"))
    assert not any(needs_schema(signal("e1", kind)) for kind in ("message", "cancel", "pause"))
