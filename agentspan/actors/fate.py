"""An actor's process must not outlive its node.

When a server is killed, Ray's own workers run on for a minute: with the GCS gone too, they wait for it to come back
(measured: 61 s). Two supervisors would then look after one store, and although no stale write could land, each would take
executions away from the other. So the kernel ends an actor's process together with the raylet that started it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

PR_SET_PDEATHSIG = 1
CHECK_S = 0.5


def share_fate_with_raylet() -> None:
    """End this process when its parent, the raylet, has ended. Does nothing outside a Ray worker."""
    raylet = os.environ.get("RAY_RAYLET_PID")
    if raylet is None:
        return
    if sys.platform == "linux" and os.getppid() == int(raylet):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(raylet):  # It ended a moment before.
            os._exit(1)
        return
    threading.Thread(target=_watch, args=(int(raylet),), name="agentspan-fate", daemon=True).start()


def _watch(raylet: int) -> None:
    """For platforms whose kernel does not do it."""
    while True:
        try:
            os.kill(raylet, 0)
        except ProcessLookupError:
            os._exit(1)
        except PermissionError:
            pass  # It lives, as another user.
        time.sleep(CHECK_S)
