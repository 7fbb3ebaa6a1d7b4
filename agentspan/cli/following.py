"""Commands that wait for an execution: `stream` and `result`, and the following that `run` does.

Text as it streams in comes from the actor, so `--tokens` joins the server. Everything else is read off the store, which
goes on through crashes and restarts of the server.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentspan.cli.arguments import ExecutionId, Json, short_id
from agentspan.cli.exits import ExitCode
from agentspan.cli.output import Output
from agentspan.cli.reading import session
from agentspan.errors import ServerTimeoutError

if TYPE_CHECKING:
    from agentspan.agents.events import AgentEvent
    from agentspan.cli.connect import Session
    from agentspan.runtime import AgentRuntime

POLL_S = 25.0

Tokens = Annotated[
    bool, typer.Option("--tokens", help="Also the model's text as it streams in. Needs a running server.")
]
Wait = Annotated[
    float | None,
    typer.Option("--timeout", min=0, metavar="SECONDS", help="How long to wait. Default: as long as it takes."),
]


def stream(
    execution_id: ExecutionId,
    after: Annotated[int, typer.Option("--after", min=0, metavar="N", help="Go on after event number N.")] = 0,
    tokens: Tokens = False,
    timeout: Wait = None,
    json: Json = False,
) -> None:
    """Follow an execution's events to the last.

    Leaving (Ctrl-C) changes nothing for the execution.
    """
    output = Output(json=json)
    with session() as here:
        full = here.find(execution_id)
        runtime = here.live() if tokens else here.runtime
        follow(here, runtime, full, output, after=after, tokens=tokens, timeout_s=timeout)


def result(execution_id: ExecutionId, timeout: Wait = None, json: Json = False) -> None:
    """Wait for an execution's end and print what it came to."""
    output = Output(json=json)
    with session() as here:
        full = here.find(execution_id)
        try:
            plain = await_result(here, full, timeout)
        except KeyboardInterrupt:
            _left(output, full, 0)
            raise typer.Exit(ExitCode.INTERRUPTED) from None
    finish(output, plain)


def await_result(here: Session, execution_id: str, timeout_s: float | None) -> dict[str, Any]:
    """The result, as plain data, once there is one. Runs no user code.

    Raises:
        ServerTimeoutError: `timeout_s` passed.
        ServerUnavailableError: It has not ended, and no server works on it.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        wait = POLL_S if deadline is None else max(0.0, min(POLL_S, deadline - time.monotonic()))
        page = here.ask("result", execution_id=execution_id, timeout_s=wait, wait_s=wait)
        if page["settled"]:
            plain: dict[str, Any] = page["result"]
            return plain
        if deadline is not None and time.monotonic() >= deadline:
            raise ServerTimeoutError(what="The execution", timeout_s=timeout_s, execution_id=execution_id)


def finish(output: Output, plain: dict[str, Any], *, show: bool = True) -> None:
    """Print a result and end the command with the code for it."""
    if output.json:
        if show:
            output.document(plain)
    else:
        from agentspan.cli import views

        output.print(views.result(plain))
    if plain["status"] != "COMPLETED":
        raise typer.Exit(ExitCode.FAILED)


def follow(
    here: Session,
    runtime: AgentRuntime,
    execution_id: str,
    output: Output,
    *,
    after: int = 0,
    tokens: bool = False,
    timeout_s: float | None = None,
    is_embedded: bool = False,
) -> None:
    """Print events until the last one, then the result, and end the command with the code for it."""
    import asyncio  # Here, as the bridge: `--help` need not wait for them.

    from agentspan.bridge import run_sync

    printer = _Printer(output, after)

    async def read() -> None:
        async with asyncio.timeout(timeout_s):
            async for event in runtime.handle(execution_id).stream_async(after=after, tokens=tokens):
                printer.print(event)

    try:
        run_sync(read())
        plain = await_result(here, execution_id, POLL_S)
    except TimeoutError as problem:
        if isinstance(problem, ServerTimeoutError):
            raise
        raise ServerTimeoutError(what="The execution", timeout_s=timeout_s, execution_id=execution_id) from None
    except KeyboardInterrupt:
        printer.end_line()
        _left(output, execution_id, printer.seen, is_embedded=is_embedded)
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    if not output.json:
        output.print()
    finish(output, plain, show=False)


class _Printer:
    """Prints events as they come, one a line; pieces of text run on in a line of their own."""

    def __init__(self, output: Output, after: int) -> None:
        self._output = output
        self._inside = False
        self.seen = after

    def print(self, event: AgentEvent) -> None:
        self.seen = event.seq or self.seen
        if self._output.json:
            self._output.line(event.to_dict())
        elif event.type == "token":
            self._output.console.print(event.content or "", end="", markup=False, soft_wrap=True)
            self._inside = True
        else:
            from agentspan.cli.lines import event_line

            self.end_line()
            # A terminal gets exactly one line for each event, a file the whole of it. Only what somebody has to do, with
            # the command for it, is never cut.
            if event.type == "waiting":
                self._output.console.print(event_line(event), soft_wrap=True)
            else:
                self._output.console.print(event_line(event), no_wrap=True, overflow="ellipsis", crop=True)

    def end_line(self) -> None:
        if self._inside:
            self._output.print()
            self._inside = False


def _left(output: Output, execution_id: str, seen: int, *, is_embedded: bool = False) -> None:
    after = f" --after {seen}" if seen else ""
    then = "it goes on when a server is up: agent-span server start" if is_embedded else "it goes on."
    output.note(f"\nLeft execution {execution_id} alone; {then}")
    output.note(f"Come back with: agent-span stream {short_id(execution_id)}{after}")
