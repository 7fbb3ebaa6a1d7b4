"""`agent-span` and `agentspan`: all commands, and what becomes of their errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from agentspan import __version__
from agentspan.cli import chaos, doctor, following, history, reading, running, server, steering
from agentspan.cli.arguments import Json
from agentspan.cli.exits import ExitCode, exit_code
from agentspan.cli.output import Output, answers
from agentspan.errors import AgentspanError

_CommandLineError: type[Any] = typer.BadParameter.__mro__[2]
"""click's ClickException, wherever this typer keeps its click."""

DEBUG_VARIABLE = "AGENTSPAN_DEBUG"


class Commands(TyperGroup):
    """The root group: every error ends as one line (or one JSON object) on stderr and an exit code."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command line. Always ends in SystemExit."""
        given = list(sys.argv[1:] if args is None else args)
        output = Output(json=wants_json(given))
        try:
            code = super().main(given, prog_name, complete_var, False, windows_expand_args, **extra)
        except _CommandLineError as problem:
            code = _report_usage(output, problem)
        except AgentspanError as problem:
            code = exit_code(problem)
            output.error(str(problem), type=type(problem).__name__, exit_code=int(code), **_facts(problem))
        except (KeyboardInterrupt, typer.Abort):
            code = ExitCode.INTERRUPTED
        except Exception as problem:  # A fault of ours; users get one line, and the way to the rest.
            if os.environ.get(DEBUG_VARIABLE):
                raise
            code = ExitCode.FAILED
            told = f"Unexpected {type(problem).__name__}: {problem}. Set {DEBUG_VARIABLE}=1 to see where."
            output.error(told, type=type(problem).__name__, exit_code=int(code))
        sys.exit(int(code) if isinstance(code, int) else 0)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; a reader that went away ends it quietly."""
        try:
            done = super().invoke(ctx)
            answers().flush()
        except BrokenPipeError:
            # What is still buffered has nowhere to go, and must not fail again when Python flushes it at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), answers().fileno())
            raise typer.Exit(ExitCode.CLOSED_PIPE) from None
        return done


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether errors are to be JSON too; known even where the command line cannot be read."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in options


def _report_usage(output: Output, problem: Any) -> int:
    context = getattr(problem, "ctx", None)
    if type(problem).__name__ == "NoArgsIsHelpError":
        output.print(context.get_help() if context is not None else problem.format_message())
        return ExitCode.USAGE
    where = context.command_path if context is not None else "agent-span"
    message = f"{problem.format_message().rstrip('.')}. See {where} --help."
    output.error(message, type="UsageError", exit_code=int(ExitCode.USAGE))
    return ExitCode.USAGE


def _facts(problem: AgentspanError) -> dict[str, Any]:
    return {name: value for name, value in problem.facts.items() if name not in ("message", "type", "exit_code")}


app = typer.Typer(
    name="agent-span",
    cls=Commands,
    help="AI agents that survive the process that runs them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)

_RUN = "Run"
_WATCH = "Watch"
_DECIDE = "Decide and steer"
_OPERATE = "Operate"

_COMMANDS: tuple[tuple[str, str, Callable[..., None]], ...] = (
    ("run", _RUN, running.run),
    ("deploy", _RUN, running.deploy),
    ("fork", _RUN, history.fork),
    ("agents", _RUN, reading.agents),
    ("list", _WATCH, reading.list_executions),
    ("show", _WATCH, reading.show),
    ("stream", _WATCH, following.stream),
    ("result", _WATCH, following.result),
    ("history", _WATCH, history.history),
    ("pending", _WATCH, reading.pending),
    ("approve", _DECIDE, steering.approve),
    ("reject", _DECIDE, steering.reject),
    ("respond", _DECIDE, steering.respond),
    ("send", _DECIDE, steering.send),
    ("signal", _DECIDE, steering.signal),
    ("pause", _DECIDE, steering.pause),
    ("resume", _DECIDE, steering.resume),
    ("cancel", _DECIDE, steering.cancel),
    ("stop", _DECIDE, steering.stop),
    ("doctor", _OPERATE, doctor.doctor),
    ("gc", _OPERATE, reading.gc),
    ("chaos", _OPERATE, chaos.chaos),
)
for _name, _panel, _function in _COMMANDS:
    app.command(_name, rich_help_panel=_panel)(_function)
app.add_typer(server.app, name="server", help="Start, stop and look at the server.", rich_help_panel=_OPERATE)


@app.command(rich_help_panel=_RUN)
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the demo's home behind, to look at.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="No colours and nothing that moves.")] = False,
) -> None:
    """Watch an agent survive being killed; needs no API key."""
    from agentspan.cli.demo import demo as play

    raise typer.Exit(play(keep=keep, plain=plain))


@app.command(rich_help_panel=_OPERATE)
def version(json: Json = False) -> None:
    """Print the versions of AgentSpan, Ray and Python."""
    from importlib import metadata
    from platform import python_version

    versions = {"agentspan": __version__, "ray": metadata.version("ray"), "python": python_version()}
    Output(json=json).answer(versions, ", ".join(f"{name} {number}" for name, number in versions.items()))


def _print_version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """AI agents that survive the process that runs them."""


def main() -> None:
    """The console script."""
    app()
