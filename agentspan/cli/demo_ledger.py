"""What the demo's tools really did, written down by the tools themselves.

The journal says what was recorded; this file says what ran. It stands for the world outside, which does not forget a
payment because the process that made it died: one line per event, appended in one write, by whichever process it was.
Comparing the two is how the demo knows that nothing ran twice.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from agentspan.agents.context import ToolContext

VARIABLE = "AGENTSPAN_DEMO_LEDGER"
"""Names the file. Set for the server, from which actors inherit it."""

BEGIN, PROGRESS, EFFECT = "begin", "progress", "effect"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line."""

    what: str
    """`begin` of an attempt, `progress` within it, or its `effect` on the world."""
    tool: str
    key: str
    """The call's idempotency key."""
    attempt: int
    execution_id: str
    pid: int
    at: float
    """UTC seconds."""
    part: int = 0
    """Of a `progress`: parts done so far."""


def write(context: ToolContext, what: str, *, part: int = 0) -> None:
    """Append a line for the call that `context` is about. Without a ledger (the tool is used elsewhere), nothing."""
    path = os.environ.get(VARIABLE)
    if not path:
        return
    entry = Entry(
        what=what,
        tool=context.tool_name,
        key=context.idempotency_key,
        attempt=context.attempt,
        execution_id=context.execution_id,
        pid=os.getpid(),
        at=time.time(),
        part=part,
    )
    # One write to a file opened for appending: lines of several processes do not mix.
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, json.dumps(asdict(entry)).encode() + b"\n")
    finally:
        os.close(descriptor)


def read(path: Path) -> list[Entry]:
    """All lines, oldest first; none when nothing was written yet."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return []
    return [Entry(**json.loads(line)) for line in lines]
