"""Chat completions as bytes: the request we send, the reply and the stream we get. No I/O.

Providers bend the format in small ways, and a reply is paid for, so reading is lenient where the meaning is clear:
content as a list of parts, thoughts under several names, tool calls without an ID or an index, arguments as an object.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from agentspan.errors import ModelReplyError
from agentspan.models.base import ModelReply, ModelRequest, RequestedCall
from agentspan.models.providers import Endpoint

THOUGHTS = ("reasoning_content", "reasoning")
"""Where providers put thinking: DeepSeek and xAI; OpenRouter, Groq and Cerebras."""


def encode_request(request: ModelRequest, endpoint: Endpoint, *, stream: bool) -> bytes:
    """The request body. Members that are None or empty are left out: some providers refuse nulls."""
    body: dict[str, Any] = {"model": endpoint.model_name, "messages": list(request.messages)}
    if request.tools:
        body["tools"] = list(request.tools)
    if request.response_format is not None:
        body["response_format"] = request.response_format
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.max_tokens is not None:
        body[endpoint.token_limit_field] = request.max_tokens
    if stream:
        body["stream"] = True
        if endpoint.stream_usage:
            body["stream_options"] = {"include_usage": True}
    # "replace": a lone surrogate in a tool's output would otherwise make the whole conversation unsendable.
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def parse_reply(data: Any, request: ModelRequest) -> ModelReply:
    """Read a whole completion.

    Raises:
        ModelReplyError: It is not one.
    """
    choices = data.get("choices") if isinstance(data, dict) else None
    if not choices or not isinstance(choices, list) or not isinstance(choices[0], dict):
        raise ModelReplyError(model=request.model, problem=f"it has no choices: {str(data)[:200]}")
    message = choices[0].get("message")
    if not isinstance(message, dict):
        raise ModelReplyError(model=request.model, problem="its first choice has no message.")
    text, thinking = _content(message)
    calls = message.get("tool_calls") or ()
    if not isinstance(calls, (list, tuple)) or not all(isinstance(call, dict) for call in calls):
        raise ModelReplyError(model=request.model, problem="its tool_calls are not a list of objects.")
    return _reply(
        request,
        text=text,
        thinking=thinking,
        calls=list(calls),
        finish_reason=choices[0].get("finish_reason"),
        usage=data.get("usage"),
        served_by=data.get("model"),
        reply_id=data.get("id"),
    )


class StreamedReply:
    """Puts a reply together from its chunks."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self._at_index: dict[int, dict[str, Any]] = {}
        self._usage: Any = None
        self._served_by: Any = None
        self._reply_id: Any = None
        self.finish_reason: str | None = None
        """None until the provider has said that the reply is complete."""

    def add(self, chunk: Any) -> str:
        """Take one chunk in; returns the piece of text in it."""
        if not isinstance(chunk, dict):
            return ""
        # Usage comes in a chunk of its own after the last choice, or grows along in every chunk: the last one counts.
        self._usage = chunk.get("usage") or self._usage
        self._served_by = self._served_by or chunk.get("model")
        self._reply_id = self._reply_id or chunk.get("id")
        choices = chunk.get("choices")
        if not choices or not isinstance(choices, list) or not isinstance(choices[0], dict):
            return ""
        self.finish_reason = choices[0].get("finish_reason") or self.finish_reason
        delta = choices[0].get("delta")
        if not isinstance(delta, dict):
            return ""
        text, thinking = _content(delta)
        self._text.append(text)
        self._thinking.append(thinking)
        for call in delta.get("tool_calls") or ():
            if isinstance(call, dict):
                self._add_call(call)
        return text

    def _add_call(self, piece: dict[str, Any]) -> None:
        call_id, index = piece.get("id"), piece.get("index")
        held = self._at_index.get(index) if isinstance(index, int) else (self._calls[-1] if self._calls else None)
        function = piece.get("function")
        function = function if isinstance(function, dict) else {}
        # Some servers number every parallel call 0, or not at all; a new ID still tells them apart.
        if held is None or (call_id and held["id"] and call_id != held["id"]):
            held = {**piece, "id": call_id, "function": {"name": "", "arguments": ""}}
            self._calls.append(held)
        if isinstance(index, int):
            self._at_index[index] = held
        held["id"] = held["id"] or call_id
        if "extra_content" in piece:
            held["extra_content"] = piece["extra_content"]
        # The name is sent once; servers that repeat it in every piece must not make it grow.
        held["function"]["name"] = held["function"]["name"] or function.get("name") or ""
        held["function"]["arguments"] += _arguments(function.get("arguments"))

    def finish(self, request: ModelRequest) -> ModelReply:
        """The whole reply; call it when `finish_reason` is there."""
        return _reply(
            request,
            text="".join(self._text),
            thinking="".join(self._thinking),
            calls=self._calls,
            finish_reason=self.finish_reason,
            usage=self._usage,
            served_by=self._served_by,
            reply_id=self._reply_id,
        )


def _reply(
    request: ModelRequest,
    *,
    text: str,
    thinking: str,
    calls: list[dict[str, Any]],
    finish_reason: Any,
    usage: Any,
    served_by: Any,
    reply_id: Any,
) -> ModelReply:
    requested: list[RequestedCall] = []
    seen: set[str] = set()
    extra: dict[str, Any] = {"id": reply_id} if reply_id else {}
    for position, call in enumerate(calls):
        function = call.get("function")
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            raise ModelReplyError(model=request.model, problem=f"its tool call {position} names no function.")
        call_id = call.get("id")
        if not isinstance(call_id, str) or not call_id or call_id in seen:
            # Every call needs an ID of its own to be answered; made from the key, so that a retry makes the same one.
            digest = hashlib.blake2b(f"{request.idempotency_key}:{position}".encode(), digest_size=8)
            call_id = f"call_{digest.hexdigest()}"
        seen.add(call_id)
        if call.get("extra_content"):
            # Gemini's thought signatures: it refuses the conversation if they do not come back with the call.
            extra.setdefault("call_extras", {})[call_id] = {"extra_content": call["extra_content"]}
        requested.append(
            RequestedCall(
                call_id=call_id, name=function["name"], arguments=_arguments(function.get("arguments")) or "{}"
            )
        )
    usage = usage if isinstance(usage, dict) else {}
    prompt_tokens, completion_tokens = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    return ModelReply(
        text=text,
        thinking=thinking,
        calls=tuple(requested),
        finish_reason=finish_reason or ("tool_calls" if requested else "stop"),
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=_count(usage, "total_tokens") or prompt_tokens + completion_tokens,
        served_by=served_by if isinstance(served_by, str) else "",
        extra=extra,
    )


def assistant_message(reply: ModelReply) -> dict[str, Any]:
    """The message that stands for `reply` in the conversation, with what its provider wants to see again."""
    message: dict[str, Any] = {"role": "assistant", "content": reply.text or None}
    if reply.calls:
        extras = reply.extra.get("call_extras", {})
        message["tool_calls"] = [
            {
                "id": call.call_id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
                **extras.get(call.call_id, {}),
            }
            for call in reply.calls
        ]
    elif message["content"] is None:
        # Without calls, null content is refused by most providers.
        message["content"] = ""
    return message


def _count(usage: dict[str, Any], name: str) -> int:
    value = usage.get(name)
    return int(value) if isinstance(value, (int, float)) else 0


def _arguments(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def _content(message: dict[str, Any]) -> tuple[str, str]:
    """Text and thinking of a message or delta."""
    content = message.get("content")
    thinking = next((message[name] for name in THOUGHTS if isinstance(message.get(name), str)), "")
    if isinstance(content, list):  # Mistral's reasoning models: a list of text and thinking parts
        return _parts(content, "text"), thinking + _parts(content, "thinking")
    if isinstance(content, str):
        return content, thinking
    refusal = message.get("refusal")
    return (refusal if isinstance(refusal, str) else ""), thinking


def _parts(parts: list[Any], kind: str) -> str:
    found = [part.get(kind) for part in parts if isinstance(part, dict) and part.get("type") == kind]
    return "".join(
        value if isinstance(value, str) else _parts(value, "text") if isinstance(value, list) else "" for value in found
    )
