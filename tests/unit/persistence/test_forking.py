"""Forks of native executions: from any step, with another conversation or shared state, the original untouched."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest

from agentspan.actors.accepting import accepted, forked
from agentspan.actors.driver import Driver, Outcome
from agentspan.actors.performer import AgentPerformer
from agentspan.agents import Agent, ToolContext, tool
from agentspan.agents.results import AgentResult
from agentspan.engine.admit import Signal
from agentspan.errors import ConfigurationError, ModelAuthError, UnknownExecutionError
from agentspan.models.base import ModelReply
from agentspan.persistence.forking import state_after
from agentspan.persistence.memory import MemoryStore
from agentspan.persistence.reading import read_events, read_history, read_result
from agentspan.persistence.store import DeploymentRow
from agentspan.testing import ScriptedModel, call, calls, say

ran: list[tuple[str, str]] = []
"""(execution, tool), in order."""


@tool
async def note(text: str, ctx: ToolContext) -> str:
    """Write something down for the other tools."""
    ran.append((ctx.execution_id, f"note {text}"))
    ctx.state["notes"] = [*ctx.state.get("notes", []), text]
    return ", ".join(ctx.state["notes"])


@tool(approval_required=True)
async def refund(amount: int, ctx: ToolContext) -> str:
    """Give money back."""
    ran.append((ctx.execution_id, f"refund {amount}"))
    return f"refunded {amount}"


class World:
    """One agent on one store, without Ray."""

    def __init__(self, *script: Any, **options: Any) -> None:
        ran.clear()
        self.store = MemoryStore()
        self.model: Any = ScriptedModel(list(script))
        self.agent = Agent("helper", model=str(self.model), tools=[note, refund], **options)
        self._numbers = itertools.count(1)

    async def start(self, prompt: Any = "go", **more: Any) -> str:
        return await self._accept({"agent": self.agent.name, "prompt": prompt, "deployment_id": "d", **more})

    async def fork(self, execution_id: str, step: int | None = None, **changes: Any) -> str:
        request = {"forked_from": execution_id, "forked_step": step, "forked_state": changes or None}
        return await self._accept(await forked(self.store, request))

    async def _accept(self, request: dict[str, Any]) -> str:
        execution_id = f"e{next(self._numbers)}"
        request = {"request_id": execution_id, **request}
        new = accepted(request, execution_id=execution_id, deployment_id="d", now=float(next(self._numbers)))
        await self.store.create(new)
        return execution_id

    async def live(self, execution_id: str) -> Outcome:
        taken = await self.store.take_over(execution_id, host={})
        performer = AgentPerformer(self.agent, model=lambda name, url: self.model, store=self.store)
        driver = Driver(
            execution_id=execution_id,
            epoch=taken.epoch,
            crashed=taken.crashed,
            store=self.store,
            performer=performer,
            hibernate_after_s=0.0,
        )
        return await driver.run()

    async def run(self, execution_id: str) -> AgentResult:
        assert (await self.live(execution_id)).ended == "finished"
        return await read_result(self.store, execution_id)

    async def steps(self, execution_id: str) -> dict[str, int]:
        """The last step of each kind."""
        return {state.source: state.step for state in reversed(await read_history(self.store, execution_id, None))}


TWO_NOTES = (call("note", text="a"), call("note", text="b"), say("{last_tool_result}"))


async def test_the_history_has_a_state_for_each_record_newest_first() -> None:
    world = World(*TWO_NOTES)
    one = await world.start()
    await world.run(one)
    history = await read_history(world.store, one, None)
    assert [state.step for state in history] == list(range(len(history)))[::-1]
    assert [state.source for state in reversed(history)] == [
        "started",
        "model",
        "tool",
        "model",
        "tool",
        "model",
        "finished",
    ]
    assert [state.next for state in reversed(history)] == [
        ("model",),
        ("note",),
        ("model",),
        ("note",),
        ("model",),
        (),
        (),
    ]
    assert history[0].values["state"] == {"notes": ["a", "b"]}
    assert history[-1].values == {"messages": [{"role": "user", "content": "go"}], "state": {}}
    assert [len(state.values["messages"]) for state in reversed(history)] == sorted(
        len(state.values["messages"]) for state in history
    )
    assert [state.step for state in await read_history(world.store, one, 2)] == [6, 5]


async def test_a_state_of_the_history_is_nobody_elses() -> None:
    world = World(*TWO_NOTES)
    one = await world.start()
    await world.run(one)
    newest, *older = await read_history(world.store, one, None)
    newest.values["messages"][0]["content"] = "changed"
    newest.values["state"]["notes"].append("changed")
    assert "changed" not in str(older)


@pytest.mark.parametrize("step", range(7))
async def test_a_fork_of_any_step_comes_to_the_same_and_runs_only_what_was_to_come(step: int) -> None:
    world = World(*TWO_NOTES)
    one = await world.start()
    result = await world.run(one)
    before = [(entry.seq, entry.body) for entry in await world.store.journal(one)]
    ran.clear()

    fork = await world.fork(one, step)
    assert (await world.run(fork)).output == result.output == "a, b"
    to_come = [("note a", 2), ("note b", 4)]
    assert ran == [(fork, name) for name, done_at in to_come if step < done_at]
    assert [(entry.seq, entry.body) for entry in await world.store.journal(one)] == before


async def test_without_a_step_it_goes_on_from_the_last() -> None:
    world = World(*TWO_NOTES)
    one = await world.start()
    await world.run(one)
    ran.clear()
    assert (await world.run(await world.fork(one))).output == "a, b"
    assert ran == []


async def test_shared_state_can_be_changed() -> None:
    world = World(*TWO_NOTES)
    one = await world.start()
    await world.run(one)
    fork = await world.fork(one, 2, state={"notes": ["z"]})
    assert (await world.run(fork)).output == "z, b"
    assert (await read_history(world.store, one, 1))[0].values["state"] == {"notes": ["a", "b"]}


async def test_another_conversation_drops_what_the_old_one_was_about_to_do() -> None:
    world = World(call("note", text="a"), say("done"))
    one = await world.start("first")
    await world.run(one)
    model = (await world.steps(one))["started"] + 1  # The model has asked for the tool; it has not run.
    ran.clear()
    fork = await world.fork(one, model, messages=[{"role": "user", "content": "second"}])
    result = await world.run(fork)
    assert ran == [(fork, "note a")], "asked for by the new conversation"
    assert result.output == "done"
    assert result.messages[0]["content"] == "second"
    assert [message["role"] for message in result.messages] == ["user", "assistant", "tool", "assistant"]


async def test_another_conversation_has_all_its_turns() -> None:
    world = World(call("note", text="a"), call("note", text="b"), say("done"), max_turns=2)
    one = await world.start()
    assert (await world.run(one)).finish_reason.value == "max_turns"
    assert (await world.run(await world.fork(one))).finish_reason.value == "max_turns"
    ran.clear()
    fork = await world.fork(one, messages=[{"role": "user", "content": "again"}])
    await world.run(fork)
    assert [name for _, name in ran] == ["note a", "note b"]


async def test_an_open_approval_is_asked_again_in_the_fork() -> None:
    world = World(calls(call("refund", amount=5), call("note", text="a")), say("{last_tool_result}"))
    one = await world.start()
    assert (await world.live(one)).status == "WAITING"
    (asked,) = await world.store.pending(one)
    step = (await world.store.row(one)).seq

    fork = await world.fork(one, step)
    assert (await world.live(fork)).status == "WAITING"
    (again,) = await world.store.pending(fork)
    assert (again.tool, again.arguments, again.arguments_hash) == ("refund", {"amount": 5}, asked.arguments_hash)
    assert ran == [(one, "note a")], "its sibling's result is part of the state"
    events = (await read_events(world.store, fork, 0))["events"]
    (waiting,) = [event for event in events if event["type"] == "waiting"]
    assert (waiting["call_id"], waiting["args"]) == (again.call_id, {"amount": 5}), "readers of the fork hear of it"
    assert waiting["data"] == {"ask": "approval", "arguments_hash": asked.arguments_hash, "asks": 1}

    await world.store.send(Signal(signal_id="s1", execution_id=fork, kind="approve"))
    await world.run(fork)
    assert ran == [(one, "note a"), (fork, "refund 5")]
    (still,) = await world.store.pending(one)
    assert still.decided_by_signal is None, "the original waits on"


async def test_a_fork_before_a_decision_can_be_decided_otherwise() -> None:
    world = World(call("refund", amount=5), say("{last_tool_result}"))
    one = await world.start()
    await world.live(one)
    asked = (await world.store.row(one)).seq
    await world.store.send(Signal(signal_id="s1", execution_id=one, kind="approve"))
    assert (await world.run(one)).output == "refunded 5"
    fork = await world.fork(one, asked)
    await world.live(fork)
    await world.store.send(Signal(signal_id="s2", execution_id=fork, kind="reject", text="too much"))
    assert "too much" in str((await world.run(fork)).output)
    assert ran == [(one, "refund 5")]


class Failing:
    """A model that is out of order."""

    async def complete(self, request: Any, *, on_token: Any = None) -> ModelReply:
        raise ModelAuthError(message="no key")

    async def aclose(self) -> None:
        """Nothing to close."""


async def test_a_model_that_failed_for_good_is_asked_again() -> None:
    world = World(say("fine"))
    works, world.model = world.model, Failing()
    one = await world.start()
    assert (await world.run(one)).status.value == "FAILED"
    world.model = works
    assert (await world.run(await world.fork(one))).output == "fine"


async def test_a_fork_of_a_session_has_its_conversation_from_the_first_step_on() -> None:
    world = World(say("heard"), say("heard"))
    await world.run(await world.start("first", session_id="chat"))
    second = await world.start("second", session_id="chat")
    await world.run(second)
    for step in (0, 1):
        fork = await world.fork(second, step)
        users = [message["content"] for message in (await world.run(fork)).messages if message["role"] == "user"]
        assert users == ["first", "second"]


async def test_a_fork_can_be_forked() -> None:
    world = World(*TWO_NOTES)
    one = await world.start()
    await world.run(one)
    two = await world.fork(one, 2, state={"notes": ["z"]})
    await world.run(two)
    three = await world.fork(two, 0)
    assert (await world.run(three)).output == "z, b"


async def test_a_step_or_an_execution_that_is_not_there_starts_nothing() -> None:
    world = World(*TWO_NOTES)
    one = await world.start()
    await world.run(one)
    for step in (-1, 7, 99):
        with pytest.raises(ConfigurationError, match=rf"'e1' has no step {step}; its steps are 0 to 6"):
            await world.fork(one, step)
        with pytest.raises(ConfigurationError, match=f"no step {step}"):
            await state_after(world.store, one, step)
    with pytest.raises(UnknownExecutionError):
        await world.fork("e99")
    assert len(await world.store.rows()) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mesages": []}, "cannot change mesages"),
        ({"messages": "again"}, "cannot go on with these messages"),
        ({"messages": []}, "cannot go on with these messages"),
        ({"messages": [{"content": "no role"}]}, "cannot go on with these messages"),
        ({"state": 5}, "cannot have an int as its state"),
    ],
)
async def test_a_change_that_fits_nothing_starts_nothing(changes: dict[str, Any], words: str) -> None:
    world = World(*TWO_NOTES)
    one = await world.start()
    with pytest.raises(ConfigurationError, match=words):
        await world.fork(one, 0, **changes)
    assert len(await world.store.rows()) == 1


async def deployed(store: MemoryStore, agent: Agent, deployment_id: str, kind: str = "agent") -> str:
    spec = dataclasses.asdict(agent.spec()) | {"nodes": ["draft"]}
    await store.save_deployment(
        DeploymentRow(
            deployment_id=deployment_id,
            agent=agent.name,
            kind=kind,
            source="value",
            reference=None,
            code=b"",
            signature="",
            spec=spec,
            python="3.11",
            created_at=1.0,
        )
    )
    return deployment_id


async def test_another_agent_goes_on_in_its_place() -> None:
    world = World(*TWO_NOTES)
    one = await world.start()
    await world.run(one)
    other = Agent("better", model=str(ScriptedModel([say("all new")])), tools=[note])
    version = await deployed(world.store, other, "d2")
    request = {"forked_from": one, "forked_step": 2, "deployment_id": version, "agent": "better"}
    fork = await world._accept(await forked(world.store, request))
    assert (await world.store.row(fork)).agent == "better"
    world.agent, world.model = other, ScriptedModel([say("from here"), say("all new")])
    result = await world.run(fork)
    assert result.output == "all new"
    state = await state_after(world.store, fork, None)
    assert (state.agent, state.root.agent) == ("better", "better")
    assert (await read_result(world.store, one)).output == "a, b"


async def test_a_state_in_the_middle_of_calls_wants_an_agent_that_has_their_tools() -> None:
    world = World(*TWO_NOTES)
    one = await world.start()
    await world.run(one)
    bare = await deployed(world.store, Agent("bare", model=str(world.model)), "d2")
    request = {"forked_from": one, "forked_step": 1, "deployment_id": bare, "agent": "bare"}
    with pytest.raises(ConfigurationError, match="the state has calls of note, which 'bare' does not have"):
        await forked(world.store, request)
    assert await forked(world.store, request | {"forked_step": 2})
    again = {"messages": [{"role": "user", "content": "again"}]}
    assert await forked(world.store, request | {"forked_state": again})


async def test_an_agent_is_not_forked_with_a_graph_nor_with_what_is_not_there() -> None:
    world = World(*TWO_NOTES)
    one = await world.start()
    await world.run(one)
    await deployed(world.store, Agent("drawn", model=str(world.model)), "g", kind="langgraph")
    with pytest.raises(ConfigurationError, match="'e1' is one of an Agent, and 'drawn' is a graph"):
        await forked(world.store, {"forked_from": one, "deployment_id": "g"})
    with pytest.raises(ConfigurationError, match="no deployment 'nowhere'"):
        await forked(world.store, {"forked_from": one, "deployment_id": "nowhere"})


async def test_a_breakpoint_that_the_new_version_would_pass_by_is_refused() -> None:
    world = World()
    one = await world._accept(
        {"agent": "drawn", "prompt": "go", "deployment_id": "d", "graph": {"interrupt_before": ["review"]}}
    )
    await deployed(world.store, Agent("drawn", model=str(world.model)), "g", kind="langgraph")
    with pytest.raises(ConfigurationError, match="interrupt_before=\\['review'\\], and 'drawn' has no such node"):
        await forked(world.store, {"forked_from": one, "deployment_id": "g"})


async def test_a_fork_whose_origin_is_gone_ends_with_the_reason() -> None:
    world = World(*TWO_NOTES)
    one = await world.start()
    await world.run(one)
    fork = await world.fork(one, 2)
    await world.store.gc(finished_before=1e12, dry_run=False)
    result = await world.run(fork)
    assert result.status.value == "FAILED"
    assert "There is no execution 'e1'" in str(result.error)


async def test_the_nodes_of_a_forked_graph_see_the_thread_that_those_before_them_saw() -> None:
    world = World()
    for started, thread_id in [
        ({"graph": {"config": {}}}, "e1"),
        ({"graph": {"config": {}}, "session_id": "ada"}, "ada"),
        ({"graph": {"thread_id": "given"}, "session_id": "given"}, "given"),
    ]:
        origin = await world._accept({"agent": "drawn", "prompt": "go", "deployment_id": "d", **started})
        fork = await forked(world.store, {"forked_from": origin})
        assert fork["graph"]["thread_id"] == thread_id
        assert "session_id" not in fork, "it is not one of the session's executions"
        again = await world._accept(fork)
        assert (await forked(world.store, {"forked_from": again}))["graph"]["thread_id"] == thread_id
