"""What commands show to people, as rich renderables made from plain rows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from agentspan.cli.arguments import short_id
from agentspan.cli.asks import ask_words, decide_with, short_call, subject
from agentspan.cli.lines import step_text
from agentspan.cli.text import (
    block,
    instant,
    one_line,
    plural,
    rough_span,
    size_text,
    span,
    state_text,
    status_text,
    when,
)

Row = dict[str, Any]
KEPT_WIDTHS = {"ID": 11, "STATUS": 9, "AGENT": 12, "STEP": 4, "AT": 8, "MADE BY": 7}
SETTLED = ("COMPLETED", "FAILED", "TERMINATED", "TIMED_OUT", "QUARANTINED")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        # Whatever else is cut on a narrow terminal, what the next command needs stays whole.
        table.add_column(column, no_wrap=True, min_width=KEPT_WIDTHS.get(column), overflow="ellipsis")
    return table


def _ago(value: Any) -> str:
    moment = instant(value)
    return "" if moment is None else f"{rough_span(time.time() - moment.timestamp())} ago"


def executions(rows: Sequence[Row]) -> RenderableType:
    """A listing, newest first."""
    table = _table("ID", "AGENT", "STATUS", "STARTED", "CHANGED", "NOW")
    for row in rows:
        table.add_row(
            short_id(row["execution_id"]),
            row["agent"],
            status_text(row["status"]),
            _ago(row["created_at"]),
            _ago(row["updated_at"]),
            _doing(row),
        )
    return table


def _doing(row: Row) -> Text:
    told = Text()
    if row["error"]:
        told.append(one_line(row["error"], 80), "red")
    elif row.get("queue"):
        told.append(one_line(row["queue"]["reason"], 110), "yellow")
    elif row["current_task"]:
        told.append(row["current_task"])
    elif row["finish_reason"]:
        told.append(row["finish_reason"], "bright_black")
    if row["recoveries"]:
        told.append(f"  ↻{row['recoveries']}", "magenta")
    if row["inbox"]:
        told.append(f"  {plural(row['inbox'], 'signal')} to apply", "magenta")
    return told


def facts(pairs: Sequence[tuple[str, Any]]) -> Table:
    """Names and values, one pair a line; pairs without a value are left out."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        if value is not None and value != "":
            table.add_row(name, value if isinstance(value, Text) else Text(str(value)))
    return table


def execution(shown: Row, *, steps: int) -> RenderableType:
    """All about one execution."""
    host, deployment = shown["host"] or {}, shown["deployment"] or {}
    source = deployment.get("reference") or deployment.get("source", "not in the store")
    parts: list[RenderableType] = [
        facts(
            (
                ("Execution", shown["execution_id"]),
                ("Agent", f"{shown['agent']}  (version {shown['deployment_id'][:12]}, {source})"),
                ("Status", _standing(shown)),
                ("Error", Text(shown["error"], style="red") if shown["error"] else None),
                ("In line", shown["queue"]["reason"] if shown.get("queue") else None),
                ("Doing", shown["current_task"]),
                ("Started", when(shown["created_at"])),
                ("Changed", f"{when(shown['updated_at'])}  ({_ago(shown['updated_at'])})"),
                ("Wakes", when(shown["wake_at"])),
                ("Actor", _host(host, resident=shown["resident"], is_settled=shown["status"] in SETTLED)),
                ("Lives", _lives(shown)),
                ("Journal", f"{plural(shown['seq'] + 1, 'record')}, {plural(shown['events'], 'event')}"),
                ("Inbox", plural(shown["inbox"], "signal") + " to apply" if shown["inbox"] else None),
                ("Session", shown["session_id"]),
                ("Idempotency", shown["idempotency_key"]),
                ("Metadata", one_line(shown["metadata"]) if shown["metadata"] else None),
            )
        )
    ]
    if shown["pending_calls"]:
        parts += [
            Text("\nWaiting", style="bold"),
            Padding(pending(shown["pending_calls"], with_id=False), (0, 0, 0, 2)),
        ]
    if steps and shown["steps"]:
        parts += [Text("\nSteps", style="bold"), Padding(timeline(shown, steps), (0, 0, 0, 2), expand=False)]
    return Group(*parts)


def _standing(shown: Row) -> Text:
    told = status_text(shown["status"])
    return told.append(f" ({shown['finish_reason']})", "default") if shown["finish_reason"] else told


def _lives(shown: Row) -> str:
    told = f"epoch {shown['epoch']}"
    if shown["recoveries"]:
        told += f", recovered {plural(shown['recoveries'], 'time')}"
    if shown["crashes"]:
        told += f", {plural(shown['crashes'], 'crash').replace('crashs', 'crashes')} since the last progress"
    return told


def _host(host: Row, *, resident: bool, is_settled: bool) -> str:
    if not host:
        return "" if resident or is_settled else "none; its state is at rest in the store"
    return ", ".join(f"{name} {value}" for name, value in host.items() if value not in (None, ""))


def timeline(shown: Row, steps: int) -> RenderableType:
    """The last records, each with the time since the start."""
    started = instant(shown["created_at"])
    table = _table("#", "AFTER", "STEP", "EPOCH", "TRY", "TOOK", "WHAT")
    table.columns[-1].no_wrap = False
    for column in (0, 1, 3, 4, 5):
        table.columns[column].justify = "right"
    for step in shown["steps"][-steps:]:
        seconds = step.get("seconds")
        table.add_row(
            str(step["seq"]),
            span(step["at"] - started.timestamp()) if started else "",
            step["kind"],
            str(step["epoch"]),
            str(step.get("attempt", 1)) if step["kind"] in ("model", "tool", "tool_failed", "model_failed") else "",
            span(seconds) if seconds else "",
            step_text(step),
        )
    return table


def pending(rows: Sequence[Row], *, with_id: bool = True) -> RenderableType:
    """Calls that wait, each with the command that decides it on a line of its own, whole and ready to be copied."""
    calls: dict[str, list[str]] = {}
    for row in rows:
        if row["ask"] != "message":  # Those take no decision, so they need not be told apart.
            calls.setdefault(row["execution_id"], []).append(row["call_id"])
    columns = ("ID", "WAITS FOR", "SINCE", "WHAT") if with_id else ("WAITS FOR", "SINCE", "WHAT")
    cells = [columns]
    for row in rows:
        told = (ask_words(row["ask"], row["verdicts"]), _ago(row["asked_at"]), subject(row))
        cells.append((short_id(row["execution_id"]), *told) if with_id else told)
    widths = [max(map(len, column)) for column in list(zip(*cells, strict=True))[:-1]]
    parts: list[RenderableType] = [_line(columns, widths, style="bold")]
    for row, line in zip(rows, cells[1:], strict=True):
        others = calls.get(row["execution_id"], [])
        call = short_call(row["call_id"], others) if len(others) > 1 else None
        command = decide_with(row["execution_id"], row["ask"], row["verdicts"], call)
        parts += [_line(line, widths), Text(f"  agent-span {command}", style="bright_black")]
    return Group(*parts)


def _line(cells: Sequence[str], widths: Sequence[int], style: str = "") -> Table:
    """A line of a table, the last column of which takes what is left."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for width in widths:
        table.add_column(width=width, no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(*cells, style=style)
    return table


def history(states: Sequence[Row]) -> RenderableType:
    """The states an execution went through."""
    table = _table("STEP", "AT", "MADE BY", "NEXT", "STATE")
    table.columns[0].justify = "right"
    for row in states:
        following = ", ".join(row["next"]) if row["next"] else Text("the end", style="bright_black")
        table.add_row(str(row["step"]), when(row["at"])[-8:], row["source"], following, state_text(row["values"]))
    return table


def state(row: Row) -> RenderableType:
    """One state, all of it."""
    head = facts(
        (
            ("Step", row["step"]),
            ("At", when(row["at"])),
            ("Made by", row["source"]),
            ("Next", ", ".join(row["next"]) or "the end"),
            ("Checkpoint", row["checkpoint_id"]),
        )
    )
    return Group(head, Text(), Text(block(row["values"])))


def deployments(rows: Sequence[Row]) -> RenderableType:
    """The current version of every agent."""
    table = _table("AGENT", "VERSION", "MODEL", "PARTS", "DEPLOYED", "CODE")
    for row in rows:
        spec = row["spec"] or {}
        is_graph = row["kind"] == "langgraph"
        parts = plural(len(spec["nodes"]), "node") if is_graph else plural(len(spec.get("tools") or ()), "tool")
        table.add_row(
            row["agent"],
            row["deployment_id"][:8],
            "a graph" if is_graph else one_line(str(spec.get("model", "")), 22),
            parts,
            _ago(row["created_at"]),
            row["reference"] or f"by value ({row['python']})",
        )
    return table


def result(plain: Row) -> RenderableType:
    """What an execution came to: the output first, then a line of facts."""
    told: list[RenderableType] = []
    if plain["output"] is not None:
        told.append(Text(block(plain["output"])))
    if plain["error"]:
        told.append(Text(plain["error"], style="red"))
    usage = plain["token_usage"]
    summary = status_text(plain["status"])
    if plain["finish_reason"]:
        summary.append(f" ({plain['finish_reason']})", "default")
    summary.append(
        f"  {plural(usage['total_tokens'], 'token')}, {plural(len(plain['tool_calls']), 'tool call')}, "
        f"{short_id(plain['execution_id'])}",
        "bright_black",
    )
    return Group(*told, summary)


def sweep(swept: Row) -> RenderableType:
    """What `gc` removed, or would remove."""
    verb = "Would remove" if swept["dry_run"] else "Removed"
    total = (
        f"{verb} {plural(swept['executions'], 'execution')}: {plural(swept['records'], 'record')}, "
        f"{plural(swept['blobs'], 'large value')}, {size_text(swept['bytes'])}."
    )
    ids = [short_id(one) for one in swept["execution_ids"]]
    more = f" and {len(ids) - 10} more" if len(ids) > 10 else ""
    listed = [Text("  " + ", ".join(ids[:10]) + more, style="bright_black")] if ids else []
    return Group(Text(total), *listed)


def _model_limit(limit: Row) -> str:
    units = (
        ("requests_per_minute", "requests/min"),
        ("tokens_per_minute", "tokens/min"),
        ("in_flight_max", "in flight"),
    )
    bounds = ", ".join(f"{limit[name]} {unit}" for name, unit in units if limit[name])
    now = [f"{limit['in_flight']} in flight now"] if limit["in_flight"] is not None else []
    now += [f"{limit['waiting']} waiting"] if limit["waiting"] else []
    return f"{limit['pattern']}: {bounds}" + (f" ({', '.join(now)})" if now else "")


def server(info: Row) -> RenderableType:
    """Where the server is and what it looks after."""
    counts = ", ".join(f"{count} {status}" for status, count in info["executions"].items())
    hosts = ", ".join(
        f"{host['actor']} (PID {host.get('pid', '?')}, {plural(host['executions'], 'execution')})"
        for host in info["hosts"] or ()
    )
    if not info["up"]:
        state = Text("starting" if info["starting"] else "not up", style="yellow")
    else:
        state = Text("up", style="green").append(" (embedded in a program)" if info["embedded"] else "", "default")
    return facts(
        (
            ("Server", state),
            ("PID", info["pid"]),
            ("Up for", span(time.time() - info["started_at"]) if info["started_at"] else None),
            ("Version", info["version"]),
            ("Ray", info["address"]),
            ("Ray Client", info["ray_client"]),
            ("Store", info["store"]),
            ("Home", info["home"]),
            ("Log", info["log"]),
            ("Executions", counts or "none"),
            ("Resident", info["residents"]),
            ("Standby", info["standby"]),
            ("Hosts", hosts or None),
            ("In line", info["queued"] or None),
            ("Model limits", "\n".join(map(_model_limit, info["model_limits"] or ())) or None),
        )
    )
