"""`host="client"`: a graph that cannot leave its process runs there, and outlives it all the same."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agentspan import AgentRuntime
from agentspan.config import Settings
from tests.support.cluster import Server, answer, private_home, until
from tests.support.ledger import Ledger, ledger_process

PROGRAM = str(Path(__file__).parent / "clients" / "hosted.py")
RESULT = {"topic": "t", "log": ["first", "work", "yes", "last"]}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server(private_home())
    server.start()
    yield server
    server.dispose()


@pytest.fixture
def home() -> Iterator[Server]:
    """A home without a server: programs bring up their own."""
    home = Server(private_home())
    yield home
    home.dispose()


@pytest.fixture(scope="module")
def ledger() -> Iterator[Ledger]:
    with ledger_process() as ledger:
        yield ledger


_started: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def nobody_stays() -> Iterator[None]:
    """Programs of one test do not take up what another one leaves."""
    yield
    while _started:
        kill(_started.pop())


def program(server: Server, ledger: Ledger, *command: str) -> subprocess.Popen[str]:
    _started.append(server.client(PROGRAM, str(ledger.port), *command))
    return _started[-1]


def told(process: subprocess.Popen[str]) -> Any:
    """The next line that the program prints."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise AssertionError(f"the client ended:\n{process.communicate()[1][-3000:]}")
    return json.loads(line)


def kill(process: subprocess.Popen[str]) -> None:
    if process.returncode is None:
        process.kill()
        process.communicate()


def waits(server: Server, execution_id: str) -> None:
    until("question", lambda: server.show(execution_id)["status"] == "WAITING")


def runs(ledger: Ledger, execution_id: str) -> Counter[str]:
    return Counter(entry["key"].rpartition("/")[2] for entry in ledger.entered(execution_id))


def respond(server: Server, execution_id: str, value: Any = "yes") -> None:
    """Decide as an operator would, from a process that has no part in it."""
    with operator(server) as runtime:
        runtime.respond(execution_id, value)


@contextmanager
def operator(server: Server) -> Iterator[AgentRuntime]:
    runtime = AgentRuntime.offline(Settings(home=server.home))
    yield runtime
    runtime.shutdown()


def test_what_cannot_be_shipped_says_why_and_what_to_do(server: Server, ledger: Ledger) -> None:
    problem = answer(program(server, ledger, "ship"))
    assert "'hosted' cannot be deployed: node 'first' refers to the variable 'lock'" in problem
    assert 'host="client"' in problem


def test_killed_in_a_node_and_while_it_waits_it_goes_on_in_the_next_process(server: Server, ledger: Ledger) -> None:
    first = program(server, ledger, "start")
    execution_id = told(first)
    ledger.entered(f"{execution_id}/work")
    kill(first)
    ledger.open(f"{execution_id}/work")

    second = program(server, ledger, "take up", execution_id)
    waits(server, execution_id)
    kill(second)
    respond(server, execution_id)  # While nobody is there.

    third = program(server, ledger, "take up", execution_id)
    assert told(third) == ["waiting", "done"]
    assert answer(third) == RESULT
    assert runs(ledger, execution_id) == {"first": 1, "work": 2, "ask": 2, "last": 1}


def test_without_a_server_the_program_is_simply_run_again(home: Server, ledger: Ledger) -> None:
    first = program(home, ledger, "start")
    execution_id = told(first)
    ledger.entered(f"{execution_id}/work")
    kill(first)
    ledger.open(f"{execution_id}/work")
    until("end of its cluster", lambda: not home.processes("Actor"))

    second = program(home, ledger, "start")  # Starting another one takes up the first, too.
    other_id = told(second)
    waits(home, execution_id)
    respond(home, execution_id)
    assert home.result(execution_id).is_success
    ledger.open(f"{other_id}/work")
    waits(home, other_id)
    respond(home, other_id)
    assert answer(second) == RESULT
    assert runs(ledger, execution_id) == {"first": 1, "work": 2, "ask": 2, "last": 1}


def test_a_cancellation_is_heard_while_a_node_blocks(server: Server, ledger: Ledger) -> None:
    process = program(server, ledger, "start")
    execution_id = told(process)
    ledger.entered(f"{execution_id}/work")
    with operator(server) as runtime:
        runtime.cancel(execution_id, "not needed")
    assert server.result(execution_id).status.value == "TERMINATED"
    assert answer(process) is None  # It has no state, and the program ends although its node never does.


def test_a_program_that_ends_hands_over_and_the_next_one_goes_on(server: Server, ledger: Ledger) -> None:
    first = program(server, ledger, "leave")
    execution_id = told(first)
    ledger.open(f"{execution_id}/work")
    waits(server, execution_id)
    ledger.open(f"{execution_id}/leave")
    assert first.communicate(timeout=30)[1] == ""
    assert not server.show(execution_id)["resident"]

    second = program(server, ledger, "take up", execution_id)
    respond(server, execution_id)
    assert answer(second) == RESULT
    assert runs(ledger, execution_id) == {"first": 1, "work": 1, "ask": 2, "last": 1}
    assert server.show(execution_id)["recoveries"] == 0, "handing over is no crash"


def test_a_program_that_ends_in_the_middle_of_a_node_does_not_wait_for_it(server: Server, ledger: Ledger) -> None:
    first = program(server, ledger, "leave")
    execution_id = told(first)
    ledger.entered(f"{execution_id}/work")
    ledger.open(f"{execution_id}/leave")
    assert first.communicate(timeout=30)[1] == ""
    ledger.open(f"{execution_id}/work")

    second = program(server, ledger, "take up", execution_id)
    waits(server, execution_id)
    respond(server, execution_id)
    assert answer(second) == RESULT
    assert runs(ledger, execution_id) == {"first": 1, "work": 2, "ask": 2, "last": 1}


def test_one_of_two_programs_has_it_and_the_other_leaves_it_alone(server: Server, ledger: Ledger) -> None:
    first = program(server, ledger, "leave")
    execution_id = told(first)
    ledger.entered(f"{execution_id}/work")
    second = program(server, ledger, "leave")
    other_id = told(second)
    ledger.entered(f"{other_id}/work")  # It has looked for what nobody runs before it began.
    ledger.open(f"{execution_id}/work")
    waits(server, execution_id)
    assert server.show(execution_id)["host"]["pid"] == first.pid

    ledger.open(f"{execution_id}/leave")
    first.communicate(timeout=30)
    respond(server, execution_id)
    assert server.result(execution_id).is_success  # Taken up by the second, which looks after the same graph.
    assert runs(ledger, execution_id) == {"first": 1, "work": 1, "ask": 2, "last": 1}


def test_what_is_started_by_name_runs_where_the_graph_is(server: Server, ledger: Ledger) -> None:
    host = program(server, ledger, "leave")
    told(host)
    execution_id = answer(program(server, ledger, "by name"))
    ledger.open(f"{execution_id}/work")
    waits(server, execution_id)
    assert server.show(execution_id)["host"]["pid"] == host.pid


def test_a_later_structure_goes_on_with_what_an_earlier_one_began(server: Server, ledger: Ledger) -> None:
    first = program(server, ledger, "start")
    execution_id = told(first)
    ledger.open(f"{execution_id}/work")
    waits(server, execution_id)
    kill(first)
    respond(server, execution_id)
    newer = program(server, ledger, "newer", execution_id)
    told(newer)
    assert answer(newer) == {"topic": "t", "log": [*RESULT["log"], "more"]}


def test_history_and_forks_are_there_as_for_any_graph(server: Server, ledger: Ledger) -> None:
    first = program(server, ledger, "start")
    execution_id = told(first)
    ledger.open(f"{execution_id}/work")
    waits(server, execution_id)
    respond(server, execution_id)
    assert answer(first) == RESULT
    second = program(server, ledger, "history", execution_id)
    assert [step for step, _ in told(second)] == [4, 3, 2, 1, 0, -1]
    fork_id, state = told(second)
    assert state == {"topic": "t", "log": ["changed", "last"]}
    assert runs(ledger, fork_id) == {"last": 1}
