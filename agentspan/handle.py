"""A client's reference to an execution: an ID and verbs, no state that matters. Any process can have one."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Generator, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from agentspan.agents.events import AgentEvent, EventType
from agentspan.agents.results import AgentResult, AgentStatus, HistoryState
from agentspan.bridge import run_sync, twin
from agentspan.errors import UnknownCallError

if TYPE_CHECKING:
    from agentspan.agents.agent import Agent
    from agentspan.runtime import AgentRuntime

LONG_POLL_S = 25.0
FOREVER_S = 10.0 * 365 * 86400


@cache
def _reader(cls: type) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


class AgentHandle:
    """Watches and steers one execution.

    Keep `execution_id`; the handle can be made again from it in any process. Every verb has an `_async` twin, and
    `await handle` waits for the result. A handle that goes away changes nothing for the execution.
    """

    def __init__(
        self,
        execution_id: str,
        runtime: AgentRuntime | None = None,
        correlation_id: str | None = None,
        run_id: str | None = None,
        *,
        agent: Agent | None = None,
    ) -> None:
        """`runtime` None uses the default runtime. `agent` lets typed output be rebuilt without asking the server."""
        if runtime is None:
            from agentspan.default import default_runtime

            runtime = default_runtime()
        self.execution_id = execution_id
        self.runtime = runtime
        self.correlation_id = correlation_id
        self.run_id = run_id
        self._agent = agent
        self._shown: dict[str, str] = {}  # call_id → hash of the arguments this handle has shown to its user

    def __repr__(self) -> str:
        return f"AgentHandle({self.execution_id!r})"

    def __await__(self) -> Generator[Any, None, AgentResult]:
        return self.join_async().__await__()

    # --- reading

    async def get_status_async(self) -> AgentStatus:
        """How it stands now."""
        status = await self.runtime.get_status_async(self.execution_id)
        self._shown = {pending.call_id: pending.arguments_hash for pending in status.pending}
        return status

    async def join_async(self, timeout: float | None = None) -> AgentResult:
        """Wait until it has ended, through crashes and restarts of its actor, and return the result.

        Args:
            timeout: Seconds; None waits as long as it takes.

        Raises:
            ServerTimeoutError: (a TimeoutError) `timeout` passed; the execution is left alone.
        """
        return await self.runtime._join(self.execution_id, timeout, self._agent)

    def stream(self, *, after: int = 0, tokens: bool = False) -> AgentStream:
        """Its events from the one after number `after`, ending with `done`. `tokens` adds text as it streams in, live."""
        return AgentStream(self, after=after, tokens=tokens)

    def stream_async(self, *, after: int = 0, tokens: bool = False) -> AsyncAgentStream:
        """`stream` for `async for`."""
        return AsyncAgentStream(self, after=after, tokens=tokens)

    async def history_async(self, *, limit: int | None = 100) -> list[HistoryState]:
        """The states it went through, newest first.

        Args:
            limit: The most to return; None for all.
        """
        return await self.runtime.history_async(self.execution_id, limit=limit)

    async def fork_async(
        self, *, step: int | None = None, state: Any = None, as_node: str | None = None, agent: Any = None
    ) -> AgentHandle:
        """Start a new execution from one of its states; this one is not touched.

        Args:
            step: Which state, `HistoryState.step`; None is the last.
            state: What to change in it first. For a graph an update as a node would return it (reducers apply); for an
                agent `{"messages": [...]}` replaces the conversation, `{"state": {...}}` updates what tools share.
            as_node: Graphs: the node the update counts as coming from.
            agent: The `Agent` or graph that goes on, or its name as it is deployed now: one in which a mistake was put
                right, say. By default the version that this execution runs. What it would lose of the state (a node that
                comes next, a field, a class, a tool that was called) is refused.

        Raises:
            UnknownExecutionError, AgentNotFoundError: There is no such execution, or no agent of that name.
            ConfigurationError, UnknownStateTypeError: There is no such step, or the state does not fit. In all cases
                nothing was started.
        """
        return await self.runtime.fork_async(self.execution_id, step=step, state=state, as_node=as_node, agent=agent)

    # --- decisions

    async def approve_async(
        self,
        call_id: str | None = None,
        *,
        arguments: dict[str, Any] | None = None,
        by: str | None = None,
        event: AgentEvent | None = None,
    ) -> None:
        """Let a waiting call run, with `arguments` if it should run with others (they are validated again).

        Args:
            call_id: Which call; None is the one this handle showed last, or the only one that waits.
            by: Who decides, for the record; the login name by default.
            event: The WAITING event it answers, instead of `call_id`.

        Raises:
            NothingPendingError, UnknownCallError, AmbiguousDecisionError, DecisionMismatchError, InvalidDecisionError:
                Nothing was decided. Answering twice is no error: the first decision stands.
        """
        await self._decide("approve", call_id, event, arguments=arguments, by=by)

    async def reject_async(
        self, reason: str = "", call_id: str | None = None, *, by: str | None = None, event: AgentEvent | None = None
    ) -> None:
        """Refuse a waiting call. The model hears the reason and goes on; the execution is not over. Errors as `approve`."""
        await self._decide("reject", call_id, event, text=reason, by=by)

    async def respond_async(
        self, value: Any, call_id: str | None = None, *, by: str | None = None, event: AgentEvent | None = None
    ) -> None:
        """Answer a question, or give a waiting call's result in its stead. Errors as `approve`.

        Where there is something to approve (an agent's or a graph's tool call, a breakpoint), `{"approved": True}` and
        `{"approved": False, "reason": …}` approve and reject. A graph's `interrupt()` returns `value` as it is.
        """
        await self._decide("respond", call_id, event, value=value, by=by)

    async def _shown_call(self) -> str:
        """The first call this handle has shown that still waits: what its user means, even if more waits by now."""
        pending = (await self.runtime.get_status_async(self.execution_id)).pending
        waiting = {waits.call_id: waits.tool_name for waits in pending}
        shown = list(self._shown)
        self._shown = {call_id: shown_hash for call_id, shown_hash in self._shown.items() if call_id in waiting}
        if self._shown or not waiting:
            return next(iter(self._shown), shown[0])
        # Never decide on what nobody was shown.
        raise UnknownCallError(
            call_id=shown[0],
            execution_id=self.execution_id,
            pending=", ".join(f"{call_id} ({name})" for call_id, name in waiting.items()),
        )

    async def _decide(self, kind: str, call_id: str | None, event: AgentEvent | None, **fields: Any) -> None:
        if call_id is None and event is not None:
            call_id = event.call_id
        if call_id is None and self._shown:
            call_id = await self._shown_call()
        await self.runtime._send(
            self.execution_id, kind, call_id=call_id, arguments_hash=self._shown.get(call_id or ""), **fields
        )
        self._shown.pop(call_id or "", None)

    # --- signals

    async def send_async(self, message: Any, *, by: str | None = None) -> None:
        """Put a message into the execution's queue, for its `wait_for_message_tool`.

        Raises:
            ExecutionFinishedError: It has ended.
            UnheardSignalError: It runs a graph. Nothing was sent.
        """
        await self.runtime._send(self.execution_id, "message", value=message, by=by)

    async def signal_async(self, message: str, *, by: str | None = None) -> None:
        """Add a note to every model call from now on, until the next one replaces it; empty takes it away.

        Errors as `send`.
        """
        await self.runtime._send(self.execution_id, "guide", text=message, by=by)

    async def pause_async(self, *, by: str | None = None) -> None:
        """Start nothing new until `resume`; what runs is finished and recorded."""
        await self.runtime._send(self.execution_id, "pause", by=by)

    async def resume_async(self, *, by: str | None = None) -> None:
        """Go on after `pause`."""
        await self.runtime._send(self.execution_id, "resume", by=by)

    async def cancel_async(self, reason: str = "", *, by: str | None = None) -> None:
        """End it now: TERMINATED. What runs is cancelled."""
        await self.runtime._send(self.execution_id, "cancel", text=reason, by=by)

    async def stop_async(self, *, by: str | None = None) -> None:
        """End it after the current turn (a graph: super-step): COMPLETED, finish reason `stopped`.

        The `state` of a graph's result is then the last that was committed.
        """
        await self.runtime._send(self.execution_id, "stop", by=by)

    get_status = twin(get_status_async)
    join = twin(join_async)
    history = twin(history_async)
    fork = twin(fork_async)
    approve = twin(approve_async)
    reject = twin(reject_async)
    respond = twin(respond_async)
    send = twin(send_async)
    signal = twin(signal_async)
    pause = twin(pause_async)
    resume = twin(resume_async)
    cancel = twin(cancel_async)
    stop = twin(stop_async)


class AsyncAgentStream:
    """The events of an execution, for `async for`. Reconnects by itself; leaving it changes nothing for the execution.

    Ends after `done`. A failed attempt that will be retried is an `error` event with `will_retry`, not an end.
    """

    def __init__(self, handle: AgentHandle, *, after: int = 0, tokens: bool = False) -> None:
        self.handle = handle
        self.execution_id = handle.execution_id
        self.events: list[AgentEvent] = []
        """What was read so far, without tokens."""
        self._cursor = after
        self._token_cursor = 0
        self._tokens = tokens
        self._ready: list[AgentEvent] = []
        self._over = False

    def __aiter__(self) -> AsyncIterator[AgentEvent]:
        return self

    async def __anext__(self) -> AgentEvent:
        while not self._ready:
            if self._over:
                raise StopAsyncIteration
            await self._fetch()
        event = self._ready.pop(0)
        if event.type is not EventType.TOKEN:
            self.events.append(event)
        if event.type is EventType.WAITING and event.call_id and event.data.get("arguments_hash"):
            self.handle._shown[event.call_id] = event.data["arguments_hash"]
        if event.type is EventType.DONE:
            self._over = True
        return event

    async def _fetch(self) -> None:
        page = await self.handle.runtime._events(
            self.execution_id, self._cursor, self._token_cursor, tokens=self._tokens
        )
        self._token_cursor = page["next_token"]
        for text in page["tokens"] if self._tokens else ():
            self._ready.append(AgentEvent(type=EventType.TOKEN, execution_id=self.execution_id, content=text))
        self._ready += [AgentEvent.from_dict(event) for event in page["events"]]
        self._cursor = page["next"]
        if page["settled"] and not self._ready:
            self._over = True  # Quarantined: it ended without a `done`.

    async def get_result_async(self) -> AgentResult:
        """Read to the end and return the result."""
        async for _ in self:
            pass
        return await self.handle.join_async()

    async def approve(self, call_id: str | None = None, **more: Any) -> None:
        """As on the handle."""
        await self.handle.approve_async(call_id, **more)

    async def reject(self, reason: str = "", call_id: str | None = None, **more: Any) -> None:
        """As on the handle."""
        await self.handle.reject_async(reason, call_id, **more)

    async def respond(self, value: Any, call_id: str | None = None, **more: Any) -> None:
        """As on the handle."""
        await self.handle.respond_async(value, call_id, **more)

    async def send(self, message: Any) -> None:
        """As on the handle."""
        await self.handle.send_async(message)

    get_result = get_result_async


class AgentStream:
    """`AsyncAgentStream` for a plain `for` loop."""

    def __init__(self, handle: AgentHandle, *, after: int = 0, tokens: bool = False) -> None:
        self._inner = AsyncAgentStream(handle, after=after, tokens=tokens)
        self.handle = handle
        self.execution_id = handle.execution_id

    @property
    def events(self) -> list[AgentEvent]:
        """What was read so far, without tokens."""
        return self._inner.events

    @property
    def result(self) -> AgentResult:
        """Read to the end and return the result."""
        return self.get_result()

    def __iter__(self) -> Iterator[AgentEvent]:
        return self

    def __next__(self) -> AgentEvent:
        try:
            return run_sync(self._inner.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None

    def get_result(self) -> AgentResult:
        """Read to the end and return the result."""
        return run_sync(self._inner.get_result_async())

    def approve(self, call_id: str | None = None, **more: Any) -> None:
        """As on the handle."""
        self.handle.approve(call_id, **more)

    def reject(self, reason: str = "", call_id: str | None = None, **more: Any) -> None:
        """As on the handle."""
        self.handle.reject(reason, call_id, **more)

    def respond(self, value: Any, call_id: str | None = None, **more: Any) -> None:
        """As on the handle."""
        self.handle.respond(value, call_id, **more)

    def send(self, message: Any) -> None:
        """As on the handle."""
        self.handle.send(message)


def read_back(cls: type, plain: dict[str, Any]) -> Any:
    """The result or status that `to_dict` made plain."""
    return _reader(cls).validate_python(plain)


def new_id() -> str:
    """An ID for a request or a signal: sending it again is sending the same one."""
    return secrets.token_hex(12)
