"""Commands that put code to work: `run` and `deploy`."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from agentspan.cli.arguments import Json, json_of, short_id
from agentspan.cli.following import Tokens, follow
from agentspan.cli.loading import is_reference, load_agent
from agentspan.cli.output import Output
from agentspan.cli.reading import session


def run(
    agent: Annotated[
        str | None,
        typer.Argument(
            help="The name of a deployed agent or graph, or `module:attribute` or `path.py:attribute`, which is deployed "
            "first.",
            show_default=False,
        ),
    ] = None,
    prompt: Annotated[
        str | None, typer.Argument(help="What to do; `-` reads it from standard input.", show_default=False)
    ] = None,
    file: Annotated[
        str | None,
        typer.Option("--file", "-f", metavar="FILE[:ATTRIBUTE]", help="The code, in place of AGENT."),
    ] = None,
    input: Annotated[
        str | None,
        typer.Option(
            "--input", metavar="JSON", help="In place of PROMPT: a graph's state, as `invoke` takes it; `-` reads it."
        ),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Print the execution's ID and leave. Needs a server.")
    ] = False,
    session_id: Annotated[
        str | None, typer.Option("--session", help="Continue the conversation of this session.")
    ] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option("--idempotency-key", metavar="KEY", help="A second start with it gives the first execution."),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout", min=0, metavar="SECONDS", help="How long to wait here; the execution goes on after it."
        ),
    ] = None,
    time_limit: Annotated[
        float | None,
        typer.Option("--time-limit", min=0, metavar="SECONDS", help="How long the execution may take in all."),
    ] = None,
    tokens: Tokens = False,
    json: Json = False,
) -> None:
    """Start an execution and follow it to its end.

    Without a server, one is started inside this command and ends with it.
    """
    output = Output(json=json)
    wanted, given = _what(agent, prompt, file, input)
    with session() as here:
        is_embedded = not here.is_served
        runtime = here.live(embedded=not detach)
        target = load_agent(wanted) if is_reference(wanted) else wanted
        if is_embedded:
            output.note("No server is up, so this command starts one, which ends with it. Executions keep their state.")
        with warnings_as_notes(output):
            handle = runtime.start(
                target, given, session_id=session_id, idempotency_key=idempotency_key, timeout=time_limit, tokens=tokens
            )
        started = handle.execution_id
        if detach:
            output.answer({"execution_id": started}, started)
            output.note(f"Follow it with: agent-span stream {short_id(started)}")
            return
        output.note(started)
        if not tokens and not is_embedded and here.settings.address is None:
            # From here on the store is enough. Not being part of the cluster, this command outlasts a restart of it.
            runtime.shutdown()
            runtime = here.runtime
        follow(here, runtime, started, output, tokens=tokens, timeout_s=timeout, is_embedded=is_embedded)


def _what(agent: str | None, prompt: str | None, file: str | None, given: str | None) -> tuple[str, Any]:
    """Which agent, and what it is given. With `--file` there is one argument at most, the prompt."""
    if file is not None:
        if prompt is not None:
            raise typer.BadParameter("give either AGENT or --file, not both.")
        agent, prompt = file, agent
        if not is_reference(agent):
            raise typer.BadParameter("--file takes a path of a .py file, with or without :attribute.")
    if agent is None:
        raise typer.BadParameter("an agent is missing: agent-span run AGENT PROMPT.")
    if given is not None:
        if prompt is not None:
            raise typer.BadParameter("give either PROMPT or --input, not both.")
        return agent, json_of(sys.stdin.read() if given == "-" else given, "--input")
    if prompt is None:
        raise typer.BadParameter("a prompt is missing: agent-span run AGENT PROMPT.")
    return agent, sys.stdin.read() if prompt == "-" else prompt


@contextlib.contextmanager
def warnings_as_notes(output: Output) -> Iterator[None]:
    """What a graph loses here, which the runtime warns of, as lines for people."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        output.note(f"Note: {message}", style="yellow")

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield


def deploy(
    reference: Annotated[
        list[str],
        typer.Argument(
            metavar="REFERENCE...", help="`module:attribute` or `path.py:attribute`, one or more.", show_default=False
        ),
    ],
    max_concurrency: Annotated[
        int | None,
        typer.Option(
            "--max-concurrency",
            min=0,
            metavar="N",
            help="How many executions of each may be at work at a time, in place of what the agent says; 0 for any number.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Make agents and graphs known, to be started by name.

    Other code under the same name is a new version; running executions stay on the one they were started with.
    """
    output = Output(json=json)
    for one in reference:
        if not is_reference(one):
            raise typer.BadParameter(f"{one!r} names no code. Write module:attribute or path.py:attribute.")
    with session() as here:
        here.prepare()
        targets = [load_agent(one) for one in reference]
        # A server that is up also warms its standby actors for the new version; without one the store is enough.
        runtime = here.live() if here.is_served else here.runtime
        with warnings_as_notes(output):
            infos: list[dict[str, Any]] = [
                info.to_dict() for info in runtime.deploy(*targets, max_concurrency=max_concurrency)
            ]
    if output.json:
        output.document({"deployed": infos})
    for info in infos if not output.json else ():
        how = "its code was stored" if info["source"] == "value" else f"by reference, {info['source']}"
        output.print(f"Deployed {info['registered_name']}, version {info['deployment_id'][:12]} ({how}).")
