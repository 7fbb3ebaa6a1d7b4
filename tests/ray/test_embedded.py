"""Scripts without a server: the runtime they start ends with them, the executions do not."""

from __future__ import annotations

from pathlib import Path

from tests.ray.agents import gate
from tests.ray.honesty import check_honest
from tests.support.cluster import Server, answer, until
from tests.support.ledger import Ledger

SCRIPT = str(Path(__file__).parent / "clients" / "script.py")


def test_a_script_that_was_killed_is_simply_run_again(own_server: Server, ledger: Ledger) -> None:
    home = own_server  # A home without a server: nothing is started here but the script's own.
    script = home.client(SCRIPT, str(ledger.port), "job")
    assert script.stdout is not None
    execution_id = script.stdout.readline().strip()
    ledger.entered(execution_id)
    script.kill()
    script.communicate()
    until("end of its actors", lambda: not home.processes("Actor"), within_s=10)

    assert home.ask(SCRIPT, str(ledger.port), "job") == "did 1 at attempt 2"
    assert check_honest(home.show(execution_id), ledger).keys() == {"call_0_0"}


def test_two_scripts_share_a_home_and_the_one_that_stays_takes_over(own_server: Server, ledger: Ledger) -> None:
    home = own_server
    first = home.client(SCRIPT, str(ledger.port), "first")
    assert first.stdout is not None
    first_id = first.stdout.readline().strip()
    ledger.entered(first_id)
    second = home.client(SCRIPT, str(ledger.port), "second")
    assert second.stdout is not None
    second_id = second.stdout.readline().strip()
    ledger.entered(second_id)

    ledger.open(gate(first_id, 1))
    assert answer(first) == "did 1 at attempt 1"  # And with it goes the server that both used.
    assert answer(second) == "did 1 at attempt 2"
    for execution_id in (first_id, second_id):
        check_honest(home.show(execution_id), ledger)
