from __future__ import annotations

import inspect
import pickle
import subprocess
import sys
import types
from typing import Any

import pytest

import agentspan.agents as public
from agentspan.agents import Agent, agent
from agentspan.errors import OutputFormatError, ToolArgumentsError

RUNTIME = [
    "AgentHandle",
    "AgentRuntime",
    "AgentStream",
    "AsyncAgentStream",
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
]
DEFINED = [
    "Agent",
    "AgentEvent",
    "AgentNotFoundError",
    "AgentResult",
    "AgentSpec",
    "AgentStatus",
    "AgentspanError",
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
    "function_tool",
    "get_tool_def",
    "get_tool_defs",
    "human_tool",
    "tool",
    "wait_for_message_tool",
]


def test_the_public_names() -> None:
    assert sorted(public.__all__) == sorted(DEFINED + RUNTIME)
    assert dir(public) == sorted(public.__all__)
    for name in DEFINED:
        assert getattr(public, name) is not None


def test_what_runs_agents_is_looked_up_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("agentspan.runtime", "agentspan.handle", "agentspan.default"):
        stand_in: Any = types.ModuleType(module)
        for name in RUNTIME:
            setattr(stand_in, name, f"the {name}")
        monkeypatch.setitem(sys.modules, module, stand_in)
    for name in RUNTIME:
        assert getattr(public, name) == f"the {name}"


def test_other_names_are_not_there() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = public.Nothing


def test_agent_is_the_decorator_and_not_its_module() -> None:
    assert inspect.isfunction(agent)
    assert sys.modules["agentspan.agents.agent"].Agent is Agent  # type: ignore[attr-defined]


def test_defining_agents_needs_neither_ray_nor_a_model_client() -> None:
    code = (
        "import sys, agentspan.agents.tools\n"
        "heavy = ('ray', 'openai', 'langgraph', 'rich', 'agentspan.runtime')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "error",
    [
        ToolArgumentsError(tool="t", problems={"a": "bad"}, listing="- a: bad", accepted="It takes no arguments."),
        OutputFormatError(output="Verdict", problems={"": "bad"}, listing="- bad"),
    ],
)
def test_errors_survive_the_trip_between_processes(error: Any) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert again.facts == error.facts
    assert str(again) == str(error)
    assert isinstance(again, ValueError)
