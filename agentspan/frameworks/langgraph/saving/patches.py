"""Repairs of LangGraph that its users need before we can run their graphs. Each is applied only where it is missing."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import wraps
from typing import Any

_RESUMING, _PARENTS, _ANSWERS = "__pregel_resuming", "checkpoint_map", "__pregel_resume_map"
_INTERRUPT = "__interrupt__"


class _Done:
    """A save that has nothing to save."""

    def __await__(self) -> Iterator[None]:
        return iter(())

    def result(self, timeout: float | None = None) -> None:
        return None


def apply() -> None:
    """Repair the LangGraph of this process. Idempotent.

    With `durability="sync"` a loop without a checkpointer (a sub-graph compiled with `checkpointer=False`, or the root)
    waits for a save that it never made: AttributeError, `_put_checkpoint_fut`.

    A sub-graph that remembers (`checkpointer=True`) is told to resume when its parent does. When the parent died before
    the sub-graph's new pass was stored, there is only the last, finished one: its result was taken for the new one's.

    A `@task` begins before what the last one returned is stored, which a crash then loses with all that was built on it.
    With a saver of ours it waits for that.

    A task that waits for an answer is not run again, with all its node does before it asks, only because a sibling has yet
    to finish: with a saver of ours it asks what it has asked before.

    A saver of ours is told what starts, before it does: of a node that kills its process the name is on record then.

    An agent's middleware may only have the sync `wrap_model_call` or `wrap_tool_call`, which `invoke` takes and `ainvoke`,
    as which every graph is run here, refuses. It is called in a thread then.

    Before 1.2.20 all questions of one run of a node have the same ID: after a crash the answer to the first would be taken
    for one to the second, which nobody has seen yet. The later ones get a number behind it (`resume_key` is without).
    """
    from langgraph import types
    from langgraph.pregel import _loop

    for loop in (_loop.AsyncPregelLoop, _loop.SyncPregelLoop):
        if not hasattr(loop, "_put_checkpoint_fut"):
            setattr(loop, "_put_checkpoint_fut", _Done())  # noqa: B010 (LangGraph declares a Future)
    first = _loop.PregelLoop._first
    if not hasattr(first, "__wrapped__"):
        setattr(_loop.PregelLoop, "_first", _beginning_anew(first))  # noqa: B010
    accept = _loop.AsyncPregelLoop.aaccept_push
    if not hasattr(accept, "__wrapped__"):
        setattr(_loop.AsyncPregelLoop, "aaccept_push", _behind_what_is_stored(accept))  # noqa: B010
    match = _loop.AsyncPregelLoop.amatch_cached_writes
    if not hasattr(match, "__wrapped__"):
        setattr(_loop.AsyncPregelLoop, "amatch_cached_writes", _saying_what_starts(match))  # noqa: B010
    tick = _loop.PregelLoop.tick
    if not hasattr(tick, "__wrapped__"):
        setattr(_loop.PregelLoop, "tick", _asking_as_before(tick))  # noqa: B010
    from_ns = types.Interrupt.from_ns
    if not hasattr(types, "_interrupt_id") and not hasattr(from_ns, "__wrapped__"):
        setattr(types.Interrupt, "from_ns", staticmethod(_numbered(from_ns)))  # noqa: B010
    middleware = sys.modules.get("langchain.agents.middleware.types")
    if middleware is not None:  # Else no graph of this process was made with any.
        _bridge(middleware.AgentMiddleware)


def _bridge(middleware: Any) -> None:
    """Have the methods that only say that there is no async form call the sync one."""
    for name, bridge in (("awrap_model_call", _awrap_model_call), ("awrap_tool_call", _awrap_tool_call)):
        missing: Any = getattr(middleware, name, None)
        code = getattr(missing, "__code__", None)
        if code is not None and any("Asynchronous implementation of" in str(text) for text in code.co_consts):
            # In place: agents hold their middleware's methods from when they were made.
            missing.__code__ = bridge.__code__


# They run among LangChain's globals, so each finds for itself what it needs.


async def _awrap_model_call(self: Any, request: Any, handler: Any) -> Any:
    from agentspan.frameworks.langgraph.saving.patches import in_thread

    return await in_thread(self.wrap_model_call, request, handler)


async def _awrap_tool_call(self: Any, request: Any, handler: Any) -> Any:
    from agentspan.frameworks.langgraph.saving.patches import in_thread

    return await in_thread(self.wrap_tool_call, request, handler)


async def in_thread(wrap: Callable[..., Any], request: Any, handler: Callable[..., Any]) -> Any:
    """Call a sync wrapper in a thread; what it wraps stays on the running loop."""
    loop, calls, is_over = asyncio.get_running_loop(), list[Any](), False

    async def handle(request: Any) -> Any:
        if is_over:
            raise RuntimeError("this run is over")  # To a wrapper that tries again whatever it meets.
        calls.append(asyncio.current_task())
        return await handler(request)

    def call(request: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(handle(request), loop).result()

    try:
        return await asyncio.to_thread(wrap, request, call)
    finally:
        is_over = True
        for one in calls:
            one.cancel()  # Of what has ended this changes nothing.


def resume_key(interrupt_id: str) -> str:
    """What LangGraph resumes an interrupt by."""
    return interrupt_id.partition("-")[0]


def _numbered(from_ns: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(from_ns)
    def numbered(value: Any, ns: str) -> Any:
        from langgraph.config import get_config

        found = from_ns(value, ns)
        configurable = get_config()["configurable"]
        answered = len(configurable["__pregel_scratchpad"].resume)
        if not answered or not hasattr(configurable.get("__pregel_checkpointer"), "durable"):
            return found  # Also of a graph that is none of ours, whose user resumes it by the ID that is shown.
        return type(found)(value=found.value, id=f"{found.id}-{answered}")

    return numbered


def _saying_what_starts(match: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(match)
    async def wrapped(self: Any) -> Any:
        matched = await match(self)  # The last that LangGraph does before it runs the tasks that this leaves.
        starting = getattr(self.checkpointer, "starting", None)
        if starting is not None:
            await starting(self.checkpoint_ns, [task for task in self.tasks.values() if not task.writes])
        return matched

    return wrapped


def _asking_as_before(tick: Callable[..., bool]) -> Callable[..., bool]:
    @wraps(tick)
    def wrapped(self: Any) -> bool:
        goes_on = tick(self)
        if goes_on and self.checkpoint_pending_writes and hasattr(self.checkpointer, "durable"):
            answers = self.config["configurable"].get(_ANSWERS) or {}
            for task_id, channel, asked in self.checkpoint_pending_writes:
                task = self.tasks.get(task_id) if channel == _INTERRUPT else None
                if task is not None and not task.writes and not any(resume_key(one.id) in answers for one in asked):
                    self.tasks[task_id] = replace(task, proc=_asks(asked))
                    self.checkpointer.still_waits(task_id, task.name)
        return goes_on

    return wrapped


def _asks(asked: Any) -> Any:
    from langchain_core.runnables import RunnableLambda
    from langgraph.errors import GraphInterrupt

    def ask(given: Any) -> Any:
        raise GraphInterrupt(tuple(asked))

    async def aask(given: Any) -> Any:
        raise GraphInterrupt(tuple(asked))

    return RunnableLambda(ask, aask)


def _behind_what_is_stored(accept: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(accept)
    async def wrapped(self: Any, *given: Any, **named: Any) -> Any:
        durable = getattr(self.checkpointer, "durable", None)
        if durable is not None:
            await durable()
        return await accept(self, *given, **named)

    return wrapped


def _beginning_anew(first: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(first)
    def wrapped(self: Any, **given: Any) -> Any:
        configurable = self.config["configurable"]
        if self.is_nested and configurable.get(_RESUMING) and _is_of_an_earlier_pass(self, configurable):
            self.config = {**self.config, "configurable": {**configurable, _RESUMING: False}}
        return first(self, **given)

    return wrapped


def _is_of_an_earlier_pass(loop: Any, configurable: dict[str, Any]) -> bool:
    """Whether what is stored of a sub-graph is finished, and was called at another checkpoint of its parents."""
    parents = loop.checkpoint_metadata.get("parents")
    if not parents or parents == configurable.get(_PARENTS):
        return False
    return not any(
        name.startswith("branch:to:") or name in ("__start__", "__pregel_tasks")
        for name in loop.checkpoint["channel_values"]
    )
