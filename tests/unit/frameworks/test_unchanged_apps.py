"""What works with `app.invoke(x)` works with `runtime.run(app, x)`: apps as their users have them, through the real driver."""

from __future__ import annotations

import asyncio
import operator
from collections import Counter
from collections.abc import Awaitable, Callable
from importlib import metadata
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import wrap_model_call, wrap_tool_call
from langchain_core.messages import ToolMessage
from langchain_core.tools import tool
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

from agentspan import travel
from agentspan.actors.desk import Desk, unpack_error
from agentspan.errors import UnheardSignalError
from agentspan.frameworks.langgraph.saving import patches
from agentspan.persistence.memory import MemoryStore
from agentspan.persistence.store import DeploymentRow
from tests.support.graph_lives import GraphLife, graph_loop, started
from tests.support.graphs_agents import ScriptedChat, call, calls, says


@pytest.fixture
async def loop():
    async with graph_loop() as loop:
        yield loop


@tool
def risky(x: int) -> str:
    """Fails for odd numbers, asks about even ones."""
    if x % 2:
        raise ValueError(f"{x} is odd")
    return f"a person said {interrupt(f'Really {x}?')}"


async def test_middleware_with_only_a_sync_form_works_as_under_invoke(loop):
    heard: list[str] = []

    @wrap_model_call
    def noting(request: Any, handler: Any) -> Any:
        heard.append(f"model after {len(request.messages)}")
        return handler(request)

    @wrap_tool_call
    def guarded(request: Any, handler: Any) -> Any:
        heard.append(f"tool {request.tool_call['args']['x']}")
        try:
            return handler(request)
        except ValueError as problem:
            return ToolMessage(f"failed: {problem}", tool_call_id=request.tool_call["id"])

    model = ScriptedChat(replies=[calls(call("risky", 1, x=3), call("risky", 2, x=4)), says("done")])
    app = create_agent(model, [risky], middleware=[noting, guarded])
    life = await started(app, "go", MemoryStore(), loop)
    assert (await life.live()).status == "WAITING"
    assert [waits.question for waits in await life.pending()] == ["Really 4?"]
    await life.answer("respond", value="yes")
    told = [message.content for message in (await life.result())["messages"]]
    assert told == ["go", "", "failed: 3 is odd", "a person said yes", "done"]
    assert sorted(heard) == ["model after 1", "model after 4", "tool 3", "tool 4", "tool 4"]


class Log(TypedDict, total=False):
    log: Annotated[list, operator.add]


async def until(met: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await met():  # noqa: ASYNC110 - the store has nothing to wait on
            await asyncio.sleep(0)


class Held:
    """Nodes that ask and a node that is at work when the process dies."""

    def __init__(self) -> None:
        self.runs: Counter[str] = Counter()
        self.released = False

    def ask(self, name: str, times: int = 1) -> Any:
        def asking(state: Log) -> Log:
            self.runs[name] += 1
            return {"log": [f"{name} {[interrupt(f'{name} {number}?') for number in range(times)]}"]}

        return asking

    async def slow(self, state: Log) -> Log:
        self.runs["slow"] += 1
        if not self.released:
            await asyncio.Event().wait()
        return {"log": ["slow"]}

    def graph(self, *, nested: bool) -> Any:
        builder = StateGraph(Log).add_node("ask", self.ask("ask")).add_node("slow", self.slow)
        app = builder.add_edge(START, "ask").add_edge(START, "slow").compile()
        if not nested:
            return app
        outer = StateGraph(Log).add_node("inner", app).add_node("quick", lambda state: {"log": ["quick"]})
        return outer.add_edge(START, "inner").add_edge(START, "quick").compile()


async def interrupt_rows(life: GraphLife) -> int:
    rows = []
    for one in await life.store.list_checkpoints(life.execution_id):
        rows += await life.store.checkpoint_writes(life.execution_id, one.row.ns, one.row.checkpoint_id)
    return sum(row.channel == "__interrupt__" for row in rows)


@pytest.mark.parametrize("nested", [False, True])
async def test_after_a_crash_the_siblings_of_a_question_go_on_without_its_answer(loop, nested):
    held = Held()
    life = await started(held.graph(nested=nested), {"log": []}, MemoryStore(), loop)
    life.begin()

    async def is_asked() -> bool:
        return await interrupt_rows(life) == 1 and held.runs["slow"] == 1

    await until(is_asked)
    await life.die()
    held.released = True
    assert (await life.live()).status == "WAITING"
    assert held.runs == {"ask": 1, "slow": 2}, "what asks has not run again"
    assert [waits.question for waits in await life.pending()] == ["ask 0?"]
    told = [(str(event.type), event.data.get("node")) for event in await life.events()]
    assert told.count(("node_start", "ask")) == 1
    assert told.count(("node_end", "slow")) == 1
    await life.answer("respond", value="yes")
    # The oldest LangGraph runs all tasks of a sub-graph again that one of them asked in; so it does without us.
    assert held.runs == {"ask": 2, "slow": 3 if nested and metadata.version("langgraph") == "1.2.0" else 2}
    assert sorted((await life.result())["log"]) == [*["ask ['yes']"], *(["quick"] if nested else []), "slow"]


async def test_who_was_answered_is_not_asked_again_when_another_asks_once_more(loop):
    held = Held()
    builder = StateGraph(Log).add_node("twice", held.ask("twice", times=2))

    async def answered(state: Log) -> Log:
        held.runs["answered"] += 1
        said = interrupt("answered?")
        if not held.released:
            await asyncio.Event().wait()
        return {"log": [f"answered {said}"]}

    builder.add_node("answered", answered).add_edge(START, "twice").add_edge(START, "answered")
    life = await started(builder.compile(), {"log": []}, MemoryStore(), loop)
    assert (await life.live()).status == "WAITING"
    first, second = sorted(await life.pending(), key=lambda waits: waits.question)
    assert (first.question, second.question) == ("answered?", "twice 0?")
    await life.send("respond", call_id=first.call_id, value="A")
    await life.send("respond", call_id=second.call_id, value="B")
    life.begin()

    async def asks_again() -> bool:
        found = await life.store.checkpoint(life.execution_id)
        assert found is not None
        return held.runs["answered"] == 2 and any(row.channel == "__resume__" for row in found.writes)

    await until(asks_again)
    await life.die()
    held.released = True
    assert (await life.live()).status == "WAITING"
    assert [waits.question for waits in await life.pending()] == ["twice 1?"]
    await life.answer("respond", value="C")
    assert sorted((await life.result())["log"]) == ["answered A", "twice ['B', 'C']"]


class Asked:
    """What of a runtime it takes to read: the verbs of a desk."""

    def __init__(self, store: MemoryStore) -> None:
        self._desk = Desk(store, None, key=b"k" * 32, where="here")

    async def _call(self, verb: str, **args: Any) -> Any:
        answer = await self._desk.call(verb, args)
        if "error" in answer:
            raise unpack_error(answer["error"])
        return answer["value"]


async def test_a_graph_that_was_stopped_has_the_last_committed_state(loop):
    held = Held()
    builder = StateGraph(Log).add_node("first", lambda state: {"log": ["first"]}).add_node("ask", held.ask("ask"))
    app = builder.add_edge(START, "first").add_edge("first", "ask").compile()
    life = await started(app, {"log": []}, MemoryStore(), loop)
    assert (await life.live()).status == "WAITING"
    await life.send("stop")
    assert (await life.live()).status == "COMPLETED"
    asked: Any = Asked(life.store)
    assert await travel.final_state(asked, life.graph, life.execution_id, b"") == {"log": ["first"]}


@pytest.mark.parametrize(("kind", "word"), [("message", "message"), ("guide", "note")])
async def test_what_nothing_in_a_graph_would_hear_is_refused_before_it_is_stored(loop, kind, word):
    held = Held()
    app = StateGraph(Log).add_node("ask", held.ask("ask")).add_edge(START, "ask").compile()
    life = await started(app, {"log": []}, MemoryStore(), loop)
    await life.live()
    row = {"deployment_id": "d", "agent": life.graph.name, "kind": "langgraph", "source": "value", "reference": None}
    await life.store.save_deployment(
        DeploymentRow(**row, code=b"", signature="", spec=life.graph.spec(), python="3.11", created_at=1.0)
    )
    signal = {"signal_id": "s", "execution_id": life.execution_id, "kind": kind, "value": "x", "text": "x"}
    with pytest.raises(UnheardSignalError, match=f"a graph, and nothing in a graph would hear this {word}"):
        await Asked(life.store)._call("send", signal=signal)
    assert await life.store.inbox(life.execution_id) == []
    assert (await Asked(life.store)._call("send", signal=signal | {"kind": "respond"}))["is_new"]


@pytest.mark.parametrize("nested", [False, True])
async def test_after_a_crash_a_node_is_named_before_it_runs(loop, nested):
    main, seen, lives = asyncio.get_running_loop(), list[str](), list[GraphLife]()

    async def deadly(state: Log) -> Log:
        if not seen:
            seen.append("")
            await asyncio.Event().wait()
        row = asyncio.run_coroutine_threadsafe(lives[0].store.row(lives[0].execution_id), main)
        seen.append((await asyncio.wrap_future(row)).current_task)
        return {"log": ["done"]}

    builder = StateGraph(Log).add_node(deadly).add_edge(START, "deadly")
    if nested:
        builder = StateGraph(Log).add_node("around", builder.compile()).add_edge(START, "around")
    lives.append(await started(builder.compile(), {"log": []}, MemoryStore(), loop))
    lives[0].begin()

    async def is_running() -> bool:
        return bool(seen)

    await until(is_running)
    await lives[0].die()
    assert (await lives[0].live()).ended == "finished"
    assert seen == ["", "node:around, node:deadly" if nested else "node:deadly"]
    told = [event.data["node"] for event in await lives[0].events() if event.type == "node_start"]
    assert told.count("deadly") <= 2, "told once for each life"


async def test_what_sync_middleware_has_called_ends_with_a_cancellation():
    began, ended = asyncio.Event(), asyncio.Event()
    tried: list[str] = []

    async def handler(request: Any) -> Any:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    def trying_again(request: Any, handler: Any) -> Any:
        for _ in range(3):
            try:
                return handler(request)
            except Exception as problem:
                tried.append(type(problem).__name__)
        return None

    running = asyncio.create_task(patches.in_thread(trying_again, "request", handler))
    await began.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await asyncio.wait_for(ended.wait(), 10)

    async def has_given_up() -> bool:
        return len(tried) == 3

    await until(has_given_up)
    assert tried == ["CancelledError", "RuntimeError", "RuntimeError"]
