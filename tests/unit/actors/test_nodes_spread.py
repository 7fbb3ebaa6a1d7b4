"""Where actors go in a cluster of several nodes, and how its size is followed."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from agentspan.actors.nodes import Node, Nodes, choose, cores


def spread(nodes: list[Node], count: int) -> Counter[str]:
    load: Counter[str] = Counter()
    for _ in range(count):
        chosen = choose(nodes, load)
        assert chosen is not None
        load[chosen] += 1
    return load


def test_actors_are_spread_in_proportion_to_cores() -> None:
    assert spread([Node("small", 2), Node("large", 6)], 16) == {"small": 4, "large": 12}


def test_equal_nodes_get_equally_many() -> None:
    assert spread([Node("a", 1), Node("b", 1), Node("c", 1)], 9) == {"a": 3, "b": 3, "c": 3}


def test_a_node_without_cores_gets_nothing_while_others_have_some() -> None:
    assert spread([Node("head", 0, is_head=True), Node("worker", 4)], 5) == {"worker": 5}


def test_when_no_node_has_cores_all_are_used() -> None:
    assert spread([Node("head", 0, is_head=True), Node("worker", 0)], 4) == {"head": 2, "worker": 2}


def test_no_node_known_leaves_it_to_ray() -> None:
    assert choose([], {}) is None


@pytest.mark.parametrize(
    ("nodes", "count"),
    [([], 1), ([Node("a", 0)], 1), ([Node("a", 0), Node("b", 4)], 4), ([Node("a", 2), Node("b", 0.5)], 2)],
)
def test_cores_are_those_of_usable_nodes_and_at_least_one(nodes: list[Node], count: int) -> None:
    assert cores(nodes) == count


async def test_the_last_answer_has_to_do_when_the_cluster_gives_none() -> None:
    answers = [[Node("a", 1)]]

    def look() -> list[Node]:
        if not answers:
            raise ConnectionError("no head")
        return answers.pop()

    nodes = Nodes(look)
    assert await nodes.living() == [Node("a", 1)]
    nodes._until = float("-inf")
    assert await nodes.living() == [Node("a", 1)]


async def test_one_look_serves_all_who_ask_at_once() -> None:
    looks: list[int] = []

    def look() -> list[Node]:
        looks.append(1)
        return [Node("a", 1)]

    nodes = Nodes(look)
    await asyncio.gather(*(nodes.living() for _ in range(5)))
    await nodes.living()
    assert len(looks) == 1
