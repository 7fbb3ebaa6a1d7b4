"""Real graphs on AgentSpanSaver, as LangGraph runs them."""

from __future__ import annotations

import asyncio
import copy
import operator
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, Send, interrupt
from pydantic import BaseModel

from agentspan.frameworks.langgraph.saving import patches
from agentspan.frameworks.langgraph.saving.saver import AgentSpanSaver
from tests.support.savers import STORES, Disk, body_bytes, config, listed, rows


@pytest.fixture(autouse=True)
def _patched() -> None:
    patches.apply()


@pytest.fixture(params=STORES)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    return Disk(request.param, tmp_path)


@pytest.fixture
async def saver(disk: Disk) -> AsyncIterator[AgentSpanSaver]:
    async with disk.saver() as saver:
        yield saver


class Talk(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


class Log(TypedDict):
    log: Annotated[list[str], operator.add]


def chain(*names: str, state: Any = Log, **nodes: Any) -> StateGraph[Any]:
    """Nodes one after the other; each logs its name unless it is given."""

    def logging(name: str) -> Any:
        async def node(_: Log) -> dict[str, list[str]]:
            return {"log": [name]}

        return node

    graph = StateGraph(state)
    for before, name in zip((START, *names), names, strict=False):
        graph.add_node(name, nodes.get(name) or logging(name))
        graph.add_edge(before, name)
    graph.add_edge(names[-1], END)
    return graph


async def run(app: Any, given: Any, at: Any = None) -> Any:
    return await app.ainvoke(given, config() if at is None else at, durability="sync")


async def test_a_conversation_goes_on_in_another_process(disk: Disk) -> None:
    def answer(state: Talk) -> dict[str, Any]:
        return {"messages": [AIMessage(f"answer {len(state['messages'])}", usage_metadata=None)]}

    graph = StateGraph(Talk)
    graph.add_node("answer", answer)
    graph.add_edge(START, "answer")
    for turn in range(4):
        async with disk.saver() as saver:
            state = await run(graph.compile(checkpointer=saver), {"messages": [HumanMessage(f"question {turn}")]})
            assert len(state["messages"]) == 2 * (turn + 1)
            sizes = await body_bytes(saver)
    assert state["messages"][0].content == "question 0"
    assert state["messages"][-1].content == "answer 7"
    assert max(sizes[-3:]) < 700


async def test_a_step_of_a_sequential_graph_is_one_transaction(tmp_path: Path) -> None:
    async with AgentSpanSaver(tmp_path / "threads.db") as saver:
        app = chain(*"abcdefghij").compile(checkpointer=saver)
        await run(app, {"log": []})
        store: Any = await asyncio.wrap_future(saver._port.read(_itself))
        before = store.transactions
        await run(app, {"log": []}, config("other"))
        assert store.transactions - before <= 13


async def _itself(store: Any) -> Any:
    return store


async def test_rows_of_a_small_graph_are_small(saver: AgentSpanSaver) -> None:
    await run(chain("a", "b", "c").compile(checkpointer=saver), {"log": []})
    assert all(size < 350 for size in await body_bytes(saver))


async def test_history_shows_every_state_and_what_the_tasks_wrote(saver: AgentSpanSaver) -> None:
    app = chain("a", "b", "c").compile(checkpointer=saver)
    await run(app, {"log": []})
    history = [state async for state in app.aget_state_history(config())]
    assert [state.values.get("log") for state in history] == [["a", "b", "c"], ["a", "b"], ["a"], [], []]
    assert [one.result for state in history for one in state.tasks] == [
        {"log": ["c"]},
        {"log": ["b"]},
        {"log": ["a"]},
        {"log": []},
    ]


async def test_time_travel_and_edited_state(saver: AgentSpanSaver) -> None:
    app = chain("a", "b", "c").compile(checkpointer=saver)
    await run(app, {"log": []})
    history = [state async for state in app.aget_state_history(config())]
    old = history[2].config
    edited = await app.aupdate_state(old, {"log": ["edited"]})
    assert (await run(app, None, edited | {"recursion_limit": 50}))["log"] == ["a", "edited", "b", "c"]
    assert (await app.aget_state(history[0].config)).values == {"log": ["a", "b", "c"]}
    assert (await app.aget_state(old)).values == {"log": ["a"]}


async def test_interrupts_wait_and_go_on(disk: Disk) -> None:
    def ask(_: Log) -> dict[str, list[str]]:
        return {"log": [interrupt("one?"), interrupt("two?")]}

    graph = chain("a", "ask", "z", ask=ask)
    async with disk.saver() as saver:
        assert (await run(graph.compile(checkpointer=saver), {"log": []}))["__interrupt__"][0].value == "one?"
    for answer in ("1", "2"):
        async with disk.saver() as saver:
            state = await run(graph.compile(checkpointer=saver), Command(resume=answer))
    assert state == {"log": ["a", "1", "2", "z"]}


async def test_a_router_that_fails_is_tried_again(saver: AgentSpanSaver) -> None:
    fails = [True]

    def route(_: Log) -> str:
        if fails.pop() if fails else False:
            raise ValueError("no route")
        return "b"

    graph = StateGraph(Log)
    graph.add_node("a", lambda _: {"log": ["a"]})
    graph.add_node("b", lambda _: {"log": ["b"]})
    graph.add_edge(START, "a")
    graph.add_conditional_edges("a", route)
    app = graph.compile(checkpointer=saver)
    with pytest.raises(ValueError, match="no route"):
        await run(app, {"log": []})
    assert await run(app, None) == {"log": ["a", "b"]}


async def test_fan_outs_keep_the_order_of_their_tasks(disk: Disk) -> None:
    class Fan(TypedDict):
        parts: list[str]
        log: Annotated[list[str], operator.add]

    graph = StateGraph(Fan)
    graph.add_node("work", lambda state: {"log": [state["part"]]})
    graph.add_node("end", lambda state: {"log": ["end"]})
    graph.add_conditional_edges(
        START, lambda state: [Send("work", {"part": part}) for part in state["parts"]], ["work"]
    )
    graph.add_edge("work", "end")
    parts = [f"{number}" for number in range(12)]
    async with disk.saver() as saver:
        app = graph.compile(checkpointer=saver)
        assert (await run(app, {"parts": parts, "log": []}))["log"] == [*parts, "end"]
    async with disk.saver() as saver:
        found = (await listed(saver, config()))[2]
        assert [write[2] for write in found.pending_writes or () if write[1] == "log"] == [[part] for part in parts]


async def test_sub_graphs_keep_their_own_namespaces(saver: AgentSpanSaver) -> None:
    inner = chain("x", "y").compile()
    lonely = chain("l").compile(checkpointer=False)

    async def calling(_: Log) -> dict[str, list[str]]:
        return {"log": (await lonely.ainvoke({"log": []}))["log"]}

    outer = chain("a", "sub", "call", state=Log, sub=inner, call=calling)
    assert (await run(outer.compile(checkpointer=saver), {"log": []}))["log"] == ["a", "a", "x", "y", "l"]
    assert {found.row.ns.split(":")[0] for found in await rows(saver, ns=None)} == {"", "sub"}


async def test_a_sync_sub_graph_runs_inside_a_node_of_the_running_loop(saver: AgentSpanSaver) -> None:
    inner = chain("x", x=lambda _: {"log": ["x"]}).compile(checkpointer=True)

    async def calling(_: Log) -> dict[str, list[str]]:
        return {"log": inner.invoke({"log": []}, durability="sync")["log"]}

    outer = chain("call", "end", call=calling)
    assert await run(outer.compile(checkpointer=saver), {"log": []}) == {"log": ["x", "end"]}
    assert len(await rows(saver, ns=None)) > 4


async def test_functional_api(disk: Disk) -> None:
    calls: list[int] = []

    @task
    def double(number: int) -> int:
        calls.append(number)
        return 2 * number

    def app(saver: AgentSpanSaver) -> Any:
        @entrypoint(checkpointer=saver)
        def flow(number: int, *, previous: Any = None) -> Any:
            doubled = double(number).result()
            answer = interrupt("go on?")
            return entrypoint.final(
                value=(doubled, answer, previous), save={"seen": [*((previous or {}).get("seen", [])), number]}
            )

        return flow

    async with disk.saver() as saver:
        await run(app(saver), 3)
    async with disk.saver() as saver:
        assert await run(app(saver), Command(resume="yes")) == (6, "yes", None)
        await run(app(saver), 4)
        assert await run(app(saver), Command(resume="ja")) == (8, "ja", {"seen": [3]})
    assert calls == [3, 4]


def extended(state: list[str], writes: list[list[str]]) -> list[str]:
    return [*state, *(item for of in writes for item in of)]


class Delta(TypedDict):
    log: Annotated[list[str], DeltaChannel(extended, snapshot_frequency=100)]
    n: int


def delta_graph() -> StateGraph[Any]:
    graph = StateGraph(Delta)
    graph.add_node("a", lambda state: {"log": [f"a{state['n']}"], "n": state["n"] + 1})
    graph.add_node("b", lambda state: {"log": [f"b{state['n']}"]})
    graph.add_edge(START, "a")
    graph.add_edge(START, "b")
    graph.add_conditional_edges("a", lambda state: "a" if state["n"] < 130 else END)
    return graph


async def test_delta_channels_are_rebuilt(disk: Disk) -> None:
    expected = ["a0", "b0", *(f"a{number}" for number in range(1, 130))]
    async with disk.saver() as saver:
        assert (await run(delta_graph().compile(checkpointer=saver), {"log": [], "n": 0}))["log"] == expected
    async with disk.saver() as saver:
        app = delta_graph().compile(checkpointer=saver)
        assert (await app.aget_state(config())).values["log"] == expected
        assert app.get_state(config()).values["log"] == expected
        history = [state async for state in app.aget_state_history(config())]
        assert history[60].values["log"] == expected[:-60]
        ours = await saver.aget_delta_channel_history(config=config(), channels=["log", "none"])
        theirs = await super(AgentSpanSaver, saver).aget_delta_channel_history(
            config=config(), channels=["log", "none"]
        )
        assert ours == theirs
        assert saver.get_delta_channel_history(config=config(), channels=[]) == {}


async def test_pruning_keeps_what_delta_channels_need(disk: Disk) -> None:
    async with disk.saver() as saver:
        await run(delta_graph().compile(checkpointer=saver), {"log": [], "n": 0})
        before = len(await rows(saver))
        await saver.aprune(["t"])
        assert 1 < len(await rows(saver)) < before / 2
    async with disk.saver() as saver:
        app = delta_graph().compile(checkpointer=saver)
        assert len((await app.aget_state(config())).values["log"]) == 131
        assert (await run(app, {"log": ["more"], "n": 129}))["log"][-3:] == ["more", "a129", "b129"]


async def test_one_saver_serves_loops_and_threads(saver: AgentSpanSaver) -> None:
    app = chain("a", "b", b=lambda _: {"log": ["b"]}).compile(checkpointer=saver)
    problems: list[BaseException] = []

    def own_loop(thread_id: str) -> None:
        try:
            for _ in range(5):
                assert asyncio.run(run(app, {"log": []}, config(thread_id)))["log"][-1] == "b"
        except BaseException as problem:
            problems.append(problem)

    sync = chain("a", a=lambda _: {"log": ["a"]}).compile(checkpointer=saver)

    def no_loop(thread_id: str) -> None:
        try:
            for _ in range(5):
                assert sync.invoke({"log": []}, config(thread_id), durability="sync")["log"][-1] == "a"
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=own_loop, args=(f"loop{number}",)) for number in range(3)]
    threads += [threading.Thread(target=no_loop, args=(f"sync{number}",)) for number in range(3)]
    for thread in threads:
        thread.start()
    await asyncio.gather(*(run(app, {"log": []}, config(f"here{number}")) for number in range(3)))
    await asyncio.to_thread(lambda: [thread.join() for thread in threads])
    assert not problems
    for number in range(3):
        assert (await app.aget_state(config(f"loop{number}"))).values["log"] == ["a", "b"] * 5
        assert (await app.aget_state(config(f"sync{number}"))).values["log"] == ["a"] * 5


async def test_a_listing_that_stands_still_holds_nobody_up(saver: AgentSpanSaver) -> None:
    app = chain(*"abcdefghij").compile(checkpointer=saver)
    for _ in range(8):
        await run(app, {"log": []})
    listing = saver.alist(config())
    first = await anext(listing)
    async with asyncio.timeout(30):
        await run(app, {"log": []})
        await run(app, {"log": []}, config("other"))
    rest = [found async for found in listing]
    assert len({found.checkpoint["id"] for found in (first, *rest)}) == 1 + len(rest) == 8 * 12
    with_sync = saver.list(config())
    next(with_sync)
    await run(app, {"log": []})
    assert len(list(with_sync)) == 9 * 12 - 1


async def test_a_run_that_is_cancelled_loses_nothing_it_had_stored(saver: AgentSpanSaver) -> None:
    reached, never = asyncio.Event(), asyncio.Event()

    async def slow(_: Log) -> dict[str, list[str]]:
        reached.set()
        await never.wait()
        return {"log": ["slow"]}

    running = asyncio.create_task(run(chain("a", "slow", slow=slow).compile(checkpointer=saver), {"log": []}))
    await reached.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    never.set()
    assert await run(chain("a", "slow", slow=slow).compile(checkpointer=saver), None) == {"log": ["a", "slow"]}


class Item(BaseModel):
    name: str


class Typed(TypedDict):
    items: Annotated[list[Item], operator.add]


async def test_classes_of_the_state_are_declared(disk: Disk) -> None:
    graph = chain("a", state=Typed, a=lambda state: {"items": [Item(name=f"{len(state['items'])}")]})
    for _ in range(3):
        async with disk.saver(types=[Item]) as saver:
            state = await run(graph.compile(checkpointer=saver), {"items": []})
    assert state["items"] == [Item(name="0"), Item(name="1"), Item(name="2")]
    async with disk.saver() as saver:
        assert (await saver.with_types([Item]).aget_tuple(config())) is not None
        clone = copy.copy(saver.with_allowlist({(__name__, "Item"), ("nowhere", "Nothing")}))
        app = graph.compile(checkpointer=clone)
        assert (await run(app, {"items": []}))["items"][-1] == Item(name="3")


def test_patches_are_idempotent_and_leave_what_is_there() -> None:
    from langgraph.pregel import _loop

    before = _loop.AsyncPregelLoop._put_checkpoint_fut  # type: ignore[attr-defined]
    patches.apply()
    assert _loop.AsyncPregelLoop._put_checkpoint_fut is before  # type: ignore[attr-defined]
    assert before.result() is None
