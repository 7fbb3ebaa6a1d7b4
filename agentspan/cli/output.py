"""Where output goes: answers to stdout and only there, everything else to stderr, nothing of Ray's anywhere.

Ray prints notices to a driver's stdout, and so may the agent's module that `run` imports. `guard_stdout` therefore
keeps a copy of the real stdout for answers and points file descriptor 1 at stderr, before either is imported.
"""

from __future__ import annotations

import json
import os
import sys
from functools import cached_property
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

PIPED_WIDTH = 240
"""Columns when nobody looks at a terminal: wide enough that tables are not cut."""

_answers: TextIO | None = None


def answers() -> TextIO:
    """The stream for answers: the real stdout, whatever fd 1 is by now."""
    return _answers or sys.stdout


def guard_stdout() -> None:
    """Send everything that others write to stdout to stderr from now on. Idempotent."""
    global _answers
    real = sys.__stdout__
    if _answers is not None or real is None or sys.stdout is not real:
        return  # Done already, or somebody captures our output in this process.
    real.flush()
    _answers = os.fdopen(os.dup(1), "w", encoding=real.encoding, errors=real.errors)
    os.dup2(2, 1)
    sys.stdout = sys.stderr


class Output:
    """One command's way of answering: for people, or with `--json` for programs."""

    def __init__(self, *, json: bool = False) -> None:
        self.json = json

    @cached_property
    def console(self) -> Console:
        """For people, on stdout."""
        return _console(answers())

    @cached_property
    def notes(self) -> Console:
        """For people, on stderr."""
        return _console(sys.stderr)

    def document(self, value: Any) -> None:
        """The answer as one JSON document."""
        print(json.dumps(value, indent=2, ensure_ascii=False, default=_told), file=answers(), flush=True)

    def line(self, value: Any) -> None:
        """A part of the answer as one line of JSON."""
        print(json.dumps(value, ensure_ascii=False, default=str), file=answers(), flush=True)

    def print(self, *parts: RenderableType, end: str = "\n") -> None:
        """The answer, for people. Text is taken as it is, not as markup."""
        self.console.print(*parts, markup=False, end=end)

    def answer(self, value: Any, *parts: RenderableType) -> None:
        """`value` with `--json`, else `parts`."""
        if self.json:
            self.document(value)
        else:
            self.print(*parts)

    def note(self, text: str, *, style: str = "dim") -> None:
        """Something beside the answer, for people only."""
        if not self.json:
            self.notes.print(text, style=style, markup=False)

    def error(self, message: str, **facts: Any) -> None:
        """What went wrong, on stderr: one line, or `{"error": …}`."""
        if self.json:
            error = {"error": {"message": message, **facts}}
            print(json.dumps(error, ensure_ascii=False, default=str), file=sys.stderr, flush=True)
        else:
            from rich.text import Text

            one_line = " ".join(message.split())
            self.notes.print(Text.assemble(("Error: ", "bold red"), one_line), soft_wrap=True)


def _told(value: Any) -> str:
    """What has no JSON form, as text; a graph's encoded state is for its own code only."""
    return f"<{len(value)} bytes>" if isinstance(value, bytes) else str(value)


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    class AnswerConsole(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # Rich would end the process here, with a code of its own and from any thread.

    width = None if stream.isatty() or "COLUMNS" in os.environ else PIPED_WIDTH
    return AnswerConsole(file=stream, highlight=False, width=width, emoji=False)
