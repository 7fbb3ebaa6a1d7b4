"""Small pieces of text that all views use: values, instants, durations, statuses."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from rich.text import Text

STATUS_STYLES = {
    "QUEUED": "cyan",
    "RUNNING": "blue",
    "WAITING": "yellow",
    "PAUSED": "magenta",
    "COMPLETED": "green",
    "FAILED": "red",
    "TERMINATED": "bright_black",
    "TIMED_OUT": "red",
    "QUARANTINED": "bold red",
}
VALUE_CHARS = 200


def status_text(status: str) -> Text:
    """A status in its colour."""
    return Text(status, style=STATUS_STYLES.get(status, ""))


def one_line(value: Any, limit: int = VALUE_CHARS) -> str:
    """A value on one line: text as it is, data as JSON; what is longer than `limit` is cut."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def call_text(name: str | None, arguments: Any, limit: int = VALUE_CHARS) -> str:
    """A call as it would be written: `refund(order_id="8821", amount=40)`."""
    if isinstance(arguments, dict):
        inner = ", ".join(
            f"{key}={json.dumps(value, ensure_ascii=False, default=str)}" for key, value in arguments.items()
        )
    else:
        inner = "" if arguments is None else str(arguments)
    return one_line(f"{name}({inner})", limit)


def state_text(values: Any, limit: int = VALUE_CHARS) -> str:
    """The values of a state in a few words: of a conversation its length and its last message."""
    if not isinstance(values, dict):
        return one_line(values, limit)
    told = []
    for name, value in values.items():
        if isinstance(value, list) and value and isinstance(value[-1], dict) and "content" in value[-1]:
            told.append(f"{name}: {plural(len(value), 'message')}, last {_message_text(value[-1])!r}")
        elif value not in ({}, []):
            told.append(f"{name}: {one_line(value, 60)}")
    return one_line(", ".join(told), limit)


def _message_text(message: dict[str, Any]) -> str:
    calls = message.get("tool_calls") or ()
    names = ", ".join(str(call.get("name") or call.get("function", {}).get("name")) for call in calls)
    return one_line(message["content"], 40) if message["content"] else f"→ {names}" if names else ""


def block(value: Any) -> str:
    """A value over as many lines as it takes."""
    return value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False, default=str)


def instant(value: str | float | None) -> datetime | None:
    """An instant of a row (ISO text or UTC seconds), in local time."""
    if value is None:
        return None
    if isinstance(value, (int, float)):
        return datetime.fromtimestamp(value).astimezone()
    return datetime.fromisoformat(value).astimezone()


def when(value: str | float | None) -> str:
    """An instant for people, in local time."""
    moment = instant(value)
    return "" if moment is None else moment.strftime("%Y-%m-%d %H:%M:%S")


def span(seconds: float) -> str:
    """A duration in its largest unit that fits, and the next one: `1.2 s`, `3 min 5 s`, `2 d 4 h`."""
    seconds = max(0.0, seconds)
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    for name, size, small_name, small in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= size:
            rest = int(seconds % size // small)
            return f"{int(seconds // size)} {name}" + (f" {rest} {small_name}" if rest else "")
    raise AssertionError("seconds was at least 60")


def rough_span(seconds: float) -> str:
    """A duration in its largest unit alone: `12 s`, `3 min`, `2 d`."""
    for name, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {name}"
    return f"{max(0, int(seconds))} s"


def size_text(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("the last unit takes everything")


def plural(count: int, noun: str) -> str:
    """`1 call`, `2 calls`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
