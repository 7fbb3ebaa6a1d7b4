"""`python -m benchmarks [recovery starting turns …]`: run some or all, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.common import describe_machine

ALL = ("recovery", "starting", "turns", "packed", "commit_cost", "store_commit", "langgraph_saver", "graph_turns")

if __name__ == "__main__":
    print(describe_machine(), flush=True)
    for name in sys.argv[1:] or ALL:
        print(f"\n{name}", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)
