"""The snippets of docs/langgraph.md are one program, and it runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from agentspan.agents.events import EventType
from tests.support.cluster import Server, private_home

PAGE = (Path(__file__).parents[2] / "docs/langgraph.md").read_text()
PROGRAM_S_MAX = 60.0


def test_the_snippets_are_one_program(tmp_path: Path) -> None:
    (tmp_path / "page.py").write_text("\n\n".join(re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)))
    server = Server(private_home())
    server.start()
    try:
        ended = subprocess.run(
            [sys.executable, "page.py"],
            cwd=tmp_path,
            env=server.environment,
            capture_output=True,
            text=True,
            timeout=PROGRAM_S_MAX,
        )
    finally:
        server.dispose()
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines() == [
        "Pay 129.00 back for 8821?",
        "{'number': '8821', 'price': 129.0, 'log': ['looked up', 'paid 129.00 back']}",
        "app",
        "That was message 1.",
        "That was message 3.",
        "2 loop [] ['looked up', 'paid 129.00 back']",
        "1 loop ['refund'] ['looked up']",
        "0 loop ['look_up'] []",
        "-1 input ['__start__'] []",
        "['looked up', 'paid 9.50 back']",
        "That was message 1.",
        "That was message 3.",
    ]


def test_the_events_it_names_are_events() -> None:
    table = PAGE.partition("| `event.type` |")[2].partition("\n\n")[0]
    named = {name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert named <= {str(kind) for kind in EventType}
    assert {"node_start", "node_end", "custom", "waiting", "token"} <= named
