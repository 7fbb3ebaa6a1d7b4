"""What a graph answers, as plain data: its natural output, its messages, the tokens it used.

Takes what `invoke` returns: a state with keys, a list of messages, or any object of a functional API entrypoint.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from agentspan.agents.results import TokenUsage

if TYPE_CHECKING:
    from agentspan.frameworks.langgraph.app.graph import Graph

DEPTH_MAX = 64
"""How deep `plain` goes; what is deeper, or contains itself, becomes text."""

_ROLES = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool", "function": "tool"}


def natural_output(state: Any) -> Any:
    """What a person would call the answer, as JSON data.

    The structured response if there is one; else the last text of the model that is not a tool call; else the value of
    the only field; else the whole state, its messages as role dicts.
    """
    fields = _fields(state)
    if fields is not None and (structured := fields.get("structured_response")) is not None:
        return plain(structured)
    for message in reversed(_messages(state)):
        # Any kind of AI message, chunks included; its text may be spread over content blocks.
        if _role(message) == "assistant" and not message.tool_calls and (text := _text(message)):
            return text
    if fields is not None and len(fields) == 1:
        return plain(next(iter(fields.values())))
    return plain(state)


def output_keys(graph: Graph) -> Any:
    """The channels whose values `invoke` returns, or the one."""
    return graph.kwargs.get("output_keys") or graph.app.output_channels


def output_of(graph: Graph, values: Any) -> Any:
    """What of a state `invoke` returns; None where it is another value than one of the state (the functional API)."""
    wanted = output_keys(graph)
    if isinstance(wanted, str):
        return values if wanted == "__root__" else None
    return {name: values[name] for name in wanted if name in values}


def role_messages(state: Any) -> list[dict[str, Any]]:
    """The chat messages in a state as role dicts, in order: those under `messages`, or in the first field with some."""
    return [role_message(message) for message in _messages(state)]


def role_message(message: Any) -> dict[str, Any]:
    """One LangChain message as a role dict: `role`, `content`, and what a tool call needs (`tool_calls`, `tool_call_id`)."""
    role = _role(message)
    plain_message: dict[str, Any] = {"role": role, "content": _content(message)}
    if message.name:
        plain_message["name"] = message.name
    if calls := getattr(message, "tool_calls", None):
        plain_message["tool_calls"] = [
            {
                "id": call.get("id") or "",
                "type": "function",
                "function": {"name": call["name"], "arguments": json.dumps(plain(call["args"]), ensure_ascii=False)},
            }
            for call in calls
        ]
    if role == "tool":
        plain_message["tool_call_id"] = getattr(message, "tool_call_id", "")
    return plain_message


def token_usage(message: Any) -> TokenUsage | None:
    """The tokens that a model said it used for a message, or None."""
    usage = getattr(message, "usage_metadata", None)
    if not isinstance(usage, Mapping):
        return None
    prompt, completion = int(usage.get("input_tokens") or 0), int(usage.get("output_tokens") or 0)
    total = int(usage.get("total_tokens") or prompt + completion)
    return TokenUsage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=total)


def plain(value: Any) -> Any:
    """Any value as JSON data, for people to read: what JSON has no form for becomes a list, a dict or text."""
    return _plain(value, 0)


def _plain(value: Any, depth: int) -> Any:
    if value is None or type(value) in (str, bool, int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if depth >= DEPTH_MAX:
        return repr(value)[:200]
    if _is_message(value):
        return role_message(value)
    if isinstance(value, Mapping):
        return {_key(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((_plain(item, depth + 1) for item in value), key=lambda item: (str(type(item)), str(item)))
    fields = _fields(value)
    return _leaf(value) if fields is None else {name: _plain(item, depth + 1) for name, item in fields.items()}


def _key(key: Any) -> str:
    plain_key = key if isinstance(key, str) else _leaf(key)
    return plain_key if type(plain_key) is str else str(plain_key)


def _leaf(value: Any) -> Any:
    from pydantic_core import to_jsonable_python

    # Enums, dates, decimals, UUIDs, bytes ... in the forms that pydantic has for them; the rest as its text.
    try:
        return to_jsonable_python(value, bytes_mode="base64", inf_nan_mode="strings", fallback=str)
    except Exception:  # Whatever an object's own `__str__` raises.
        return f"<{type(value).__name__}>"


def _fields(value: Any) -> dict[str, Any] | None:
    """The fields of a state, or None for what has none."""
    if isinstance(value, Mapping):
        return dict(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    names = getattr(type(value), "model_fields", None)
    if isinstance(names, dict) and not _is_message(value) and not getattr(value, "__pydantic_root_model__", False):
        return {name: getattr(value, name, None) for name in names}
    return None


# --- messages ------------------------------------------------------------------------------------------------------


def _messages(state: Any) -> list[Any]:
    for value in _places(state):
        if isinstance(value, (list, tuple)):
            found = [item for item in value if _is_message(item)]
            if found:
                return found
    return [state] if _is_message(state) else []


def _places(state: Any) -> Iterator[Any]:
    fields = _fields(state)
    if fields is None:
        yield state
        return
    yield fields.get("messages")
    yield from fields.values()


def _is_message(value: Any) -> bool:
    # A process that has not imported LangChain's messages has none.
    base = getattr(sys.modules.get("langchain_core.messages.base"), "BaseMessage", None)
    return base is not None and isinstance(value, base)


def _role(message: Any) -> str:
    kind = str(message.type).removesuffix("MessageChunk").lower()
    return str(message.role) if kind == "chat" else _ROLES.get(kind, kind)


def _text(message: Any) -> str:
    content = message.content
    if isinstance(content, str):
        return content
    blocks = [block if isinstance(block, str) else block.get("text") for block in content if _is_text_block(block)]
    return "".join(text for text in blocks if isinstance(text, str))


def _is_text_block(block: Any) -> bool:
    return isinstance(block, str) or block.get("type") == "text"


def _content(message: Any) -> Any:
    """Text where the content is text alone (thinking and calls have their own places); else the list of blocks."""
    content = message.content
    if isinstance(content, str):
        return content
    silent = ("tool_use", "tool_call", "function_call", "reasoning", "thinking", "redacted_thinking")
    if all(_is_text_block(block) or block.get("type") in silent for block in content):
        return _text(message)
    return plain(content)
