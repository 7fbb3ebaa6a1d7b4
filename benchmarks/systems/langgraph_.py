"""LangGraph: a state graph of two nodes around the same openai client, with its own checkpointers and `durability="sync"`.

Plain dictionaries as messages and no model wrapper: quicker than `create_agent` with `ChatOpenAI`. The Postgres saver has a
pool of connections, as its documentation advises. A thread that was interrupted by a crash goes on when somebody who knows
its ID invokes the graph again with no input; the worker does so for all of them.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import operator
import uuid
from contextlib import AsyncExitStack
from typing import Annotated, Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph

from benchmarks.systems import Job, Place
from benchmarks.systems.database import postgres
from benchmarks.systems.task import MESSAGES, ask, call_tool, new_client

CONNECTIONS = 20


class Conversation(TypedDict):
    messages: Annotated[list[Any], operator.add]


class TheSystem:
    """LangGraph in this process."""

    def __init__(self) -> None:
        self.versions = {"langgraph": importlib.metadata.version("langgraph")}
        self._stack = AsyncExitStack()
        self._resumed: set[asyncio.Task[Any]] = set()

    async def open(self, place: Place) -> None:
        self._client = new_client(place.url)
        if "postgres" in place.variant:
            saver = await self._postgres(place)
        else:
            saver = await self._sqlite(place)
        self._app = self._graph().compile(checkpointer=saver)
        threads = place.folder / "threads"
        self._threads = threads.open("a+", buffering=1)
        for thread, model in (line.split() for line in threads.read_text().splitlines()):
            state = await self._app.aget_state({"configurable": {"thread_id": thread}})
            if state.next:
                task = asyncio.create_task(self._invoke(None, thread, model))
                self._resumed.add(task)

    async def _sqlite(self, place: Place) -> Any:
        from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

        self.versions["saver"] = importlib.metadata.version("langgraph-checkpoint-sqlite")
        path = str(place.folder / "threads.db")
        saver = await self._stack.enter_async_context(AsyncSqliteSaver.from_conn_string(path))
        await saver.setup()
        return saver

    async def _postgres(self, place: Place) -> Any:
        from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
        from psycopg.rows import dict_row
        from psycopg_pool import AsyncConnectionPool

        self.versions["saver"] = importlib.metadata.version("langgraph-checkpoint-postgres")
        url, self.versions["postgres"] = self._stack.enter_context(postgres(place.folder))
        options = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
        pool: Any = AsyncConnectionPool(url, min_size=CONNECTIONS, max_size=CONNECTIONS, open=False, kwargs=options)
        await self._stack.enter_async_context(pool)
        saver = AsyncPostgresSaver(pool)
        await saver.setup()
        return saver

    def _graph(self) -> Any:
        async def model(state: Conversation, config: RunnableConfig) -> dict[str, Any]:
            return {"messages": [await ask(self._client, config["configurable"]["model"], state["messages"])]}

        async def tools(state: Conversation) -> dict[str, Any]:
            return {"messages": [await call_tool(call) for call in state["messages"][-1]["tool_calls"]]}

        graph = StateGraph(Conversation)
        graph.add_node("model", model)
        graph.add_node("tools", tools)
        graph.add_edge(START, "model")
        graph.add_conditional_edges(
            "model", lambda state: "tools" if state["messages"][-1].get("tool_calls") else END, ["tools", END]
        )
        graph.add_edge("tools", "model")
        return graph

    async def _invoke(self, given: Any, thread: str, model: str) -> str:
        config: Any = {"configurable": {"thread_id": thread, "model": model}, "recursion_limit": 1_000_000}
        state = await self._app.ainvoke(given, config, durability="sync")
        return str(state["messages"][-1]["content"])

    async def run(self, job: Job) -> str:
        thread = uuid.uuid4().hex
        if job.tag.startswith("kill"):
            self._threads.write(f"{thread} {job.model}\n")  # What a user would have to keep, to know what to resume.
        return await self._invoke({"messages": MESSAGES}, thread, job.model)

    async def settle(self) -> None:
        """Nothing goes on behind its back."""

    async def victim(self, job: Job) -> None:
        """It is the process itself."""

    async def close(self) -> None:
        await self._client.close()
        await self._stack.aclose()
        self._threads.close()
