"""Which node of the cluster a new actor goes to.

Our actors ask Ray for no resources, so Ray would put them anywhere, the head included. Here they are spread in proportion
to the nodes' cores, and a node that was started with `--num-cpus=0` gets none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

log = logging.getLogger("agentspan.nodes")

FRESH_S = 1.0
"""How old an answer about the nodes may be."""
LOOK_MAX_S = 2.0
"""How long a placement waits for a new answer. Without a head there is none; then the last one has to do."""


@dataclass(frozen=True, slots=True)
class Node:
    """One living node of a Ray cluster."""

    node_id: str
    cores: float
    """What Ray may plan with there; 0 keeps executions off it."""
    is_head: bool = False


def usable(nodes: Sequence[Node]) -> list[Node]:
    """Where executions may run: nodes with cores; all of them when none has any."""
    return [node for node in nodes if node.cores > 0] or list(nodes)


def cores(nodes: Sequence[Node]) -> int:
    """The cores of all usable nodes, at least 1."""
    return max(1, int(sum(node.cores or 1.0 for node in usable(nodes))))


def choose(nodes: Sequence[Node], load: Mapping[str, int]) -> str | None:
    """The node that has the least for its cores. None when no node is known.

    Args:
        load: Actors of the same kind by node ID; 0 for nodes that are not in it.
    """

    def share(node: Node) -> tuple[float, int]:
        there = load.get(node.node_id, 0)
        return (there + 1) / (node.cores or 1.0), there

    chosen = min(usable(nodes), key=share, default=None)
    return None if chosen is None else chosen.node_id


class Nodes:
    """The living nodes, at most about a second old. Used from one event loop."""

    def __init__(self, look: Callable[[], list[Node]]) -> None:
        """`look` asks the cluster. It may block, so it runs in a thread."""
        self._look = look
        self._known: list[Node] = []
        self._until = float("-inf")
        self._looking: asyncio.Task[None] | None = None

    async def living(self) -> list[Node]:
        """The nodes; what was known last when the cluster does not answer in time."""
        if self._looking is None and asyncio.get_running_loop().time() >= self._until:
            self._looking = asyncio.create_task(self._refresh())
        if self._looking is not None:
            await asyncio.wait({self._looking}, timeout=LOOK_MAX_S)
        return self._known

    async def _refresh(self) -> None:
        try:
            self._known = await asyncio.to_thread(self._look)
        except Exception:
            # Ray raises many things while its head is away; the next placement asks again.
            log.exception("nodes.not_seen")
        finally:
            self._until = asyncio.get_running_loop().time() + FRESH_S
            self._looking = None
