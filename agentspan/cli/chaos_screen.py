"""How `chaos` looks: a table that lives in a terminal, a line for each thing elsewhere, JSON lines for programs."""

from __future__ import annotations

from collections import deque
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from agentspan.cli.arguments import short_id
from agentspan.cli.havoc import Strike, Summary
from agentspan.cli.output import Output
from agentspan.cli.text import plural

SHOWN_MAX = 12
"""Strikes in the live table."""
LOST_SHOWN_MAX = 20


class ChaosScreen:
    """Tells of strikes as they happen. A context manager, for the time that they do."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._strikes: deque[Strike] = deque(maxlen=SHOWN_MAX)
        self._lost: set[int] = set()
        self._live: Live | None = None
        self._kills = 0

    def live(self) -> AbstractContextManager[Any]:
        """The table, where there is a terminal for it."""
        if self._output.json or not self._output.console.is_terminal:
            return nullcontext()
        self._live = Live(get_renderable=self._table, console=self._output.console, refresh_per_second=5)
        return self._live

    def tell(self, strike: Strike, what: str) -> None:
        """A process was `killed`, all it hit is back (`recovered`), or it is not at the end (`lost`)."""
        if what == "killed":
            self._strikes.append(strike)
            self._kills += 1
        elif what == "lost":
            self._lost.add(strike.number)
        if self._output.json:
            self._output.line({what: _plain(strike)})
        elif self._live is None:
            told = {
                "killed": f"{strike.at_s:7.1f} s  KILLED     {_who(strike)}{_hit(strike)}",
                "recovered": f"{strike.at_s + (strike.recovered_s or 0):7.1f} s  RECOVERED  {_who(strike)} {_back(strike)}",
                "lost": f"{'':9}  LOST       {_who(strike)}: {plural(len(strike.open), 'execution')} not back",
            }
            self._output.console.print(Text(told[what]), soft_wrap=True)

    def summary(self, summary: Summary) -> None:
        """The table at the end."""
        if self._output.json:
            self._output.line({"summary": _summary(summary)})
            return
        table = Table.grid(padding=(0, 2))
        kills = ", ".join(plural(count, kind) for kind, count in summary.kills.items()) or "none"
        table.add_row("Kills", f"{sum(summary.kills.values())}: {kills}")
        table.add_row("Executions touched", str(summary.touched))
        table.add_row("Recoveries", f"{summary.recoveries}{_times(summary.recovery_s)}")
        if summary.supervisor_s:
            table.add_row("Supervisor back", _times(summary.supervisor_s).removeprefix(", "))
        table.add_row("Lost", Text(str(len(summary.lost)), style="bold red" if summary.lost else "bold green"))
        table.add_row("Seed", f"{summary.seed} (--seed {summary.seed} strikes alike again)")
        self._output.print()
        self._output.print(table)
        for one in summary.lost[:LOST_SHOWN_MAX]:
            self._output.console.print(Text(f"  LOST {one['kind']} {one['name']}: {one['what']}", style="red"))

    def _table(self) -> Group:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for name in ("at", "killed", "PID", "executions", "back after"):
            table.add_column(name, style="dim" if name == "at" else "")
        for strike in self._strikes:
            if strike.recovered_s is not None:
                back = Text(f"{strike.recovered_s:.2f} s", style="green")
            elif strike.number in self._lost:
                back = Text("lost", style="bold red")
            else:
                back = Text(f"… {len(strike.open)} to come" if strike.wounds else "…", style="yellow")
            hit = f"{len(strike.wounds)}" if strike.wounds else ""
            table.add_row(f"{strike.at_s:.1f} s", _named(strike), str(strike.pid), hit, back)
        return Group(Text(f"{plural(self._kills, 'kill')}. Ctrl-C ends it, with the summary.", style="dim"), table)


def _named(strike: Strike) -> str:
    if strike.kind != "actor" or not strike.wounds:
        return strike.name
    return f"{short_id(strike.wounds[0].row['execution_id'])} ({strike.wounds[0].row['agent']})"


def _who(strike: Strike) -> str:
    return f"{strike.kind} {_named(strike)}" if strike.kind == "actor" else _named(strike)


def _hit(strike: Strike) -> str:
    more = f" with {plural(len(strike.wounds), 'execution')}" if strike.kind == "host" else ""
    return f"{more}, PID {strike.pid}"


def _back(strike: Strike) -> str:
    all_of_it = f"with {plural(len(strike.wounds), 'execution')} " if strike.kind == "host" else ""
    return f"{all_of_it}after {strike.recovered_s or 0.0:.2f} s"


def _times(times: tuple[float, float] | None) -> str:
    return "" if times is None else f", median {times[0]:.2f} s, at most {times[1]:.2f} s"


def _plain(strike: Strike) -> dict[str, Any]:
    return {
        "number": strike.number,
        "kind": strike.kind,
        "name": strike.name,
        "pid": strike.pid,
        "at_s": round(strike.at_s, 3),
        "recovered_s": None if strike.recovered_s is None else round(strike.recovered_s, 3),
        "executions": [wound.row["execution_id"] for wound in strike.wounds],
        "missing": [wound.row["execution_id"] for wound in strike.open],
    }


def _summary(summary: Summary) -> dict[str, Any]:
    return {
        "seed": summary.seed,
        "kills": summary.kills,
        "touched": summary.touched,
        "recoveries": summary.recoveries,
        **{
            f"{name}_{which}_s": None if times is None else round(times[index], 3)
            for name, times in (("recovery", summary.recovery_s), ("supervisor", summary.supervisor_s))
            for index, which in enumerate(("median", "max"))
        },
        "lost": summary.lost,
    }
