"""What users test their own agents with.

Names load on first use, so that importing one tool does not import the others.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentspan.testing.crash import Crash as Crash
    from agentspan.testing.crash import CrashingModel as CrashingModel
    from agentspan.testing.crash import CrashingStore as CrashingStore
    from agentspan.testing.crash import CrashPoint as CrashPoint
    from agentspan.testing.crash import crash_at as crash_at
    from agentspan.testing.scripted import ScriptedModel as ScriptedModel
    from agentspan.testing.scripted import read_ledger as read_ledger
    from agentspan.testing.scripts import Failure as Failure
    from agentspan.testing.scripts import ScriptedCall as ScriptedCall
    from agentspan.testing.scripts import Turn as Turn
    from agentspan.testing.scripts import after as after
    from agentspan.testing.scripts import call as call
    from agentspan.testing.scripts import calls as calls
    from agentspan.testing.scripts import fail as fail
    from agentspan.testing.scripts import raw_call as raw_call
    from agentspan.testing.scripts import say as say

_HOMES = {
    "Crash": "agentspan.testing.crash",
    "CrashPoint": "agentspan.testing.crash",
    "CrashingModel": "agentspan.testing.crash",
    "CrashingStore": "agentspan.testing.crash",
    "crash_at": "agentspan.testing.crash",
    "ScriptedModel": "agentspan.testing.scripted",
    "read_ledger": "agentspan.testing.scripted",
    "Failure": "agentspan.testing.scripts",
    "ScriptedCall": "agentspan.testing.scripts",
    "Turn": "agentspan.testing.scripts",
    "after": "agentspan.testing.scripts",
    "call": "agentspan.testing.scripts",
    "calls": "agentspan.testing.scripts",
    "fail": "agentspan.testing.scripts",
    "raw_call": "agentspan.testing.scripts",
    "say": "agentspan.testing.scripts",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)
