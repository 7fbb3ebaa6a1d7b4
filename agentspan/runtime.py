"""`AgentRuntime`: what a user's program holds. Deploys and starts agents, waits for results, and steers by execution ID."""

from __future__ import annotations

import asyncio
import signal as signals
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from agentspan.agents.agent import Agent
from agentspan.agents.events import AgentEvent
from agentspan.agents.results import AgentResult, DeploymentInfo
from agentspan.bridge import run_sync, twin
from agentspan.client import Client
from agentspan.errors import (
    AgentspanError,
    ConfigurationError,
    InvalidPromptError,
    ServerTimeoutError,
)
from agentspan.handle import FOREVER_S, LONG_POLL_S, AgentHandle, AgentStream, AsyncAgentStream, new_id, read_back

GRACE_S = 5.0
"""How much longer than it was told to a wait may take, when the server is slow or is being started again."""


class AgentRuntime(Client):
    """Runs agents durably.

    Joins the server of `$AGENTSPAN_HOME` if one is up, else starts an embedded one in this process with the same store: a
    script that crashed can simply be run again, and its executions go on. With `address`, joins that Ray cluster.
    Connects on first use, or on entering a `with` or `async with` block; leaving the block shuts down the connection (and an
    embedded server), never an execution: what is unfinished goes on when a server is up again.
    """

    # --- agents

    async def deploy_async(self, *agents: Agent) -> list[DeploymentInfo]:
        """Make agents known under their names, so that any process can start them. Other code is a new version.

        Running executions stay on the version they were started with.

        Raises:
            UnshippableCodeError: Something an agent refers to cannot be sent; names it. Nothing was deployed.
        """
        await self._connected()  # First of all: it says how Ray is to be imported, which packing does.
        from agentspan.actors.shipping import pack

        rows = [await asyncio.to_thread(pack, _agent(agent)) for agent in agents]
        return [await self._deploy_row(row) for row in rows]

    async def _deploy_row(self, row: Any) -> DeploymentInfo:
        await self._call("deploy", row=asdict(row))
        self._deployed.add(row.deployment_id)
        return DeploymentInfo(
            registered_name=row.agent,
            agent_name=row.agent,
            deployment_id=row.deployment_id,
            source=row.reference or "value",
        )

    async def serve_async(self, *agents: Agent, blocking: bool = True) -> None:
        """Deploy agents and, when `blocking`, keep this process (and an embedded server in it) up until Ctrl-C."""
        await self.deploy_async(*agents)
        if blocking:
            stop = asyncio.Event()
            try:
                asyncio.get_running_loop().add_signal_handler(signals.SIGTERM, stop.set)
            except (ValueError, NotImplementedError, RuntimeError):
                pass  # Not the main thread: Ctrl-C arrives as KeyboardInterrupt in the caller's.
            await stop.wait()

    # --- starting

    async def start_async(
        self,
        agent: Agent | str,
        prompt: Any = None,
        *,
        session_id: str | None = None,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        context: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
        tokens: bool = False,
    ) -> AgentHandle:
        """Start an execution and return its handle. From then on it reaches an end, or waits for a person, whatever dies.

        Args:
            agent: An `Agent`, or the name of a deployed one.
            prompt: Text, or a list of chat messages.
            session_id: Continue the conversation of this session's last completed execution.
            idempotency_key: A second start of the same agent with it returns the first execution.
            timeout: Seconds the execution may take in all; `Agent.timeout_seconds` by default.
            metadata: Data kept with the execution (`context` is the same, for existing programs).
            tokens: Stream the model's text, for readers that ask for it.

        Raises:
            InvalidPromptError, AgentNotFoundError, UnshippableCodeError: Nothing was started.
        """
        handle, _ = await self._start(
            agent,
            prompt,
            session_id=session_id,
            idempotency_key=idempotency_key,
            timeout_s=timeout,
            metadata={**(context or {}), **(metadata or {})},
            tokens=tokens,
        )
        return handle

    async def _start(self, agent: Agent | str, prompt: Any, *, tokens: bool, **more: Any) -> tuple[AgentHandle, bool]:
        new: dict[str, Any] = {"request_id": new_id(), **more}
        _seconds(new["timeout_s"])
        for name in ("session_id", "idempotency_key"):
            if new[name] is not None and not isinstance(new[name], str):
                raise ConfigurationError(problem=f"{name} is {new[name]!r}; give text.")
        if isinstance(agent, str):
            new["agent"] = agent
            known: Agent | None = None
        else:
            known = _agent(agent)
            new["agent"] = known.name
        new["prompt"] = _prompt(prompt, new["agent"])
        if known is not None:
            await self._connected()  # First of all: it says how Ray is to be imported, which packing does.
            from agentspan.actors.shipping import pack

            row = pack(known)
            if row.deployment_id not in self._deployed:
                await self._deploy_row(row)
            new["deployment_id"] = row.deployment_id
            if new["timeout_s"] is None:
                new["timeout_s"] = known.spec().timeout_seconds
        else:
            deployment = await self._call("deployment", agent=agent)
            if deployment is not None and new["timeout_s"] is None:
                new["timeout_s"] = deployment["spec"].get("timeout_seconds")
        created = await self._call("submit", new=new, tokens=tokens)
        return AgentHandle(created["execution_id"], self, agent=known), created["is_new"]

    async def run_async(
        self,
        agent: Agent | str,
        prompt: Any = None,
        *,
        session_id: str | None = None,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        on_event: Callable[[AgentEvent], None] | None = None,
        context: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> AgentResult:
        """Start an execution and wait for its result. Arguments as `start`, but `timeout` is how long to wait.

        Raises:
            ServerTimeoutError: (a TimeoutError) It did not end in time; it goes on, see the error's `execution_id`.
        """
        _seconds(timeout)
        handle, _ = await self._start(
            agent,
            prompt,
            session_id=session_id,
            idempotency_key=idempotency_key,
            timeout_s=None,
            metadata={**(context or {}), **(metadata or {})},
            tokens=False,
        )
        if on_event is None:
            return await handle.join_async(timeout)
        try:
            async with asyncio.timeout(timeout):
                async for event in handle.stream_async():
                    on_event(event)
        except TimeoutError:
            raise ServerTimeoutError(
                what="The execution", timeout_s=timeout, execution_id=handle.execution_id
            ) from None
        return await handle.join_async()

    async def stream_async(
        self,
        agent: Agent | str | None = None,
        prompt: Any = None,
        *,
        handle: AgentHandle | None = None,
        tokens: bool = False,
        **more: Any,
    ) -> AsyncAgentStream:
        """Start an execution (or take `handle`) and stream its events. Arguments as `start`."""
        return AsyncAgentStream(await self._stream_handle(agent, prompt, handle, tokens, more), tokens=tokens)

    def stream(
        self,
        agent: Agent | str | None = None,
        prompt: Any = None,
        *,
        handle: AgentHandle | None = None,
        tokens: bool = False,
        **more: Any,
    ) -> AgentStream:
        """Start an execution (or take `handle`) and stream its events. Arguments as `start`."""
        return AgentStream(run_sync(self._stream_handle(agent, prompt, handle, tokens, more)), tokens=tokens)

    async def _stream_handle(
        self, agent: Agent | str | None, prompt: Any, handle: AgentHandle | None, tokens: bool, more: dict[str, Any]
    ) -> AgentHandle:
        if handle is not None:
            return handle
        if agent is None:
            raise ConfigurationError(problem="stream() needs an agent and a prompt, or a handle.")
        return await self.start_async(agent, prompt, tokens=tokens, **more)

    async def resume_async(self, execution_id: str, agent: Agent | None = None) -> AgentHandle:
        """The handle of an execution that exists, after making sure that a server looks after it.

        Unfinished executions go on by themselves once a server is up; nothing has to be registered again. `agent` is only
        used to rebuild typed output.
        """
        await self._call("wake", execution_id=execution_id)
        return AgentHandle(execution_id, self, agent=agent)

    # --- results

    async def _join(self, execution_id: str, timeout: float | None, agent: Agent | None) -> AgentResult:
        deadline = time.monotonic() + (FOREVER_S if timeout is None else timeout)
        while True:
            left = max(0.0, deadline - time.monotonic())
            wait = min(LONG_POLL_S, left)
            try:
                async with asyncio.timeout(left + GRACE_S):
                    page = await self._call("result", execution_id=execution_id, timeout_s=wait, wait_s=wait)
            except TimeoutError:
                if left > wait:
                    raise  # The server does not answer.
                raise ServerTimeoutError(what="The execution", timeout_s=timeout, execution_id=execution_id) from None
            if page["settled"]:
                result: AgentResult = read_back(AgentResult, page["result"])
                return await self._typed(result, agent)
            if time.monotonic() >= deadline:
                raise ServerTimeoutError(what="The execution", timeout_s=timeout, execution_id=execution_id)

    async def _typed(self, result: AgentResult, agent: Agent | None) -> AgentResult:
        """The result with its output as an instance of the agent's output type, where the type can be had."""
        if not result.is_success or result.output is None:
            return result
        if agent is None:
            agent = await self._agent_of(result.execution_id)
        if agent is None or agent.spec().output_schema is None or isinstance(result.output, str):
            return result
        from dataclasses import replace

        return replace(result, output=agent.load_output(result.output))

    async def _agent_of(self, execution_id: str) -> Agent | None:
        from agentspan.actors.shipping import load
        from agentspan.persistence.store import DeploymentRow

        shown = await self._call("show", execution_id=execution_id)
        if not (shown["deployment"] or {}).get("spec", {}).get("output_schema"):
            return None
        try:
            agent: Agent = load(DeploymentRow(**await self._call("code", execution_id=execution_id)))
        except AgentspanError:
            return None  # This process cannot have the type; the output stays plain data.
        return agent

    # --- steering

    def handle(self, execution_id: str) -> AgentHandle:
        """A handle for an execution ID."""
        return AgentHandle(execution_id, self)

    async def approve_async(self, execution_id: str, call_id: str | None = None, **more: Any) -> None:
        """As `AgentHandle.approve`."""
        await self.handle(execution_id).approve_async(call_id, **more)

    async def reject_async(self, execution_id: str, reason: str = "", call_id: str | None = None, **more: Any) -> None:
        """As `AgentHandle.reject`."""
        await self.handle(execution_id).reject_async(reason, call_id, **more)

    async def respond_async(self, execution_id: str, output: Any, call_id: str | None = None, **more: Any) -> None:
        """As `AgentHandle.respond`."""
        await self.handle(execution_id).respond_async(output, call_id, **more)

    async def send_message_async(self, execution_id: str, message: Any, *, by: str | None = None) -> None:
        """As `AgentHandle.send`."""
        await self._send(execution_id, "message", value=message, by=by)

    async def signal_async(self, execution_id: str, message: str, *, by: str | None = None) -> None:
        """As `AgentHandle.signal`."""
        await self._send(execution_id, "guide", text=message, by=by)

    async def pause_async(self, execution_id: str, *, by: str | None = None) -> None:
        """As `AgentHandle.pause`."""
        await self._send(execution_id, "pause", by=by)

    async def cancel_async(self, execution_id: str, reason: str = "", *, by: str | None = None) -> None:
        """As `AgentHandle.cancel`."""
        await self._send(execution_id, "cancel", text=reason, by=by)

    async def stop_async(self, execution_id: str, *, by: str | None = None) -> None:
        """As `AgentHandle.stop`."""
        await self._send(execution_id, "stop", by=by)

    deploy = twin(deploy_async)
    serve = twin(serve_async)
    start = twin(start_async)
    run = twin(run_async)
    resume = twin(resume_async)
    approve = twin(approve_async)
    reject = twin(reject_async)
    respond = twin(respond_async)
    send_message = twin(send_message_async)
    signal = twin(signal_async)
    pause = twin(pause_async)
    cancel = twin(cancel_async)
    stop = twin(stop_async)


def _agent(agent: Any) -> Agent:
    if isinstance(agent, Agent):
        return agent
    raise ConfigurationError(
        problem=f"An Agent (or the name of a deployed one) is needed, not a {type(agent).__name__}: {agent!r:.80}"
    )


def _seconds(timeout: Any) -> None:
    """Refuse a timeout that is none, before anything is started with it."""
    if timeout is not None and (
        isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or timeout != timeout
    ):
        raise ConfigurationError(problem=f"timeout is {timeout!r}; give seconds as a number, or None.")


def _prompt(prompt: Any, agent: str) -> Any:
    if isinstance(prompt, str):
        return prompt
    if (
        isinstance(prompt, list)
        and prompt
        and all(isinstance(m, dict) and isinstance(m.get("role"), str) for m in prompt)
    ):
        return prompt
    raise InvalidPromptError(
        agent=agent, found=type(prompt).__name__, expected="text, or a list of chat messages with a role each"
    )
