"""Arguments that several commands share, and how their values are read."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]
ExecutionId = Annotated[
    str, typer.Argument(metavar="ID", help="The execution: its ID, or the first characters of it.", show_default=False)
]
CallId = Annotated[
    str | None,
    typer.Option(
        "--call", metavar="CALL", help="Which waiting call: its ID, or the start of it; needed when several wait."
    ),
]
By = Annotated[
    str | None, typer.Option("--by", metavar="NAME", help="Who decides, for the record. Default: the login name.")
]

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|[smhdw])")


def seconds_of(text: str) -> float:
    """Seconds of a duration: `90s`, `30m`, `12h`, `30d`, `2w`."""
    match = _DURATION.fullmatch(text.strip().lower())
    if match is None:
        raise typer.BadParameter(f"{text!r} is not a duration. Write a number and a unit: 90s, 30m, 12h, 30d or 2w.")
    return float(match[1]) * _UNITS_S[match[2]]


def value_of(text: str) -> Any:
    """The JSON value that a text is, or the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def json_of(text: str, option: str) -> Any:
    """The JSON value of an option."""
    try:
        return json.loads(text)
    except ValueError as problem:
        raise typer.BadParameter(f"{option} is not JSON: {problem}") from None


def arguments_of(text: str | None) -> dict[str, Any] | None:
    """The JSON object of `--args`."""
    if text is None:
        return None
    value = json_of(text, "--args")
    if not isinstance(value, dict):
        raise typer.BadParameter("--args has to be a JSON object, as in '{\"amount\": 40}'.")
    return value


def short_id(execution_id: str) -> str:
    """The first characters of an ID: enough to tell millions of executions apart."""
    return execution_id[:11]
