"""What a running graph does, as events for its readers.

A node's start is told by LangGraph's `tasks` stream, its end by the writes our saver is given: so the end is in the same
commit as what the node returned. A sub-graph's messages come again in the writes of the node it ran in, and in those of
nodes that return a whole conversation; each message is told once.
"""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentspan.engine.records import GraphTold
from agentspan.frameworks.langgraph.running.interrupts import plain

_ERROR, _INTERRUPT, _RESUME = "__error__", "__interrupt__", "__resume__"
ERROR_CHARS_MAX = 4000
_NO_RESULT = frozenset({_INTERRUPT, _RESUME, "__scheduled__"})
_FRAMEWORK = re.compile(
    r"-packages[/\\](langgraph|langchain_core)[/\\]|[/\\](concurrent[/\\]futures|asyncio)[/\\]|[/\\]contextvars\.py$"
)

_HERE = f"{Path(__file__).parent}{os.sep}"


@dataclass(slots=True)
class Teller:
    """Collects events until `take`. Its methods may be called from any thread; each is a few list operations."""

    names: dict[str, str] = field(default_factory=dict)
    """Task ID → node, of tasks that started."""
    _told: list[dict[str, Any]] = field(default_factory=list)
    _early: dict[str, tuple[list[str], str, list[tuple[str, Any]]]] = field(default_factory=dict)
    _seen: set[Any] = field(default_factory=set)
    _outer: set[str] = field(default_factory=set)
    """Tasks that run a sub-graph, which tells its messages itself."""
    _usage: list[int] = field(default_factory=lambda: [0, 0, 0, 0])

    def knows(self, messages: Iterable[Any]) -> None:
        """These are of the past: told before, or put in by the user."""
        for message in messages:
            self._seen.update(_keys(message))

    def waits(self, task_id: str, name: str) -> None:
        """This task asked something in an earlier life and waits; LangGraph names it among those that start."""
        self.names[task_id] = name

    def start(self, ns: Sequence[str], task: dict[str, Any]) -> None:
        """The `tasks` stream says that a node starts."""
        task_id, name = task["id"], task["name"]
        self._enter(ns)
        if task_id in self.names:
            return
        self.names[task_id] = name
        if not name.startswith("__"):
            self._tell("node_start", ns, task_id, name)
        early = self._early.pop(task_id, None)
        if early is not None:
            self.end(*early[:1], task_id, early[1], early[2])

    def end(self, ns: Sequence[str], task_id: str, task_path: str, writes: Sequence[tuple[str, Any]]) -> None:
        """The saver is given what a task wrote."""
        self._enter(ns)
        if all(channel in _NO_RESULT for channel, _ in writes):
            return  # It asked something; it has not ended.
        name = self.names.get(task_id)
        if name is None:
            # Its start is still on the way through LangGraph's stream; the end comes right behind it.
            self._early[task_id] = (list(ns), task_path, list(writes))
            return
        error = next((value for channel, value in writes if channel == _ERROR), None)
        if error is None:
            self._messages(ns, task_id, writes)
        if name.startswith("__"):
            return
        if error is None:
            self._tell("node_end", ns, task_id, name)
        else:
            text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
            more = {"traceback": _traceback(error)} if isinstance(error, BaseException) else {}
            self._tell("node_end", ns, task_id, name, error=text[:ERROR_CHARS_MAX], **more)

    def custom(self, ns: Sequence[str], value: Any) -> None:
        """A node wrote to the stream."""
        self._told.append({"type": "custom", "data": {"value": plain(value), "ns": list(ns)}})

    def take(self) -> list[GraphTold]:
        """All that was collected, as one record (or none); the caller sets its time."""
        if not self._told and not any(self._usage):
            return []
        told, self._told = self._told, []
        usage, self._usage = self._usage, [0, 0, 0, 0]
        return [
            GraphTold(
                at=0.0,
                told=tuple(told),
                model_calls=usage[0],
                prompt_tokens=usage[1],
                completion_tokens=usage[2],
                total_tokens=usage[3],
            )
        ]

    def _tell(self, kind: str, ns: Sequence[str], task_id: str, name: str, **more: Any) -> None:
        self._told.append({"type": kind, "data": {"node": name, "task_id": task_id, "ns": list(ns), **more}})

    def _enter(self, ns: Sequence[str]) -> None:
        for part in ns:
            self._outer.add(part.partition(":")[2])

    def _messages(self, ns: Sequence[str], task_id: str, writes: Sequence[tuple[str, Any]]) -> None:
        outer = task_id in self._outer
        for _, value in writes:
            for message in _found_messages(value):
                keys = _keys(message)
                text = (message.type, _text(message.content))
                if not self._seen.isdisjoint(keys) or (outer and text in self._seen):
                    continue
                self._seen.update(keys)
                if ns:
                    self._seen.add(text)  # The node around the sub-graph may return it again, under a new ID.
                self._message(message, ns)

    def _message(self, message: Any, ns: Sequence[str]) -> None:
        if message.type in ("ai", "AIMessageChunk"):
            self._answer(message, ns)
        elif message.type == "tool":
            event = {"tool_name": message.name, "call_id": message.tool_call_id, "data": {"ns": list(ns)}}
            if getattr(message, "status", "") == "error":
                event["data"]["error"] = _text(message.content)
            else:
                event["result"] = plain(message.content)
            self._told.append({"type": "tool_result", **event})

    def _answer(self, message: Any, ns: Sequence[str]) -> None:
        usage = message.usage_metadata or {}
        self._usage[0] += 1
        for index, name in enumerate(("input_tokens", "output_tokens", "total_tokens"), 1):
            self._usage[index] += int(usage.get(name) or 0)
        where = {"data": {"ns": list(ns)}}
        text = _text(message.content)
        if text:
            self._told.append({"type": "message", "content": text, **where})
        for call in message.tool_calls:
            self._told.append(
                {
                    "type": "tool_call",
                    "tool_name": call["name"],
                    "call_id": call["id"],
                    "args": plain(call["args"]),
                    **where,
                }
            )


def _traceback(error: BaseException) -> str:
    """The traceback of a node's error from the node on: what is LangGraph's of it helps nobody. The end, if it is long."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = next((index for index, at in enumerate(frames) if not _is_framework(at.filename)), 0)
    lines = traceback.StackSummary.from_list(frames[ours:]).format()
    return "".join([*lines, *traceback.format_exception_only(error)])[-ERROR_CHARS_MAX:]


def _is_framework(file: str) -> bool:
    return file.startswith(_HERE) or _FRAMEWORK.search(file) is not None


def _found_messages(value: Any) -> Iterable[Any]:
    """The chat messages in what a node wrote: itself, or the items of a list."""
    for item in value if isinstance(value, (list, tuple)) else (value,):
        if hasattr(item, "tool_call_id") or (hasattr(item, "tool_calls") and hasattr(item, "content")):
            yield item


def _keys(message: Any) -> list[Any]:
    if getattr(message, "tool_call_id", None):
        return [("tool", message.tool_call_id)]
    found = getattr(message, "id", None)
    return [found] if found else []


def _text(content: Any) -> str:
    """The text of a message's content, which may be a list of blocks."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "".join(
        block if isinstance(block, str) else block.get("text", "")
        for block in content
        if isinstance(block, str) or (isinstance(block, dict) and block.get("type") == "text")
    )
