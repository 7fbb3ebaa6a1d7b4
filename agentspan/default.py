"""The default runtime: `run`, `start` and the others without making an `AgentRuntime` first."""

from __future__ import annotations

import atexit
import threading
from typing import Any

from agentspan.agents.results import AgentResult, DeploymentInfo
from agentspan.errors import ConfigurationError
from agentspan.handle import AgentHandle, AgentStream, AsyncAgentStream
from agentspan.runtime import AgentRuntime

_lock = threading.Lock()
_runtime: AgentRuntime | None = None
_options: dict[str, Any] = {}


def configure(**options: Any) -> None:
    """Set the arguments of the default `AgentRuntime`. Call it before the default runtime is first used.

    Raises:
        ConfigurationError: The default runtime is in use already.
    """
    global _options
    with _lock:
        if _runtime is not None:
            raise ConfigurationError(
                problem="configure() has to come before the default runtime is used; shutdown() first."
            )
        _options = options


def default_runtime() -> AgentRuntime:
    """The runtime that module-level functions use, made on first use."""
    global _runtime
    with _lock:
        if _runtime is None:
            _runtime = AgentRuntime(**_options)
            atexit.register(shutdown)
        return _runtime


def shutdown() -> None:
    """Let go of the default runtime; the next use makes a new one."""
    global _runtime
    with _lock:
        runtime, _runtime = _runtime, None
    if runtime is not None:
        runtime.shutdown()


def run(agent: Any, prompt: Any = None, *, runtime: AgentRuntime | None = None, **more: Any) -> AgentResult:
    """`AgentRuntime.run` on the default runtime."""
    return (runtime or default_runtime()).run(agent, prompt, **more)


async def run_async(agent: Any, prompt: Any = None, *, runtime: AgentRuntime | None = None, **more: Any) -> AgentResult:
    """`AgentRuntime.run_async` on the default runtime."""
    return await (runtime or default_runtime()).run_async(agent, prompt, **more)


def start(agent: Any, prompt: Any = None, *, runtime: AgentRuntime | None = None, **more: Any) -> AgentHandle:
    """`AgentRuntime.start` on the default runtime."""
    return (runtime or default_runtime()).start(agent, prompt, **more)


async def start_async(
    agent: Any, prompt: Any = None, *, runtime: AgentRuntime | None = None, **more: Any
) -> AgentHandle:
    """`AgentRuntime.start_async` on the default runtime."""
    return await (runtime or default_runtime()).start_async(agent, prompt, **more)


def stream(agent: Any = None, prompt: Any = None, *, runtime: AgentRuntime | None = None, **more: Any) -> AgentStream:
    """`AgentRuntime.stream` on the default runtime."""
    return (runtime or default_runtime()).stream(agent, prompt, **more)


async def stream_async(
    agent: Any = None, prompt: Any = None, *, runtime: AgentRuntime | None = None, **more: Any
) -> AsyncAgentStream:
    """`AgentRuntime.stream_async` on the default runtime."""
    return await (runtime or default_runtime()).stream_async(agent, prompt, **more)


def deploy(*agents: Any, runtime: AgentRuntime | None = None, **more: Any) -> list[DeploymentInfo]:
    """`AgentRuntime.deploy` on the default runtime."""
    return (runtime or default_runtime()).deploy(*agents, **more)


async def deploy_async(*agents: Any, runtime: AgentRuntime | None = None) -> list[DeploymentInfo]:
    """`AgentRuntime.deploy_async` on the default runtime."""
    return await (runtime or default_runtime()).deploy_async(*agents)


def serve(*agents: Any, blocking: bool = True, runtime: AgentRuntime | None = None) -> None:
    """`AgentRuntime.serve` on the default runtime."""
    (runtime or default_runtime()).serve(*agents, blocking=blocking)


def resume(execution_id: str, agent: Any = None, *, runtime: AgentRuntime | None = None) -> AgentHandle:
    """`AgentRuntime.resume` on the default runtime."""
    return (runtime or default_runtime()).resume(execution_id, agent)


async def resume_async(execution_id: str, agent: Any = None, *, runtime: AgentRuntime | None = None) -> AgentHandle:
    """`AgentRuntime.resume_async` on the default runtime."""
    return await (runtime or default_runtime()).resume_async(execution_id, agent)
