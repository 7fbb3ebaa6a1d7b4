"""AgentSpan: AI agents that survive the process that runs them.

`agentspan.agents` is the documented home of the public names; the same names can be imported from here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from agentspan.agents import *  # noqa: F403


def __getattr__(name: str) -> Any:
    # Lazily, so that `import agentspan.errors` (and an actor's cold start) does not pay for the whole package.
    # `from agentspan import errors` asks here first; `agents` itself, still being imported, must not.
    if name.startswith("__") or name == "agents":
        raise AttributeError(name)
    try:
        return getattr(importlib.import_module("agentspan.agents"), name)
    except AttributeError:
        raise AttributeError(f"module 'agentspan' has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted({*globals(), *importlib.import_module("agentspan.agents").__all__})
