"""Graphs through the real driver, performer, saver and store."""

from __future__ import annotations

import asyncio
import operator
import threading
from collections import Counter
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send, interrupt

from agentspan.agents.events import AgentEvent, EventType
from agentspan.persistence.memory import MemoryStore
from tests.support.graph_lives import GraphLife, graph_loop, started


class State(TypedDict, total=False):
    topic: str
    log: Annotated[list, operator.add]


runs: Counter[str] = Counter()


def node(name: str, **update: Any) -> Any:
    async def run(state: State) -> dict[str, Any]:
        runs[name] += 1
        return {"log": [name], **update}

    return run


def line(*names: str, **compiled: Any) -> Any:
    builder = StateGraph(State)
    for name in names:
        builder.add_node(name, node(name))
    for before, after in zip((START, *names), (*names, END), strict=True):
        builder.add_edge(before, after)
    return builder.compile(**compiled)


async def until(life: GraphLife, told: Callable[[list[AgentEvent]], bool]) -> None:
    """Return once the stored events are such."""
    async with asyncio.timeout(10):
        while not told(await life.events()):  # noqa: ASYNC110 - the store has nothing to wait on
            await asyncio.sleep(0)


@pytest.fixture
async def loop():
    runs.clear()
    async with graph_loop() as loop:
        yield loop


async def test_a_graph_runs_to_its_end_and_returns_what_invoke_returns(loop):
    app = line("a", "b", "c")
    life = await started(app, {"topic": "x", "log": []}, MemoryStore(), loop)
    outcome = await life.live()
    assert outcome.ended == "finished"
    assert await life.result() == await app.ainvoke({"topic": "x", "log": []})
    told = [(str(e.type), e.data.get("node")) for e in await life.events()]
    assert told == [
        ("started", None),
        *[(kind, name) for name in "abc" for kind in ("node_start", "node_end")],
        ("done", None),
    ]
    assert [e.seq for e in await life.events()] == list(range(1, len(told) + 1))


class ReadingStore(MemoryStore):
    """Counts how often a checkpoint is read."""

    reads = 0

    async def checkpoint(self, *given: Any, **named: Any) -> Any:
        self.reads += 1
        return await super().checkpoint(*given, **named)


async def test_what_a_run_has_just_stored_is_not_read_back(loop):
    store = ReadingStore()
    life = await started(line("a", "b"), {"topic": "x", "log": []}, store, loop)
    assert (await life.live()).ended == "finished"
    assert store.reads == 1  # Whether there is something to go on from.


async def test_interrupts_wait_are_answered_and_go_on(loop):
    def ask(state: State) -> dict[str, Any]:
        runs["ask"] += 1
        return {"log": [interrupt({"question": "Really?", "topic": state["topic"]})]}

    builder = StateGraph(State)
    builder.add_node("ask", ask)
    builder.add_node("other", node("other"))
    builder.add_edge(START, "ask")
    builder.add_edge(START, "other")
    life = await started(builder.compile(), {"topic": "x"}, MemoryStore(), loop)
    assert (await life.live()).status == "WAITING"
    (waits,) = await life.pending()
    assert (waits.ask, waits.tool, waits.question) == ("interrupt", "ask", "Really?")
    assert waits.arguments == {"question": "Really?", "topic": "x"}
    assert (await life.answer("respond", value="yes")).ended == "finished"
    assert sorted((await life.result())["log"]) == ["other", "yes"]
    assert runs == {"ask": 2, "other": 1}


async def test_a_static_breakpoint_waits_and_is_passed_once(loop):
    app = line("a", "b", "c", interrupt_before=["b"], interrupt_after=["b"])
    life = await started(app, {"topic": "x"}, MemoryStore(), loop)
    assert (await life.live()).status == "WAITING"
    assert [w.arguments for w in await life.pending()] == [{"before": ["b"]}]
    assert (await life.answer("approve")).status == "WAITING"
    assert [w.arguments for w in await life.pending()] == [{"after": ["b"]}]
    assert (await life.answer("approve")).ended == "finished"
    assert runs == {"a": 1, "b": 1, "c": 1}


async def test_a_crash_in_a_node_runs_no_finished_node_again(loop):
    entered, hold = asyncio.Event(), True
    main = asyncio.get_running_loop()

    async def slow(state: State) -> dict[str, Any]:
        runs["slow"] += 1
        if hold:
            main.call_soon_threadsafe(entered.set)
            await asyncio.Event().wait()
        return {"log": ["slow"]}

    builder = StateGraph(State)
    builder.add_node("first", node("first"))
    builder.add_node("quick", node("quick"))
    builder.add_node("slow", slow)
    builder.add_node("last", node("last"))
    builder.add_edge(START, "first")
    builder.add_edge("first", "quick")
    builder.add_edge("first", "slow")
    builder.add_edge(["quick", "slow"], "last")
    store = MemoryStore()
    life = await started(builder.compile(), {"topic": "x"}, store, loop)
    life.begin()
    await entered.wait()
    await until(life, lambda told: any(e.type is EventType.NODE_END and e.data["node"] == "quick" for e in told))
    await life.die()
    hold = False
    assert (await life.live()).ended == "finished"
    assert runs == {"first": 1, "quick": 1, "slow": 2, "last": 1}
    assert (await life.result())["log"] == ["first", "quick", "slow", "last"]


async def test_pause_stops_at_the_next_step_and_resume_goes_on(loop):
    gate = threading.Event()
    main = asyncio.get_running_loop()
    entered = asyncio.Event()

    async def held(state: State) -> dict[str, Any]:
        runs["held"] += 1
        main.call_soon_threadsafe(entered.set)
        await asyncio.to_thread(gate.wait)
        return {"log": ["held"]}

    builder = StateGraph(State)
    builder.add_node("held", held)
    builder.add_node("after", node("after"))
    builder.add_edge(START, "held")
    builder.add_edge("held", "after")
    life = await started(builder.compile(), {"topic": "x"}, MemoryStore(), loop)
    run = life.begin()
    await entered.wait()
    await life.send("pause")
    await until(life, lambda told: any(e.data.get("command") == "pause" for e in told))
    gate.set()
    assert (await run).status == "PAUSED"
    assert runs == {"held": 1}
    assert (await life.answer("resume")).ended == "finished"
    assert runs == {"held": 1, "after": 1}


async def test_an_exception_fails_the_execution_with_its_text(loop):
    def bad(state: State) -> dict[str, Any]:
        raise ValueError("no such city")

    builder = StateGraph(State)
    builder.add_node("bad", bad)
    builder.add_edge(START, "bad")
    life = await started(builder.compile(), {"topic": "x"}, MemoryStore(), loop)
    await life.live()
    state = await life.state()
    assert (state.status.value, state.error) == ("FAILED", "ValueError: no such city")


async def test_a_session_goes_on_from_the_last_state(loop):
    from langgraph.checkpoint.memory import MemorySaver

    app = line("a", "b", checkpointer=MemorySaver())
    store = MemoryStore()
    first = await started(app, {"topic": "x"}, store, loop, session_id="s")
    await first.live()
    second = await started(app, {"topic": "y"}, store, loop, session_id="s")
    await second.live()
    assert await second.result() == {"topic": "y", "log": ["a", "b", "a", "b"]}


async def test_a_fork_goes_on_from_a_step_with_a_change(loop):
    app = line("a", "b", "c")
    store = MemoryStore()
    life = await started(app, {"topic": "x"}, store, loop)
    await life.live()
    from agentspan.frameworks.langgraph.app.graphtypes import serde_of

    changes = serde_of(life.graph).dumps({"values": {"topic": "z"}, "as_node": None})
    forked = {"forked_from": life.execution_id, "forked_step": 1, "forked_state": changes}
    runs.clear()
    fork = await started(life.graph, {"topic": "x"}, store, loop, forked=forked)
    await fork.live()
    assert await fork.result() == {"topic": "z", "log": ["a", "b", "c"]}
    assert runs == {"b": 1, "c": 1}
    assert (await life.result())["topic"] == "x"


async def test_send_fan_out_and_command_goto(loop):
    def fan(state: State) -> Any:
        return [Send("work", {"topic": str(i)}) for i in range(3)]

    def work(state: State) -> dict[str, Any]:
        return {"log": [state["topic"]]}

    def jump(state: State) -> Command:
        return Command(goto="end", update={"log": ["jump"]})

    builder = StateGraph(State)
    builder.add_node("work", work)
    builder.add_node("jump", jump, destinations=("end",))
    builder.add_node("end", node("end"))
    builder.add_conditional_edges(START, fan, ["work"])
    builder.add_edge("work", "jump")
    app = builder.compile()
    life = await started(app, {"topic": "x"}, MemoryStore(), loop)
    await life.live()
    assert await life.result() == await app.ainvoke({"topic": "x"})
