"""Commands that read: `list`, `show`, `pending`, `agents`, `gc`. They open the store and never import Ray."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentspan.cli.arguments import ExecutionId, Json, seconds_of
from agentspan.cli.output import Output

if TYPE_CHECKING:
    from agentspan.cli.connect import Session


def session() -> Session:
    """A session. Imported here, because `--help` need not wait for pydantic and the runtime (0.2 s)."""
    from agentspan.cli.connect import Session

    return Session()


def list_executions(
    status: Annotated[
        list[str] | None,
        typer.Option("--status", "-s", help="Only those with this status; may be given several times."),
    ] = None,
    agent: Annotated[str | None, typer.Option("--agent", "-a", help="Only those of this agent.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 20,
    json: Json = False,
) -> None:
    """List executions, newest first."""
    output = Output(json=json)
    statuses = _statuses(status)
    with session() as here:
        rows = here.ask("rows", statuses=statuses, agent=agent, limit=limit)
    if output.json:
        output.document({"executions": rows})
        return
    from agentspan.cli import views

    if rows:
        output.print(views.executions(rows))
    else:
        narrowed = " that fit" if status or agent else ""
        output.note(f"No executions{narrowed}. `agent-span run AGENT PROMPT` starts one.")
    if len(rows) == limit:
        output.note(f"The newest {limit}; --limit shows more.")


def _statuses(given: list[str] | None) -> list[str] | None:
    from agentspan.agents.results import Status

    wanted = [one.upper().replace("-", "_") for one in given or ()]
    for one in wanted:
        if one not in Status.__members__:
            raise typer.BadParameter(f"there is no status {one!r}. Known: {', '.join(Status.__members__).lower()}.")
    return wanted or None


def show(
    execution_id: ExecutionId,
    steps: Annotated[int, typer.Option("--steps", min=0, max=200, help="How many of the last steps to show.")] = 40,
    graph: Annotated[
        bool, typer.Option("--graph", help="Show the graph as a Mermaid drawing, and how far its nodes are.")
    ] = False,
    json: Json = False,
) -> None:
    """Show all about one execution.

    Its status, actor, process, epoch and attempts, what waits for a decision, and its last steps.
    """
    output = Output(json=json)
    with session() as here:
        shown = here.ask("show", execution_id=here.find(execution_id))
        if graph:
            _show_graph(output, shown, here)
            return
    shown["steps"] = shown["steps"][-steps:] if steps else []
    if output.json:
        output.document(shown)
        return
    from agentspan.cli import views

    output.print(views.execution(shown, steps=steps))


def _show_graph(output: Output, shown: dict[str, Any], here: Session) -> None:
    from agentspan.cli import graphs

    nodes = graphs.nodes_of(events_of(here, shown["execution_id"]), shown["status"])
    drawing = graphs.drawing_of(shown, nodes)
    if output.json:
        output.document({"execution_id": shown["execution_id"], "status": shown["status"], **drawing})
        return
    output.console.print(drawing["mermaid"], markup=False, soft_wrap=True)
    output.print(graphs.table(drawing["nodes"]))


def events_of(here: Session, execution_id: str) -> Iterator[dict[str, Any]]:
    """The events told so far, as plain data."""
    after = 0
    while True:
        page = here.ask("events", execution_id=execution_id, after=after, wait_s=0.0)
        yield from page["events"]
        if page["next"] <= after:
            return
        after = page["next"]


def pending(json: Json = False) -> None:
    """List every call that waits for somebody, oldest first."""
    output = Output(json=json)
    with session() as here:
        rows = here.ask("pending")
    if output.json:
        output.document({"pending": rows})
        return
    from agentspan.cli import views

    if rows:
        output.print(views.pending(rows))
    else:
        output.note("Nothing waits.")


def agents(json: Json = False) -> None:
    """List the deployed agents."""
    output = Output(json=json)
    with session() as here:
        rows = here.ask("deployments")
    if output.json:
        output.document({"agents": rows})
        return
    from agentspan.cli import views

    if rows:
        output.print(views.deployments(rows))
    else:
        output.note("No agents are deployed. `agent-span deploy module:attribute` deploys one.")


def gc(
    older_than: Annotated[
        str,
        typer.Option(
            "--older-than", metavar="AGE", help="Executions that ended before so long: 90s, 30m, 12h, 30d, 2w."
        ),
    ] = "30d",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove them. Without it, only says what would go.")] = False,
    json: Json = False,
) -> None:
    """Remove executions that ended long ago.

    With all that only they refer to. Says what it would do, until told --yes.
    """
    import time

    output = Output(json=json)
    finished_before = time.time() - seconds_of(older_than)
    with session() as here:
        swept: dict[str, Any] = here.ask("gc", finished_before=finished_before, dry_run=not yes, timeout_s=600.0)
    if output.json:
        output.document(swept)
        return
    from agentspan.cli import views

    output.print(views.sweep(swept))
    if swept["dry_run"] and swept["executions"]:
        output.note("Nothing was removed. Add --yes to do it.")
