"""A forked child is not the server."""

from __future__ import annotations

import os
from pathlib import Path

from agentspan.actors.lease import Lease


def test_a_child_that_outlives_the_server_does_not_keep_its_lease(tmp_path: Path) -> None:
    lease = Lease(tmp_path)
    assert lease.take()
    asked, answer = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(asked, 1)  # Outlives the parent's lease.
        os._exit(0)
    try:
        lease.release()
        assert not Lease(tmp_path).is_held()
        assert Lease(tmp_path).take()
    finally:
        os.write(answer, b"x")
        os.waitpid(child, 0)
        os.close(asked)
        os.close(answer)
