"""Hooks around an agent's work, for logging and measuring."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

CALLBACK_METHODS = (
    "on_agent_start",
    "on_agent_end",
    "on_model_start",
    "on_model_end",
    "on_tool_start",
    "on_tool_end",
)


class CallbackHandler:
    """Override the methods you want to hear of; each may be `def` or `async def`.

    They are called **at least once**: a step that is tried again after a crash calls its hooks again, so count and
    write by `execution_id` with `turn` or `call_id`. A handler watches: what it returns is ignored, and what it raises
    is logged and does not stop the agent. Take `**kwargs`, since later versions may pass more.

    | Method | Keyword arguments, beside `execution_id` and `agent_name` |
    |---|---|
    | `on_agent_start` | `prompt` |
    | `on_agent_end` | `output`, `status` |
    | `on_model_start` | `messages`, `turn` |
    | `on_model_end` | `text` (also as `llm_result`), `tool_calls`, `turn` |
    | `on_tool_start` | `tool_name`, `arguments`, `call_id`, `attempt` |
    | `on_tool_end` | `tool_name`, `result`, `error`, `call_id`, `attempt` |

    `turn` and `attempt` count from 1. `error` is None when the tool returned; otherwise `result` is None.
    """

    def on_agent_start(self, **kwargs: Any) -> Awaitable[None] | None:
        """An agent begins with `prompt`."""
        return None

    def on_agent_end(self, **kwargs: Any) -> Awaitable[None] | None:
        """An agent is about to end with `status` and `output`; the end is recorded after this call."""
        return None

    def on_model_start(self, **kwargs: Any) -> Awaitable[None] | None:
        """`messages` are about to be sent to the model for `turn`."""
        return None

    def on_model_end(self, **kwargs: Any) -> Awaitable[None] | None:
        """The model answered `turn` with `text` and `tool_calls`."""
        return None

    def on_tool_start(self, **kwargs: Any) -> Awaitable[None] | None:
        """A tool is about to run with `arguments`."""
        return None

    def on_tool_end(self, **kwargs: Any) -> Awaitable[None] | None:
        """A tool returned `result` or failed with `error`."""
        return None


class FunctionCallbacks(CallbackHandler):
    """Single functions (`before_model_callback=…`) as one handler. Each gets only the keyword arguments it names."""

    def __init__(
        self,
        *,
        before_agent: Callable[..., Any] | None = None,
        after_agent: Callable[..., Any] | None = None,
        before_model: Callable[..., Any] | None = None,
        after_model: Callable[..., Any] | None = None,
    ) -> None:
        self._before_agent = before_agent
        self._after_agent = after_agent
        self._before_model = before_model
        self._after_model = after_model

    def on_agent_start(self, **kwargs: Any) -> Awaitable[None] | None:
        return _call(self._before_agent, kwargs)

    def on_agent_end(self, **kwargs: Any) -> Awaitable[None] | None:
        return _call(self._after_agent, kwargs)

    def on_model_start(self, **kwargs: Any) -> Awaitable[None] | None:
        return _call(self._before_model, kwargs)

    def on_model_end(self, **kwargs: Any) -> Awaitable[None] | None:
        return _call(self._after_model, kwargs)


def _call(function: Callable[..., Any] | None, kwargs: dict[str, Any]) -> Awaitable[None] | None:
    if function is None:
        return None
    parameters = inspect.signature(function).parameters.values()
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        named = {parameter.name for parameter in parameters}
        kwargs = {name: value for name, value in kwargs.items() if name in named}
    answer = function(**kwargs)
    return answer if inspect.isawaitable(answer) else None
