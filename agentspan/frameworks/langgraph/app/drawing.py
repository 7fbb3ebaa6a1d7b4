"""The picture of a graph, as Mermaid text. Never asks the network and needs no package for drawing."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from agentspan.frameworks.langgraph.app.structure import fingerprint, static_edges, subgraphs

log = logging.getLogger("agentspan.langgraph")


class Picture(NamedTuple):
    """How a graph looks."""

    edges: list[dict[str, Any]]
    mermaid: str


_pictures: WeakKeyDictionary[Any, tuple[str, Picture]] = WeakKeyDictionary()


def picture(app: Any) -> Picture:
    """`edges` and `mermaid`, drawn once as long as nodes and edges stay the same. Not to be changed."""
    drawn_of = fingerprint(app)
    found = _pictures.get(app)
    if found is None or found[0] != drawn_of:
        found = _pictures[app] = drawn_of, Picture(edges(app), mermaid(app))
    return found[1]


def mermaid(app: Any) -> str:
    """The graph as a Mermaid flowchart, with the graphs inside it where LangGraph can see them.

    The text is the same in each process. Where LangGraph cannot draw, it shows the declared nodes and edges.
    """
    for xray in (True, False) if _all_are_here(app) else (False,):
        try:
            return str(_drawn(app, xray=xray).draw_mermaid())
        except Exception:  # Drawing runs user code (names, annotations, routers' hints), and is worth no deployment.
            log.debug("graph.not_drawn", extra={"graph": app.name, "xray": xray}, exc_info=True)
    return _plain(app)


def edges(app: Any) -> list[dict[str, Any]]:
    """The edges as LangGraph sees them: `source`, `target`, `conditional`, and the `label` of a router's choice."""
    try:
        drawn = _drawn(app, xray=False).edges
    except Exception:  # As above.
        return [{"source": a, "target": b, "conditional": False, "label": None} for a, b in static_edges(app)]
    return [
        {
            "source": edge.source,
            "target": edge.target,
            "conditional": bool(edge.conditional),
            "label": None if edge.data is None else str(edge.data),
        }
        for edge in drawn
    ]


def _all_are_here(app: Any) -> bool:
    """Whether no graph inside is a remote one: those are drawn by asking their server."""
    from langgraph.pregel import Pregel

    return all(isinstance(graph, Pregel) for _, graph in subgraphs(app))


def _drawn(app: Any, *, xray: bool) -> Any:
    graph = app.get_graph(xray=xray)
    # LangGraph keeps edges in sets, whose order changes from process to process.
    graph.edges.sort(key=lambda edge: (edge.source, edge.target, str(edge.data), edge.conditional))
    return graph


def _plain(app: Any) -> str:
    numbers = {name: index for index, name in enumerate(app.nodes)}
    for ends in static_edges(app):
        for name in ends:
            numbers.setdefault(name, len(numbers))
    lines = ["graph TD;"]
    lines += [f'\tn{number}["{name.replace(chr(34), "&quot;")}"];' for name, number in numbers.items()]
    lines += [f"\tn{numbers[source]} --> n{numbers[target]};" for source, target in static_edges(app)]
    return "\n".join(lines) + "\n"
