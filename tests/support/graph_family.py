"""A family of graphs, with what they are given, how people answer them, and how to run one without AgentSpan."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.messages import BaseMessage
from langgraph import types
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from tests.support import graphs_agents as agents
from tests.support import graphs_asking as asking
from tests.support import graphs_plain as plain
from tests.support import graphs_states as states
from tests.support.model_server import Reply


@dataclass(frozen=True)
class Answer:
    """A person's answer: what a bare graph is resumed with, and the signal that has to come to the same."""

    resume: Any
    kind: str = "respond"
    fields: Mapping[str, Any] = field(default_factory=dict)


def say(value: Any) -> Answer:
    return Answer(value, "respond", {"value": value})


@dataclass(frozen=True, kw_only=True)
class Member:
    """One graph of the family."""

    name: str
    build: Callable[..., Any]
    """`build(checkpointer)`, or `build(checkpointer, url)` with a script."""
    given: Sequence[Any] = ({"topic": "t"},)
    """What each turn is given; more than one is a session."""
    answers: Mapping[str, Answer] = field(default_factory=dict)
    """By a text that is in the question and in no other."""
    config: Mapping[str, Any] = field(default_factory=dict)
    context: Any = None
    how: Mapping[str, Any] = field(default_factory=dict)
    """More of how it is run: `interrupt_before`, `interrupt_after`."""
    gates: Mapping[str, int] = field(default_factory=dict)
    """For labels: how many answers there must have been before they may run."""
    script: Sequence[Reply] = ()
    """What its model answers, over HTTP."""
    types: Sequence[type] = ()
    opaque: Collection[str] = ()
    """Labels inside of a graph that asked not to be stored: it is one step, and begins again as a whole."""
    afresh: bool = False
    """It remembers things between executions, so that each needs one of its own."""

    def app(self, saver: Any, url: str | None = None) -> Any:
        return self.build(saver) if url is None else self.build(saver, url)

    def answer_to(self, question: Any) -> Answer:
        found = [answer for text, answer in self.answers.items() if text in str(question)]
        assert len(found) == 1, f"{self.name}: {len(found)} answers to {question!r}"
        return found[0]


async def bare(member: Member, url: str | None = None) -> list[Any]:
    """What each turn returns without AgentSpan: the graph's own saver, the answers given as they are asked for."""
    app = member.app(InMemorySaver(), url)
    return [normal(await _turn(member, app, deepcopy(given), _config(member))) for given in member.given]


async def bare_fork(member: Member, step: int, values: dict[str, Any]) -> Callable[[], Awaitable[Any]]:
    """Run a member to its end without AgentSpan; what is returned forks that run from a step."""
    app, config = member.app(InMemorySaver()), _config(member)
    await _turn(member, app, deepcopy(member.given[0]), config)

    async def fork() -> Any:
        found = [state async for state in app.aget_state_history(config) if state.metadata["step"] == step]
        changed = await app.aupdate_state(found[0].config, values)
        return normal(await _turn(member, app, None, {**config, **changed}))

    return fork


def _config(member: Member) -> Any:
    return {**member.config, "configurable": {"thread_id": "bare", **member.config.get("configurable", {})}}


async def _turn(member: Member, app: Any, given: Any, config: Any) -> Any:
    result = await app.ainvoke(given, config, context=member.context, **member.how)
    config = _config(member)
    while (state := await app.aget_state(config)).tasks:
        resume = {found.id: member.answer_to(found.value).resume for found in state.interrupts}
        command: Any = Command(resume=resume) if resume else None
        result = await app.ainvoke(command, config, context=member.context, **member.how)
    return result


def normal(value: Any) -> Any:
    """A state without what differs by chance: the IDs of messages."""
    if isinstance(value, BaseMessage):
        fields = {key: item for key, item in value.model_dump().items() if key not in ("id", "response_metadata")}
        return (type(value).__name__, normal(fields))
    if isinstance(value, dict):
        return {key: normal(item) for key, item in value.items() if key != "__interrupt__"}
    if isinstance(value, (list, tuple)):
        return type(value)(normal(item) for item in value)
    return value


RECENT = hasattr(types, "_interrupt_id")
"""Whether this is LangGraph 1.2.20 or newer."""
HAS_SCHEMAS = "response_schema" in inspect.signature(types.interrupt).parameters
HAS_PER_CALL = "interrupt_mode" in inspect.signature(HumanInTheLoopMiddleware.__init__).parameters
HELLO = {"messages": [{"role": "user", "content": "hello"}]}
IN_PLACE = {"document": {"tags": []}, "items": [{"v": 0}, {"v": 10}]}
LETTERS = {f"{name}?": say(name.upper()) for name in "pqr"}
DECISIONS: dict[str, Any] = {
    "approve": {"type": "approve"},
    "reject": {"type": "reject", "message": "not him"},
    "respond": {"type": "respond", "message": "he knows"},
    "edit": {"type": "edit", "edited_action": {"name": "mail", "args": {"to": "max", "body": "new"}}},
}
BATCHED = {
    "'to': 'kim'": say({"decisions": [DECISIONS["approve"], DECISIONS["reject"]]}),
    "'to': 'max'": Answer({"decisions": [DECISIONS["edit"]]}, "approve", {"arguments": {"to": "max", "body": "new"}}),
}
PER_CALL = {
    "'to': 'kim'": Answer(DECISIONS["reject"], "reject", {"text": "not him"}),
    "'to': 'lee'": Answer(DECISIONS["approve"], "approve"),
    "'to': 'max'": Answer(DECISIONS["respond"], "respond", {"value": "he knows"}),
}

ALL = [
    Member(name="sequence", build=plain.sequence),
    Member(name="map-reduce", build=plain.map_reduce),
    Member(name="pydantic state", build=states.pydantic_state, given=[{"owner": "kim"}]),
    Member(name="dataclass state", build=states.dataclass_state, given=[{"city": "Rome"}]),
    Member(name="blocking nodes", build=plain.blocking),
    Member(name="slow sibling", build=states.slow_sibling, given=[{"rows": [{"v": 0}]}]),
    Member(name="called graph", build=plain.called),
    Member(name="called graph, sync in async", build=lambda saver: plain.called(saver, sync=True)),
    Member(name="called graph without a saver", build=lambda saver: plain.called(saver, inner=False)),
    Member(name="nested", build=plain.nested),
    Member(name="nested with its own saver", build=lambda saver: plain.nested(saver, inner=InMemorySaver())),
    Member(name="nested that remembers", build=lambda saver: plain.nested(saver, inner=True)),
    Member(name="nested without a saver", build=lambda saver: plain.nested(saver, inner=False), opaque="ij"),
    Member(name="fan of graphs", build=plain.fan_of_graphs),
    Member(name="stream writer", build=plain.stream_writer),
    Member(name="retry policy", build=plain.retry_policy),
    Member(name="cache policy", build=plain.cache_policy, afresh=True),
    Member(name="error handler", build=plain.error_handler),
    Member(name="goto", build=plain.goto),
    Member(
        name="context and configurable",
        build=states.context,
        config={"configurable": {"colour": "red"}, "tags": ["mine"]},
        context={"region": "north"},
    ),
    Member(name="joins and a deferred node", build=plain.joins),
    Member(name="delta channel", build=states.delta_channel, given=[{"n": 0}]),
    Member(name="changes in place", build=states.in_place, given=[IN_PLACE]),
    Member(name="three schemas", build=states.schemas),
    Member(name="functional", build=plain.functional, given=[[1, 2, 3]]),
    Member(name="functional, previous", build=plain.previous, given=[1, 2, 3]),
    Member(name="session", build=plain.session, given=[{"topic": "t"}, {"topic": "u"}]),
    Member(name="interrupt", build=asking.one, answers={"sure?": say("yes")}, gates={"behind": 1}),
    Member(
        name="two interrupts in one node",
        build=asking.two_in_one_node,
        answers={"first?": say(None), "second?": say({})},
        gates={"end": 2},
    ),
    Member(name="interrupts at once", build=asking.several_at_once, answers=LETTERS, gates={"end": 3}),
    Member(
        name="interrupts in a loop",
        build=asking.in_a_loop,
        answers={f"round {n}?": Answer(n != 1, "reject" if n == 1 else "approve") for n in range(3)},
        gates={"ask1": 1, "ask2": 2},
    ),
    Member(name="interrupt in a subgraph", build=asking.in_a_subgraph, answers={"deep?": say(7)}, gates={"j": 1}),
    Member(
        name="interrupt in a called graph",
        build=asking.in_a_called_graph,
        answers={"called?": say(7)},
        gates={"end": 1},
    ),
    Member(name="interrupts in a fan", build=asking.in_a_fan_of_graphs, answers=LETTERS, gates={"tell0": 1, "end": 3}),
    Member(
        name="interrupt with a schema",
        build=asking.with_schema,
        answers={"verdict?": say({"approved": True, "comment": "fine"})},
        types=[asking.Verdict],
        gates={"end": 1},
    ),
    Member(name="breakpoints", build=asking.breakpoints, gates={"b": 1, "c": 2}),
    Member(
        name="breakpoints of one run",
        build=plain.sequence,
        how={"interrupt_before": ["c"], "interrupt_after": ["a"]},
        gates={"b": 1, "c": 2},
    ),
    Member(name="breakpoints everywhere", build=plain.map_reduce, how={"interrupt_before": "*"}, gates={"add_up": 3}),
    Member(
        name="functional, interrupts",
        build=asking.functional,
        given=[1],
        answers={"go on with 2?": say("yes"), "anything else?": say("no")},
        gates={"prepare2": 1},
    ),
    Member(name="agent over HTTP", build=agents.openai_agent, given=[HELLO], script=agents.TOOLS_SCRIPT),
    Member(name="react agent over HTTP", build=agents.react_agent, given=[HELLO], script=agents.TOOLS_SCRIPT),
    Member(name="structured output", build=agents.structured, given=[HELLO], script=agents.STRUCTURED_SCRIPT),
    Member(name="agent with a hook", build=agents.scripted_agent, given=[HELLO]),
    Member(
        name="interrupt in a tool",
        build=agents.asking_tool,
        given=[HELLO],
        answers={"refund 5?": say("yes"), "refund 9?": Answer(True, "approve")},
        gates={"model1": 2},
    ),
    Member(
        name="approval, batched",
        build=agents.approved(),
        given=[HELLO],
        answers=BATCHED,
        gates={"mail kim": 1, "model1": 1, "mail max": 2},
    ),
    Member(
        name="approval, per call",
        build=agents.approved("per_call"),
        given=[HELLO],
        answers=PER_CALL,
        gates={"mail lee": 2, "model1": 2, "model2": 3},
    ),
]
MISSING = {
    "error handler": not RECENT,  # It is there, and does not work.
    "interrupt with a schema": not HAS_SCHEMAS,
    "approval, per call": not HAS_PER_CALL,
}
FAMILY = [member for member in ALL if not MISSING.get(member.name)]
"""Those that the installed LangGraph can run."""
BY_NAME = {member.name: member for member in FAMILY}
