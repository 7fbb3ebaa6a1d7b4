"""The agent: a name, a model, instructions and tools. What happens to a run of it is the engine's business."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NoReturn, cast, overload

from agentspan.agents.agent_checks import AgentChecks, Instructions, takes_context
from agentspan.agents.callbacks import CallbackHandler, FunctionCallbacks
from agentspan.agents.context import InstructionsContext, StopContext
from agentspan.agents.outputs import OutputSchema
from agentspan.agents.spec import AgentSpec
from agentspan.agents.tools import ToolDef, get_tool_defs
from agentspan.errors import ConfigurationError
from agentspan.wording import a

StopWhen = Callable[[StopContext], Any]

_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_-]*")


class Agent:
    """An agent: a model that works with tools, towards what the instructions say.

    An agent does not change after it is made, holds no connection, and can be used for any number of executions at the
    same time. Making one calls nothing.

    Args:
        name: Letters, digits, `_` and `-`, not starting with a digit or `-`. Executions are listed under it.
        model: `provider/model`, such as `openai/gpt-4o`.
        instructions: The system prompt, or a function that writes it before each model call. The function takes nothing
            or an `InstructionsContext`, may be `async def`, and returns text.
        tools: Functions decorated with `@tool`, or `ToolDef`s. Their names must differ.
        output_type: A pydantic model, dataclass, TypedDict or other type that the final answer must fit. Default: text.
        max_turns: The most model answers in one execution, from 1.
        max_tokens: The most tokens in one model answer, from 1. Default: the provider's.
        temperature: 0 to 2. Default: the provider's.
        timeout_seconds: The execution's deadline, waiting included; 0 for none.
        max_concurrency: How many executions of the agent may be at work at the same time, from 1; others wait as QUEUED, in
            order. Those that wait for a person and have given their process back are not counted. What was deployed last
            under the name counts for all its versions. Default: any number.
        metadata: JSON data kept with each execution and shown with it.
        dependencies: Live objects for `ToolContext.dependencies`. They travel with the agent's code and must pickle.
        base_url: The address of an OpenAI-compatible endpoint for this agent alone.
        callbacks: `CallbackHandler` instances, called in order.
        stop_when: Called with a `StopContext` after each model answer with tool calls; true ends the execution. May be
            `async def`.
        before_agent_callback: A function in place of a handler's `on_agent_start`; likewise the three below.
        after_agent_callback: For `on_agent_end`.
        before_model_callback: For `on_model_start`.
        after_model_callback: For `on_model_end`.

    Raises:
        ConfigurationError: A value cannot be used, or an option is unknown or not supported by this version.
        ToolDefinitionError: Something in `tools` is not a tool.
    """

    name: str
    model: str
    instructions: Instructions
    tools: tuple[ToolDef, ...]
    output_type: Any
    max_turns: int
    max_tokens: int | None
    temperature: float | None
    timeout_seconds: float
    max_concurrency: int | None
    metadata: dict[str, Any]
    dependencies: dict[str, Any]
    base_url: str | None
    callbacks: tuple[CallbackHandler, ...]
    stop_when: StopWhen | None
    tool_defs: dict[str, ToolDef]
    """The tools by name."""

    def __init__(
        self,
        name: str,
        model: str = "",
        instructions: Instructions = "",
        tools: Sequence[Any] | None = None,
        *,
        output_type: Any = None,
        max_turns: int = 25,
        max_tokens: int | None = None,
        temperature: float | None = None,
        timeout_seconds: float = 0,
        max_concurrency: int | None = None,
        metadata: dict[str, Any] | None = None,
        dependencies: dict[str, Any] | None = None,
        base_url: str | None = None,
        callbacks: Sequence[CallbackHandler] | None = None,
        stop_when: StopWhen | None = None,
        before_agent_callback: Callable[..., Any] | None = None,
        after_agent_callback: Callable[..., Any] | None = None,
        before_model_callback: Callable[..., Any] | None = None,
        after_model_callback: Callable[..., Any] | None = None,
        **unsupported: Any,
    ) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigurationError(
                problem=f"{name!r} cannot name an agent. Use letters, digits, '_' and '-'; start with a letter or '_'."
            )
        check = AgentChecks(name)
        check.no_options(unsupported, known=_options())
        check.text("model", model)
        check.whole("max_turns", max_turns)
        check.whole("max_tokens", max_tokens, optional=True)
        check.number("temperature", temperature, most=2, optional=True)
        check.number("timeout_seconds", timeout_seconds, words="seconds, or 0 for none")
        check.whole("max_concurrency", max_concurrency, optional=True)
        check.text("base_url", base_url, optional=True)
        check.callable("stop_when", stop_when)
        defs = get_tool_defs(check.items("tools", tools))
        functions = {
            "before_agent": before_agent_callback,
            "after_agent": after_agent_callback,
            "before_model": before_model_callback,
            "after_model": after_model_callback,
        }
        for when, function in functions.items():
            check.callable(f"{when}_callback", function)
        handlers = check.handlers(callbacks)
        if any(function is not None for function in functions.values()):
            handlers += (FunctionCallbacks(**functions),)
        self.__dict__.update(
            name=name,
            model=model,
            instructions=check.instructions(instructions),
            tools=tuple(defs),
            tool_defs=check.distinct(defs),
            output_type=output_type,
            max_turns=max_turns,
            max_tokens=max_tokens,
            temperature=temperature,
            timeout_seconds=timeout_seconds,
            max_concurrency=max_concurrency,
            metadata=check.json_dict("metadata", metadata),
            dependencies=check.mapping("dependencies", dependencies),
            base_url=base_url,
            callbacks=handlers,
            stop_when=stop_when,
            _output=None if output_type is None else check.output(output_type),
        )

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"Agent {self.name!r} does not change after it is made ({name!r}). Make another Agent.")

    def __delattr__(self, name: str) -> NoReturn:
        self.__setattr__(name, None)

    def __repr__(self) -> str:
        return f"Agent(name={self.name!r}, model={self.model!r}, tools={list(self.tool_defs)!r})"

    @property
    def output_schema(self) -> OutputSchema | None:
        """The `output_type` as a schema, or None for text."""
        return cast("OutputSchema | None", self.__dict__["_output"])

    def spec(self) -> AgentSpec:
        """The agent as plain data, for the engine and the store."""
        output = self.output_schema
        return AgentSpec(
            name=self.name,
            model=self.model,
            tools={name: definition.spec() for name, definition in self.tool_defs.items()},
            max_turns=self.max_turns,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            timeout_seconds=self.timeout_seconds or None,
            max_concurrency=self.max_concurrency,
            base_url=self.base_url,
            output_schema=output.json_schema if output else None,
            output_name=output.name if output else None,
            has_stop_when=self.stop_when is not None,
            metadata=self.metadata,
        )

    def resolve_instructions(self, context: InstructionsContext) -> str | Awaitable[str]:
        """The system prompt for the next model call. Await it if it is awaitable: the user's function may be async.

        Raises:
            ConfigurationError: The function returned something else than text (here, or when awaited).
            Exception: Whatever the user's function raises.
        """
        if isinstance(self.instructions, str):
            return self.instructions
        said = self.instructions(context) if takes_context(self.instructions) else self.instructions()
        if inspect.isawaitable(said):
            return self._await_instructions(said)
        return self._instructions_text(said)

    async def _await_instructions(self, said: Awaitable[Any]) -> str:
        return self._instructions_text(await said)

    def _instructions_text(self, said: Any) -> str:
        if not isinstance(said, str):
            found = a(type(said).__name__)
            raise ConfigurationError(
                problem=f"The instructions function of agent {self.name!r} returned {found}; return text."
            )
        return said

    def parse_output(self, text: str) -> tuple[Any, Any]:
        """Read the model's final text.

        Returns:
            JSON data to store, and what the user gets: an instance of `output_type`, or the text itself twice.

        Raises:
            OutputFormatError: The text does not fit `output_type`; its text can be sent to the model to ask again.
        """
        output = self.output_schema
        return output.parse(text) if output else (text, text)

    def load_output(self, data: Any) -> Any:
        """What the user gets for JSON data that `parse_output` returned earlier.

        Raises:
            OutputFormatError: `output_type` has changed since, and the data no longer fits.
        """
        output = self.output_schema
        return output.load(data) if output else data


def _options() -> list[str]:
    return [name for name in inspect.signature(Agent).parameters if name != "unsupported"]


# --- @agent ----------------------------------------------------------------------------------------------------------


class _DecoratedInstructions:
    """The instructions of `@agent def f(): ...`: what the function returns, or its docstring if it returns nothing."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.docstring = inspect.cleandoc(function.__doc__ or "")
        self._takes_context = takes_context(function)

    def __call__(self, context: InstructionsContext) -> Any:
        said = self.function(context) if self._takes_context else self.function()
        return self._later(said) if inspect.isawaitable(said) else self._or_docstring(said)

    async def _later(self, said: Awaitable[Any]) -> Any:
        return self._or_docstring(await said)

    def _or_docstring(self, said: Any) -> Any:
        return self.docstring if said is None else said


@overload
def agent(func: Callable[..., Any]) -> Agent: ...


@overload
def agent(func: None = None, *, name: str | None = None, **options: Any) -> Callable[[Callable[..., Any]], Agent]: ...


def agent(func: Callable[..., Any] | None = None, *, name: str | None = None, **options: Any) -> Any:
    """Make an agent of a function: its docstring, or the text it returns, is the instructions.

    A function that returns text writes the instructions anew before each model call; it may take an
    `InstructionsContext` and may be `async def`.

    Args:
        func: The function; left out when there are options.
        name: The agent's name. Default: the function's.
        **options: Any option of `Agent` but `instructions`.

    Raises:
        ConfigurationError: As `Agent`; or `instructions` was given as well.
    """

    def define(function: Callable[..., Any]) -> Agent:
        called = name or str(getattr(function, "__name__", type(function).__name__))
        check = AgentChecks(called)
        if "instructions" in options:
            check.refuse("the function gives the instructions; leave instructions= out, or use Agent(...).")
        check.callable("the decorated object", function)
        check.instructions(function)
        return Agent(called, instructions=_DecoratedInstructions(function), **options)

    return define if func is None else define(func)
