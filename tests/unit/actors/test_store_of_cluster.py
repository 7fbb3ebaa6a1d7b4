"""Which store a cluster may have: refused before anything is done that would lose executions."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from agentspan.actors.cluster import check_store
from agentspan.actors.nodes import Node
from agentspan.actors.residence import HostConfig
from agentspan.actors.shipping import load_key, sign
from agentspan.bridge import run_sync
from agentspan.config import Settings
from agentspan.errors import ConfigurationError
from agentspan.persistence.opening import open_store
from agentspan.persistence.store import DeploymentRow
from tests.support.postgres import PASSWORD, PostgresServer

ONE = [Node("a", 1)]
TWO = [Node("a", 1), Node("b", 1)]


@pytest.mark.parametrize("store", [None, "sqlite:////tmp/a.db", "/tmp/a.db"])
def test_sqlite_is_for_one_node(tmp_path: Path, store: str | None) -> None:
    settings = Settings(home=tmp_path / "home", store=store)
    check_store(settings, ONE)
    with pytest.raises(ConfigurationError, match="2 nodes"):
        check_store(settings, TWO)
    assert not (tmp_path / "home").exists()


def deployed(url: str, key: bytes) -> None:
    async def deploy() -> None:
        store = await open_store(url)
        row = DeploymentRow(
            deployment_id="d-1",
            agent="poet",
            kind="agent",
            source="reference",
            reference="package:poet",
            code=None,
            signature="",
            spec={},
            python="3.11",
            created_at=time.time(),
        )
        await store.save_deployment(sign(row, key))
        await store.close()

    run_sync(deploy())


def test_a_store_of_another_key_is_refused_and_the_key_it_needs_is_not_made(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    url = postgres.new_url()
    ours = Settings(home=tmp_path / "ours", store=url)
    check_store(ours, TWO)
    deployed(url, load_key(ours.key_path))
    check_store(ours, TWO)

    other = Settings(home=tmp_path / "other", store=url)
    with pytest.raises(ConfigurationError, match="which is not there") as refused:
        check_store(other, TWO)
    assert not other.key_path.exists()
    load_key(other.key_path)
    with pytest.raises(ConfigurationError, match="signed with another key"):
        check_store(other, TWO)
    assert PASSWORD not in str(refused.value)


def test_what_actors_are_told_shows_no_secret(tmp_path: Path) -> None:
    config = HostConfig(store_url=f"postgresql://me:{PASSWORD}@host/db", key=b"k" * 32)
    assert PASSWORD not in repr(config)
    assert "kkk" not in repr(config)
