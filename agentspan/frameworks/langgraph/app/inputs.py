"""What a graph takes as its input: described where its code is, applied where only the description may be.

A description is plain data, kept in the deployment's spec:

* `form` is `fields` (a state with keys) or `value` (one value: the argument of a functional API entrypoint, or a state
  that is a list).
* `fields` is a list of `{"name", "kind", "required", "type"}`, in the order of the schema; empty for `value`.
* `kind`, of a field or of the one value, says what a text becomes there: `messages` (chat messages; `converts` says
  that the graph turns role dicts into message objects by itself), `message_dicts` (role dicts, as they are), `text`,
  `any` (the text itself) or `other` (nothing).
"""

from __future__ import annotations

import dataclasses
import sys
import warnings
from collections.abc import Mapping
from typing import Any, NoReturn

from agentspan.agents.nearest import did_you_mean
from agentspan.errors import InvalidPromptError
from agentspan.frameworks.langgraph.app.schemas import described_fields, described_value
from agentspan.wording import a

TEXT_NAMES = ("prompt", "input", "query", "question", "request", "task", "topic", "text")
"""The fields that a text goes into when several could take it, the likeliest first."""

_warned: set[tuple[str, str]] = set()


def describe_input(app: Any) -> dict[str, Any]:
    """The input of a compiled graph as plain data; see this module's text. Calls nothing of the user's."""
    builder = getattr(app, "builder", None)
    if builder is None or app.input_channels != "__start__":
        return described_value(app)
    channels = builder.schemas.get(builder.input_schema, {})
    if list(channels) == ["__root__"]:
        return described_value(app, channels["__root__"])
    return {"form": "fields", "kind": "other", "fields": described_fields(builder.input_schema, channels)}


def to_input(described: Mapping[str, Any], agent: str, given: Any) -> Any:
    """What to invoke the graph with, for what a user gave as the prompt.

    A text goes to the field that takes one; a list of messages to the field for messages; a dict's keys are checked,
    since LangGraph ignores those it does not know; an instance of a state class becomes such a dict; a `Command` stays.

    Raises:
        InvalidPromptError: It fits nothing of the graph's input; names the fields and the form to give.
    """
    if _is_command(given):
        return _checked_command(agent, given)
    if described["form"] == "value":
        return _to_value(described, agent, given)
    fields: list[Mapping[str, Any]] = list(described["fields"])
    if isinstance(given, str):
        field = _field_for_text(fields, agent)
        if field is None:
            _refuse(agent, fields, "text, and no field of the graph's state takes one")
        return {field["name"]: _text_as(field, given)}
    if isinstance(given, Mapping):
        return _checked(fields, agent, dict(given))
    if (state := _state_of(given)) is not None:
        return _checked(fields, agent, state)
    if isinstance(given, list):
        field = _field_for_messages(fields)
        if field is not None and given:
            return {field["name"]: given}
        _refuse(
            agent, fields, "list, and no field of the graph's state is for messages" if given else "list of nothing"
        )
    return _refuse(agent, fields, type(given).__name__)


# --- one value -----------------------------------------------------------------------------------------------------


def _to_value(described: Mapping[str, Any], agent: str, given: Any) -> Any:
    kind = described["kind"]
    if given is None and kind != "any":
        raise InvalidPromptError(agent=agent, found="None", expected=f"its input, {a(described['type'])}")
    if not isinstance(given, str) or kind in ("text", "any"):
        return given
    if kind in ("messages", "message_dicts"):
        return _text_as(described, given)
    field = _field_for_text(list(described["fields"]), agent)
    if field is not None:  # The argument is a TypedDict.
        return {field["name"]: _text_as(field, given)}
    raise InvalidPromptError(agent=agent, found="text", expected=f"its input, {a(described['type'])}")


# --- fields --------------------------------------------------------------------------------------------------------


def _field_for_text(fields: list[Mapping[str, Any]], agent: str) -> Mapping[str, Any] | None:
    messages = _field_for_messages(fields)
    if messages is not None:
        return messages
    texts = [field for field in fields if field["kind"] == "text"]
    candidates = [field for field in texts if field["required"]] or texts
    if len(candidates) < 2:
        return next(iter(candidates), None)
    for name in TEXT_NAMES:
        for field in candidates:
            if field["name"] == name:
                return field
    return _guessed(candidates, agent)


def _guessed(candidates: list[Mapping[str, Any]], agent: str) -> Mapping[str, Any]:
    field, *others = candidates
    if (agent, field["name"]) not in _warned:
        _warned.add((agent, field["name"]))
        names = ", ".join(repr(other["name"]) for other in others)
        warnings.warn(
            f"The prompt for agent {agent!r} goes into the field {field['name']!r} of its state; {names} could take it as "
            f'well. Pass a dict to say which: {{"{field["name"]}": ...}}.',
            stacklevel=4,
        )
    return field


def _field_for_messages(fields: list[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    found = [field for field in fields if field["kind"] in ("messages", "message_dicts")]
    named = [field for field in found if field["name"] == "messages"]
    return next(iter(named or found), None)


def _text_as(field: Mapping[str, Any], text: str) -> Any:
    if field["kind"] not in ("messages", "message_dicts"):
        return text
    if field["kind"] == "message_dicts" or field.get("converts"):
        return [{"role": "user", "content": text}]
    from langchain_core.messages import HumanMessage

    return [HumanMessage(text)]


def _checked(fields: list[Mapping[str, Any]], agent: str, state: dict[str, Any]) -> dict[str, Any]:
    names = [field["name"] for field in fields]
    for key in state:
        if key not in names:
            hint = did_you_mean(str(key), names).strip()
            near = f" ({hint[0].lower()}{hint[1:]})" if hint else ""
            _refuse(agent, fields, f"dict with the key {key!r}, which the graph's input does not have{near}")
    return state


def _refuse(agent: str, fields: list[Mapping[str, Any]], found: str) -> NoReturn:
    facts = ", ".join(f"{f['name']} ({f['type']}{', required' if f['required'] else ''})" for f in fields)
    raise InvalidPromptError(agent=agent, found=found, expected=f"a dict with keys out of: {facts}")


def _state_of(given: Any) -> dict[str, Any] | None:
    """An instance of a state class as LangGraph reads it: without what was left at None."""
    if dataclasses.is_dataclass(given) and not isinstance(given, type):
        values = {field.name: getattr(given, field.name) for field in dataclasses.fields(given)}
        return {name: value for name, value in values.items() if value is not None}
    fields = getattr(type(given), "model_fields", None)
    if isinstance(fields, dict):
        set_fields: set[str] = given.model_fields_set
        return {
            name: getattr(given, name)
            for name, field in fields.items()
            if name in set_fields or getattr(given, name) is not None or field.default is not None
        }
    return None


def _checked_command(agent: str, given: Any) -> Any:
    """A `Command` as it is, unless it has no meaning for a new execution, which LangGraph does not say."""
    if given.resume is not None or not (given.update or given.goto):
        found = "Command(resume=...)" if given.resume is not None else "Command that says nothing"
        raise InvalidPromptError(
            agent=agent,
            found=f"{found}, and a new execution has nothing to resume",
            expected="its input, or a Command with update or goto; handle.respond(...) answers an execution that waits",
        )
    return given


def _is_command(given: Any) -> bool:
    command = getattr(sys.modules.get("langgraph.types"), "Command", None)
    return command is not None and isinstance(given, command)
