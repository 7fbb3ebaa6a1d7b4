"""What has to be true of every execution, whatever was killed: judged by witnesses that AgentSpan does not control."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from tests.support.ledger import Ledger


def effects(ledger: Ledger, execution_id: str) -> dict[str, list[dict[str, Any]]]:
    """What the ledger saw of an execution's tools, by call ID."""
    seen: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for entry in ledger.entered(f"{execution_id}:", count=0):
        seen[entry["key"].rpartition(":")[2]].append(entry)
    return seen


def check_honest(shown: dict[str, Any], ledger: Ledger) -> dict[str, list[dict[str, Any]]]:
    """Check P2, P3 and P4 on a finished execution (as `show` gives it) and return what the ledger saw, by call ID."""
    steps = shown["steps"]
    assert [step["seq"] for step in steps] == list(range(len(steps)))
    epochs = [step["epoch"] for step in steps]
    assert epochs == sorted(epochs), "an older incarnation wrote after a newer one (P4)"
    returned = [step for step in steps if step["kind"] == "tool"]
    records = {step["call_id"]: step for step in returned}
    assert len(records) == len(returned), "a call was recorded twice (P2)"
    assert len([step for step in steps if step["kind"] == "finished"]) == 1
    seen = effects(ledger, shown["execution_id"])
    for call_id, entries in seen.items():
        attempts = [entry["attempt"] for entry in entries]
        assert attempts == sorted(set(attempts)), f"{call_id}: an attempt was made twice: {attempts} (P3)"
        if call_id in records:
            record = records[call_id]
            assert all(entry["at"] <= record["at"] for entry in entries), f"{call_id} ran again after its record (P2)"
            assert attempts[-1] == record.get("attempt", 1)
    return seen
