"""`server start`, `stop`, `status` and `logs`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentspan.cli.arguments import Json
from agentspan.cli.exits import ExitCode
from agentspan.cli.output import Output
from agentspan.cli.reading import session

if TYPE_CHECKING:
    from agentspan.actors.lease import Descriptor
    from agentspan.cli.connect import Session

app = typer.Typer(no_args_is_help=True)


@app.command()
def start(
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay in this process until SIGTERM or Ctrl-C; log to the terminal.")
    ] = False,
    ray_client_port: Annotated[
        int | None,
        typer.Option(
            "--ray-client-port", min=1, max=65535, metavar="PORT", help="Also open Ray Client on this port (loopback)."
        ),
    ] = None,
    num_cpus: Annotated[
        int | None, typer.Option("--num-cpus", min=1, metavar="N", help="CPUs Ray may plan with. Default: all.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the server answers.")] = True,
    json: Json = False,
) -> None:
    """Start the server of this home.

    Unfinished executions go on. When it is up already, says so.
    """
    from agentspan.cli import process

    output = Output(json=json)
    with session() as here:
        descriptor = here.lease.read()
        if descriptor is not None:
            _tell_up(output, here, descriptor, is_new=False)
            return
        line = process.command(ray_client_port, num_cpus)
        if foreground:
            process.become(here.settings, line)
        began = time.monotonic()
        if wait:
            output.note("Starting the server …")
        descriptor = process.start(here.settings, line, wait=wait)
        if descriptor is None:
            output.answer({"up": False, "starting": True}, "The server is starting.")
            return
        _first_answer(here)
        _tell_up(output, here, descriptor, is_new=True, took_s=time.monotonic() - began)


def _first_answer(here: Session) -> dict[str, Any]:
    """What the supervisor says to a ping; proves that the server works, not only that it runs."""
    runtime = here.live()
    try:
        return runtime.server_info()
    finally:
        runtime.shutdown()


def _tell_up(output: Output, here: Session, descriptor: Descriptor, *, is_new: bool, took_s: float = 0.0) -> None:
    from agentspan.cli.text import span

    if output.json:
        output.document({"is_new": is_new, **_info(here)})
    elif is_new:
        output.print(f"The server is up (process {descriptor.pid}, {span(took_s)}). Home: {here.settings.home}")
    elif descriptor.embedded:
        output.print(f"A server is up already, embedded in the program with process {descriptor.pid}.")
    else:
        output.print(f"The server is up already (process {descriptor.pid}). Home: {here.settings.home}")


@app.command()
def stop(json: Json = False) -> None:
    """Stop the server of this home.

    Executions keep their state and go on when it is started again.
    """
    from agentspan.cli import process

    output = Output(json=json)
    with session() as here:
        stopped = process.stop(here.settings)
    if stopped is None:
        output.answer({"stopped": False}, "No server is up.")
        return
    descriptor, by_force = stopped
    forced = f" It did not end within {process.STOP_MAX_S:g} s and was killed." if by_force else ""
    output.answer(
        {"stopped": True, "pid": descriptor.pid, "by_force": by_force},
        f"The server (process {descriptor.pid}) is stopped.{forced}",
    )


@app.command()
def status(
    ping: Annotated[
        bool,
        typer.Option("--ping", help="Also ask the supervisor, which joins the Ray cluster and takes about a second."),
    ] = False,
    json: Json = False,
) -> None:
    """Say whether the server is up.

    And what it looks after. Exit code 5 when it is not up.
    """
    from agentspan.cli import views

    output = Output(json=json)
    with session() as here:
        info = _info(here)
        if ping and info["up"]:
            told = _first_answer(here)
            info |= {
                name: told.get(name) for name in ("residents", "standby", "version", "hosts", "queued", "model_limits")
            }
    output.answer(info, *(() if json else (views.server(info),)))
    if not info["up"]:
        raise typer.Exit(ExitCode.UNAVAILABLE)


def _info(here: Session) -> dict[str, Any]:
    """The server's facts, from its descriptor and the store."""
    from agentspan.actors.network import is_listening
    from agentspan.cli.process import log_path
    from agentspan.persistence.postgres_url import without_password

    descriptor = here.lease.read()
    is_up = descriptor is not None and (descriptor.embedded or is_listening(descriptor.address))
    store = here.ask("info")
    return {
        "up": is_up,
        "starting": not is_up and here.lease.is_held(),
        "embedded": descriptor is not None and descriptor.embedded,
        "pid": descriptor.pid if descriptor else None,
        "started_at": descriptor.started_at if descriptor else None,
        "version": descriptor.version if descriptor else None,
        "address": descriptor.address if descriptor else None,
        "ray_client": descriptor.ray_client if descriptor else None,
        "store": without_password(descriptor.store_url if descriptor else here.settings.store_url),
        "home": str(here.settings.home.expanduser().absolute()),
        "log": str(log_path(here.settings)),
        "executions": store["statuses"],
        "residents": None,
        "standby": None,
        "hosts": None,
        "queued": None,
        "model_limits": None,
    }


@app.command()
def logs(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is written from now on.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, metavar="N", help="How many of the last lines.")] = 50,
    json: Json = False,
) -> None:
    """Show the server's log."""
    from agentspan.cli import process

    output = Output(json=json)
    with session() as here:
        path = process.log_path(here.settings)
    if not path.exists() and not follow:
        output.answer({"log": str(path), "lines": []}, "No server has been started in this home with `server start`.")
        return
    end = process.size(path)
    last = process.tail(path, lines, end=end)
    if output.json and not follow:
        output.document({"log": str(path), "lines": last})
        return
    for line in last:
        _log_line(output, line)
    if follow:
        try:
            for line in process.following(path, end):
                _log_line(output, line)
        except KeyboardInterrupt:
            raise typer.Exit(ExitCode.INTERRUPTED) from None


def _log_line(output: Output, line: str) -> None:
    if output.json:
        output.line({"line": line})
    else:
        output.console.print(line, markup=False, soft_wrap=True)
