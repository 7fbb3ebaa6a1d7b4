from __future__ import annotations

import asyncio
import dataclasses
import functools
import inspect
import json
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from agentspan.agents.spec import OnCrash, RetryPolicy, ToolKind, ToolSpec
from agentspan.agents.tools import (
    TerminalToolError,
    ToolContext,
    ToolDef,
    function_tool,
    get_tool_def,
    get_tool_defs,
    human_tool,
    tool,
    wait_for_message_tool,
)
from agentspan.errors import ConfigurationError, ToolArgumentsError, ToolDefinitionError


@tool
def refund(order_id: str, amount: float = 1.0) -> str:
    """Refund an order.

    Args:
        order_id: The order.
    """
    return f"{order_id}: {amount}"


@tool(approval_required=True, retry_policy="exponential_backoff", on_crash="ask", max_calls=3, timeout_seconds=5)
async def look_up(query: str, ctx: ToolContext) -> str:
    """Look it up."""
    return f"{query} for {ctx.execution_id}"


def log_calls(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def logged(*args: Any, **kwargs: Any) -> Any:
        return ("logged", function(*args, **kwargs))

    return logged


# --- the decorator


def test_a_tool_stays_the_function_it_was() -> None:
    assert refund("a", amount=2) == "a: 2"
    assert refund.__name__ == "refund"
    assert (refund.__doc__ or "").startswith("Refund an order.")
    assert inspect.isfunction(refund)
    assert inspect.iscoroutinefunction(look_up)
    assert asyncio.run(look_up("q", ToolContext(execution_id="e1"))) == "q for e1"


def test_defaults() -> None:
    definition = get_tool_def(refund)
    assert definition is refund._tool_def  # type: ignore[attr-defined]
    assert definition.func is refund
    assert definition.spec() == ToolSpec(
        name="refund",
        description="Refund an order.",
        parameters={
            "type": "object",
            "properties": {
                "order_id": {"type": "string", "description": "The order."},
                "amount": {"type": "number", "default": 1.0},
            },
            "required": ["order_id"],
            "additionalProperties": False,
        },
        kind=ToolKind.FUNCTION,
        approval_required=False,
        timeout_seconds=None,
        retry_count=2,
        retry_delay_seconds=2.0,
        retry_policy=RetryPolicy.LINEAR_BACKOFF,
        max_calls=None,
        on_crash=OnCrash.RETRY,
    )
    assert not definition.is_async
    assert definition.wants_context is None
    json.dumps(dataclasses.asdict(definition.spec()))


def test_options_reach_the_spec() -> None:
    definition = get_tool_def(look_up)
    spec = definition.spec()
    assert (spec.approval_required, spec.retry_policy, spec.on_crash) == (
        True,
        RetryPolicy.EXPONENTIAL_BACKOFF,
        OnCrash.ASK,
    )
    assert (spec.max_calls, spec.timeout_seconds) == (3, 5)
    assert definition.is_async
    assert definition.wants_context == "ctx"
    assert list(spec.parameters["properties"]) == ["query"]


def test_name_and_description_can_be_given() -> None:
    @tool(name="other-name", description="Another description.")
    def function() -> None:
        """Lost."""

    definition = get_tool_def(function)
    assert (definition.name, definition.description) == ("other-name", "Another description.")


def test_function_tool_is_tool() -> None:
    assert function_tool is tool


def test_arguments_are_checked_and_converted() -> None:
    definition = get_tool_def(refund)
    arguments = definition.validate_arguments('{"order_id": 8821}')
    assert refund(**arguments) == "8821: 1.0"
    assert definition.plain_arguments(arguments) == {"order_id": "8821", "amount": 1.0}
    assert definition.recorded_arguments('{"order_id": 8821}') == {"order_id": "8821", "amount": 1.0}
    with pytest.raises(ToolArgumentsError, match="'refund'"):
        definition.validate_arguments("{}")


def test_one_function_can_be_two_tools() -> None:
    def add(a: int, b: int) -> int:
        return a + b

    first, second = tool(add, name="first"), tool(add, name="second")
    assert [definition.name for definition in get_tool_defs([first, second])] == ["first", "second"]
    assert first(1, 2) == second(1, 2) == 3
    for made in (first, second):
        assert get_tool_def(made).func is made


async def test_a_second_async_tool_stays_async() -> None:
    other = tool(look_up, name="other")
    assert get_tool_def(other).is_async
    assert await other("q", ToolContext(execution_id="e")) == "q for e"


# --- other things that can be called


class Desk:
    def __init__(self, name: str) -> None:
        self.name = name

    @tool
    def ring(self, times: int = 1) -> str:
        """Ring the desk."""
        return f"{self.name} x{times}"

    @staticmethod
    @tool
    def where(city: str) -> str:
        return city

    @classmethod
    @tool
    def kind(cls, city: str) -> str:
        return f"{cls.__name__} {city}"

    def plain(self, times: int) -> str:
        return f"plain {self.name} x{times}"


def test_a_method_is_a_tool_of_its_instance() -> None:
    first, second = get_tool_defs([Desk("a").ring, Desk("b").ring])
    assert first.func
    assert second.func
    assert list(first.input_schema["properties"]) == ["times"]
    assert first.func(**first.validate_arguments({})) == "a x1"
    assert second.func(**second.validate_arguments({"times": 2})) == "b x2"
    assert Desk("c").ring(3) == "c x3"


def test_a_method_without_its_instance_is_refused() -> None:
    with pytest.raises(ToolDefinitionError, match=r"tools=\[instance.method\]"):
        get_tool_def(Desk.ring)


def test_static_and_class_methods() -> None:
    where, kind = get_tool_defs([Desk.where, Desk.kind])
    assert where.func
    assert kind.func
    assert where.func(**where.validate_arguments({"city": "x"})) == "x"
    assert kind.func(**kind.validate_arguments({"city": "x"})) == "Desk x"


def test_a_bound_method_can_be_made_a_tool() -> None:
    made = tool(Desk("a").plain)
    definition = get_tool_def(made)
    assert definition.name == "plain"
    assert made(**definition.validate_arguments({"times": 2})) == "plain a x2"


class Searcher:
    """Search with state."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, query: str) -> int:
        self.calls += 1
        return self.calls


class AsyncSearcher:
    async def __call__(self, query: str) -> str:
        """Search asynchronously."""
        return query


async def test_callable_objects() -> None:
    made = tool(Searcher(), name="search")
    definition = get_tool_def(made)
    assert (definition.name, definition.description) == ("search", "Search with state.")
    assert [made(query="a"), made(query="a")] == [1, 2]
    assert "calls" not in made.__dict__  # type: ignore[attr-defined]

    later = tool(AsyncSearcher())
    definition = get_tool_def(later)
    assert (definition.name, definition.description, definition.is_async) == (
        "AsyncSearcher",
        "Search asynchronously.",
        True,
    )
    assert await later("q") == "q"


async def test_partials() -> None:
    made = tool(functools.partial(refund, amount=9.0), name="refund_nine")
    definition = get_tool_def(made)
    assert list(definition.input_schema["properties"]) == ["order_id"]
    assert made(**definition.validate_arguments({"order_id": "a"})) == "a: 9.0"
    assert get_tool_def(tool(functools.partial(look_up, "q"))).is_async


def test_a_decorator_above_tool_runs_too() -> None:
    above = log_calls(refund)
    definition = get_tool_def(above)
    assert definition.func is above
    assert definition.func(order_id="a") == ("logged", "a: 1.0")
    assert get_tool_def(refund).func is refund


def test_a_decorator_below_tool_runs_too() -> None:
    @tool
    @log_calls
    def function(a: int) -> int:
        return a

    definition = get_tool_def(function)
    assert definition.func is function
    assert list(definition.input_schema["properties"]) == ["a"]
    assert function(a=1) == ("logged", 1)


# --- refused definitions


@pytest.mark.parametrize(
    ("options", "needs"),
    [
        ({}, {}),
        ({"num_cpus": 0}, {"CPU": 0.0}),
        ({"num_gpus": 0.5}, {"CPU": 1.0, "GPU": 0.5}),
        ({"memory": 2**30, "num_cpus": 2.5}, {"CPU": 2.5, "memory": 2.0**30}),
        ({"resources": {"disk": 3}}, {"CPU": 1.0, "disk": 3.0}),
    ],
)
def test_what_a_tool_asks_for_is_in_its_spec(options: dict[str, Any], needs: dict[str, float]) -> None:
    @tool(**options)
    def function() -> None:
        """Compute."""

    assert get_tool_def(function).needs == get_tool_def(function).spec().needs == needs
    json.dumps(dataclasses.asdict(get_tool_def(function).spec()))


def test_who_runs_nothing_asks_for_nothing() -> None:
    with pytest.raises(ToolDefinitionError, match="a human answers it, so there is nothing to run"):
        dataclasses.replace(human_tool("ask", "Ask."), num_gpus=1)


def plain(a: int = 1) -> int:
    return a


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"retry_count": -1}, "retry_count is -1; give a whole number from 0 to 100"),
        ({"retry_count": 1.5}, "retry_count is 1.5"),
        ({"retry_count": True}, "retry_count is True"),
        ({"retry_count": 101}, "from 0 to 100"),
        ({"retry_delay_seconds": -1}, "retry_delay_seconds is -1"),
        ({"retry_delay_seconds": float("inf")}, "retry_delay_seconds is inf"),
        ({"retry_policy": "linear"}, "retry_policy is 'linear'.*It can be: fixed, linear_backoff, exponential_backoff"),
        ({"retry_policy": "exponential_backof"}, "Did you mean 'exponential_backoff'"),
        ({"retry_policy": None}, "retry_policy is None"),
        ({"on_crash": "aks"}, "on_crash is 'aks'. Did you mean 'ask'"),
        ({"timeout_seconds": 0}, "leave it out for no limit"),
        ({"timeout_seconds": "5"}, "timeout_seconds is '5'"),
        ({"timeout_seconds": float("nan")}, "timeout_seconds is nan"),
        ({"max_calls": 0}, "max_calls is 0"),
        ({"approval_required": "yes"}, "approval_required is 'yes'; give True or False"),
        ({"name": "has space"}, "1 to 64 letters"),
        ({"name": "x" * 65}, "1 to 64 letters"),
        ({"name": "new\nline"}, "1 to 64 letters"),
        ({"approval_require": True}, "no option 'approval_require'. Did you mean 'approval_required'"),
        ({"colour": 1}, "The options are: name, description, approval_required"),
        ({"guardrails": []}, "'guardrails' is not supported by this version"),
        ({"max_retries": 3}, "it is called 'retry_count' here"),
        ({"timeout": 3}, "it is called 'timeout_seconds' here"),
        ({"num_cpus": -1}, "num_cpus is -1; give a number, 0 or more"),
        ({"num_cpus": "2"}, "num_cpus is '2'"),
        ({"num_cpus": 1e-5}, "the least there is to ask for is 0.0001"),
        ({"num_gpus": 1.5}, "num_gpus is 1.5; above 1 it has to be a whole number"),
        ({"memory": 1.5e9}, "give whole bytes"),
        ({"memory": 10**15}, "give whole bytes"),
        ({"resources": ["disk"]}, "give a dict of names and amounts"),
        ({"resources": {"GPU": 1}}, "resources names 'GPU'; give num_gpus=... instead"),
        ({"resources": {"disk": True}}, r"resources\['disk'\] is True"),
    ],
)
def test_options_that_cannot_be_used(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ToolDefinitionError, match=says):
        tool(**options)(plain)
    with pytest.raises(ToolDefinitionError, match=says):
        tool(plain, **options)
    assert not hasattr(plain, "_tool_def")


def generator(a: int) -> Any:
    yield a


@pytest.mark.parametrize(
    ("thing", "says"),
    [
        ("refund", r"Write @tool\(name='refund'\)"),
        (5, "an int cannot be called"),
        (Desk, "it is a class"),
        (lambda a: a, "a lambda has no name"),
        (generator, "Return a list"),
        (staticmethod(plain), "Put @staticmethod above @tool"),
    ],
)
def test_things_that_cannot_be_tools(thing: Any, says: str) -> None:
    with pytest.raises(ToolDefinitionError, match=says):
        tool(thing)


def test_a_lambda_with_a_name_is_fine() -> None:
    assert tool(lambda a: a, name="same")(3) == 3


@pytest.mark.parametrize(
    ("thing", "says"),
    [(plain, r"Decorate it with @tool, or pass tool\(plain\)"), ("text", "a str is not a tool"), (None, "NoneType")],
)
def test_what_is_no_tool_is_refused_with_the_way_out(thing: Any, says: str) -> None:
    with pytest.raises(ToolDefinitionError, match=says):
        get_tool_defs([refund, thing])


# --- ToolDef by hand, human and message tools


def test_a_tool_def_by_hand_is_read_from_its_function() -> None:
    definition = ToolDef(name="hand", func=plain, retry_policy="fixed", on_crash="fail")  # type: ignore[arg-type]
    assert definition.validate_arguments({"a": "2"}) == {"a": 2}
    assert (definition.retry_policy, definition.on_crash) == (RetryPolicy.FIXED, OnCrash.FAIL)
    assert get_tool_def(definition) is definition


def test_a_tool_def_by_hand_can_advertise_another_schema() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer", "description": "better"}}}
    assert ToolDef(name="hand", func=plain, input_schema=schema).spec().parameters == schema


def test_a_function_tool_needs_a_function() -> None:
    with pytest.raises(ToolDefinitionError, match="no function to run"):
        ToolDef(name="hand")


def test_a_schema_must_be_an_object_schema() -> None:
    with pytest.raises(ToolDefinitionError, match="object"):
        human_tool("ask", "Ask.", input_schema={"type": "string"})


def test_definitions_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_tool_def(refund).name = "x"  # type: ignore[misc]


def test_a_human_tool_asks_a_question() -> None:
    ask = human_tool("ask_boss", "Ask the boss.")
    spec = ask.spec()
    assert spec.kind is ToolKind.HUMAN
    assert spec.parameters["required"] == ["question"]
    assert ask.validate_arguments('{"question": "May I?"}') == {"question": "May I?"}
    assert ask.plain_arguments({"question": "May I?"}) == {"question": "May I?"}
    assert ask.recorded_arguments('{"question": "May I?"}') == {"question": "May I?"}
    assert not ask.is_async
    with pytest.raises(ToolArgumentsError, match="Did you mean 'question'"):
        ask.validate_arguments({"questoin": "May I?"})


def test_default_schemas_are_not_shared() -> None:
    human_tool("a", "").input_schema["properties"]["extra"] = {}
    assert "extra" not in human_tool("b", "").input_schema["properties"]


class Answer(BaseModel):
    yes: bool


def test_a_human_tools_answer_can_have_a_type() -> None:
    asked = human_tool("ask", "Ask.", {"type": "object"}, Answer)
    assert asked.response_schema == {
        "type": "object",
        "properties": {"yes": {"type": "boolean"}},
        "required": ["yes"],
    }
    assert asked.validate_arguments({"anything": 1}) == {"anything": 1}
    with pytest.raises(ToolDefinitionError, match="response_schema"):
        human_tool("ask", "Ask.", None, Searcher)


def test_a_message_tool_waits_for_messages() -> None:
    spec = wait_for_message_tool("listen", "Listen.", batch_size=3, blocking=False).spec()
    assert (spec.kind, spec.batch_size, spec.blocking) == (ToolKind.MESSAGE, 3, False)
    assert spec.parameters == {"type": "object", "properties": {}, "additionalProperties": False}
    with pytest.raises(ToolDefinitionError, match="batch_size is 0"):
        wait_for_message_tool("listen", "Listen.", batch_size=0)


def test_the_error_tree() -> None:
    assert issubclass(ToolDefinitionError, ConfigurationError)
    assert str(TerminalToolError("no such order")) == "no such order"


# --- the trip to another process

SHIPPED = '''
from __future__ import annotations
import enum
from typing import Annotated
from pydantic import BaseModel, Field
from agentspan.agents import Agent, ToolContext, tool

class Colour(enum.Enum):
    RED = "red"

class Item(BaseModel):
    name: str
    price: float = 1.0

class Order(BaseModel):
    items: list[Item]

@tool(on_crash="fail")
def order(item: Item, count: Annotated[int, Field(ge=1)], ctx: ToolContext, colour: Colour = Colour.RED) -> str:
    """Order it."""
    return f"{count} {colour.value} {item.name} for {ctx.execution_id}"

class Shop:
    @tool
    async def close(self, at: int) -> int:
        return at

agent = Agent("shop", "m/x", lambda: "Sell.", [order, Shop().close, tool(order, name="again")], output_type=Order)
'''


def ship(name: str) -> types.ModuleType:
    """A module that cannot be imported where its pickle arrives, as `__main__` or a notebook cannot."""
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(compile(SHIPPED, name, "exec", dont_inherit=True), module.__dict__)
    return module


async def test_tools_and_agents_shipped_by_value_work_without_their_module() -> None:
    from ray import cloudpickle

    module = ship("shipped_by_value")
    cloudpickle.register_pickle_by_value(module)
    try:
        # Validators that were built and used must not get in the way.
        module.agent.tool_defs["order"].validate_arguments({"item": {"name": "a"}, "count": 1})
        body = cloudpickle.dumps(module.agent)
    finally:
        cloudpickle.unregister_pickle_by_value(module)
        del sys.modules["shipped_by_value"]

    agent = cloudpickle.loads(body)
    assert agent.spec() == module.agent.spec()
    for name in ("order", "again"):
        definition = agent.tool_defs[name]
        arguments = definition.validate_arguments('{"item": {"name": "tea"}, "count": "2"}')
        assert definition.plain_arguments(arguments) == {
            "item": {"name": "tea", "price": 1.0},
            "count": 2,
            "colour": "red",
        }
        arguments[definition.wants_context] = ToolContext(execution_id="e1")
        assert definition.func(**arguments) == "2 red tea for e1"
        with pytest.raises(ToolArgumentsError, match="count"):
            definition.validate_arguments({"item": {"name": "tea"}, "count": 0})
    assert await agent.tool_defs["close"].func(at=3) == 3
    assert agent.resolve_instructions(None) == "Sell."
    plain, instance = agent.parse_output('{"items": [{"name": "tea"}]}')
    assert plain == {"items": [{"name": "tea", "price": 1.0}]}
    assert agent.load_output(plain) == instance


def test_an_importable_tool_is_pickled_by_name() -> None:
    from ray import cloudpickle

    assert cloudpickle.loads(cloudpickle.dumps(refund)) is refund
    assert len(cloudpickle.dumps(get_tool_def(refund))) < 4000
