"""What the server does about a supervisor that does not answer. Time is played, and so is the cluster."""

from __future__ import annotations

from typing import Any

import pytest

from agentspan.actors import cluster, server
from agentspan.errors import ServerTimeoutError


class Watched:
    """A supervisor that hangs at 10 s and, once it was killed, answers again after `start_s`."""

    def __init__(self, start_s: float, hangs: bool = True) -> None:
        self.now = 0.0
        self.start_s = start_s
        self.silent_from, self.silent_to = (10.0, float("inf")) if hangs else (float("inf"), 0.0)
        self.restarts: list[float] = []

    # As threading.Event, for the server's `stop`.

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        return self.now > 300.0

    async def call(self, verb: str, args: dict[str, Any], timeout_s: float) -> Any:
        if self.silent_from <= self.now < self.silent_to:
            self.now += timeout_s
            raise ServerTimeoutError(what="The answer", timeout_s=timeout_s, execution_id="")
        return True

    def restart(self) -> None:
        self.restarts.append(self.now)
        self.silent_to = self.now + self.start_s


def watch(monkeypatch: pytest.MonkeyPatch, watched: Any) -> Watched:
    monkeypatch.setattr(cluster, "is_broken", lambda: False)
    monkeypatch.setattr(cluster, "restart_supervisor", watched.restart)
    monkeypatch.setattr(server.time, "monotonic", lambda: watched.now)
    server._watch(watched, watched, 3.0, None)
    kept: Watched = watched
    return kept


def test_one_that_answers_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert watch(monkeypatch, Watched(0.0, hangs=False)).restarts == []


def test_one_that_hangs_is_killed_once_and_has_time_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = watch(monkeypatch, Watched(25.0))  # Longer than a ping may take, many times.
    assert len(watched.restarts) == 1
    assert watched.now > 300.0, "the cluster was kept"


def test_a_cluster_whose_supervisor_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = watch(monkeypatch, Watched(1e9))
    assert len(watched.restarts) == 1
    assert 60.0 < watched.now < 100.0
