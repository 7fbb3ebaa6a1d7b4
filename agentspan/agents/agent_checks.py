"""What an agent's options must be. Each check refuses in the agent's name and says what to give instead."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn, cast

from agentspan.agents.callbacks import CallbackHandler
from agentspan.agents.nearest import unknown_option
from agentspan.agents.outputs import OutputSchema
from agentspan.agents.tool_def import ToolDef
from agentspan.errors import ConfigurationError
from agentspan.wording import a

Instructions = str | Callable[..., Any]

LATER_OPTIONS = frozenset(
    [
        "agents",
        "strategy",
        "router",
        "guardrails",
        "memory",
        "termination",
        "handoffs",
        "allowed_transitions",
        "introduction",
        "local_code_execution",
        "allowed_languages",
        "allowed_commands",
        "code_execution",
        "cli_commands",
        "cli_allowed_commands",
        "cli_config",
        "planner",
        "include_contents",
        "thinking_budget_tokens",
        "required_tools",
        "gate",
        "credentials",
        "stateful",
        "reasoning_effort",
        "context_window_budget",
        "prefill_tools",
        "synthesize",
        "masked_fields",
        "fallback",
        "planner_context",
        "fallback_max_turns",
        "plan_source",
        "enable_planning",
    ]
)
"""Options of the existing Agentspan SDK that this version refuses by name, so that nothing is silently left out."""


class AgentChecks:
    """Refuses what an agent cannot be made of, in the agent's name."""

    def __init__(self, agent: str) -> None:
        self._agent = agent

    def refuse(self, problem: str) -> NoReturn:
        raise ConfigurationError(problem=f"Agent {self._agent!r}: {problem}")

    def no_options(self, options: Mapping[str, Any], *, known: Sequence[str]) -> None:
        for option, value in options.items():
            # Switched off is what this version does anyway.
            if option in LATER_OPTIONS and (value is None or value is False or value == []):
                continue
            self.refuse(unknown_option(option, known, later=LATER_OPTIONS))

    def text(self, option: str, value: Any, *, optional: bool = False) -> None:
        if not isinstance(value, str) and not (optional and value is None):
            self.refuse(f"{option} is {a(type(value).__name__)}; give text.")

    def whole(self, option: str, value: Any, *, optional: bool = False) -> None:
        if optional and value is None:
            return
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            self.refuse(f"{option} is {value!r}; give a whole number of at least 1.")

    def number(
        self, option: str, value: Any, *, most: float | None = None, words: str = "", optional: bool = False
    ) -> None:
        if optional and value is None:
            return
        fits = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= (most or 1e9)
        if not fits:
            self.refuse(f"{option} is {value!r}; give {words or f'a number from 0 to {most}'}.")

    def callable(self, option: str, value: Any) -> None:
        if value is not None and not callable(value):
            self.refuse(f"{option} is {a(type(value).__name__)}; give a function.")

    def instructions(self, value: Any) -> Instructions:
        if isinstance(value, str):
            return value
        if not callable(value):
            self.refuse(f"instructions is {a(type(value).__name__)}; give text or a function that returns text.")
        required = [parameter for parameter in parameters_of(value) if parameter.default is parameter.empty]
        if len([p for p in required if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]) > 1 or any(
            parameter.kind is parameter.KEYWORD_ONLY for parameter in required
        ):
            self.refuse("the instructions function takes nothing or one InstructionsContext; it asks for more.")
        return cast(Instructions, value)

    def items(self, option: str, value: Any) -> Iterable[Any]:
        if value is None:
            return ()
        if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
            self.refuse(f"{option} is {a(type(value).__name__)}; give a list.")
        return value

    def distinct(self, defs: Sequence[ToolDef]) -> dict[str, ToolDef]:
        by_name: dict[str, ToolDef] = {}
        for definition in defs:
            if definition.name in by_name:
                self.refuse(f"two tools are called {definition.name!r}. Give one another name with @tool(name='...').")
            by_name[definition.name] = definition
        return by_name

    def handlers(self, value: Any) -> tuple[CallbackHandler, ...]:
        handlers = tuple(self.items("callbacks", value))
        for handler in handlers:
            if isinstance(handler, type) and issubclass(handler, CallbackHandler):
                self.refuse(f"callbacks has the class {handler.__name__}; give an instance: {handler.__name__}().")
            if not isinstance(handler, CallbackHandler):
                self.refuse(f"callbacks has {a(type(handler).__name__)}; give instances of CallbackHandler.")
        return handlers

    def mapping(self, option: str, value: Any) -> dict[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            self.refuse(f"{option} is {a(type(value).__name__)}; give a dict with text keys.")
        return dict(value)

    def json_dict(self, option: str, value: Any) -> dict[str, Any]:
        data = self.mapping(option, value)
        try:
            return cast("dict[str, Any]", json.loads(json.dumps(data)))
        except (TypeError, ValueError) as error:
            self.refuse(f"{option} is stored with each execution, so it must be JSON data: {error}.")

    def output(self, kind: Any) -> OutputSchema:
        try:
            return OutputSchema(kind)
        except ConfigurationError as error:
            self.refuse(f"output_type: {error}")


def parameters_of(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # Some builtins tell no signature; they take nothing then.
        return []


def takes_context(function: Callable[..., Any]) -> bool:
    """It asks for an argument, or offers a first one that is not keyword-only nor a preset of its own."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = [parameter for parameter in parameters_of(function) if parameter.kind in positional]
    return bool(parameters) and parameters[0].default in (inspect.Parameter.empty, None)
