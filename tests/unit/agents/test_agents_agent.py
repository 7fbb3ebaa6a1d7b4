from __future__ import annotations

import dataclasses
import inspect
import json
from typing import Any

import pytest
from pydantic import BaseModel

from agentspan.agents import Agent, CallbackHandler, InstructionsContext, StopContext, agent, human_tool, tool
from agentspan.agents.agent_checks import LATER_OPTIONS
from agentspan.agents.spec import AgentSpec
from agentspan.errors import ConfigurationError, OutputFormatError, ToolDefinitionError


@tool
def search(query: str) -> str:
    """Search."""
    return query


class Verdict(BaseModel):
    ok: bool


CONTEXT = InstructionsContext(execution_id="e1", agent_name="a", state={"n": 1}, dependencies={"db": "d"})


def test_the_first_arguments_can_be_given_by_place() -> None:
    made = Agent("support", "openai/gpt-4o", "Help.", [search])
    assert (made.name, made.model, made.instructions) == ("support", "openai/gpt-4o", "Help.")
    assert [definition.name for definition in made.tools] == ["search"]
    assert made.tool_defs == {"search": made.tools[0]}
    assert list(inspect.signature(Agent).parameters)[:4] == ["name", "model", "instructions", "tools"]


def test_defaults() -> None:
    assert Agent("a").spec() == AgentSpec(name="a", model="", max_turns=25, timeout_seconds=None)


def test_the_spec_is_plain_data() -> None:
    made = Agent(
        "a",
        "m/x",
        tools=[search, human_tool("ask", "Ask.")],
        output_type=Verdict,
        max_turns=3,
        max_tokens=100,
        temperature=0,
        timeout_seconds=60,
        metadata={"team": "x", "ids": (1, 2)},
        base_url="http://localhost:1",
    )
    spec = made.spec()
    assert list(spec.tools) == ["search", "ask"]
    assert spec.output_name == "Verdict"
    assert (spec.output_schema or {})["required"] == ["ok"]
    assert (spec.max_turns, spec.max_tokens, spec.temperature, spec.timeout_seconds) == (3, 100, 0, 60)
    assert spec.base_url == "http://localhost:1"
    assert spec.metadata == {"team": "x", "ids": [1, 2]}
    json.dumps(dataclasses.asdict(spec))


def test_an_agent_does_not_change() -> None:
    made = Agent("a")
    with pytest.raises(AttributeError, match="Make another Agent"):
        made.model = "other"
    with pytest.raises(AttributeError, match="Make another Agent"):
        del made.model
    assert repr(made) == "Agent(name='a', model='', tools=[])"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": "1st"}, "'1st' cannot name an agent"),
        ({"name": "with space"}, "cannot name an agent"),
        ({"name": "line\n"}, "cannot name an agent"),
        ({"name": None}, "None cannot name an agent"),
        ({"model": None}, "model is None"),
        ({"max_turns": 0}, "max_turns is 0"),
        ({"max_turns": 2.0}, "max_turns is 2.0"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"temperature": 2.1}, "temperature is 2.1; give a number from 0 to 2"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"timeout_seconds": -1}, "timeout_seconds is -1; give seconds, or 0 for none"),
        ({"instructions": 5}, "instructions is an int"),
        ({"instructions": lambda a, b: ""}, "takes nothing or one InstructionsContext"),
        ({"instructions": lambda *, a: ""}, "takes nothing or one InstructionsContext"),
        ({"tools": search}, "tools is a function; give a list"),
        ({"tools": "search"}, "tools is a str; give a list"),
        ({"tools": [search, search]}, "two tools are called 'search'"),
        ({"output_type": object()}, "output_type"),
        ({"metadata": {"x": object()}}, "metadata is stored.*JSON"),
        ({"metadata": [1]}, "metadata is a list"),
        ({"dependencies": [1]}, "dependencies is a list"),
        ({"dependencies": {1: 2}}, "dict with text keys"),
        ({"base_url": 5}, "base_url is an int"),
        ({"stop_when": "never"}, "stop_when is a str; give a function"),
        ({"before_model_callback": 5}, "before_model_callback is an int"),
        ({"callbacks": [CallbackHandler]}, r"give an instance: CallbackHandler\(\)"),
        ({"callbacks": [print]}, "instances of CallbackHandler"),
        ({"max_turn": 5}, "no option 'max_turn'. Did you mean 'max_turns'"),
        ({"colour": 5}, "The options are: name, model, instructions, tools"),
    ],
)
def test_what_an_agent_cannot_be_made_of(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        Agent(**{"name": "a", **options})


def test_a_plain_function_is_not_a_tool() -> None:
    def plain() -> None: ...

    with pytest.raises(ToolDefinitionError, match="Decorate it with @tool"):
        Agent("a", tools=[plain])


@pytest.mark.parametrize("option", sorted(LATER_OPTIONS))
def test_options_of_later_versions_are_refused_by_name(option: str) -> None:
    with pytest.raises(ConfigurationError, match=f"'{option}' is not supported by this version"):
        Agent("a", **{option: "x"})
    for off in (None, False, []):
        Agent("a", **{option: off})  # Switched off is what this version does.


# --- instructions


async def written(context: InstructionsContext) -> str:
    return f"async {context.execution_id}"


@pytest.mark.parametrize(
    ("instructions", "said"),
    [
        ("Plain.", "Plain."),
        (lambda: "Nothing.", "Nothing."),
        (lambda context: f"n={context.state['n']}", "n=1"),
        (lambda context=None: context.agent_name, "a"),
        (lambda mood="kind": mood, "kind"),
        (written, "async e1"),
    ],
)
async def test_instructions_can_be_text_or_a_function(instructions: Any, said: str) -> None:
    text = Agent("a", instructions=instructions).resolve_instructions(CONTEXT)
    assert (text if isinstance(text, str) else await text) == said


async def test_instructions_must_return_text() -> None:
    async def later() -> Any:
        return None

    with pytest.raises(ConfigurationError, match="returned an int"):
        Agent("a", instructions=lambda: 5).resolve_instructions(CONTEXT)
    said = Agent("a", instructions=later).resolve_instructions(CONTEXT)
    assert not isinstance(said, str)
    with pytest.raises(ConfigurationError, match="returned None"):
        await said


def test_errors_of_the_users_function_come_through() -> None:
    def broken() -> str:
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        Agent("a", instructions=broken).resolve_instructions(CONTEXT)


# --- outputs


def test_typed_output() -> None:
    made = Agent("a", output_type=Verdict)
    assert made.parse_output('{"ok": true}') == ({"ok": True}, Verdict(ok=True))
    assert made.load_output({"ok": True}) == Verdict(ok=True)
    with pytest.raises(OutputFormatError):
        made.parse_output("fine")


def test_text_output() -> None:
    made = Agent("a")
    assert made.parse_output("fine") == ("fine", "fine")
    assert made.load_output("fine") == "fine"
    assert made.output_schema is None


# --- stop_when


def test_the_stop_context_can_be_read_by_key() -> None:
    context = StopContext(result="TERMINATE", turn=3, messages=[{"role": "user"}])
    assert (context["result"], context["iteration"], context["turn"]) == ("TERMINATE", 3, 3)
    assert context.get("messages") == [{"role": "user"}]
    assert context.get("tokens", 0) == 0
    with pytest.raises(KeyError):
        context["tokens"]


# --- @agent


async def test_the_docstring_is_the_instructions() -> None:
    @agent
    def helper() -> None:
        """You help.

        Always.
        """

    assert isinstance(helper, Agent)
    assert helper.name == "helper"
    assert helper.resolve_instructions(CONTEXT) == "You help.\n\nAlways."


async def test_returned_text_is_the_instructions() -> None:
    @agent(name="other", model="m/x", tools=[search], max_turns=2)
    async def helper(context: InstructionsContext) -> str:
        """Lost."""
        return f"You help {context.execution_id}."

    assert (helper.name, helper.model, helper.max_turns) == ("other", "m/x", 2)
    assert list(helper.tool_defs) == ["search"]
    said = helper.resolve_instructions(CONTEXT)
    assert not isinstance(said, str)
    assert await said == "You help e1."


def test_options_of_the_decorator_are_those_of_agent() -> None:
    with pytest.raises(ConfigurationError, match="Did you mean 'max_turns'"):
        agent(name="a", max_turn=3)(lambda: None)
    with pytest.raises(ConfigurationError, match="leave instructions= out"):
        agent(name="a", instructions="x")(lambda: None)
    with pytest.raises(ConfigurationError, match="takes nothing or one"):
        agent(name="a")(lambda a, b: None)


# --- callbacks


class Recorder(CallbackHandler):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def on_model_start(self, *, messages: Any = None, **kwargs: Any) -> None:
        self.heard.append(f"{len(messages)} messages")

    async def on_tool_end(self, **kwargs: Any) -> None:
        self.heard.append(kwargs["tool_name"])


async def test_handlers_are_kept_in_order() -> None:
    first, second = Recorder(), Recorder()
    made = Agent("a", callbacks=[first, second])
    assert made.callbacks == (first, second)
    assert made.callbacks[0].on_model_start(messages=[1]) is None
    answer = made.callbacks[0].on_tool_end(tool_name="t")
    assert answer is not None
    await answer
    assert first.heard == ["1 messages", "t"]
    assert made.callbacks[0].on_agent_start(prompt="x") is None


async def test_single_functions_become_a_handler_and_get_what_they_name() -> None:
    heard: list[Any] = []

    def before_model(messages: Any = None, **kwargs: Any) -> dict[str, Any]:
        heard.append((messages, sorted(kwargs)))
        return {}

    def after_model(llm_result: Any = None) -> None:
        heard.append(llm_result)

    async def after_agent(output: Any) -> None:
        heard.append(output)

    made = Agent(
        "a",
        callbacks=[Recorder()],
        before_model_callback=before_model,
        after_model_callback=after_model,
        after_agent_callback=after_agent,
    )
    handler = made.callbacks[1]
    assert handler.on_model_start(messages=[], turn=1) is None
    assert handler.on_model_end(text="t", llm_result="t", turn=1) is None
    assert handler.on_agent_start(prompt="p") is None
    assert handler.on_tool_start(tool_name="x") is None
    answer = handler.on_agent_end(output="o", status="COMPLETED")
    assert answer is not None
    await answer
    assert heard == [([], ["turn"]), "t", "o"]
