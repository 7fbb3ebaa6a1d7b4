"""How a call that waits is told: what it waits for, what it is about, and the command that lets it go on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agentspan.cli.arguments import short_id
from agentspan.cli.text import VALUE_CHARS, call_text, one_line

CALL_CHARS = 12
"""How much of a long call ID is shown; commands take the first characters of it."""

_WORDS = {
    "approval": "approval",
    "question": "an answer",
    "message": "a message",
    "crash": "a decision after a crash",
    "breakpoint": "a breakpoint",
}


def ask_words(ask: str, verdicts: Sequence[str] = ()) -> str:
    """What a call waits for."""
    if ask == "interrupt":
        return "approval" if verdicts and verdicts[0] == "approve" else "an answer"
    return _WORDS.get(ask, ask)


def short_call(call_id: str, others: Iterable[str] = ()) -> str:
    """The first characters of a call's ID: enough to tell it from the others that wait."""
    length = CALL_CHARS
    while length < len(call_id) and any(other != call_id and other.startswith(call_id[:length]) for other in others):
        length += 4
    return call_id if len(call_id) <= length + 4 else call_id[:length]


def decide_with(execution_id: str, ask: str, verdicts: Sequence[str] = (), call: str | None = None) -> str:
    """The arguments of the command that decides it, as most people will want to; `call` where several wait."""
    short = short_id(execution_id)
    if ask == "message":
        return f"send {short} MESSAGE"
    verb = verdicts[0] if verdicts else "respond" if ask in ("question", "interrupt") else "approve"
    what = {"respond": " ANSWER", "reject": " REASON"}.get(verb, "")
    return f"{verb} {short}{what}" + (f" --call {call}" if call else "")


def subject(row: Mapping[str, Any], limit: int = VALUE_CHARS) -> str:
    """What a waiting call is about, on one line: the question, or the call itself."""
    name, arguments, question = row["tool"], row["arguments"], one_line(row["question"] or "", limit)
    if row["ask"] == "breakpoint":
        return question
    if row["ask"] != "interrupt":
        return question or call_text(name, arguments, limit)
    if row.get("form"):
        calls = [call_text(action["name"], action["args"], limit) for action in row["form"].get("actions", ())]
        told = ", ".join(calls) or call_text(name, arguments, limit)
        return one_line(f"{told}: {question}" if question and len(calls) == 1 else told, limit)
    if not question:
        return call_text(name, arguments, limit)
    rest = {
        key: value for key, value in (arguments or {}).items() if value not in (row["question"], name, "human_task")
    }
    more = ", ".join(f"{key}={json.dumps(value, ensure_ascii=False, default=str)}" for key, value in rest.items())
    return one_line(f"{name}: {question}" + (f" ({more})" if more else ""), limit)
