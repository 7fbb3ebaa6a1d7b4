"""The public names. `from agentspan.agents import Agent, tool, AgentRuntime` is the documented way in.

What a user writes and reads is imported here. What runs it (`AgentRuntime`, `run`, `deploy` ...) needs Ray and is
looked up when it is first asked for, so that an agent's code can be loaded without it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from agentspan.agents.agent import Agent, agent
from agentspan.agents.callbacks import CallbackHandler
from agentspan.agents.context import InstructionsContext, StopContext, ToolContext
from agentspan.agents.events import AgentEvent, EventType
from agentspan.agents.results import (
    AgentResult,
    AgentStatus,
    DeploymentInfo,
    FinishReason,
    PendingTool,
    Status,
    TokenUsage,
    ToolCallRecord,
)
from agentspan.agents.spec import AgentSpec, OnCrash, RetryPolicy, ToolKind, ToolSpec
from agentspan.agents.tools import (
    ToolDef,
    function_tool,
    get_tool_def,
    get_tool_defs,
    human_tool,
    tool,
    wait_for_message_tool,
)
from agentspan.errors import (
    AgentNotFoundError,
    AgentspanError,
    ConfigurationError,
    OutputFormatError,
    TerminalToolError,
    ToolArgumentsError,
    ToolDefinitionError,
)

if TYPE_CHECKING:
    from agentspan.default import (
        configure,
        deploy,
        deploy_async,
        resume,
        resume_async,
        run,
        run_async,
        serve,
        shutdown,
        start,
        start_async,
        stream,
        stream_async,
    )
    from agentspan.handle import AgentHandle, AgentStream, AsyncAgentStream
    from agentspan.runtime import AgentRuntime

_LATER = {
    "agentspan.runtime": ("AgentRuntime",),
    "agentspan.handle": ("AgentHandle", "AgentStream", "AsyncAgentStream"),
    "agentspan.default": (
        "configure",
        "deploy",
        "deploy_async",
        "resume",
        "resume_async",
        "run",
        "run_async",
        "serve",
        "shutdown",
        "start",
        "start_async",
        "stream",
        "stream_async",
    ),
}
_WHERE = {name: module for module, names in _LATER.items() for name in names}

__all__ = [
    "Agent",
    "AgentEvent",
    "AgentHandle",
    "AgentNotFoundError",
    "AgentResult",
    "AgentRuntime",
    "AgentSpec",
    "AgentStatus",
    "AgentStream",
    "AgentspanError",
    "AsyncAgentStream",
    "CallbackHandler",
    "ConfigurationError",
    "DeploymentInfo",
    "EventType",
    "FinishReason",
    "InstructionsContext",
    "OnCrash",
    "OutputFormatError",
    "PendingTool",
    "RetryPolicy",
    "Status",
    "StopContext",
    "TerminalToolError",
    "TokenUsage",
    "ToolArgumentsError",
    "ToolCallRecord",
    "ToolContext",
    "ToolDef",
    "ToolDefinitionError",
    "ToolKind",
    "ToolSpec",
    "agent",
    "configure",
    "deploy",
    "deploy_async",
    "function_tool",
    "get_tool_def",
    "get_tool_defs",
    "human_tool",
    "resume",
    "resume_async",
    "run",
    "run_async",
    "serve",
    "shutdown",
    "start",
    "start_async",
    "stream",
    "stream_async",
    "tool",
    "wait_for_message_tool",
]


def __getattr__(name: str) -> Any:
    module = _WHERE.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    return sorted(__all__)
