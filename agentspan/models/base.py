"""What the driver asks of a language model, whoever serves it.

Messages are OpenAI chat messages as plain dicts, the form nearly every provider accepts:
`{"role": "user", "content": "…"}`, `{"role": "assistant", "content": …, "tool_calls": [{"id", "type": "function",
"function": {"name", "arguments": "<json text>"}}]}`, `{"role": "tool", "tool_call_id", "content"}`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

OnToken = Callable[[str], None]
"""Called with each piece of text as it streams in; never awaited, must not block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest:
    """One model call."""

    model: str
    """`provider/model` as the agent wrote it."""
    messages: Sequence[dict[str, Any]]
    tools: Sequence[dict[str, Any]] = ()
    """OpenAI function tools: `{"type": "function", "function": {"name", "description", "parameters"}}`."""
    response_format: dict[str, Any] | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    idempotency_key: str
    """The same for every attempt of the same step."""
    attempt: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestedCall:
    """A tool call the model asks for. `arguments` is the raw JSON text, which may be invalid."""

    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReply:
    """What the model answered."""

    text: str = ""
    thinking: str = ""
    calls: tuple[RequestedCall, ...] = ()
    finish_reason: str = "stop"
    """As the provider says it: `stop`, `tool_calls`, `length`, `content_filter` …"""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    served_by: str = ""
    """The exact model that answered, as the provider names it."""
    extra: dict[str, Any] = field(default_factory=dict)


class Model(Protocol):
    """A language model. One attempt per call: retries are durable and belong to the driver."""

    async def complete(self, request: ModelRequest, *, on_token: OnToken | None = None) -> ModelReply:
        """Answer one request.

        Raises:
            ModelRetryableError: A passing failure; `retry_after_s` when the provider said how long.
            ModelAuthError, ModelError: For good; says which key or model.
        """
        ...

    async def aclose(self) -> None:
        """Let go of connections. Idempotent."""
        ...
