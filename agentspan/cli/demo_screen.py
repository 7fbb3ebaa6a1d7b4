"""How the demo looks: one line per step as it happens, and a table at the end."""

from __future__ import annotations

import json
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from rich import box
from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from agentspan.agents.events import AgentEvent, EventType
from agentspan.cli.demo_check import Evidence, Tally

RESULT_CHARS_MAX = 44
WIDTH_MAX = 100
MARKS = {"ask": "○", "done": "●", "crash": "✗", "back": "✓", "wait": "?", "note": "·"}
MARKS_ASCII = {"ask": "o", "done": "*", "crash": "X", "back": "+", "wait": "?", "note": "-"}
ASCII = str.maketrans({"“": '"', "”": '"', "…": "...", "→": "->"})


class Screen:
    """Writes to the terminal, or as plain text where there is none."""

    def __init__(self, *, plain: bool = False, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, emoji=False, color_system=None if plain else "auto")
        if self._console.width > WIDTH_MAX or not self._console.is_terminal:
            self._console.width = WIDTH_MAX
        self._animated = self._console.is_terminal and not plain
        self._ascii = self._console.options.ascii_only
        self._marks = MARKS_ASCII if self._ascii else MARKS
        self._began = time.monotonic()

    def title(self, home: str) -> None:
        """What this is."""
        self._console.print(Text("AgentSpan: agents that survive kill -9", style="bold"))
        self._prose(
            "Two acts, on this machine, without an API key or a network. The model plays a script; the processes, the "
            f"kills and every number are real. Home: {home}"
        )

    def _prose(self, text: str) -> None:
        self._console.print(Text(text, style="dim"))

    def act(self, title: str, about: str) -> None:
        """A new chapter."""
        self._console.print()
        self._console.print(
            Rule(Text(title, style="bold"), align="left", style="dim", characters="-" if self._ascii else "─")
        )
        self._prose(about)

    def busy(self, text: str) -> AbstractContextManager[Any]:
        """Something that takes a while: moves on a terminal, says nothing elsewhere."""
        return self._console.status(Text(text, style="dim")) if self._animated else nullcontext()

    def line(self, mark: str, label: str, text: str, *, style: str = "") -> None:
        """One step."""
        margin = Text.assemble(
            (f"{time.monotonic() - self._began:5.1f}s", "dim"), " ", (f"{self._marks[mark]} {label:<10}", style), " "
        )
        if self._ascii:
            text = text.translate(ASCII).encode("ascii", "replace").decode()
        body = Text(text, style=style)
        # Wrapped here, so that what runs over stays in its column and no line ends in blanks.
        for part in body.wrap(self._console, max(20, self._console.width - margin.cell_len)):
            part.rstrip()
            self._console.print(margin + part)
            margin = Text(" " * margin.cell_len)

    def note(self, label: str, text: str) -> None:
        """Something the demo itself did."""
        self.line("note", label, text)

    def crash(self, text: str) -> None:
        """A process was killed."""
        self.line("crash", "CRASH", text, style="bold red")

    def recovery(self, text: str) -> None:
        """And here it is again."""
        self.line("back", "RECOVERED", text, style="bold green")

    def waiting(self, text: str) -> None:
        """Nothing goes on without a person."""
        self.line("wait", "waiting", text, style="bold yellow")

    def tell(self, event: AgentEvent) -> None:
        """One event of an execution's stream."""
        call = f"{event.tool_name}({_brief(event.args)})"
        match event.type:
            case EventType.STARTED:
                self.line("note", "prompt", f"“{event.content}”", style="bold")
            case EventType.TOOL_CALL:
                self.line("ask", "model", f"asks for {call}")
            case EventType.MESSAGE:
                self.line("ask", "model", "writes its answer")
            case EventType.TOOL_RESULT:
                again = f" (attempt {event.attempt})" if (event.attempt or 1) > 1 else ""
                self.line("done", "tool", f"{event.tool_name} → {_short(event.result)}{again}", style="cyan")
            case EventType.WAITING:
                self.waiting(f"for a person to approve {call}")
            case EventType.DECISION:
                self.line("back", "approved", f"{event.tool_name}, by {event.data.get('by')}", style="yellow")
            case EventType.ERROR:
                self.line("crash", "error", event.content or "", style="red")
            case EventType.DONE:
                status = event.data.get("status", "")
                self.line("back", status.lower(), f"“{event.output}”", style="bold")
            case _:
                pass

    def verdict(self, evidence: Evidence, tally: Tally) -> None:
        """The table at the end, and what it comes to."""
        table = Table(
            title="What was measured",
            title_justify="left",
            title_style="bold",
            box=box.ASCII if self._ascii else box.SIMPLE_HEAVY,
            show_header=False,
        )
        table.add_column()
        table.add_column(justify="right")
        table.add_column(style="dim")
        for name, value, good, remark in _rows(evidence, tally):
            style = "" if good is None else "bold green" if good else "bold red"
            table.add_row(name, Text(value, style=style), remark)
        self._console.print()
        self._console.print(table)
        for problem in tally.problems:
            self._console.print(Text(f"NOT AS PROMISED: {problem}", style="bold red"))
        if not tally.problems:
            self._console.print(Text("Both agents finished, as if nothing had happened.", style="bold green"))

    def failure(self, text: str) -> None:
        """The story could not go on."""
        self._console.print(Text(f"The demo stopped: {text}", style="bold red"))

    def kept(self, home: str) -> None:
        """Where to look further."""
        self._console.print(
            Text(f"The home is kept. Look around with: AGENTSPAN_HOME={home} agent-span list", style="dim")
        )


def _rows(evidence: Evidence, tally: Tally) -> list[tuple[str, str, bool | None, str]]:
    crashed = tally.attempts - tally.tool_calls
    return [
        (
            "Steps recorded",
            str(tally.steps),
            None,
            f"{tally.model_calls} model answers, {tally.tool_calls} tool results",
        ),
        ("Steps run twice", str(tally.steps_repeated), tally.steps_repeated == 0, "after they were recorded"),
        (
            "Model calls paid twice",
            str(tally.models_paid_twice),
            tally.models_paid_twice == 0,
            f"of {tally.model_calls}",
        ),
        (
            "Tool effects",
            str(tally.effects),
            tally.effects == tally.tool_calls and tally.effects_doubled == 0,
            f"{tally.tool_calls} idempotency keys, {tally.attempts} attempts ({crashed} lost)",
        ),
        ("Recovery of an agent", f"{evidence.actor_recovery_s:.2f} s", None, "from SIGKILL to its tool running again"),
        ("Restart of the server", f"{evidence.server_start_s:.2f} s", None, "from its start to its first answer"),
    ]


def _brief(arguments: Any) -> str:
    parts = []
    for name, value in (arguments or {}).items():
        text = f"{len(value)} sentences" if isinstance(value, list) else json.dumps(value, ensure_ascii=False)
        parts.append(f"{name}: {text}" if isinstance(value, list) else text)
    return ", ".join(parts)


def _short(result: Any) -> str:
    if isinstance(result, list):
        result = ", ".join(map(str, result))
    elif isinstance(result, dict):
        result = ", ".join(f"{name}: {value}" for name, value in result.items())
    text = " ".join(str(result).split())
    return text if len(text) <= RESULT_CHARS_MAX else text[: RESULT_CHARS_MAX - 1] + "…"
