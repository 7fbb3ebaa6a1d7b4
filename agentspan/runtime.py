"""`AgentRuntime`: what a user's program holds. Deploys and starts agents, waits for results, and steers by execution ID."""

from __future__ import annotations

import asyncio
import signal as signals
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from agentspan import travel
from agentspan.agents.agent import Agent
from agentspan.agents.context import INSIDE
from agentspan.agents.events import AgentEvent
from agentspan.agents.results import AgentResult, DeploymentInfo, FinishReason, HistoryState
from agentspan.bridge import run_sync, twin
from agentspan.client import Client
from agentspan.config import check_placement
from agentspan.errors import AgentspanError, ConfigurationError, ServerTimeoutError
from agentspan.handle import FOREVER_S, LONG_POLL_S, AgentHandle, AgentStream, AsyncAgentStream, read_back
from agentspan.submission import (
    GRAPH,
    StartCall,
    agent_request,
    check_seconds,
    deploy_terms,
    deployable,
    graph_request,
    is_place,
    warn_of_losses,
)

if TYPE_CHECKING:
    from agentspan.actors.clienthost import ClientHost
    from agentspan.persistence.store import DeploymentRow

GRACE_S = 5.0
"""How much longer than it was told to a wait may take, when the server is slow or is being started again."""


class AgentRuntime(Client):
    """Runs agents durably.

    Joins the server of `$AGENTSPAN_HOME` if one is up, else starts an embedded one in this process with the same store: a
    script that crashed can simply be run again, and its executions go on. With `address`, joins that Ray cluster.
    Connects on first use, or on entering a `with` or `async with` block; leaving the block shuts down the connection (and an
    embedded server), never an execution: what is unfinished goes on when a server is up again.
    """

    _host: ClientHost | None = None

    async def _before_leaving(self) -> None:
        host, self._host = self._host, None
        if host is not None:
            await host.close()

    # --- agents

    async def deploy_async(
        self,
        *agents: Any,
        types: Sequence[type] = (),
        host: str | None = None,
        placement: str | None = None,
        max_concurrency: int | None = None,
    ) -> list[DeploymentInfo]:
        """Make agents and LangGraph graphs known under their names, so that any process can start them.

        Other code is a new version; running executions stay on the one they were started with.

        Args:
            agents: `Agent`s, and compiled LangGraph graphs as they are; or the place of a graph, or of a function that makes
                one, in an installed module: `"package.module:attribute"`.
            types: Classes that a graph's state holds and its schema does not name.
            host: `"client"` runs a graph in this process, whose code then stays here; the last resort for one that cannot
                be shipped. What is unfinished when the process ends waits for one that deploys the graph again.
            placement: `"packed"` or `"dedicated"`: where executions of this version run, unless their start says otherwise.
            max_concurrency: How many executions of each may be at work at the same time (see `Agent`), in place of what
                the agent says; 0 for any number. Deploying again with another number changes it, for all versions.

        Raises:
            UnshippableCodeError: Something an agent refers to cannot be sent; names it. Nothing was deployed.
            ConfigurationError: It is neither an agent nor a graph.
        """
        wanted = [deployable(agent, tuple(types)) for agent in agents]
        _check_host(host, wanted)
        terms = deploy_terms(placement, max_concurrency, host)
        await self._connected()  # First of all: it says how Ray is to be imported, which packing does.
        rows = [await asyncio.to_thread(_packed, agent, host) for agent in wanted]
        rows = [self._arranged(row, terms) for row in rows]
        for agent in wanted:
            warn_of_losses(agent)
        deployed = [await self._deploy_row(row, agent) for row, agent in zip(rows, wanted, strict=True)]
        if host is not None:
            for row, graph in zip(rows, wanted, strict=True):
                await self._client_host().look_after(row.deployment_id, graph)
        return deployed

    def _arranged(self, row: Any, terms: Mapping[str, Any]) -> Any:
        """The deployment on the terms asked for; for the rest on those it was last deployed with here."""
        from agentspan.actors.shipping import arranged
        from agentspan.persistence.store import runs_in_client

        if runs_in_client(row.deployment_id):
            return row
        known = self._terms.setdefault(row.deployment_id, {})
        known.update(terms)
        return arranged(row, known) if known else row

    def _client_host(self) -> ClientHost:
        if self._host is None:
            from agentspan.actors.clienthost import ClientHost

            self._host = ClientHost(self.settings, self._store_url())
        return self._host

    async def _deploy_row(self, row: Any, agent: Any) -> DeploymentInfo:
        await self._call("deploy", row=asdict(row))
        self._deployed[row.deployment_id] = agent
        return DeploymentInfo(
            registered_name=row.agent,
            agent_name=row.agent,
            deployment_id=row.deployment_id,
            source=row.reference or row.source,
        )

    async def serve_async(
        self,
        *agents: Any,
        blocking: bool = True,
        host: str | None = None,
        placement: str | None = None,
        max_concurrency: int | None = None,
    ) -> None:
        """Deploy agents and graphs and, when `blocking`, keep this process (and an embedded server in it) up until Ctrl-C."""
        await self.deploy_async(*agents, host=host, placement=placement, max_concurrency=max_concurrency)
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
        agent: Any,
        prompt: Any = None,
        *,
        session_id: str | None = None,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        context: Any = None,
        metadata: dict[str, Any] | None = None,
        tokens: bool = False,
        config: Mapping[str, Any] | None = None,
        interrupt_before: Any = None,
        interrupt_after: Any = None,
        host: str | None = None,
        placement: str | None = None,
    ) -> AgentHandle:
        """Start an execution and return its handle. From then on it reaches an end, or waits for a person, whatever dies.

        Args:
            agent: An `Agent`, a LangGraph graph, or the name of a deployed one.
            prompt: For an agent text, or a list of chat messages; for a graph what its `invoke` takes, or text.
            session_id: Continue the conversation of this session's last completed execution.
            idempotency_key: A second start of the same agent with it returns the first execution.
            timeout: Seconds the execution may take in all; `Agent.timeout_seconds` by default.
            metadata: Data kept with the execution.
            context: For an agent the same as `metadata`; for a graph its runtime context.
            tokens: Stream the model's text, for readers that ask for it.
            config: Graphs: a `RunnableConfig` (tags, metadata, recursion_limit, configurable). It is kept with the
                execution, so no secrets in it; `thread_id` in it names the session.
            interrupt_before, interrupt_after: Graphs: breakpoints of this run, as for `invoke`.
            host: Graphs: `"client"` runs it in this process, as for `deploy`.
            placement: `"packed"` runs it in a process with many others, `"dedicated"` in one of its own; by default as it
                was deployed, else as this runtime was told. It stays so, whatever crashes.

        Raises:
            InvalidPromptError, ConfigurationError, AgentNotFoundError, UnshippableCodeError, UnstorableStateError:
                Nothing was started.
        """
        call = StartCall(
            prompt=prompt,
            session_id=session_id,
            idempotency_key=idempotency_key,
            timeout_s=timeout,
            context=context,
            metadata=metadata or {},
            config=config,
            interrupt_before=interrupt_before,
            interrupt_after=interrupt_after,
        )
        return await self._start(agent, call, tokens=tokens, host=host, placement=check_placement(placement))

    async def _start(
        self, agent: Any, call: StartCall, *, tokens: bool, host: str | None, placement: str | None
    ) -> AgentHandle:
        call.check()
        known = deployable(agent) if not isinstance(agent, str) or is_place(agent) else None
        _check_host(host, [known])
        if known is not None:
            request = self._request_for(known, call)
            row = await self._deployed_row(known, host)
            request["deployment_id"] = row.deployment_id
            spec = row.spec
        else:
            deployment = await self._call("deployment", agent=agent)
            spec = deployment["spec"] if deployment is not None else {}
            is_graph = deployment is not None and deployment["kind"] == GRAPH
            request = graph_request(agent, spec, None, call) if is_graph else agent_request(agent, call)
        if request["timeout_s"] is None:
            request["timeout_s"] = spec.get("timeout_seconds")
        request["placement"] = placement or spec.get("placement") or self.settings.placement
        request["parent"] = INSIDE.get()
        created = await self._call("submit", new=request, tokens=tokens)
        if host is not None and known is not None:
            await self._client_host().run(created["execution_id"], known, tokens=tokens)
        return AgentHandle(created["execution_id"], self, agent=known)

    async def _deployed_row(self, known: Any, host: str | None) -> DeploymentRow:
        """The deployment of an agent or graph, made if need be."""
        await self._connected()  # First of all: it says how Ray is to be imported, which packing does.
        row: DeploymentRow = self._arranged(_packed(known, host), {})
        if row.deployment_id not in self._deployed:
            warn_of_losses(known)
            await self._deploy_row(row, known)
        if host is not None:
            await self._client_host().look_after(row.deployment_id, known)
        return row

    def _request_for(self, known: Any, call: StartCall) -> dict[str, Any]:
        if isinstance(known, Agent):
            return agent_request(known.name, call)
        return graph_request(known.name, known.spec(), known, call)

    async def run_async(
        self,
        agent: Any,
        prompt: Any = None,
        *,
        timeout: float | None = None,
        on_event: Callable[[AgentEvent], None] | None = None,
        **more: Any,
    ) -> AgentResult:
        """Start an execution and wait for its result. Arguments as `start`, but `timeout` is how long to wait.

        Raises:
            ServerTimeoutError: (a TimeoutError) It did not end in time; it goes on, see the error's `execution_id`.
        """
        check_seconds(timeout)
        handle = await self.start_async(agent, prompt, **more)
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
        agent: Any = None,
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
        agent: Any = None,
        prompt: Any = None,
        *,
        handle: AgentHandle | None = None,
        tokens: bool = False,
        **more: Any,
    ) -> AgentStream:
        """Start an execution (or take `handle`) and stream its events. Arguments as `start`."""
        return AgentStream(run_sync(self._stream_handle(agent, prompt, handle, tokens, more)), tokens=tokens)

    async def _stream_handle(
        self, agent: Any, prompt: Any, handle: AgentHandle | None, tokens: bool, more: dict[str, Any]
    ) -> AgentHandle:
        if handle is not None:
            return handle
        if agent is None:
            raise ConfigurationError(problem="stream() needs an agent and a prompt, or a handle.")
        return await self.start_async(agent, prompt, tokens=tokens, **more)

    async def _events(self, execution_id: str, after: int, after_token: int, *, tokens: bool) -> dict[str, Any]:
        """A page of events, from this process if it runs the execution: nobody else hears the tokens then."""
        if self._host is not None:
            live = await self._host.poll(execution_id, after, after_token, LONG_POLL_S, tokens)
            if live is not None and (live["events"] or live["tokens"] or not live["closed"]):
                return {**live, "settled": False}
        page: dict[str, Any] = await self._call(
            "events",
            timeout_s=LONG_POLL_S,
            execution_id=execution_id,
            after=after,
            after_token=after_token,
            tokens=tokens,
            wait_s=LONG_POLL_S,
        )
        return page

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
                return await self._typed(result, agent, page.get("state") or b"")
            if time.monotonic() >= deadline:
                raise ServerTimeoutError(what="The execution", timeout_s=timeout, execution_id=execution_id)

    async def _typed(self, result: AgentResult, agent: Any, state: bytes) -> AgentResult:
        """The result with typed output, or a graph's state, where this process can have the types."""
        is_cut_short = result.finish_reason is FinishReason.STOPPED
        if not result.is_success or (result.output is None and not state and not is_cut_short):
            return result
        if agent is None:
            agent = await self._agent_of(result.execution_id)
        if agent is None:
            return result
        if not isinstance(agent, Agent):
            from agentspan.frameworks.langgraph.app.outputs import role_messages

            values = await travel.final_state(self, agent, result.execution_id, state)
            return replace(result, state=values, messages=role_messages(values))
        if agent.spec().output_schema is None or result.output is None or isinstance(result.output, str):
            return result
        return replace(result, output=agent.load_output(result.output))

    async def _agent_of(self, execution_id: str) -> Any:
        """The agent or graph of an execution, if its result needs it and this process can have it."""
        from agentspan.actors.shipping import load
        from agentspan.persistence.store import DeploymentRow

        deployment = (await self._call("show", execution_id=execution_id))["deployment"] or {}
        if deployment.get("kind") != GRAPH and not deployment.get("spec", {}).get("output_schema"):
            return None
        known = self._here(deployment)
        if known is not None:
            return known
        try:
            return load(DeploymentRow(**await self._call("code", execution_id=execution_id)))
        except AgentspanError:
            return None  # The output stays plain data.

    def _here(self, deployment: Mapping[str, Any]) -> Any:
        """What this process has deployed as this deployment; for what cannot be sent, also a later version of it."""
        known = self._deployed.get(deployment["deployment_id"])
        if known is None and deployment["source"] == "client":
            name = deployment["spec"]["name"]
            known = next((later for later in reversed(self._deployed.values()) if later.name == name), None)
        return known

    # --- history

    async def history_async(self, execution_id: str, *, limit: int | None = 100) -> list[HistoryState]:
        """As `AgentHandle.history`."""
        return await travel.history(self, execution_id, limit)

    async def fork_async(
        self,
        execution_id: str,
        *,
        step: int | None = None,
        state: Any = None,
        as_node: str | None = None,
        agent: Any = None,
    ) -> AgentHandle:
        """As `AgentHandle.fork`."""
        return await travel.fork(self, execution_id, step=step, state=state, as_node=as_node, agent=agent)

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

    history = twin(history_async)
    fork = twin(fork_async)
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


def _packed(agent: Any, host: str | None) -> Any:
    if host is not None:
        from agentspan.actors.clienthost import client_row

        return client_row(agent)
    from agentspan.actors.shipping import pack

    return pack(agent)


def _check_host(host: str | None, wanted: Sequence[Any]) -> None:
    if host is None:
        return
    if host != "client":
        raise ConfigurationError(problem=f"host is {host!r}; the only one to choose is 'client'.")
    for agent in wanted:
        if agent is None or isinstance(agent, Agent):
            raise ConfigurationError(problem="host='client' is for LangGraph graphs, given as they are.")
