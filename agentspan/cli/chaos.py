"""`chaos`: kill a running server's processes at random, to see the promises kept on one's own agents."""

from __future__ import annotations

import secrets
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentspan.cli.arguments import Json, seconds_of
from agentspan.cli.exits import ExitCode
from agentspan.cli.output import Output
from agentspan.cli.reading import session

if TYPE_CHECKING:
    from agentspan.cli.connect import Session
    from agentspan.config import Settings
    from agentspan.runtime import AgentRuntime


def chaos(
    kill: Annotated[
        str, typer.Option("--kill", metavar="KINDS", help="What to kill: actor, supervisor, host; with commas.")
    ] = "actor,supervisor,host",
    every: Annotated[
        str, typer.Option("--every", metavar="SPAN", help="Time between two kills, on average: 500ms, 10s, 1m.")
    ] = "10s",
    duration: Annotated[str, typer.Option("--for", metavar="SPAN", help="How long: 90s, 5m, 1h.")] = "5m",
    settle: Annotated[
        str, typer.Option("--settle", metavar="SPAN", help="How long to wait, at the end, for what is not back.")
    ] = "60s",
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, metavar="N", help="Strike as a run with this seed did.")
    ] = None,
    agent: Annotated[
        str | None, typer.Option("--agent", "-a", metavar="NAME", help="Only processes that run this agent.")
    ] = None,
    only: Annotated[
        str | None, typer.Option("--only", metavar="ID", help="Only the process of this execution, wherever it is.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Kill processes of the running server at random.

    Without warning (SIGKILL), to see that your executions go on. Only on the server's machine. Exit code 1 when anything
    was lost.
    """
    kinds = _kinds(kill)
    spans = {name: seconds_of(text) for name, text in (("every", every), ("for", duration), ("settle", settle))}
    if spans["every"] <= 0:
        raise typer.BadParameter("--every has to be more than nothing.")
    output = Output(json=json)
    with session() as here:
        runtime = here.live()
        from agentspan.cli.chaos_screen import ChaosScreen
        from agentspan.cli.havoc import Havoc, check_local

        check_local(ping(runtime))
        scene = ServerScene(here, runtime, agent=agent, only=None if only is None else here.find(only))
        if not (yes or is_throwaway(here.settings)):
            _confirm(here.settings, kinds, duration)
        chosen = secrets.randbelow(10**9) if seed is None else seed
        output.note(f"Killing {', '.join(kinds)} about every {every} for {duration}. Seed {chosen}.")
        screen = ChaosScreen(output)
        with screen.live():
            havoc = Havoc(scene, kinds=kinds, every_s=spans["every"], seed=chosen, tell=screen.tell)
            summary = havoc.run(spans["for"], spans["settle"])
        screen.summary(summary)
    if summary.lost:
        raise typer.Exit(ExitCode.FAILED)


class ServerScene:
    """`havoc.Scene` of a running server: the store for executions, Ray for the supervisor."""

    def __init__(self, here: Session, runtime: AgentRuntime, *, agent: str | None, only: str | None) -> None:
        self._here = here
        self._runtime = runtime
        self._agent = agent
        self._only = only

    def rows(self) -> list[dict[str, Any]]:
        from agentspan.cli.havoc import ROWS_MAX, UNSETTLED

        rows: list[dict[str, Any]] = self._here.ask("rows", statuses=UNSETTLED, limit=ROWS_MAX)
        wanted = {
            row["host"].get("actor")
            for row in rows
            if self._agent in (None, row["agent"]) and self._only in (None, row["execution_id"])
        }
        # With their neighbours: all that run in a process are hit.
        return [row for row in reversed(rows) if row["host"].get("actor") in wanted]

    def row(self, execution_id: str) -> dict[str, Any]:
        row: dict[str, Any] = self._here.ask("row", execution_id=execution_id)
        return row

    def ping(self) -> dict[str, Any]:
        return ping(self._runtime)


def ping(runtime: AgentRuntime) -> dict[str, Any]:
    """The supervisor's answer."""
    from agentspan.bridge import run_sync

    answer: dict[str, Any] = run_sync(runtime._call("ping"))
    return answer


def is_throwaway(settings: Settings) -> bool:
    """Whether nobody can mind: all of it is in a temporary folder."""
    home = settings.home.expanduser().absolute()
    temporary = {Path(tempfile.gettempdir()).resolve(), Path("/tmp").resolve()}
    return settings.store is None and any(folder in home.resolve().parents for folder in temporary)


def _kinds(text: str) -> list[str]:
    known = ("actor", "supervisor", "host")
    kinds = list(dict.fromkeys(part.strip().lower() for part in text.split(",") if part.strip()))
    unknown = [kind for kind in kinds if kind not in known]
    if unknown or not kinds:
        what = f"there is no {unknown[0]!r} to kill" if unknown else "nothing is to be killed"
        raise typer.BadParameter(f"--kill: {what}. Choose from {', '.join(known)}.")
    return kinds


def _confirm(settings: Settings, kinds: list[str], duration: str) -> None:
    """Ask, since tools that are under way will be tried again; where nobody can be asked, refuse."""
    if not sys.stdin.isatty():
        raise typer.BadParameter(
            f"the server of {settings.home} is not in a temporary folder. Say --yes to kill its processes all the same."
        )
    typer.confirm(
        f"Kill processes ({', '.join(kinds)}) of the server of {settings.home} for {duration}? Steps under way are tried "
        "again, with the same idempotency keys.",
        abort=True,
        err=True,
    )
