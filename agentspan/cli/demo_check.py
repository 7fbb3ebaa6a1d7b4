"""Whether what the demo tells is true: the journals of its executions held against what really ran.

Nothing is assumed. The journal says what was recorded and when; the tools' ledger says which attempts began and which
effects were had; the model's ledger says which calls were answered. A recorded step that ran again, an effect without a
record, or a step that is missing is a problem, and with a problem the demo fails.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentspan.cli.demo_ledger import BEGIN, EFFECT, Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known when the story is over."""

    shown: Sequence[Mapping[str, Any]]
    """`runtime.show` of each execution."""
    tools: Sequence[Entry]
    """The tools' ledger."""
    models: Sequence[Mapping[str, Any]]
    """The scripted model's ledger."""
    killed_pids: frozenset[int]
    """Every process that was killed on purpose."""
    actor_recovery_s: float
    """From the SIGKILL of an actor to its interrupted tool running again."""
    server_start_s: float
    """From the start of the server after its SIGKILL to its first answer."""


@dataclass(slots=True, kw_only=True)
class Tally:
    """The demo's numbers, and everything that is not as promised."""

    steps: int = 0
    """Model answers and tool results on record."""
    steps_repeated: int = 0
    """Recorded steps that ran again after they were recorded."""
    model_calls: int = 0
    models_paid_twice: int = 0
    tool_calls: int = 0
    attempts: int = 0
    effects: int = 0
    effects_doubled: int = 0
    """Effects beyond the first for one idempotency key."""
    problems: list[str] = field(default_factory=list)


def check(evidence: Evidence) -> Tally:
    """Count, and find everything that should not be."""
    tally = Tally()
    known_keys: set[str] = set()
    for shown in evidence.shown:
        execution_id, steps = shown["execution_id"], shown["steps"]
        _check_journal(shown, tally)
        tools = [step for step in steps if step["kind"] == "tool"]
        models = [step for step in steps if step["kind"] == "model"]
        tally.steps += len(tools) + len(models)
        tally.tool_calls += len(tools)
        tally.model_calls += len(models)
        _check_models(execution_id, models, evidence.models, tally)
        for step in tools:
            key = f"{execution_id}:{step.get('path', '')}:{step['call_id']}"
            known_keys.add(key)
            _check_tool(key, step, [entry for entry in evidence.tools if entry.key == key], tally)
    for entry in evidence.tools:
        if entry.key not in known_keys:
            tally.problems.append(f"{entry.tool} ran as {entry.key}, which no journal knows.")
    if not any(entry.attempt > 1 and entry.what == BEGIN for entry in evidence.tools):
        tally.problems.append("No tool was interrupted: the crash missed, so it proved nothing.")
    if not evidence.killed_pids & {entry.pid for entry in evidence.tools}:
        tally.problems.append("No process that ran a tool was killed: the crash missed, so it proved nothing.")
    return tally


def _check_journal(shown: Mapping[str, Any], tally: Tally) -> None:
    execution_id, steps = shown["execution_id"], shown["steps"]
    if shown["status"] != "COMPLETED":
        tally.problems.append(f"Execution {execution_id} ended as {shown['status']}: {shown['error']}")
    if [step["seq"] for step in steps] != list(range(len(steps))):
        tally.problems.append(f"The journal of {execution_id} has gaps.")
    if [step["epoch"] for step in steps] != sorted(step["epoch"] for step in steps):
        tally.problems.append(f"An old incarnation of {execution_id} wrote after its successor.")
    if len({step["epoch"] for step in steps if step["epoch"]}) < 2:
        tally.problems.append(f"Execution {execution_id} had one process only: the crash missed, so it proved nothing.")
    calls = Counter(step["call_id"] for step in steps if step["kind"] == "tool")
    for call_id, count in calls.items():
        if count > 1:
            tally.problems.append(f"The result of {call_id} of {execution_id} was recorded {count} times.")


def _check_models(
    execution_id: str, recorded: Sequence[Mapping[str, Any]], ledger: Sequence[Mapping[str, Any]], tally: Tally
) -> None:
    answered: dict[int, list[float]] = {}
    for line in ledger:
        if str(line["key"]).startswith(f"{execution_id}:") and line["outcome"] == "reply":
            answered.setdefault(line["turn"], []).append(line["at"])
    for turn, step in enumerate(recorded):
        times = answered.pop(turn, [])
        if not times:
            tally.problems.append(f"Model answer {turn + 1} of {execution_id} is on record, but no model gave it.")
        elif len(times) > 1:
            tally.models_paid_twice += 1
            tally.steps_repeated += any(at > step["at"] for at in times)
            tally.problems.append(f"Model call {turn + 1} of {execution_id} was paid {len(times)} times.")
    for turn in answered:
        tally.problems.append(f"Model call {turn + 1} of {execution_id} was paid, but its answer is not on record.")


def _check_tool(key: str, step: Mapping[str, Any], entries: Sequence[Entry], tally: Tally) -> None:
    begun = [entry for entry in entries if entry.what == BEGIN]
    effects = sum(entry.what == EFFECT for entry in entries)
    recorded_attempt = step.get("attempt", 1)
    tally.attempts += len(begun)
    tally.effects += effects
    if any(entry.at > step["at"] or entry.attempt > recorded_attempt for entry in begun):
        tally.steps_repeated += 1
        tally.problems.append(f"{step['name']} ({key}) ran again after its result was recorded.")
    elif [entry.attempt for entry in begun] != list(range(1, recorded_attempt + 1)):
        attempts = [entry.attempt for entry in begun]
        tally.problems.append(
            f"{step['name']} ({key}) began attempts {attempts}; the journal counts {recorded_attempt}."
        )
    if effects != 1:
        tally.effects_doubled += max(0, effects - 1)
        tally.problems.append(f"{step['name']} ({key}) had {effects} effects.")
