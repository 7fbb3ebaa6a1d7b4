"""A private home, a way to run commands on it, and a server that is up as far as they can tell."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentspan.bridge import run_sync
from agentspan.cli.connect import Session
from agentspan.cli.main import app
from agentspan.runtime import AgentRuntime
from tests.unit.cli.world import Answer, Command, PlayingConnection, World


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home that is not there yet."""
    for name in list(os.environ):
        if name.startswith(("AGENTSPAN_", "RAY_")) or name.endswith("_API_KEY"):
            monkeypatch.delenv(name)
    path = tmp_path / "home"
    monkeypatch.setenv("AGENTSPAN_HOME", str(path))
    monkeypatch.setenv("COLUMNS", "180")
    return path


@pytest.fixture
def command(home: Path) -> Command:
    """Runs a command in this process."""

    def run(*arguments: str, input: str | None = None) -> Answer:
        result = CliRunner().invoke(app, list(arguments), input=input)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return Answer(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def world(home: Path) -> World:
    return World(home)


@pytest.fixture
def server(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[PlayingConnection]:
    """A server that is up, as far as commands can tell."""
    connection = PlayingConnection(world)

    def live(self: Session, *, embedded: bool = False) -> AgentRuntime:
        runtime = AgentRuntime(settings=world.settings)
        runtime._connection = connection
        return self._kept(runtime)

    monkeypatch.setattr(Session, "live", live)
    monkeypatch.setattr(Session, "is_served", True)
    yield connection
    run_sync(connection.close())
