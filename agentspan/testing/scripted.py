"""A language model that plays a script: no key, no network, the same answer every time.

It keeps nothing between calls, so it gives a conversation the same answer after a SIGKILL, on another machine, or in
a fresh process:

- Which turn to play is the number of assistant messages in the request (minus `skip`). An answer that was recorded is
  in the conversation and counts; one that was lost is not, and is given again.
- Call IDs are `call_<turn>_<position>`, counted over the conversation, so they never repeat in it.
- Whether a turn fails depends on the request's `attempt` alone.

It follows that a script should drive one conversation; agents that share one count each other's messages.

By name, in any process: `scripted/echo` (a file of `agentspan/testing/scripts`), `scripted//tmp/my.json` (a path), or
`scripted/[…]` (the JSON itself, which is what `str(model)` gives).
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from agentspan.errors import ModelError, ModelNotFoundError
from agentspan.models.base import ModelReply, ModelRequest, OnToken, RequestedCall
from agentspan.models.problems import status_error
from agentspan.testing.scripts import AtEnd, Failure, Script, Step, Turn, as_steps

LEDGER_VARIABLE = "AGENTSPAN_SCRIPT_LEDGER"
"""A file that gets one JSON line for each call of any scripted model in this process."""

CHARACTERS_PER_TOKEN = 4
PIECES = re.compile(r"\s*\S+\s*|\s+")


class ScriptedModel:
    """A model that plays a script; pass it wherever a model goes.

        agent = Agent(name="support", model=ScriptedModel([call("search", query="x"), say("Done.")]))

    It pickles, and `str(model)` is a model name that plays the same script in any process.

    Args:
        steps: Turns and failures from `say`, `call`, `calls`, `fail` and `after`; a string is something to say.
        at_end: What to do when the conversation outlasts the script: "fail", "repeat" the last turn, or "cycle".
        skip: Assistant messages the conversation begins with.
        ledger: A file that gets one JSON line for each call; see `read_ledger`.
    """

    def __init__(
        self,
        steps: Sequence[Step | str] | Step | str,
        *,
        at_end: AtEnd | str = AtEnd.FAIL,
        skip: int = 0,
        ledger: str | os.PathLike[str] | None = None,
    ) -> None:
        self._become(
            Script(
                steps=as_steps(steps),
                at_end=AtEnd(at_end),
                skip=skip,
                ledger=None if ledger is None else os.fspath(ledger),
            ),
            reference=None,
        )

    def _become(self, script: Script, reference: str | None) -> None:
        self.script = script
        self._reference = reference
        self._scenes = script.scenes()

    @classmethod
    def load(cls, reference: str) -> ScriptedModel:
        """A script by built-in name, by path of a JSON file, or as JSON text.

        Raises:
            ModelNotFoundError: There is no such script.
            ConfigurationError: It is not a script.
        """
        text = reference if reference.lstrip().startswith(("[", "{")) else _read(reference)
        source = "the script" if text is reference else f"script {reference}"
        model = cls.__new__(cls)
        model._become(Script.from_json(text, source=source), None if text is reference else reference)
        return model

    def __reduce__(self) -> tuple[Any, ...]:
        # By content even if it came from a file: the other process may not have the file.
        return ScriptedModel.load, (self.script.to_json(),)

    def __str__(self) -> str:
        return f"scripted/{self._reference or self.script.to_json()}"

    def __repr__(self) -> str:
        return f"ScriptedModel.load({(self._reference or self.script.to_json())!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ScriptedModel) and self.script.to_json() == other.script.to_json()

    def __hash__(self) -> int:
        return hash(self.script.to_json())

    async def complete(self, request: ModelRequest, *, on_token: OnToken | None = None) -> ModelReply:
        """Play the turn that fits the conversation."""
        position = sum(message.get("role") == "assistant" for message in request.messages) - self.script.skip
        failures, turn = self._scene(position, request)
        failure = _failure_at(failures, request.attempt, for_good=turn is None)
        self._note(request, position, "reply" if failure is None else failure.status)
        if failure is not None:
            await asyncio.sleep(failure.delay_s)
            raise status_error(
                model=_shortened(request.model),
                status=failure.status,
                problem=failure.problem,
                key_variable="SCRIPTED_API_KEY",
                retry_after_s=failure.retry_after_s,
            )
        assert turn is not None
        reply = _reply(turn, position, request)
        await _deliver(reply.text, turn.delay_s, on_token)
        return reply

    async def aclose(self) -> None:
        """Nothing to close."""

    def _scene(self, position: int, request: ModelRequest) -> tuple[tuple[Failure, ...], Turn | None]:
        count = len(self._scenes)
        if 0 <= position < count:
            return self._scenes[position]
        if position < 0 or not count or self.script.at_end is AtEnd.FAIL:
            raise ModelError(
                model=_shortened(request.model),
                problem=f"its script has {count} turns and the conversation asks for turn {position + 1}. "
                "Add a turn, or set at_end to 'repeat' or 'cycle'.",
            )
        return self._scenes[-1 if self.script.at_end is AtEnd.REPEAT else position % count]

    def _note(self, request: ModelRequest, position: int, outcome: str | int | None) -> None:
        """Write the call down before it is answered: a provider charges for answers nobody was left to read, too."""
        paths = {self.script.ledger, os.environ.get(LEDGER_VARIABLE)}
        line = {
            "model": _shortened(request.model),
            "key": request.idempotency_key,
            "attempt": request.attempt,
            "turn": position,
            "outcome": "lost" if outcome is None else outcome,
            "pid": os.getpid(),
            "at": time.time(),
        }
        for path in filter(None, paths):
            # One write to a file opened for appending: lines of several processes do not mix.
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(descriptor, json.dumps(line).encode() + b"\n")
            finally:
                os.close(descriptor)


def read_ledger(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The calls in a ledger, oldest first, each with `model`, `key`, `attempt`, `turn`, `outcome`, `pid` and `at`.

    `outcome` is "reply", "lost", or the HTTP status of a scripted failure. A file that is not there is an empty ledger.
    """
    try:
        lines = Path(path).read_text().splitlines()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines]


def _read(reference: str) -> str:
    built_in = files("agentspan.testing.scripts")
    if reference.endswith(".json") or "/" in reference:
        path = Path(reference)
        problem = f"there is no script file {path.absolute()}. Give an absolute path: servers run elsewhere."
    else:
        path = Path(str(built_in.joinpath(f"{reference}.json")))
        names = sorted(entry.name[:-5] for entry in built_in.iterdir() if entry.name.endswith(".json"))
        problem = f"there is no built-in script {reference!r}. There are: {', '.join(names)}."
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        raise ModelNotFoundError(model=f"scripted/{reference}", problem=problem) from None


def _failure_at(failures: Sequence[Failure], attempt: int, *, for_good: bool) -> Failure | None:
    """The failure that hits this attempt: they come one after the other, each for its number of attempts."""
    for failure in failures:
        if failure.times is None or attempt <= failure.times:
            return failure
        attempt -= failure.times
    return failures[-1] if for_good else None


def _reply(turn: Turn, position: int, request: ModelRequest) -> ModelReply:
    values = _placeholders(request, position)
    text = _filled(turn.text, values)
    requested = tuple(
        RequestedCall(
            call_id=f"call_{position}_{index}",
            name=one.name,
            arguments=json.dumps(_filled(dict(one.arguments), values), ensure_ascii=False)
            if one.raw is None
            else one.raw,
        )
        for index, one in enumerate(turn.calls)
    )
    prompt_tokens = sum(len(_text(message)) for message in request.messages) // CHARACTERS_PER_TOKEN + 1
    written = len(text) + len(turn.thinking) + sum(len(one.arguments) for one in requested)
    completion_tokens = written // CHARACTERS_PER_TOKEN + 1
    return ModelReply(
        text=text,
        thinking=turn.thinking,
        calls=requested,
        finish_reason="tool_calls" if requested else "stop",
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        served_by="scripted",
    )


def _placeholders(request: ModelRequest, position: int) -> dict[str, str]:
    def last(role: str) -> str:
        return next((_text(message) for message in reversed(request.messages) if message.get("role") == role), "")

    return {
        "{last_tool_result}": last("tool"),
        "{last_user_message}": last("user"),
        "{turn}": str(position),
    }


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _filled(value: Any, values: Mapping[str, str]) -> Any:
    """`value` with its placeholders replaced, at any depth; all other braces stay as they are."""
    if isinstance(value, str):
        # In one pass, so that a placeholder in a tool's result is left alone.
        return re.sub("|".join(map(re.escape, values)), lambda found: values[found.group()], value)
    if isinstance(value, dict):
        return {name: _filled(item, values) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_filled(item, values) for item in value]
    return value


async def _deliver(text: str, delay_s: float, on_token: OnToken | None) -> None:
    pieces = [] if on_token is None else PIECES.findall(text)
    if on_token is None or not pieces:
        await asyncio.sleep(delay_s)
        return
    for piece in pieces:
        await asyncio.sleep(delay_s / len(pieces))
        on_token(piece)


def _shortened(model: str) -> str:
    """A model name for messages: one that is a whole script would drown them."""
    return model if len(model) <= 80 else f"{model[:77]}…"
