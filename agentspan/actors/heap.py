"""The garbage collector in a process that is made ready once and then runs for others.

What imports bring stays for the life of the process: several hundred thousand objects. Collections while it is built up
find nothing, and a full one later, in the middle of somebody's step, takes a tenth of a second to go through it.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def lasting() -> Iterator[None]:
    """What is made in this block, and all before it, is never looked at by the garbage collector again.

    Not for a process in which executions run: cycles that they have made and still hold would stay for ever.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()
