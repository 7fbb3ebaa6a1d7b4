"""`doctor`: one line for each thing that has to be right, and what to do where it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from agentspan.cli.arguments import Json
from agentspan.cli.exits import ExitCode
from agentspan.cli.output import Output
from agentspan.cli.reading import session
from agentspan.errors import AgentspanError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentspan.cli.checks import Check
    from agentspan.cli.connect import Session

_SIGNS = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "bold red")}


def doctor(
    check_keys: Annotated[
        bool, typer.Option("--check-keys", help="Also try each provider's key, with one request that costs nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Check this machine, the store and the server.

    Exit code 1 when something fails.
    """
    output = Output(json=json)
    found: list[Check] = []
    with session() as here:
        for check in _checks(here, check_keys=check_keys):
            found.append(check)
            if not output.json:
                _print(output, check)
    failed = sum(check.state == "fail" for check in found)
    warned = sum(check.state == "warn" for check in found)
    if output.json:
        from dataclasses import asdict

        output.document({"ok": not failed, "checks": [asdict(check) for check in found]})
    elif failed or warned:
        output.print(
            f"\n{failed} failed, {warned} to look at." if failed else f"\nNothing failed, {warned} to look at."
        )
    else:
        output.print("\nAll is well.")
    if failed:
        raise typer.Exit(ExitCode.FAILED)


def _print(output: Output, check: Check) -> None:
    from rich.text import Text

    sign, style = _SIGNS[check.state]
    output.print(Text.assemble((sign, style), " ", (f"{check.name:<19}", "bold"), " ", check.detail))
    if check.advice:
        output.print(Text.assemble(" " * 22, ("→ ", style), check.advice))


def _checks(here: Session, *, check_keys: bool) -> Iterator[Check]:
    from agentspan.cli import checks, keys

    settings = here.settings
    yield checks.python()
    yield checks.ray_version()
    yield checks.ray_bytecode()
    yield checks.ray_auth(settings)
    yield checks.ray_client()
    yield checks.ports()
    yield checks.limits()
    yield checks.temp_folder()
    yield from checks.home(settings)
    yield from checks.disk(settings)
    on_network = checks.file_system(settings)
    if on_network is not None:
        yield on_network
    yield from checks.clock(settings)
    if settings.address is None:
        yield _store(here)
    yield _server(here)
    yield keys.overview()
    if check_keys:
        yield from keys.try_all()


def _store(here: Session) -> Check:
    from agentspan.cli.checks import Check
    from agentspan.cli.text import plural, size_text

    url = here.runtime.settings.store_url
    try:
        info = here.ask("info")
        if info["kind"] == "memory":
            return Check(name="Store", state="ok", detail=f"{url}, made when something is first stored")
        # Removes what ended before 1970, which is nothing; but it has to be able to write to try.
        here.ask("gc", finished_before=0.0, dry_run=False)
    except AgentspanError as problem:
        return Check(name="Store", state="fail", detail=str(problem), advice="Nothing can run before the store opens.")
    count = sum(info["statuses"].values())
    facts = f"schema version {info['schema_version']}, {plural(count, 'execution')}, {size_text(info['bytes'])}"
    return Check(name="Store", state="ok", detail=f"{info['where']}: writable, {facts}")


def _server(here: Session) -> Check:
    from agentspan import __version__
    from agentspan.cli.checks import Check
    from agentspan.cli.text import plural

    if not here.is_served:
        detail = "not up; `agent-span server start` starts one, and a script without one starts its own"
        return Check(name="Server", state="ok", detail=detail)
    try:
        runtime = here.live()
        try:
            told = runtime.server_info()
        finally:
            runtime.shutdown()
    except AgentspanError as problem:
        advice = "See `agent-span server logs`; `agent-span server stop` and `start` lose nothing."
        return Check(name="Server", state="fail", detail=str(problem), advice=advice)
    residents = plural(told["residents"], "resident execution")
    detail = f"up, version {told['version']}, {residents}, {told['standby']} on standby"
    if told["version"] != __version__:
        advice = f"This command is version {__version__}. Start the server again to have both the same."
        return Check(name="Server", state="warn", detail=detail, advice=advice)
    return Check(name="Server", state="ok", detail=detail)
