"""What a scripted model says: the parts of a script, and its JSON form.

A script is a list of turns. In Python:

    [call("search", query="durable"), fail(429, times=2), after(0.5, say("Found: {last_tool_result}"))]

and the same as JSON, in a file or in a string:

    [{"call": "search", "args": {"query": "durable"}},
     {"fail": 429, "times": 2},
     {"say": "Found: {last_tool_result}", "after_s": 0.5}]

or as an object with settings: `{"turns": […], "at_end": "repeat", "skip": 0, "ledger": "/tmp/calls.jsonl"}`. A bare
string is something to say. `*.json` files beside this module are scripts that every process knows by name.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from agentspan.errors import ConfigurationError
from agentspan.wording import a


class AtEnd(str, Enum):
    """What a script answers when the conversation is longer than the script."""

    FAIL = "fail"
    """`ModelError`: an unexpected turn is a mistake in the test or the agent."""
    REPEAT = "repeat"
    """The last turn again."""
    CYCLE = "cycle"
    """From the start: each new prompt in a long conversation plays the script once more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedCall:
    """A tool call to ask for: `arguments` as data, or `raw` as the text that goes out, valid or not."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    raw: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One reply. Text and arguments may hold `{last_tool_result}`, `{last_user_message}` and `{turn}`."""

    text: str = ""
    thinking: str = ""
    calls: tuple[ScriptedCall, ...] = ()
    delay_s: float = 0.0
    """How long the reply takes; if somebody listens, its text arrives spread over this time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Trouble in front of the turn that follows: the first `times` attempts at that turn fail."""

    status: int | None = 503
    """An HTTP status; None for a lost connection, 200 for a reply that is not a chat completion."""
    times: int | None = 1
    """None: every attempt, for good."""
    problem: str = "scripted failure"
    retry_after_s: float | None = None
    delay_s: float = 0.0


Step = Turn | Failure


def say(text: str, *, thinking: str = "") -> Turn:
    """A text."""
    return Turn(text=text, thinking=thinking)


def call(tool: str, /, **arguments: Any) -> Turn:
    """One tool call."""
    return Turn(calls=(ScriptedCall(name=tool, arguments=arguments),))


def raw_call(tool: str, arguments: str) -> Turn:
    """One tool call whose arguments are this text, such as broken JSON."""
    return Turn(calls=(ScriptedCall(name=tool, raw=arguments),))


def calls(*turns: Turn, text: str = "") -> Turn:
    """Several tool calls in one reply: `calls(call("a"), call("b", x=1))`."""
    return Turn(text=text, calls=tuple(one for turn in turns for one in turn.calls))


def fail(
    status: int | None = 503,
    *,
    times: int | None = 1,
    retry_after_s: float | None = None,
    problem: str = "scripted failure",
) -> Failure:
    """Fail the first `times` attempts at the next turn; `times=None` fails it for good."""
    return Failure(status=status, times=times, retry_after_s=retry_after_s, problem=problem)


def after(seconds: float, step: Step | str) -> Step:
    """The same reply or failure, but only after this time."""
    return replace(_as_step(step), delay_s=float(seconds))


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A whole script."""

    steps: tuple[Step, ...]
    at_end: AtEnd = AtEnd.FAIL
    skip: int = 0
    """Assistant messages that every conversation begins with, such as examples in the instructions."""
    ledger: str | None = None
    """A file that gets one JSON line for each call."""
    description: str = ""

    def scenes(self) -> list[tuple[tuple[Failure, ...], Turn | None]]:
        """Each turn with the failures in front of it; failures at the end stand before no turn at all."""
        scenes: list[tuple[tuple[Failure, ...], Turn | None]] = []
        waiting: list[Failure] = []
        for step in self.steps:
            if isinstance(step, Failure):
                waiting.append(step)
            else:
                scenes.append((tuple(waiting), step))
                waiting = []
        if waiting:
            scenes.append((tuple(waiting), None))
        return scenes

    def to_json(self) -> str:
        """The script as one line that `from_json` reads back."""
        settings: dict[str, Any] = {
            "at_end": self.at_end.value if self.at_end is not AtEnd.FAIL else None,
            "skip": self.skip or None,
            "ledger": self.ledger,
            "description": self.description or None,
        }
        settings = {name: value for name, value in settings.items() if value is not None}
        turns = [_step_to_json(step) for step in self.steps]
        return json.dumps({**settings, "turns": turns} if settings else turns, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, *, source: str = "the script") -> Script:
        """Read a script.

        Raises:
            ConfigurationError: It is not JSON, or not a script; says where and what.
        """
        try:
            data = json.loads(text)
        except ValueError as error:
            raise ConfigurationError(problem=f"{source} is not JSON: {error}") from None
        if isinstance(data, list):
            data = {"turns": data}
        if not isinstance(data, dict) or not isinstance(data.get("turns"), list):
            raise ConfigurationError(problem=f"{source} is neither a list of turns nor an object with `turns`.")
        _check_members(data, ("turns", "at_end", "skip", "ledger", "description"), source)
        try:
            at_end = AtEnd(data.get("at_end", "fail"))
        except ValueError:
            choices = ", ".join(choice.value for choice in AtEnd)
            raise ConfigurationError(problem=f"{source}: at_end is {data['at_end']!r}; choose {choices}.") from None
        return cls(
            steps=tuple(_step_from_json(item, f"{source}, turn {at}") for at, item in enumerate(data["turns"])),
            at_end=at_end,
            skip=int(data.get("skip", 0)),
            ledger=data.get("ledger"),
            description=data.get("description", ""),
        )


def as_steps(steps: Sequence[Step | str] | Step | str) -> tuple[Step, ...]:
    """A script's steps from what a person may write: one step or many, strings being things to say."""
    if isinstance(steps, (str, Turn, Failure)):
        return (_as_step(steps),)
    return tuple(_as_step(step) for step in steps)


def _as_step(step: Step | str) -> Step:
    return say(step) if isinstance(step, str) else step


def _step_to_json(step: Step) -> dict[str, Any]:
    data: dict[str, Any]
    if isinstance(step, Failure):
        data = {"fail": step.status, "times": step.times, "problem": step.problem}
        if step.retry_after_s is not None:
            data["retry_after_s"] = step.retry_after_s
    else:
        data = {"say": step.text} if step.text or not step.calls else {}
        if step.thinking:
            data["thinking"] = step.thinking
        if step.calls:
            data["calls"] = [
                {"call": one.name, "args": dict(one.arguments)}
                if one.raw is None
                else {"call": one.name, "raw": one.raw}
                for one in step.calls
            ]
    if step.delay_s:
        data["after_s"] = step.delay_s
    return data


def _step_from_json(item: Any, where: str) -> Step:
    if isinstance(item, str):
        return say(item)
    if not isinstance(item, dict):
        raise ConfigurationError(problem=f"{where} is {a(type(item).__name__)}; write a string or an object.")
    delay_s = float(item.get("after_s", 0.0))
    if "fail" in item:
        _check_members(item, ("fail", "times", "problem", "retry_after_s", "after_s"), where)
        if item["fail"] is not None and not isinstance(item["fail"], int):
            raise ConfigurationError(problem=f"{where}: fail is {item['fail']!r}; give an HTTP status or null.")
        return Failure(
            status=item["fail"],
            times=item.get("times", 1),
            problem=item.get("problem", "scripted failure"),
            retry_after_s=item.get("retry_after_s"),
            delay_s=delay_s,
        )
    _check_members(item, ("say", "thinking", "call", "args", "raw", "calls", "after_s"), where)
    if not {"say", "call", "calls"} & item.keys():
        raise ConfigurationError(problem=f"{where} says nothing: give it say, call, calls or fail.")
    asked = [*([item] if "call" in item else []), *item.get("calls", ())]
    return Turn(
        text=item.get("say", ""),
        thinking=item.get("thinking", ""),
        calls=tuple(_call_from_json(one, f"{where}, call {at}") for at, one in enumerate(asked)),
        delay_s=delay_s,
    )


def _call_from_json(item: Any, where: str) -> ScriptedCall:
    if not isinstance(item, dict) or not isinstance(item.get("call"), str):
        raise ConfigurationError(problem=f"{where} names no tool: give it `call`.")
    arguments, raw = item.get("args", {}), item.get("raw")
    if not isinstance(arguments, dict):
        raise ConfigurationError(problem=f"{where}: args is not an object; for text that is no JSON use `raw`.")
    return ScriptedCall(name=item["call"], arguments=arguments, raw=raw)


def _check_members(data: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for name in data:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            guess = f" Did you mean {near[0]!r}?" if near else f" Known: {', '.join(known)}."
            raise ConfigurationError(problem=f"{where} has an unknown member {name!r}.{guess}")
