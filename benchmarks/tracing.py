"""Bytes that a system hands to the kernel for files below its folder, counted call by call with strace.

The kernel's own `write_bytes` counts whole pages, and whole large folios where a file system has them, which is a hundred
times the data for Postgres' log; `wchar` counts sockets as well. What is written later and in the background (a checkpoint, a
compaction) counts when it falls into the time that is watched.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from benchmarks.accounts import processes

CALLS = "write,pwrite64,writev,pwritev,pwritev2,copy_file_range,sendfile"
CALL = re.compile(r"^(\d+) +(?:<\.\.\. )?(\w+)(?: resumed>|\(\d+<([^>]*)>)")
RESULT = re.compile(r"= (\d+)$")
ATTACH_S, STOP_S = 20.0, 10.0
NOT_DATA = (".out", ".err", "server.log", "service.log", "worker.log")
"""What the processes say of themselves."""


class Tally:
    """What was counted; complete after the `with` block of `traced`."""

    def __init__(self) -> None:
        self.by_file: dict[str, int] = {}

    @property
    def bytes_written(self) -> int:
        """In all."""
        return sum(self.by_file.values())


def count(lines: Iterable[str], folders: Sequence[str]) -> dict[str, int]:
    """Add up the results of the calls that wrote to files below the folders, by file."""
    begun: dict[str, str] = {}
    total: dict[str, int] = defaultdict(int)
    for line in lines:
        found = CALL.match(line)
        if found is None:
            continue
        thread, path = found[1], found[3] if found[3] is not None else begun.pop(found[1], "")
        if line.rstrip().endswith("<unfinished ...>"):
            begun[thread] = path
            continue
        result = RESULT.search(line.rstrip())
        if (
            result is not None
            and path.startswith(tuple(f"{folder}/" for folder in folders))
            and not path.endswith(NOT_DATA)
        ):
            total[path] += int(result[1])
    return dict(total)


@contextlib.contextmanager
def traced(mark: str, folders: Sequence[Path]) -> Iterator[Tally]:
    """Watch all processes of a system for as long as this lasts.

    Raises:
        FileNotFoundError: There is no strace here, or it may not look.
    """
    program = shutil.which("strace")
    if program is None:
        raise FileNotFoundError("strace is not installed")
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="as-trace-", dir="/tmp") as place:
        out, said = Path(place) / "calls", Path(place) / "said"
        pids = [str(process.pid) for process in processes(mark)]
        command = [program, "-f", "-y", "-s", "0", "-e", f"trace={CALLS}", "-e", "signal=none", "-o", str(out)]
        with said.open("wb") as messages:
            watching = subprocess.Popen([*command, "-p", ",".join(pids)], stdout=messages, stderr=messages)
        try:
            until = time.monotonic() + ATTACH_S
            while said.read_text().count(" attached") < len(pids):
                if watching.poll() is not None or time.monotonic() > until:
                    raise FileNotFoundError(f"strace cannot attach: {said.read_text()[-300:]}")
                time.sleep(0.05)
            yield tally
        finally:
            watching.send_signal(signal.SIGINT)
            try:
                watching.wait(STOP_S)
            except subprocess.TimeoutExpired:
                watching.kill()  # It waits for a process that ends meanwhile; those that live are let go all the same.
                watching.wait(STOP_S)
        with out.open(errors="replace") as lines:
            tally.by_file = count(lines, [str(folder) for folder in folders])
