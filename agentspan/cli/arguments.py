"""Arguments that several commands share, and how their values are read."""

from __future__ import annotations

import json
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


def seconds_of(text: str) -> float:
    """Seconds of a duration: `90s`, `30m`, `12h`, `30d`, `2w`."""
    from agentspan.config import seconds_of as seconds  # Here: `--help` need not wait for pydantic.

    try:
        return seconds(text)
    except ValueError as problem:
        raise typer.BadParameter(str(problem)) from None


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
