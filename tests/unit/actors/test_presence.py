"""A mark is there exactly as long as the process that took it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from agentspan.actors.presence import Presence

SCRIPT = """
import json, sys
from pathlib import Path
from agentspan.actors.presence import Presence
here = Presence(Path(sys.argv[1]))
print(json.dumps(here.mark), flush=True)
for line in sys.stdin:
    print(json.dumps(here.is_there(json.loads(line))), flush=True)
"""


class Other:
    """A process with a mark of its own."""

    def __init__(self, home: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.mark = self._answer()

    def sees(self, mark: dict[str, Any]) -> bool:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(mark) + "\n")
        self.process.stdin.flush()
        return bool(self._answer())

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def test_processes_see_each_other_until_they_end(tmp_path: Path) -> None:
    mine, other = Presence(tmp_path), Other(tmp_path)
    try:
        assert mine.is_there(other.mark)
        assert other.sees(mine.mark)
        assert mine.is_there(mine.mark)
        assert other.sees(mine.mark), "a look at one's own lets go of nothing"
        mine.leave()
        mine.leave()
        assert not other.sees(mine.mark)
    finally:
        other.kill()
    assert not mine.is_there(other.mark), "killed, and nobody had to clean up"


def test_two_parts_of_one_process_come_and_go_by_themselves(tmp_path: Path) -> None:
    one, two, other = Presence(tmp_path), Presence(tmp_path), Other(tmp_path)
    try:
        assert one.mark != two.mark
        one.leave()
        assert not two.is_there(one.mark)
        assert one.is_there(two.mark)
        assert other.sees(two.mark)
    finally:
        two.leave()
        other.kill()


FORKING = """
import os, sys
from pathlib import Path
from agentspan.actors.presence import Presence
mine = Presence(Path(sys.argv[1]))
if os.fork() == 0:
    mine.leave()  # What is not its own it does not let go of either.
    os._exit(0)
os.wait()
print(mine.mark["byte"], flush=True)
os.read(0, 1)
if os.fork() == 0:
    os.read(0, 1)  # It outlives its parent.
    os._exit(0)
os._exit(0)
"""


def test_a_forked_child_neither_drops_nor_keeps_the_mark_of_its_parent(tmp_path: Path) -> None:
    mine = Presence(tmp_path)
    parent = subprocess.Popen(
        [sys.executable, "-c", FORKING, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    mark = {**mine.mark, "byte": int(parent.stdout.readline())}
    assert mine.is_there(mark)
    parent.stdin.write("x")
    parent.stdin.flush()
    parent.wait()
    assert not mine.is_there(mark)
    parent.communicate()
    mine.leave()


def test_of_another_home_nobody_can_tell(tmp_path: Path) -> None:
    here, there = Presence(tmp_path / "a"), Presence(tmp_path / "b")
    there.leave()
    assert here.is_there(there.mark)
    assert json.loads(json.dumps(here.mark)) == here.mark
    here.leave()
