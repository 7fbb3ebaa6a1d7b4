"""Signals from the command line: stored, bound to what was shown, and answered with the first decision."""

from __future__ import annotations

from typing import Any

import pytest

from agentspan.actors.lease import Lease
from tests.unit.cli.world import Command, PlayingConnection, World


def inbox(world: World, execution_id: str) -> list[Any]:
    found: list[Any] = world.ask(lambda store: store.inbox(execution_id))
    return found


def test_approve_with_a_short_id_lets_the_call_run(command: Command, world: World) -> None:
    full = world.started("support", number=7)
    answer = command("approve", "ex-0", "--by", "ann")
    assert answer.code == 0
    assert answer.out.startswith('Approved refund(order_id="8821", amount=40.0), call call_1_0 of ex-00000000')
    world.play(full)
    shown = command("result", full, "--json").json
    assert shown["output"] == "[done] It is paid."
    assert shown["tool_calls"][1]["decided_by"] == "ann"


def test_a_decision_is_bound_to_the_arguments_that_were_shown(command: Command, world: World) -> None:
    full = world.started("support")
    held = command("show", full, "--json").json["pending_calls"][0]["arguments_hash"]
    command("approve", full)
    assert inbox(world, full)[0].arguments_hash == held


def test_a_hash_that_does_not_fit_is_refused(command: Command, world: World) -> None:
    full = world.started("support")
    answer = command("approve", full, "--hash", "beef", "--json")
    assert answer.code == 4
    assert answer.error["type"] == "DecisionMismatchError"
    assert inbox(world, full) == []


def test_approve_with_other_arguments(command: Command, world: World) -> None:
    full = world.started("support")
    answer = command("approve", full, "--args", '{"order_id": "8821", "amount": 10}')
    assert "amount=10" in answer.out
    world.play(full)
    assert command("result", full, "--json").json["tool_calls"][1]["result"] == "refunded 10 for 8821"


@pytest.mark.parametrize("args", ["{", "[1]", '"x"'])
def test_arguments_have_to_be_a_json_object(command: Command, world: World, args: str) -> None:
    full = world.started("support")
    assert command("approve", full, "--args", args).code == 2
    assert inbox(world, full) == []


def test_arguments_that_do_not_fit_the_tool_are_refused(command: Command, world: World) -> None:
    answer = command("approve", world.started("support"), "--args", '{"order_id": 1}', "--json")
    assert (answer.code, answer.error["type"]) == (4, "InvalidDecisionError")


def test_reject_tells_the_model_why(command: Command, world: World) -> None:
    full = world.started("support")
    assert command("reject", full, "too much", "--by", "bob").out.startswith("Rejected refund(")
    world.play(full)
    assert "too much" in command("result", full, "--json").json["tool_calls"][1]["error"]


@pytest.mark.parametrize(("text", "value"), [('{"a": 1}', {"a": 1}), ("3", 3), ("no json", "no json"), ('"3"', "3")])
def test_respond_takes_json_if_it_is_and_text_otherwise(command: Command, world: World, text: str, value: Any) -> None:
    full = world.started("support")
    assert command("respond", full, text).code == 0
    assert inbox(world, full)[0].value == value


def test_when_several_calls_wait_the_command_has_to_say_which(command: Command, world: World) -> None:
    full = world.started("twice")
    refused = command("approve", full, "--json")
    assert (refused.code, refused.error["type"]) == (4, "AmbiguousDecisionError")
    chosen = command("approve", full, "--call", "call_0_1", "--json")
    assert (chosen.code, chosen.json["signal"]["call_id"]) == (0, "call_0_1")
    # One is left, so it need not be named.
    assert command("reject", full, "--json").json["signal"]["call_id"] == "call_0_0"


def test_an_unknown_call_is_refused_with_what_waits(command: Command, world: World) -> None:
    answer = command("approve", world.started("support"), "--call", "nope", "--json")
    assert answer.code == 4
    assert "call_1_0" in answer.error["message"]


def test_nothing_pending_is_refused(command: Command, world: World) -> None:
    running = world.create("support")
    answer = command("approve", running, "--json")
    assert (answer.code, answer.error["type"]) == (4, "NothingPendingError")


def test_a_finished_execution_takes_no_signal(command: Command, world: World) -> None:
    full = world.started("echo")
    for line in (["cancel", full], ["approve", full], ["send", full, "x"]):
        assert command(*line).code == 4


def test_deciding_again_the_same_way_is_no_error_and_changes_nothing(command: Command, world: World) -> None:
    full = world.started("support")
    command("approve", full, "--by", "ann")
    again = command("approve", full, "--by", "bob", "--json")
    assert again.code == 0
    assert (again.json["is_new"], again.json["signal"]["by"]) == (False, "ann")
    assert len(inbox(world, full)) == 1


def test_deciding_again_the_other_way_is_refused_with_the_first_decision(command: Command, world: World) -> None:
    full = world.started("support")
    command("approve", full, "--by", "ann")
    other = command("reject", full)
    assert other.code == 4
    assert "already approved by ann" in other.err
    assert command("reject", full, "--json").error["signal"]["kind"] == "approve"


@pytest.mark.parametrize(
    ("line", "kind", "fields"),
    [
        (["send", "ID", "hi there"], "message", {"value": "hi there"}),
        (["signal", "ID", "be brief"], "guide", {"text": "be brief"}),
        (["pause", "ID"], "pause", {}),
        (["resume", "ID"], "resume", {}),
        (["cancel", "ID", "not needed"], "cancel", {"text": "not needed"}),
        (["stop", "ID"], "stop", {}),
    ],
)
def test_every_signal_is_stored_with_who_sent_it(
    command: Command, world: World, line: list[str], kind: str, fields: dict[str, Any]
) -> None:
    full = world.started("support")
    answer = command(*(full if word == "ID" else word for word in line), "--by", "ann", "--json")
    assert answer.code == 0
    (stored,) = inbox(world, full)
    assert (stored.kind, stored.by) == (kind, "ann")
    assert answer.json["signal"]["signal_id"] == stored.signal_id
    assert all(getattr(stored, name) == value for name, value in fields.items())


def test_without_a_server_it_says_when_the_signal_takes_effect(command: Command, world: World) -> None:
    full = world.started("support")
    assert "server start" in command("pause", full).err
    lease = Lease(world.settings.home)
    assert lease.take()
    try:
        assert command("resume", full).err == ""
    finally:
        lease.release()


def test_resume_tries_a_quarantined_execution_again(command: Command, world: World, server: PlayingConnection) -> None:
    full = world.started("support")
    world.ask(lambda store: store.quarantine(full, error="a flipped bit"))
    assert command("show", full, "--json").json["error"] == "a flipped bit"
    assert command("resume", full, "--json").json == {"execution_id": full, "released": True}
    assert command("show", full, "--json").json["status"] != "QUARANTINED"
    assert inbox(world, full) == []


def test_releasing_from_quarantine_needs_a_server(command: Command, world: World) -> None:
    full = world.started("support")
    world.ask(lambda store: store.quarantine(full, error="a flipped bit"))
    assert command("resume", full).code == 5
