import asyncio, operator
from typing import Annotated, Any, TypedDict
from langgraph.graph import END, START, StateGraph
from agentspan.persistence.memory import MemoryStore
from tests.support.graph_lives import graph_loop, started

class State(TypedDict, total=False):
    topic: str
    log: Annotated[list, operator.add]

async def test_resume_in_the_same_incarnation():
    gate = asyncio.Event()
    main = asyncio.get_running_loop()
    entered = asyncio.Event()
    async def held(state: State) -> dict[str, Any]:
        main.call_soon_threadsafe(entered.set)
        while not gate.is_set():
            await asyncio.sleep(0.001)
        return {"log": ["held"]}
    async def after(state: State): return {"log": ["after"]}
    builder = StateGraph(State)
    builder.add_node("held", held)
    builder.add_node("after", after)
    builder.add_edge(START, "held")
    builder.add_edge("held", "after")
    async with graph_loop() as loop:
        life = await started(builder.compile(), {"topic": "x"}, MemoryStore(), loop)
        run = life.begin(hibernate_after_s=60)
        await entered.wait()
        await life.send("pause")
        while not (await life.state()).paused:
            await asyncio.sleep(0)
        gate.set()
        while not any(x.KIND == "graph_held" for x in await life.records()):
            await asyncio.sleep(0)
        await life.send("resume")
        async with asyncio.timeout(5):
            assert (await run).ended == "finished"
        assert [x.KIND for x in await life.records()] == ['started','graph','control','graph','graph_held','control','graph','graph','finished']
