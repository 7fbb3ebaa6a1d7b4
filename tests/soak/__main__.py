"""`python -m tests.soak`: thousands of executions while everything they stand on is killed, stopped, cut off and filled up.

    make soak                              # 10 minutes: half on SQLite, half on Postgres
    make soak SEED=7 MINUTES=60
    python -m tests.soak --store sqlite --retention 60s

Prints its seed, how it goes, and a table. Exit code 1 unless all that has to be zero is.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import sys
from collections import Counter

from benchmarks.common import describe_machine
from tests.soak.judge import VERDICTS
from tests.soak.play import Options, Report, play

PROBLEMS_SHOWN = 20


def main() -> int:
    parser = argparse.ArgumentParser(description="Soak AgentSpan in faults.")
    parser.add_argument("--seed", type=int, default=None, help="play the faults of an earlier run")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--store", choices=("both", "sqlite", "postgres"), default="both")
    parser.add_argument("--at-once", type=int, default=120, help="executions under way")
    parser.add_argument("--every", type=float, default=4.0, help="seconds between two faults, on average")
    parser.add_argument("--dedicated", type=float, default=0.05, help="share of executions with a process of their own")
    parser.add_argument(
        "--settle", type=float, default=180.0, help="seconds for the last ones, when the faults are over"
    )
    parser.add_argument("--retention", help="have the server remove executions this long after their end, as in 60s")
    given = parser.parse_args()
    seed = secrets.randbelow(10**6) if given.seed is None else given.seed
    stores = ("sqlite", "postgres") if given.store == "both" else (given.store,)
    options = Options(
        seed=seed,
        seconds=given.minutes * 60 / len(stores),
        settle_s=given.settle,
        at_once=given.at_once,
        every_s=given.every,
        dedicated=given.dedicated,
        retention=given.retention,
    )
    # Ray's authentication and whose home this is are the servers'; the shell's would be in their way.
    for name in [name for name in os.environ if name.startswith(("AGENTSPAN_", "RAY_"))]:
        del os.environ[name]
    print(f"{describe_machine()}\nseed {seed}: {given.minutes:g} min on {' and '.join(stores)}", flush=True)
    reports = []
    for name in stores:
        print(f"\n{name}", flush=True)
        reports.append(asyncio.run(play(name, options)))
    return tell(reports, seed)


def tell(reports: list[Report], seed: int) -> int:
    """Print the table; the exit code."""
    rows: list[tuple[str, list[int]]] = [
        ("executions", [report.judge.ended for report in reports]),
        ("steps on record (model answers, tool calls, nodes)", [report.judge.steps for report in reports]),
        ("recoveries", [report.judge.recoveries for report in reports]),
        ("model calls", [report.model_calls for report in reports]),
        ("late effects of processes that were stopped", [report.judge.late_effects for report in reports]),
    ]
    faults: Counter[str] = sum((report.faults for report in reports), Counter())
    rows.append(("faults", [report.faults.total() for report in reports]))
    rows += [(f"  {name}", [report.faults[name] for report in reports]) for name in sorted(faults)]
    rows.append(("  answers of the model that went wrong", [report.model_wrong for report in reports]))
    zeros = [(f"**{name}**", [report.judge.tally[name] for report in reports]) for name in VERDICTS]
    print(f"\n| | {' | '.join(report.store for report in reports)} |")
    print(f"|---|{'---|' * len(reports)}")
    for name, values in rows + zeros:
        print(f"| {name} | {' | '.join(f'{value:,}' for value in values)} |")
    problems = [problem for report in reports for problem in report.judge.problems]
    for problem in problems[:PROBLEMS_SHOWN]:
        print(f"\n{problem[:1000]}")
    for report in reports:
        if len(report.sizes) > 1:
            told = ", ".join(f"{at:.0f} s {size / 1e6:.1f} MB" for at, size in report.sizes)
            print(f"\n{report.store}, size of the store: {told}")
    verdict = f"{len(problems)} problems; again with --seed {seed}" if problems else "all zero"
    print(f"\nseed {seed}: {verdict}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
