"""Commands that go back: `history` lists the states of an execution, `fork` starts anew from one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentspan.cli.arguments import ExecutionId, Json, json_of, short_id
from agentspan.cli.loading import is_reference, load_agent
from agentspan.cli.output import Output
from agentspan.cli.reading import session

if TYPE_CHECKING:
    from agentspan.agents.results import HistoryState
    from agentspan.cli.connect import Session


def history(
    execution_id: ExecutionId,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 20,
    step: Annotated[int | None, typer.Option("--step", metavar="STEP", help="Only this one, and all of it.")] = None,
    json: Json = False,
) -> None:
    """List the states an execution went through, newest first.

    A graph's states are read with its code, which is therefore imported.
    """
    output = Output(json=json)
    with session() as here:
        full = here.find(execution_id)
        states = _states(here, full, None if step is not None else limit)
    if step is not None:
        states = [state for state in states if state.step == step][:1]
        if not states:
            raise typer.BadParameter(f"execution {full} has no step {step}. See agent-span history {short_id(full)}.")
    plain = [state.to_dict() for state in states]
    if output.json:
        output.document({"execution_id": full, "history": plain})
        return
    from agentspan.cli import views

    if step is not None:
        output.print(views.state(plain[0]))
    elif plain:
        output.print(views.history(plain))
    else:
        output.note("It has no state yet.")
    if step is None and len(plain) == limit:
        output.note(f"The newest {limit}; --limit shows more.")


def _states(here: Session, execution_id: str, limit: int | None) -> list[HistoryState]:
    from agentspan.submission import GRAPH

    deployment = here.ask("show", execution_id=execution_id)["deployment"] or {}
    if deployment.get("kind") == GRAPH:
        here.prepare()  # Loading a graph imports user code and Ray's pickler.
    found: list[HistoryState] = here.runtime.history(execution_id, limit=limit)
    return found


def fork(
    execution_id: ExecutionId,
    step: Annotated[
        int | None,
        typer.Option("--step", metavar="STEP", help="From which state, as `history` numbers them. Default: the last."),
    ] = None,
    state: Annotated[
        str | None,
        typer.Option(
            "--state",
            metavar="JSON",
            help="What to change in it first: a graph's update, or an agent's `messages` and `state`.",
        ),
    ] = None,
    as_node: Annotated[
        str | None,
        typer.Option("--as-node", metavar="NODE", help="Graphs: the node that the update counts as coming from."),
    ] = None,
    agent: Annotated[
        str | None,
        typer.Option(
            "--agent",
            metavar="AGENT",
            help="What goes on, in place of the version that ran: the name of a deployed agent or graph, or "
            "`module:attribute` or `path.py:attribute`, which is deployed first.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Start a new execution from a state of another.

    The other one is not touched.
    """
    output = Output(json=json)
    change: Any = None if state is None else json_of(state, "--state")
    with session() as here:
        full = here.find(execution_id)
        live = here.live()
        version = load_agent(agent) if agent is not None and is_reference(agent) else agent
        started = live.fork(full, step=step, state=change, as_node=as_node, agent=version).execution_id
    output.answer({"execution_id": started, "forked_from": full}, started)
    output.note(f"Follow it with: agent-span stream {short_id(started)}")
