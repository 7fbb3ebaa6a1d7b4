"""Commands that steer an execution. Each stores a signal, which is then never lost and takes effect once.

They write to the store and do not connect to the server, which would take longer (about 1 s) than the server takes to
see the signal (`AGENTSPAN_SCAN_INTERVAL_S`, 2 s at most).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentspan.cli.arguments import By, CallId, ExecutionId, Json, arguments_of, short_id, value_of
from agentspan.cli.exits import ExitCode
from agentspan.cli.output import Output
from agentspan.cli.reading import session

if TYPE_CHECKING:
    from agentspan.cli.connect import Session

Hash = Annotated[
    str | None,
    typer.Option("--hash", metavar="HASH", help="Refuse unless the call would run with the arguments of this hash."),
]


def approve(
    execution_id: ExecutionId,
    call: CallId = None,
    args: Annotated[
        str | None,
        typer.Option("--args", metavar="JSON", help="Run it with these arguments instead of the shown ones."),
    ] = None,
    hash: Hash = None,
    by: By = None,
    json: Json = False,
) -> None:
    """Let a waiting call run."""
    _decide(execution_id, "approve", call, hash, by, json, arguments=arguments_of(args))


def reject(
    execution_id: ExecutionId,
    reason: Annotated[str, typer.Argument(help="Told to the model, which then goes on without the call.")] = "",
    call: CallId = None,
    hash: Hash = None,
    by: By = None,
    json: Json = False,
) -> None:
    """Refuse a waiting call.

    The model hears the reason and goes on; the execution is not over.
    """
    _decide(execution_id, "reject", call, hash, by, json, text=reason)


def respond(
    execution_id: ExecutionId,
    value: Annotated[str, typer.Argument(help="The answer: JSON if it is, else text.", show_default=False)],
    call: CallId = None,
    hash: Hash = None,
    by: By = None,
    json: Json = False,
) -> None:
    """Answer a question.

    Or give a waiting call's result in its stead: it is then not run.
    """
    _decide(execution_id, "respond", call, hash, by, json, value=value_of(value))


def send(
    execution_id: ExecutionId,
    message: Annotated[str, typer.Argument(help="The message.", show_default=False)],
    by: By = None,
    json: Json = False,
) -> None:
    """Put a message into an execution's queue.

    Its `wait_for_message_tool` takes it out.
    """
    _signal(execution_id, "message", "Message stored for", by, json, value=message)


def signal(
    execution_id: ExecutionId,
    text: Annotated[str, typer.Argument(help="The note; empty takes the last one away.", show_default=False)],
    by: By = None,
    json: Json = False,
) -> None:
    """Add a note to every model call from now on."""
    _signal(execution_id, "guide", "Note stored for", by, json, text=text)


def pause(execution_id: ExecutionId, by: By = None, json: Json = False) -> None:
    """Hold an execution until `resume`.

    What runs is finished and recorded.
    """
    _signal(execution_id, "pause", "Pausing", by, json)


def resume(execution_id: ExecutionId, by: By = None, json: Json = False) -> None:
    """Go on after `pause`, or try again after quarantine.

    An execution in quarantine is tried again with the rows it has now; that needs a running server.
    """
    output = Output(json=json)
    with session() as here:
        full = here.find(execution_id)
        if here.ask("status", execution_id=full)["status"] == "QUARANTINED":
            here.live().resume(full)
            output.answer({"execution_id": full, "released": True}, f"Trying {short_id(full)} again.")
            return
    _signal(full, "resume", "Resuming", by, json)


def cancel(
    execution_id: ExecutionId,
    reason: Annotated[str, typer.Argument(help="Kept with the execution.")] = "",
    by: By = None,
    json: Json = False,
) -> None:
    """End an execution now, as TERMINATED.

    What runs is cancelled.
    """
    _signal(execution_id, "cancel", "Cancelling", by, json, text=reason)


def stop(execution_id: ExecutionId, by: By = None, json: Json = False) -> None:
    """End an execution after its current turn, as COMPLETED."""
    _signal(execution_id, "stop", "Stopping", by, json)


def _signal(short: str, kind: str, words: str, by: str | None, json: bool, **fields: Any) -> None:
    output = Output(json=json)
    with session() as here:
        full = here.find(short)
        sent = here.send(full, kind, by=by, **fields)
        output.answer({"execution_id": full, **sent}, f"{words} {short_id(full)}.")
        _note_unserved(output, here)


def _decide(
    short: str, kind: str, call_id: str | None, shown: str | None, by: str | None, json: bool, **fields: Any
) -> None:
    output = Output(json=json)
    with session() as here:
        full = here.find(short)
        waiting = _waiting(here, full, call_id) or {}
        sent = here.send(
            full,
            kind,
            by=by,
            call_id=waiting.get("call_id") or call_id,
            # What is shown below is what is decided on, even if the call changed in between (P6).
            arguments_hash=shown or waiting.get("arguments_hash"),
            **fields,
        )
        if sent["is_new"]:
            _report_decision(output, full, sent, waiting)
            _note_unserved(output, here)
        else:
            _report_first(output, full, sent["signal"], kind)


def _report_decision(output: Output, execution_id: str, sent: dict[str, Any], waiting: dict[str, Any]) -> None:
    from agentspan.cli.lines import verdict_words
    from agentspan.cli.text import call_text

    counts = sent["signal"]
    arguments = counts["arguments"] if counts["arguments"] is not None else waiting.get("arguments")
    what = call_text(waiting.get("tool", "call"), arguments)
    done = f"{verdict_words(counts['kind']).capitalize()} {what}, call {counts['call_id']} of {short_id(execution_id)}."
    output.answer({"execution_id": execution_id, **sent}, done)


def _waiting(here: Session, execution_id: str, call_id: str | None) -> dict[str, Any] | None:
    """The call a decision is for, by its ID or the start of it; None where the store will say what is wrong."""
    calls = here.ask("show", execution_id=execution_id)["pending_calls"]
    fitting = [one for one in calls if one["ask"] != "message" and one["call_id"].startswith(call_id or "")]
    exact = [one for one in fitting if one["call_id"] == call_id]
    fitting = exact or fitting
    return fitting[0] if len(fitting) == 1 else None


def _report_first(output: Output, execution_id: str, counts: dict[str, Any], wanted: str) -> None:
    """The call was decided before. The same verdict is as good as done; another one was refused."""
    from agentspan.cli.lines import verdict_words

    by = f" by {counts['by']}" if counts["by"] else ""
    done = f"{verdict_words(counts['kind'])}{by}"
    told = f"Call {counts['call_id']} of {short_id(execution_id)} was already {done}; that stands."
    if counts["kind"] == wanted:
        output.answer({"execution_id": execution_id, "is_new": False, "signal": counts}, told)
        return
    output.error(told, type="AlreadyDecided", exit_code=int(ExitCode.REFUSED), execution_id=execution_id, signal=counts)
    raise typer.Exit(ExitCode.REFUSED)


def _note_unserved(output: Output, here: Session) -> None:
    if not here.is_served:
        output.note("No server is up; it takes effect when one is: agent-span server start")
