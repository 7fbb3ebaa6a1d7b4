"""One real cluster for most tests; tests that kill a whole server have one of their own, and never two are up at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from agentspan.agents import AgentRuntime
from tests.support.cluster import Server, free_port, private_home
from tests.support.ledger import Ledger, ledger_process


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with a server of their own go last, so that the shared one is brought up once."""
    items.sort(key=lambda item: not {"own_server", "nodes"}.isdisjoint(getattr(item, "fixturenames", ())))


class Shared:
    """The shared server and this process's runtime on it; brought down while another one is needed."""

    def __init__(self) -> None:
        self.server: Server | None = None
        self.runtime: AgentRuntime | None = None

    def up(self) -> tuple[Server, AgentRuntime]:
        if self.server is None or self.runtime is None:
            server = Server(private_home())
            self.server = server
            server.start("--ray-client-port", str(free_port()))
            self.runtime = AgentRuntime(home=server.home)
            self.runtime.__enter__()
        return self.server, self.runtime

    def down(self) -> None:
        runtime, self.runtime = self.runtime, None
        server, self.server = self.server, None
        with ExitStack() as ending:
            if server is not None:
                ending.callback(server.dispose)
            if runtime is not None:
                ending.callback(runtime.shutdown)


@pytest.fixture(scope="session")
def shared() -> Iterator[Shared]:
    holder = Shared()
    yield holder
    holder.down()


@pytest.fixture
def server(shared: Shared) -> Server:
    return shared.up()[0]


@pytest.fixture
def runtime(shared: Shared) -> AgentRuntime:
    return shared.up()[1]


@pytest.fixture
def own_server(shared: Shared) -> Iterator[Server]:
    """A server that the test starts, kills and starts again as it likes."""
    shared.down()
    server = Server(private_home())
    yield server
    server.dispose()


@pytest.fixture(scope="session")
def ledger() -> Iterator[Ledger]:
    with ledger_process() as started:
        yield started
