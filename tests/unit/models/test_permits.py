"""Limits on model calls: how they are written, and that no order of events passes more than they let through."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentspan.config import Settings
from agentspan.errors import ConfigurationError
from agentspan.limits import ModelLimit, parse_limits
from agentspan.models.permits import LEASE_S, RENEW_S, Bucket, Permits
from agentspan.models.providers import canonical

# --- how they are written


def test_limits_are_read_as_operators_write_them():
    assert parse_limits("openai rpm=500 tpm=1.5M in_flight=20;\n anthropic/claude-opus-* rpm=50\n") == (
        ModelLimit(pattern="openai", requests_per_minute=500, tokens_per_minute=1_500_000, in_flight=20),
        ModelLimit(pattern="anthropic/claude-opus-*", requests_per_minute=50),
    )
    assert parse_limits(" ;\n") == ()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("openai", "says no limit"),
        ("rpm=5", "says no limit"),
        ("openai rpm=many", "'rpm=many' is no limit"),
        ("openai rps=5", "'rps=5' is no limit"),
        ("openai rpm=0", "let nothing through"),
        ("openai rpm=1; openai tpm=5", "limited twice"),
    ],
)
def test_what_cannot_be_read_is_refused_where_settings_are_made(text: str, problem: str):
    with pytest.raises(ConfigurationError, match=problem):
        Settings.from_env(model_limits=text)


def test_a_limit_covers_what_its_pattern_names():
    def covered(pattern: str, model: str) -> bool:
        return ModelLimit(pattern=pattern, in_flight=1).covers(canonical(model))

    assert covered("openai", "openai/gpt-4o")
    assert covered("openai", "gpt-4o")
    assert covered("gemini", "google/gemini-2.5-pro"), "aliases are one provider"
    assert covered("openai/gpt-4o*", "gpt-4o-mini")
    assert covered("openrouter", "openrouter/meta-llama/llama-3.3-70b")
    assert covered("*", "anything/at-all")
    assert not covered("openai", "openrouter/openai/gpt-4o")
    assert not covered("openai/gpt-4o", "openai/gpt-4o-mini")


# --- buckets


@given(
    limit=st.integers(1, 3000),
    gaps=st.lists(st.floats(0.0, 40.0), min_size=1, max_size=60),
)
@settings(max_examples=200, deadline=None)
def test_no_minute_sees_more_than_the_limit(limit: int, gaps: Sequence[float]):
    bucket, now = Bucket(limit, now=0.0), 0.0
    passed: list[float] = []
    for gap in gaps:
        now += gap
        while bucket.ready_at(1, now) <= now and len(passed) < 10_000:
            bucket.take(1, now)
            passed.append(now)
    for start in set(passed):
        assert sum(start <= at < start + 59.999 for at in passed) <= limit


def test_a_bucket_says_when_and_what_is_larger_than_it_waits_for_a_full_one():
    bucket = Bucket(600, now=0.0)
    assert bucket.capacity == 60
    bucket.take(60, 0.0)
    assert bucket.ready_at(1, 0.0) == pytest.approx(1 / bucket.rate)
    assert bucket.ready_at(10_000, 0.0) == pytest.approx(60 / bucket.rate)
    bucket.take(90, 0.0)
    assert bucket.ready_at(1, 0.0) == pytest.approx(91 / bucket.rate), "what it cost more is waited for"


# --- permits


def permits(text: str, **more: bool) -> Permits:
    return Permits(parse_limits(text), now=0.0, **more)


def ask(
    made: Permits, *ids: str, client: str = "a", model: str = "m/x", tokens: int = 10, now: float = 0.0
) -> list[str]:
    """Wish for permits; returns all that is granted by that."""
    made.hear(client, now)
    for permit_id in ids:
        made.wish(client, permit_id, model, tokens)
    return granted(made, now)


def granted(made: Permits, now: float) -> list[str]:
    return [permit_id for ids in made.pump(now).values() for permit_id in ids]


def give_back(made: Permits, permit_id: str, *, now: float = 0.0, model: str = "m/x", cost: int | None = 10) -> None:
    made.done(permit_id, model, now, cost=cost, guessed=10, is_used=True)


def test_calls_in_flight_are_bounded_and_served_in_order():
    made = permits("m in_flight=2")
    assert ask(made, "a1", "a2", "a3") == ["a1", "a2"]
    assert ask(made, "b1", client="b") == []
    assert made.why("m/x", 0.0) == "m: 2 calls in flight"
    assert made.describe()[0]["waiting"] == 2
    give_back(made, "a1")
    assert granted(made, 0.0) == ["a3"]
    give_back(made, "a1")
    assert granted(made, 0.0) == [], "said twice, given back once"
    give_back(made, "a2")
    assert granted(made, 0.0) == ["b1"]


def test_a_permit_asked_for_twice_is_granted_once():
    made = permits("m in_flight=1")
    assert ask(made, "a1", "a1") == ["a1"]
    assert made.wish("a", "a1", "m/x", 10), "the answer got lost; it has been granted"
    assert ask(made, "a2") == []
    made.done("a2", "m/x", 0.0, cost=None, guessed=10, is_used=False)
    give_back(made, "a1")
    assert granted(made, 0.0) == [], "nobody wants it any more"


def test_permits_of_the_dead_are_back():
    made = permits("m in_flight=1")
    assert ask(made, "a1", "a2", client="dead") == ["a1"]
    assert ask(made, "b1", client="b", now=10.0) == []
    assert made.next_at(10.0) == LEASE_S
    made.hear("b", LEASE_S)
    assert granted(made, LEASE_S) == ["b1"], "its wishes are gone, too"


def test_a_full_limit_holds_up_those_it_counts_for_and_nobody_else():
    made = permits("m in_flight=1; m/y rpm=60; n in_flight=1")
    assert ask(made, "a1", "a2") == ["a1"]
    assert ask(made, "a3", model="m/y") == [], "m counts for it as well"
    assert ask(made, "a4", model="n/z") == ["a4"]


def test_a_large_call_is_not_passed_by_small_ones_for_ever():
    made = permits("m tpm=6000")
    assert ask(made, "a1", tokens=600) == ["a1"]
    assert ask(made, "large", tokens=500) == []
    assert ask(made, "small", model="m/other", tokens=1, now=1.0) == []
    at = made.next_at(1.0)
    assert at is not None
    made.hear("a", at)
    assert granted(made, at)[0] == "large"


def test_what_a_call_did_cost_corrects_the_guess():
    made = permits("m tpm=6000")
    assert ask(made, "a1", tokens=10) == ["a1"]
    give_back(made, "a1", cost=1600)
    assert ask(made, "a2", tokens=1) == []
    assert made.next_at(0.0) == pytest.approx((1000 + 1) / made._limits[0].tokens.rate)  # type: ignore[union-attr]


def test_a_429_stops_all_calls_of_that_model_until_the_time_it_names():
    made = permits("m rpm=6000")
    assert ask(made, "a1") == ["a1"]
    made.throttle("m/x", 0.0, 12.0)
    assert ask(made, "b1", client="b", now=1.0) == []
    assert made.why("m/x", 2.0) == "m/x: its provider asks to wait 10 s more"
    assert ask(made, "c1", model="m/y") == ["c1"]
    assert made.next_at(2.0) == 12.0
    assert granted(made, 12.0) == ["b1"]


def test_pauses_double_while_a_provider_says_no_more_than_429():
    made = permits("m in_flight=5")
    for pause in (1.0, 2.0, 4.0):
        assert ask(made, f"a{pause}", now=100 * pause) != []
        made.throttle("m/x", 100 * pause, None)
        assert made.why("m/x", 100 * pause) == ""
        assert made._paused["m/x"] == 100 * pause + pause
    assert ask(made, "ok", now=500.0) == ["ok"]
    give_back(made, "ok", now=500.0)
    made.throttle("m/x", 600.0, None)
    assert made._paused["m/x"] == 601.0


def test_spares_are_given_from_plenty_only():
    made = permits("m rpm=600")  # Sixty at once.
    assert sum(made.spare("a", f"s{n}", "m/x", 1, 0.0) for n in range(100)) == 30
    assert ask(made, *(f"w{n}" for n in range(31))) == [f"w{n}" for n in range(30)]
    assert not made.spare("a", "more", "m/x", 1, 0.0)
    made.done("s0", "m/x", 0.0, cost=None, guessed=1, is_used=False)
    assert granted(made, 0.0) == ["w30"], "an unused one is another's"
    assert not permits("m in_flight=5").spare("a", "s", "m/x", 1, 0.0)


def test_a_successor_gives_nothing_before_it_can_know_what_is_out():
    made = permits("m in_flight=2 rpm=600", is_successor=True)
    assert ask(made, "b1", "b2", client="b") == []
    made.hear("a", RENEW_S)
    made.hold("a", "old", "m/x", 10)
    made.hear("b", 2 * RENEW_S)
    assert granted(made, 2 * RENEW_S) == ["b1"]
    give_back(made, "old")
    assert granted(made, 2 * RENEW_S) == ["b2"]


@given(
    events=st.lists(
        st.tuples(st.sampled_from("waadk"), st.sampled_from("ab"), st.floats(0.0, 5.0)), min_size=5, max_size=80
    )
)
@settings(max_examples=150, deadline=None)
def test_whatever_happens_no_more_are_out_than_may_be_and_nobody_waits_in_vain(events: list[tuple[str, str, float]]):
    made = permits("m in_flight=3 rpm=60")
    now, count = 0.0, 0
    out: dict[str, str] = {}
    waiting: dict[str, str] = {}
    starts: list[float] = []

    def hear_and_pump() -> None:
        for client in "ab":
            made.hear(client, now)
        for permit_id in granted(made, now):
            out[permit_id] = waiting.pop(permit_id)
            starts.append(now)

    for kind, client, gap in events:
        now += gap
        if kind == "w":
            pass
        elif kind == "a":
            count += 1
            waiting[f"{client}{count}"] = client
            made.wish(client, f"{client}{count}", "m/x", 1)
        elif kind == "d" and out:
            permit_id = next(iter(out))
            del out[permit_id]
            made.done(permit_id, "m/x", now, cost=1, guessed=1, is_used=True)
        elif kind == "k" and waiting:
            permit_id = next(iter(waiting))
            del waiting[permit_id]
            made.done(permit_id, "m/x", now, cost=None, guessed=1, is_used=False)
        hear_and_pump()
        assert len(out) <= 3
    for start in starts:
        assert sum(start <= at < start + 59.999 for at in starts) <= 60
    for _ in range(300):
        if not waiting:
            break
        for permit_id in list(out):
            del out[permit_id]
            made.done(permit_id, "m/x", now, cost=1, guessed=1, is_used=True)
        due = made.next_at(now)
        assert due is not None
        now = due + 1e-6
        hear_and_pump()
    assert not waiting
