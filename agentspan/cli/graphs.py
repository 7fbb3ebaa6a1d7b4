"""A graph as a picture with its progress: Mermaid text, and a line for each node that did something.

What the nodes did is read off the events: `node_start` and `node_end` of each task, what was waiting when the graph asked,
and what a crash took.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from agentspan.cli.text import one_line
from agentspan.errors import ConfigurationError

STYLES = {"ran": "green", "running": "blue", "waits": "yellow", "failed": "red"}
_FILLS = {"ran": "#c8e6c9", "running": "#bbdefb", "waits": "#fff9c4", "failed": "#ffcdd2"}
_DECLARED = re.compile(r"^\s*([^\s(\[{]+)[(\[{]", re.MULTILINE)


@dataclass(slots=True)
class Node:
    """What a node of the graph, or of one inside it, has done."""

    path: tuple[str, ...]
    """The nodes whose sub-graphs it is in, and itself."""
    runs: int = 0
    """How often it ended."""
    failures: int = 0
    running: int = 0
    waits: int = 0
    error: str | None = None
    tasks: dict[str, str] = field(default_factory=dict)
    """Tasks of it that began and have not ended → `running` or `waits`."""

    @property
    def state(self) -> str:
        """The most pressing thing to say about it."""
        if self.waits:
            return "waits"
        if self.running:
            return "running"
        return "failed" if self.error is not None else "ran" if self.runs else ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "node": ":".join(self.path),
            "state": self.state,
            "runs": self.runs,
            "running": self.running,
            "waits": self.waits,
            "failures": self.failures,
            "error": self.error,
        }


def nodes_of(events: Iterable[dict[str, Any]], status: str) -> list[Node]:
    """The nodes that did something, in the order they began first; those of a sub-graph behind the node it is in."""
    nodes: dict[tuple[str, ...], Node] = {}
    stops: list[str] = []
    for event in events:
        data = event.get("data", {})
        match event["type"]:
            case "node_start":
                stops = []
                _node(nodes, data).tasks[data["task_id"]] = "running"
            case "node_end":
                _ended(_node(nodes, data), data)
            case "waiting" if data.get("ask") == "interrupt":
                _stopped(nodes, "waits")
            case "waiting" if data.get("ask") == "breakpoint":
                stops = (event.get("args") or {}).get("before", [])
            case "recovered":
                _stopped(nodes, None)
            case "done":
                stops = []
                for node in nodes.values():
                    node.tasks.clear()
    for node in nodes.values():
        phases = list(node.tasks.values())
        node.waits = phases.count("waits")
        node.running = phases.count("running") if status == "RUNNING" else 0
    for name in stops:
        nodes.setdefault((name,), Node(path=(name,))).waits += 1
    order = {path: number for number, path in enumerate(nodes)}
    last = len(order)
    return sorted(
        nodes.values(),
        key=lambda node: [order.get(node.path[: depth + 1], last) for depth in range(len(node.path))],
    )


def _node(nodes: dict[tuple[str, ...], Node], data: dict[str, Any]) -> Node:
    path = (*(part.partition(":")[0] for part in data.get("ns") or ()), data["node"])
    return nodes.setdefault(path, Node(path=path))


def _ended(node: Node, data: dict[str, Any]) -> None:
    node.tasks.pop(data["task_id"], None)
    node.error = data.get("error")
    if node.error is None:
        node.runs += 1
    else:
        node.failures += 1


def _stopped(nodes: dict[tuple[str, ...], Node], phase: str | None) -> None:
    """What was at work now waits; or, with None, is lost, and begun again if it is needed."""
    for node in nodes.values():
        at_work = [task_id for task_id, now in node.tasks.items() if now == "running"]
        for task_id in at_work:
            if phase is None:
                del node.tasks[task_id]
            else:
                node.tasks[task_id] = phase


def drawing_of(shown: dict[str, Any], nodes: Sequence[Node]) -> dict[str, Any]:
    """The drawing, its nodes in the colour of their state, and the nodes as data.

    Raises:
        ConfigurationError: The execution is an agent's, or its deployment is gone.
    """
    text = ((shown["deployment"] or {}).get("spec") or {}).get("mermaid")
    if not text:
        raise ConfigurationError(
            problem=f"{shown['agent']!r} has no drawing: only LangGraph graphs have one. See agent-span show "
            f"{shown['execution_id']}."
        )
    declared = set(_DECLARED.findall(text))
    by_state: dict[str, list[str]] = {}
    for node in nodes:
        name = ":".join(node.path)
        for candidate in (_mermaid_id(name), name):
            if candidate in declared and node.state:
                by_state.setdefault(node.state, []).append(candidate)
                break
    lines = [text.rstrip()]
    for state, names in by_state.items():
        lines.append(f"\tclassDef {state} fill:{_FILLS[state]}")
        lines.append(f"\tclass {','.join(names)} {state}")
    return {"mermaid": "\n".join(lines), "nodes": [node.to_dict() for node in nodes]}


def _mermaid_id(name: str) -> str:
    """As langchain-core writes the IDs of nodes."""
    return "".join(char if re.match(r"[a-zA-Z0-9_-]", char) else f"\\{ord(char):x}" for char in name)


def table(nodes: Sequence[dict[str, Any]]) -> RenderableType:
    """A line for each node that did something."""
    if not nodes:
        return Text("No node has begun.", style="bright_black")
    told = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("NODE", "STATE", "RAN", "NOTE"):
        told.add_column(column, no_wrap=True, overflow="ellipsis", justify="right" if column == "RAN" else "left")
    for node in nodes:
        path = node["node"].split(":")
        note = [f"{node['running']} running"] if node["running"] > 1 else []
        note += [f"{node['waits']} wait"] if node["waits"] > 1 else []
        note += [one_line(node["error"], 120)] if node["error"] else []
        told.add_row(
            "  " * (len(path) - 1) + path[-1],
            Text(node["state"], style=STYLES.get(node["state"], "")),
            str(node["runs"]) if node["runs"] else "",
            "; ".join(note),
        )
    return told
