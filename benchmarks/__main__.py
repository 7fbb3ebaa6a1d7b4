"""`make bench`, or `python -m benchmarks`: measure, and renew results, tables and plots in place.

python -m benchmarks                                  # all of it; 25 minutes
python -m benchmarks --minutes 12                     # fewer rounds
python -m benchmarks --only length,restart            # renew these sections, keep the others
python -m benchmarks --quick                          # tiny, to see that it works; keeps nothing
python -m benchmarks --systems bare,restate --results /tmp/r.json
python -m benchmarks --report                         # tables and plots from the results there are
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import plots, report
from benchmarks.contest import CROWD, Contest, say
from benchmarks.driving import Model, model_process
from benchmarks.fleeting import alone, restart
from benchmarks.results import RESULTS, Results
from benchmarks.systems import DEFAULT, TITLES

SHARES = {"one": 60, "crowd_0": 380, "crowd_200": 220, "length": 330, "written": 40, "recovery": 120}
"""Seconds for each measure that is made in rounds, in the default 25 minutes; the others take what they take: about six."""
FLEET = ("waiting_1000", "waiting_10000", "live", "dedicated", "restart")
MINUTES, FIXED_MINUTES = 25.0, 6.0


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="about how long it may take (default 25)")
    parser.add_argument("--rounds", type=int, default=5, help="of each comparison; the time may allow fewer")
    parser.add_argument(
        "--turns",
        type=int,
        help="of the long execution, 50 to 1000 (default 300)",
    )
    parser.add_argument("--only", help=f"sections, with commas between: {', '.join([*SHARES, *FLEET])}")
    parser.add_argument("--systems", help=f"systems, with commas between: {', '.join(TITLES)}")
    parser.add_argument("--quick", action="store_true", help="tiny sizes and one round")
    parser.add_argument("--results", type=Path, help="the file to renew; with another than the default, the docs stay")
    parser.add_argument("--loaded", action="store_true", help="say in the results that the machine was not quiet")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    given = parser.parse_args()
    given.turns = given.turns or (100 if given.quick else 300)
    given.sections = tuple(given.only.split(",")) if given.only else (*SHARES, *FLEET)
    given.names = tuple(given.systems.split(",")) if given.systems else DEFAULT
    for word, known in ((given.sections, (*SHARES, *FLEET)), (given.names, TITLES)):
        if unknown := set(word) - set(known):
            parser.error(f"unknown: {', '.join(sorted(unknown))}")
    return given


def compare(given: argparse.Namespace, model: Model, results: Results) -> None:
    """The measures in which all systems take turns."""
    wanted = [name for name in SHARES if name in given.sections]
    if not wanted:
        return
    share = max(0.05, (given.minutes - FIXED_MINUTES) / (MINUTES - FIXED_MINUTES))
    contest = Contest(model, given.names, rounds=1 if given.quick else given.rounds, crowd=20 if given.quick else CROWD)
    measures: dict[str, Callable[[float], dict[str, Any]]] = {
        "one": contest.one,
        "crowd_0": lambda seconds: contest.throughput(seconds, 0),
        "crowd_200": lambda seconds: contest.throughput(seconds, 200),
        "length": lambda seconds: contest.length(seconds, given.turns),
        "written": lambda _: contest.written(2 if given.quick else 20),
        "recovery": contest.recovery,
    }
    try:
        contest.open()
        for name in wanted:
            say(f"[{name}]")
            section = measures[name](SHARES[name] * share)
            results.put(name, {**section, "versions": contest.versions, "missing": dict(contest.missing)})
    finally:
        contest.close()


def fleet(given: argparse.Namespace, model: Model, results: Results) -> None:
    """The measures of AgentSpan alone."""
    tenth = 10 if given.quick else 1
    measures: dict[str, Callable[[], dict[str, Any]]] = {
        "waiting_1000": lambda: alone("waiting", 1000 // tenth, model),
        "waiting_10000": lambda: alone("waiting", 10000 // tenth // tenth, model),
        "live": lambda: alone("live", 1000 // tenth, model),
        "dedicated": lambda: alone("dedicated", 3 if given.quick else 10, model),
        "restart": lambda: restart(1000 // tenth, model),
    }
    for name in FLEET:
        if name in given.sections:
            say(f"[{name}]")
            try:
                results.put(name, measures[name]())
                say(str(results.sections[name]))
            except (RuntimeError, TimeoutError, OSError) as problem:
                results.put(name, {"failed": str(problem)[-600:]})
                say(f"failed: {problem}")


def main() -> int:
    """Measure, then write it all down."""
    given = options()
    # Somebody who ends a run early still wants none of its processes left.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    results = Results.load(given.results or RESULTS, kept=not given.quick)
    began = time.monotonic()
    if not given.report:
        results.begin(loaded=given.loaded)
        with model_process() as model:
            compare(given, model, results)
        with model_process() as model:
            fleet(given, model, results)
        say(f"{(time.monotonic() - began) / 60:.1f} minutes")
    print(report.text(results))
    if given.results is None and not given.quick:
        plots.draw(results)
        report.renew(results)
    failed = [name for name, section in results.sections.items() if "failed" in section]
    return 1 if failed and not given.report else 0


if __name__ == "__main__":
    sys.exit(main())
