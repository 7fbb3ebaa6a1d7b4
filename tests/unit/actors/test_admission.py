"""Who is let in and who waits, without a store, a clock or processes."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agentspan.actors.admission import Admission, Claim, Standing

ANY: dict[bool, int | None] = {False: None, True: None}


def claim(execution_id: str, at: float = 0.0, agent: str = "a", **more: Any) -> Claim:
    return Claim(execution_id=execution_id, agent=agent, created_at=at, **more)


def admission(places: int | None = None, **limits: int) -> Admission:
    made = Admission({False: places, True: None})
    made.limit(limits)
    return made


def standing(made: Admission, execution_id: str) -> Standing:
    found = made.standing(execution_id)
    assert found is not None
    return found


def drain(made: Admission) -> list[str]:
    """Let in all that can be."""
    let_in = []
    while (found := made.next()) is not None:
        assert made.enter(found), "whoever is next is let in"
        let_in.append(found.execution_id)
    return let_in


def test_whoever_comes_later_does_not_pass_those_in_line():
    line = admission(1)
    assert line.enter(claim("a", 1))
    assert not line.enter(claim("b", 2))
    assert not line.enter(claim("c", 3))
    assert line.enter(claim("living", 4), at_once=True), "what runs already is only counted"
    line.leave("a")
    assert line.next() is None
    line.leave("living")
    assert not line.admits(claim("c", 3))
    assert drain(line) == ["b"]
    assert standing(line, "c") == Standing(why="room", ahead=0, agent="a")
    assert line.standing("a") is None


def test_a_full_agent_holds_nobody_else_up():
    line = admission(10, busy=2)
    for number in range(50):
        line.enter(claim(f"busy-{number:02}", number, "busy"))
    assert line.enter(claim("other", 99, "quiet"))
    assert len(line) == 48
    assert standing(line, "busy-04").words() == (
        "Waits for its agent 'busy' (max_concurrency 2); 2 executions are before it."
    )
    line.leave("busy-01")
    assert drain(line) == ["busy-02"]


def test_a_free_place_goes_to_the_agent_that_has_the_fewest():
    line = admission(4)
    for number in range(20):
        line.enter(claim(f"flood-{number:02}", number, "flood"))
    for number in range(2):
        line.enter(claim(f"late-{number}", 100 + number, "late"))
    line.leave("flood-00")
    assert drain(line) == ["late-0"]
    line.leave("flood-01")
    assert drain(line) == ["late-1"]
    line.leave("flood-02")
    assert drain(line) == ["flood-04"]


def test_another_limit_counts_at_once():
    line = admission(a=1)
    for number in range(5):
        line.enter(claim(f"e{number}", number))
    line.limit({"a": 3})
    assert drain(line) == ["e1", "e2"]
    line.limit({"a": 1})
    line.leave("e0")
    line.leave("e1")
    assert drain(line) == []
    line.limit({})
    assert drain(line) == ["e3", "e4"]


def test_one_that_wakes_goes_before_those_that_have_not_begun():
    line = admission(a=1)
    assert line.enter(claim("first", 1))
    line.leave("first")  # It waits for a person.
    assert line.enter(claim("second", 2))
    assert not line.enter(claim("third", 3))
    assert not line.enter(claim("first", 1))
    line.forget("second")
    assert drain(line) == ["first"]


def test_executions_of_a_session_go_one_by_one():
    line = admission()
    assert not line.hold(claim("one", 1, session_id="s"))
    assert line.hold(claim("two", 2, session_id="s")), "its session has another to end"
    assert line.enter(claim("one", 1, session_id="s"))
    for number, name in enumerate(["two", "three"]):
        assert not line.enter(claim(name, 2 + number, session_id="s"))
    assert line.enter(claim("else", 9, session_id="t"))
    assert line.enter(claim("alone", 9))
    assert standing(line, "three").words() == (
        "Waits for one, which is before it in its session; 2 executions are before it."
    )
    line.leave("one")
    assert drain(line) == [], "it waits for a person, so it has not ended"
    line.forget("one")
    assert drain(line) == ["two"]
    line.forget("two")
    assert drain(line) == ["three"]


def test_one_of_a_session_that_was_let_in_out_of_turn_is_waited_for():
    line = admission()
    assert line.enter(claim("two", 2, session_id="s"), at_once=True)
    assert not line.enter(claim("one", 1, session_id="s"))
    assert standing(line, "one").behind == "two"
    assert line.next() is None
    line.leave("two")
    assert drain(line) == ["one"]
    assert not line.enter(claim("two", 2, session_id="s"))
    line.forget("one")
    assert drain(line) == ["two"]


def test_what_is_started_inside_an_execution_shares_its_place():
    line = admission(1, a=1)
    assert line.enter(claim("parent", 1, session_id="s"))
    assert line.enter(claim("child", 2, session_id="s", parent="parent"))
    assert line.enter(claim("grandchild", 3, parent="child"))
    assert not line.enter(claim("other", 4, parent="gone"))
    for name in ("grandchild", "child", "parent"):
        line.forget(name)
    assert drain(line) == ["other"]


class AnyOrder(RuleBasedStateMachine):
    """Executions come, rest, wake and end in any order; nobody is let in against the rules, and nobody is left behind."""

    def __init__(self) -> None:
        super().__init__()
        self.line = Admission({False: 3, True: 2})
        self.limits: dict[str, int] = {}
        self.count = 0
        self.claims: dict[str, Claim] = {}
        self.inside: set[str] = set()
        self.resting: set[str] = set()

    def drained(self) -> None:
        for name in drain(self.line):
            self.inside.add(name)

    @rule(agent=st.sampled_from("abc"), session=st.sampled_from(["", "", "s", "t"]), packed=st.booleans())
    def comes(self, agent: str, session: str, packed: bool) -> None:
        number = self.count = self.count + 1
        made = claim(f"e{number:03}", float(number), agent, session_id=session, packed=packed)
        self.claims[made.execution_id] = made
        if self.line.enter(made):
            self.inside.add(made.execution_id)

    @precondition(lambda self: self.inside)
    @rule(data=st.data(), ends=st.booleans())
    def goes(self, data: st.DataObject, ends: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.inside)))
        self.inside.discard(name)
        if ends:
            self.line.forget(name)
            del self.claims[name]
        else:
            self.line.leave(name)
            self.resting.add(name)
        self.drained()

    @precondition(lambda self: self.resting)
    @rule(data=st.data())
    def wakes(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.resting)))
        self.resting.discard(name)
        if self.line.enter(self.claims[name]):
            self.inside.add(name)

    @rule(agent=st.sampled_from("abc"), limit=st.integers(0, 3))
    def is_limited(self, agent: str, limit: int) -> None:
        self.limits = {name: most for name, most in {**self.limits, agent: limit}.items() if most}
        self.line.limit(self.limits)
        self.drained()

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        assert self.line.next() is None
        waiting = [c for name, c in self.claims.items() if name not in self.inside | self.resting]
        assert len(waiting) == len(self.line)
        for one in waiting:
            assert not self.line.admits(one)
            told = standing(self.line, one.execution_id)
            same = [c for c in waiting if (c.agent, c.packed) == (one.agent, one.packed)]
            if told.why == "room":
                kind = [name for name in self.inside if self.claims[name].packed is one.packed]
                assert len(kind) >= (2 if one.packed else 3)
            elif told.why == "agent":
                mine = [name for name in self.inside if self.claims[name].agent == one.agent]
                assert len(mine) >= self.limits[one.agent]
            else:
                assert told.behind in self.claims
                assert told.behind != one.execution_id
            if told.why != "session":
                assert told.ahead < len(same)

    @invariant()
    def of_a_session_one_is_at_work(self) -> None:
        keys = [(c.agent, c.session_id) for name in self.inside if (c := self.claims[name]).session_id]
        assert len(keys) == len(set(keys))


AnyOrder.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestAnyOrder = AnyOrder.TestCase
