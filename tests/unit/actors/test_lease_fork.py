"""A forked child is not the server."""

from __future__ import annotations

import os
from pathlib import Path

from agentspan.actors.lease import Lease


def test_a_child_that_outlives_the_server_does_not_keep_its_lease(tmp_path: Path) -> None:
    lease = Lease(tmp_path)
    assert lease.take()
    asked, answer = os.pipe()
    is_ready, ready = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(ready, b"x")
        os.read(asked, 1)  # Outlives the parent's lease.
        os._exit(0)
    try:
        os.read(is_ready, 1)
        lease.release()
        assert not Lease(tmp_path).is_held()
        assert Lease(tmp_path).take()
    finally:
        os.write(answer, b"x")
        os.waitpid(child, 0)
        for end in (asked, answer, is_ready, ready):
            os.close(end)
