"""Records go into storage and come back as they were, of every kind and with any data."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentspan.engine import records as r
from agentspan.engine.events import count_events, events_of
from agentspan.engine.records import KINDS, from_plain, to_plain
from agentspan.engine.state import from_snapshot, to_snapshot
from tests.support.situations import RECORDS, SITUATIONS, as_stored, state_of

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(st.text(max_size=4), plain, max_size=3)
texts = st.text(max_size=8)
numbers = st.integers(0, 2**40)
seconds = st.floats(0, 4e9, allow_nan=False)

told = st.one_of(
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(["node_start", "node_end"]),
            "data": st.fixed_dictionaries({"node": texts, "task_id": texts, "ns": st.lists(texts, max_size=2)}),
        }
    ),
    st.fixed_dictionaries({"type": st.just("message"), "content": texts}),
    st.fixed_dictionaries({"type": st.just("custom"), "data": st.fixed_dictionaries({"value": plain})}),
)

BY_TYPE: dict[str, st.SearchStrategy[Any]] = {
    "Any": plain,
    "str": texts,
    "int": numbers,
    "float": seconds,
    "bool": st.booleans(),
    "str | None": st.none() | texts,
    "bytes": st.binary(max_size=8),
    "int | None": st.none() | numbers,
    "float | None": st.none() | seconds,
    "dict[str, Any]": objects,
    "dict[str, Any] | None": st.none() | objects,
    "list[Any]": st.lists(plain, max_size=3),
    "list[dict[str, Any]]": st.lists(objects, max_size=3),
    "tuple[str, ...]": st.lists(texts, max_size=3).map(tuple),
    "tuple[dict[str, Any], ...]": st.lists(told, max_size=3).map(tuple),
    "Ask | None": st.none() | st.sampled_from(get_args(r.Ask)),
    "Verdict": st.sampled_from(get_args(r.Verdict)),
    "Literal['retry', 'ask', 'fail']": st.sampled_from(["retry", "ask", "fail"]),
    "Literal['pause', 'resume', 'stop', 'cancel', 'guide']": st.sampled_from(["pause", "stop", "guide"]),
}


def built(cls: type) -> st.SearchStrategy[Any]:
    """Any value of a record class; each field may be left at its default."""
    parts: dict[str, st.SearchStrategy[Any]] = {}
    optional: dict[str, st.SearchStrategy[Any]] = {}
    for part in fields(cls):
        strategy = BY_TYPE[str(part.type).replace('"', "'")]
        required = part.default is MISSING and part.default_factory is MISSING
        (parts if required else optional)[part.name] = strategy
    return st.fixed_dictionaries(parts, optional=optional).map(lambda values: cls(**values))


BY_TYPE["tuple[PlannedCall, ...]"] = st.lists(built(r.PlannedCall), max_size=2).map(tuple)
BY_TYPE["tuple[InterruptedCall, ...]"] = st.lists(built(r.InterruptedCall), max_size=2).map(tuple)


@pytest.mark.parametrize("kind", KINDS)
def test_any_record_survives_storage_and_tells_the_same_events(kind: str) -> None:
    @settings(deadline=None, max_examples=50)
    @given(built(KINDS[kind]))
    def check(record: r.AnyRecord) -> None:
        stored = as_stored(to_plain(record))
        again = from_plain(kind, stored)
        assert again == record
        assert to_plain(again) == to_plain(record)
        told = events_of(record, execution_id="ex-1", first=5)
        assert count_events(record) == count_events(again) == len(told)
        assert [event.seq for event in told] == list(range(5, 5 + len(told)))
        assert [event.to_dict() for event in events_of(again, execution_id="ex-1", first=5)] == [
            event.to_dict() for event in told
        ]

    check()


def test_defaults_are_left_out_but_what_only_looks_like_one_is_kept():
    record = r.ToolReturned(at=1.0, call_id="c1", name="work", result=False, seconds=0)
    assert to_plain(record) == {"at": 1.0, "call_id": "c1", "name": "work", "result": False, "seconds": 0}
    assert to_plain(r.ToolReturned(at=1.0, call_id="c1", name="work")) == {"at": 1.0, "call_id": "c1", "name": "work"}


@pytest.mark.parametrize(
    ("kind", "body", "says"),
    [
        ("teleported", {}, "unknown record kind 'teleported'"),
        ("tool", {"at": 1.0, "call_id": "c1"}, "name"),
        ("tool", {"at": 1.0, "call_id": "c1", "name": "n", "colour": "red"}, "colour"),
        ("model", {"at": 1.0, "calls": [{"call_id": "c1"}]}, "raw"),
        ("model", {"at": 1.0, "calls": ["c1"]}, "model"),
    ],
)
def test_a_record_that_this_version_cannot_read_is_refused(kind: str, body: dict[str, Any], says: str):
    with pytest.raises(ValueError, match=says):
        from_plain(kind, body)


@pytest.mark.parametrize("name", SITUATIONS)
def test_a_snapshot_at_any_place_of_the_journal_is_as_good_as_the_journal(name: str):
    journal = SITUATIONS[name]
    for count in range(1, len(journal) + 1):
        state = state_of(journal[:count])
        again = from_snapshot(as_stored(to_snapshot(state)))
        assert to_snapshot(again) == to_snapshot(state)
        assert again == state


@pytest.mark.parametrize(
    "damage",
    [{"format": 2}, {"format": None}, {"frames": []}, {"status": "GONE"}, {"colour": "red"}, {"frames": {"": {}}}],
)
def test_what_is_not_a_snapshot_is_refused(damage: dict[str, Any]):
    snapshot = as_stored(to_snapshot(state_of(SITUATIONS["tool running"])))
    with pytest.raises(ValueError, match=r"snapshot|GONE"):
        from_snapshot({**snapshot, **damage})


def test_the_number_of_events_a_stored_record_tells_never_changes():
    """Readers resume by number (P10). A change here renumbers the streams of stored executions: add a kind instead."""
    assert {name: count_events(record) for name, record in RECORDS.items()} == {
        "started": 1,
        "session": 0,
        "recovered (nothing lost)": 1,
        "recovered (c1 again)": 1,
        "recovered (c1 asks)": 2,
        "recovered (c1 failed)": 2,
        "recovered (model again)": 1,
        "recovered (no such frame)": 1,
        "model (text)": 1,
        "model (call)": 1,
        "model (call refused)": 2,
        "model (approval)": 2,
        "model_failed (retry)": 1,
        "model_failed (final)": 0,
        "tool": 1,
        "tool (state)": 1,
        "tool_failed (retry)": 1,
        "tool_failed (final)": 1,
        "tool_lost": 1,
        "decided (approve)": 1,
        "decided (approve, edited)": 1,
        "decided (reject)": 2,
        "decided (respond)": 2,
        "message": 1,
        "delivered": 1,
        "delivered (nothing)": 1,
        "control (pause)": 1,
        "control (resume)": 1,
        "control (stop)": 1,
        "control (cancel)": 1,
        "control (guide)": 1,
        "stop_checked (turn 1)": 0,
        "stop_checked (turn 1, met)": 0,
        "stop_checked (turn 9)": 0,
        "finished": 1,
        "finished (no end)": 1,
        "finished (no status)": 1,
        "finished (no reason)": 1,
        "forked (graph)": 0,
        "forked (agent)": 0,
        "forked (no snapshot)": 0,
        "recovered (graph again)": 1,
        "decided (i1)": 2,
        "decided (breakpoint)": 1,
        "graph (node starts)": 1,
        "graph (node ends)": 2,
        "graph (usage)": 0,
        "graph_waits": 1,
        "graph_waits (run 2)": 1,
        "graph_waits (for nothing)": 0,
        "graph_held": 0,
        "graph_ended": 0,
        "graph_failed": 0,
        "graph_ended (run 2)": 0,
    }
