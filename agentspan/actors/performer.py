"""Does what the driver is told: model calls, tool calls, and the agent's own callables.

Every method turns what happened, good or bad, into the record of it. User code may raise anything and run for any time;
none of that reaches the driver. What a failed effect means (try again, tell the model, end) is settled here, because it
needs the error itself; it is on record before it counts.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import logging
import random
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, assert_never

from agentspan.actors.feed import Feed
from agentspan.actors.gate import ModelGate
from agentspan.actors.toolcall import Elsewhere, ToolOutcome, attempt, is_ours, text_of, type_of
from agentspan.agents.agent import Agent
from agentspan.agents.context import InstructionsContext, StopContext, ToolContext
from agentspan.agents.spec import AgentSpec, OnCrash
from agentspan.agents.tool_def import ToolDef
from agentspan.engine import records as r
from agentspan.engine.decide import CallModel, CallTool, CheckStop, Effect, LoadFork, LoadSession, RunGraph
from agentspan.engine.plan import RequestedCall, plan_calls
from agentspan.engine.prompt import conversation, ended_conversation, response_format, tool_definitions
from agentspan.engine.state import Call, ExecutionState
from agentspan.errors import (
    ConfigurationError,
    CorruptRecordError,
    ModelError,
    ModelRetryableError,
    UnknownExecutionError,
)
from agentspan.models.base import Model, ModelReply, ModelRequest, OnToken
from agentspan.persistence.forking import forked_snapshot
from agentspan.persistence.loading import load_state
from agentspan.persistence.store import Store
from agentspan.persistence.threads import Report

log = logging.getLogger("agentspan.performer")

MODEL_BACKOFF_S = 0.5
MODEL_BACKOFF_MAX_S = 30.0
TOO_MANY = frozenset({429, 529})
"""HTTP statuses by which a provider says that there are too many calls (529 is Anthropic's, for all its customers)."""
ANSWER_TOKENS = 500
"""What an answer is guessed to be when nothing bounds it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PerformerSettings:
    """Limits of what one incarnation does. Times in seconds."""

    model_retries_max: int = 6


class AgentPerformer:
    """Performs the effects of a native agent."""

    def __init__(
        self,
        agent: Agent,
        *,
        model: Callable[[str, str | None], Model],
        store: Store,
        feed: Feed | None = None,
        executor: Executor | None = None,
        elsewhere: Elsewhere | None = None,
        gate: ModelGate | None = None,
        settings: PerformerSettings | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`model` finds a model by name and base URL; `executor` runs blocking tools (None: the loop's default);
        `elsewhere` those that ask for resources (None: they run here like the others); `gate` knows which models are
        limited (None: none is)."""
        self.agent = agent
        self.spec: AgentSpec = agent.spec()
        self._model = model
        self._store = store
        self._feed = feed
        self._executor = executor
        self._elsewhere = elsewhere
        self.notes: dict[Effect, str] = {}
        self._gate = gate
        self._settings = settings or PerformerSettings()
        self._clock = clock
        self._tools: dict[str, ToolDef] = agent.tool_defs
        self._offered = tool_definitions(self.spec)
        self._format = response_format(self.spec)

    async def perform(self, state: ExecutionState, effect: Effect, report: Report) -> r.AnyRecord:
        """Do one effect; see `driver.Performer`."""
        match effect:
            case CallModel():
                return await self.call_model(state, effect, report)
            case CallTool():
                return await self.call_tool(state, effect, report)
            case CheckStop():
                return await self.check_stop(state, effect)
            case LoadSession():
                return await self.load_session(state, effect)
            case LoadFork():
                return await self.load_fork(state, effect)
            case RunGraph():
                raise AssertionError("a native agent is no graph")
            case _:
                assert_never(effect)

    def hold(self) -> None:
        """Nothing to do: model and tool calls come to their end by themselves."""

    # --- models

    async def call_model(self, state: ExecutionState, effect: CallModel, report: Report) -> r.AnyRecord:
        """One attempt at the next turn."""
        started = time.perf_counter()
        frame = state.frames[effect.path]
        try:
            messages = conversation(state, frame, await self._instructions(state))
            await self._tell("on_model_start", state, messages=messages, turn=effect.turn)
            request = ModelRequest(
                model=self.spec.model,
                messages=messages,
                tools=self._offered,
                response_format=self._format,
                temperature=self.spec.temperature,
                max_tokens=self.spec.max_tokens,
                idempotency_key=f"{state.execution_id}:{effect.path}:{effect.turn}",
                attempt=effect.attempt,
            )
            feed = self._feed
            on_token = feed.token if feed is not None and feed.wants_tokens else None
            model = self._model(self.agent.model, self.spec.base_url)
            try:
                note = functools.partial(self._note, effect, report)
                reply = await self._complete(model, request, on_token, note)
            finally:
                self.notes.pop(effect, None)
        except ModelRetryableError as problem:
            return self._model_failed(
                effect, problem, frame.model_failures, retry_after_s=problem.facts.get("retry_after_s")
            )
        except ModelError as problem:
            return r.ModelFailed(
                at=self._clock(),
                path=effect.path,
                attempt=effect.attempt,
                error=text_of(problem),
                error_type=type_of(problem),
            )
        except (Exception, asyncio.CancelledError) as problem:  # The agent's own code, or a model written by the user.
            if is_ours(problem):
                raise
            log.exception("model.failed", extra={"execution_id": state.execution_id})
            error = f"{type_of(problem)}: {text_of(problem)}"
            return r.ModelFailed(
                at=self._clock(), path=effect.path, attempt=effect.attempt, error=error, error_type=type_of(problem)
            )
        record = self._answered(state, effect, reply, time.perf_counter() - started)
        await self._tell(
            "on_model_end",
            state,
            text=record.text,
            llm_result=record.text,  # The name existing programs read.
            tool_calls=[{"name": call.name, "arguments": call.arguments} for call in record.calls],
            turn=effect.turn,
        )
        return record

    async def _complete(
        self, model: Model, request: ModelRequest, on_token: OnToken | None, note: Callable[[str], None]
    ) -> ModelReply:
        """The call, with a permit where one is needed."""
        gate = self._gate
        if gate is None or not gate.limits(request.model):
            return await model.complete(request, on_token=on_token)
        permit = await gate.enter(request.model, guessed_tokens(request), note)
        cost: int | None = None
        try:
            reply = await model.complete(request, on_token=on_token)
            cost = reply.total_tokens or None
            return reply
        except ModelRetryableError as problem:
            if problem.facts.get("status") in TOO_MANY:
                gate.throttled(request.model, problem.facts.get("retry_after_s"))
            raise
        finally:
            gate.leave(permit, cost=cost)

    def _model_failed(
        self, effect: CallModel, problem: ModelError, failures: int, *, retry_after_s: float | None
    ) -> r.ModelFailed:
        now = self._clock()
        retry_at = None
        error = text_of(problem)
        if failures < self._settings.model_retries_max:
            backoff = min(MODEL_BACKOFF_MAX_S, MODEL_BACKOFF_S * 2.0**failures)
            # Jitter keeps many executions that failed together from coming back together.
            retry_at = now + max(retry_after_s or 0.0, backoff * random.uniform(0.5, 1.0))
        else:
            error = f"{error} (gave up after {failures + 1} failed attempts)"
        return r.ModelFailed(
            at=now,
            path=effect.path,
            attempt=effect.attempt,
            error=error,
            error_type=type_of(problem),
            retry_at=retry_at,
        )

    def _answered(self, state: ExecutionState, effect: CallModel, reply: ModelReply, seconds: float) -> r.ModelAnswered:
        extras = reply.extra.get("call_extras", {})
        requested = [
            RequestedCall(call_id=c.call_id, name=c.name, arguments=c.arguments, extra=extras.get(c.call_id, {}))
            for c in reply.calls
        ]
        output: Any = None
        output_error: str | None = None
        if not requested and self.spec.output_schema is not None:
            try:
                output, _ = self.agent.parse_output(reply.text)
            except ValueError as problem:
                output_error = str(problem)
        return r.ModelAnswered(
            at=self._clock(),
            path=effect.path,
            attempt=effect.attempt,
            text=reply.text,
            thinking=reply.thinking,
            calls=plan_calls(state.frames[effect.path], self.spec, requested, self._validate),
            finish_reason=reply.finish_reason,
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
            total_tokens=reply.total_tokens,
            served_by=reply.served_by,
            output=output,
            output_error=output_error,
            seconds=round(seconds, 6),
        )

    def _validate(self, name: str, raw: str) -> dict[str, Any]:
        return self._tools[name].recorded_arguments(raw)

    async def _instructions(self, state: ExecutionState) -> str:
        instructions = self.agent.instructions
        if isinstance(instructions, str):
            return instructions
        context = InstructionsContext(
            execution_id=state.execution_id,
            session_id=state.session_id,
            agent_name=self.spec.name,
            state=copy.deepcopy(state.shared),
            dependencies=self.agent.dependencies,
            metadata=state.metadata,
        )
        return str(await _maybe_await(self.agent.resolve_instructions(context)))

    # --- tools

    async def call_tool(self, state: ExecutionState, effect: CallTool, report: Report) -> r.AnyRecord:
        """One attempt of a tool call."""
        call = state.call(effect.path, effect.call_id)
        assert call is not None, "the engine only names calls of the current turn"
        assert call.arguments is not None, "and only those whose arguments were accepted"
        tool = self._tools.get(call.name)
        if tool is None:
            problem = f"The tool {call.name!r} is no longer part of this agent."
            return r.ToolFailed(
                at=self._clock(), path=effect.path, call_id=effect.call_id, name=call.name, error=problem
            )
        context = self._context(state, effect, tool)
        told: dict[str, Any] = {"tool_name": tool.name, "call_id": effect.call_id, "attempt": effect.attempt}
        await self._tell("on_tool_start", state, arguments=call.arguments, **told)
        started = time.perf_counter()
        if self._elsewhere is not None and tool.needs:
            try:
                note = functools.partial(self._note, effect, report)
                outcome = await self._elsewhere(tool, call.arguments, context, note=note)
            finally:
                self.notes.pop(effect, None)
        else:
            outcome = await attempt(tool, call.arguments, context, executor=self._executor)
        record = self._came_of(effect, tool, call, outcome, time.perf_counter() - started)
        await self._tell("on_tool_end", state, result=outcome.result, error=outcome.error, **told)
        return record

    def _note(self, effect: Effect, report: Report, words: str) -> None:
        if words != self.notes.get(effect, ""):
            self.notes[effect] = words
            report()  # There is nothing to record of it, but the row says what an execution is doing.

    def _context(self, state: ExecutionState, effect: CallTool, tool: ToolDef) -> ToolContext:
        return ToolContext(
            execution_id=state.execution_id,
            session_id=state.session_id,
            agent_name=self.spec.name,
            metadata=state.metadata,
            dependencies=self.agent.dependencies,
            state=copy.deepcopy(state.shared) if tool.wants_context else {},
            attempt=effect.attempt,
            idempotency_key=f"{state.execution_id}:{effect.path}:{effect.call_id}",
            call_id=effect.call_id,
            tool_name=tool.name,
        )

    def _came_of(
        self, effect: CallTool, tool: ToolDef, call: Call, outcome: ToolOutcome, seconds: float
    ) -> r.ToolReturned | r.ToolFailed | r.ToolLost:
        now = self._clock()
        where: dict[str, Any] = {
            "at": now,
            "path": effect.path,
            "call_id": effect.call_id,
            "name": tool.name,
            "attempt": effect.attempt,
        }
        if outcome.error is None:
            return r.ToolReturned(
                **where,
                result=outcome.result,
                state_set=outcome.state_set,
                state_del=outcome.state_del,
                seconds=round(seconds, 6),
            )
        if outcome.is_lost and tool.on_crash is OnCrash.ASK:
            return r.ToolLost(
                **where, error=outcome.error, arguments=call.arguments, arguments_hash=call.arguments_hash
            )
        is_final = outcome.is_final or (outcome.is_lost and tool.on_crash is OnCrash.FAIL)
        retries_left = call.failures < tool.retry_count and not is_final
        return r.ToolFailed(
            **where,
            error=outcome.error,
            error_type=outcome.error_type,
            retry_at=now + tool.spec().delay_before(call.failures + 2) if retries_left else None,
        )

    # --- the agent's own callables

    async def check_stop(self, state: ExecutionState, effect: CheckStop) -> r.AnyRecord:
        """Ask the agent's `stop_when` after a turn."""
        frame = state.frames[effect.path]
        assert self.agent.stop_when is not None
        context = StopContext(result=frame.answer, turn=frame.turn, messages=copy.deepcopy(frame.messages))
        try:
            stop = bool(await _maybe_await(_ask_stop_when(self.agent.stop_when, context)))
        except (Exception, asyncio.CancelledError) as problem:
            if is_ours(problem):
                raise
            log.exception("stop_when.failed", extra={"execution_id": state.execution_id})
            error = f"stop_when raised {type_of(problem)}: {text_of(problem)}"
            return r.StopChecked(at=self._clock(), path=effect.path, turn=effect.turn, stop=True, error=error)
        return r.StopChecked(at=self._clock(), path=effect.path, turn=effect.turn, stop=stop)

    async def load_session(self, state: ExecutionState, effect: LoadSession) -> r.AnyRecord:
        """Copy the conversation of the session's previous execution."""
        try:
            before = load_state(await self._store.load(effect.execution_id))
            messages = ended_conversation(before.root)
        except (UnknownExecutionError, CorruptRecordError) as problem:
            # The new prompt must not be lost because an old conversation was collected or damaged.
            log.warning("session.lost", extra={"execution_id": state.execution_id, "problem": str(problem)})
            messages = []
        return r.SessionLoaded(at=self._clock(), messages=messages)

    async def load_fork(self, state: ExecutionState, effect: LoadFork) -> r.AnyRecord:
        """Copy the state that the execution this one is forked from had after a step."""
        try:
            return r.Forked(at=self._clock(), snapshot=await forked_snapshot(self._store, state))
        except (UnknownExecutionError, CorruptRecordError, ConfigurationError) as problem:
            return r.Forked(at=self._clock(), error=f"{type_of(problem)}: {text_of(problem)}")

    async def on_start(self, state: ExecutionState) -> None:
        """Tell the callbacks that the agent starts."""
        await self._tell("on_agent_start", state, prompt=state.prompt)

    async def on_end(self, state: ExecutionState, record: r.Finished) -> None:
        """Tell the callbacks that the agent is about to end."""
        await self._tell("on_agent_end", state, output=record.output, status=record.status)

    async def _tell(self, hook: str, state: ExecutionState, **facts: Any) -> None:
        for handler in self.agent.callbacks:
            try:
                await _maybe_await(
                    getattr(handler, hook)(execution_id=state.execution_id, agent_name=self.spec.name, **facts)
                )
            except (Exception, asyncio.CancelledError) as problem:
                if is_ours(problem):
                    raise
                # An observer must not change what it observes; its failure is logged with its traceback.
                log.exception("callback.failed", extra={"execution_id": state.execution_id, "hook": hook})


def guessed_tokens(request: ModelRequest) -> int:
    """About how many tokens a call will cost: four characters each, and the answer."""
    characters = sum(len(str(m.get("content") or "")) + len(str(m.get("tool_calls") or "")) for m in request.messages)
    return characters // 4 + (request.max_tokens or ANSWER_TOKENS)


def _ask_stop_when(stop_when: Callable[..., Any], context: StopContext) -> Any:
    """Existing programs may take `result, iteration, messages` apart instead of one context."""
    try:
        names = list(inspect.signature(stop_when).parameters)
    except (TypeError, ValueError):
        names = []
    if len(names) > 1 and all(name in ("result", "iteration", "turn", "messages") for name in names):
        return stop_when(**{name: context[name] for name in names})
    return stop_when(context)


async def _maybe_await(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value
