"""Agents of langchain and langgraph's prebuilt one, with a scripted model: in the process, or behind real HTTP."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware, before_model
from langchain.agents.structured_output import ToolStrategy
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool
from langgraph.types import interrupt
from pydantic import BaseModel

from tests.support.graph_runs import RUNS
from tests.support.model_server import Reply, text


class ScriptedChat(BaseChatModel):
    """Answers by how many answers the conversation has already."""

    replies: list[dict[str, Any]]

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **options: Any) -> Any:
        return self

    def _generate(self, messages: list[BaseMessage], *args: Any, **options: Any) -> ChatResult:
        turn = sum(isinstance(message, AIMessage) for message in messages)
        RUNS.enter(f"model{turn}")
        usage = {"input_tokens": 11, "output_tokens": 7, "total_tokens": 18}
        answer = AIMessage(**self.replies[turn], usage_metadata=usage)
        return ChatResult(generations=[ChatGeneration(message=answer)])


def call(name: str, number: int, **arguments: Any) -> dict[str, Any]:
    return {"name": name, "args": arguments, "id": f"call_{number}", "type": "tool_call"}


def says(content: str) -> dict[str, Any]:
    return {"content": content}


def calls(*wanted: dict[str, Any]) -> dict[str, Any]:
    return {"content": "", "tool_calls": list(wanted)}


@tool
async def weather(city: str) -> str:
    """The weather in a city."""
    RUNS.enter(f"weather {city}")
    return f"sunny in {city}"


@tool
def mail(to: str, body: str) -> str:
    """Send a mail."""
    RUNS.enter(f"mail {to}")
    return f"sent {body!r} to {to}"


@tool
def refund(amount: int) -> str:
    """Give money back, if somebody agrees."""
    RUNS.enter(f"refund {amount}")
    answer = interrupt({"question": f"refund {amount}?", "amount": amount})
    return f"refunded {amount}: {answer}"


def chat(url: str) -> Any:
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(model="gpt-4o", base_url=url, api_key="sk-test", max_retries=0)  # type: ignore[arg-type]


TOOLS_SCRIPT = [
    Reply(
        calls=[
            {"name": "weather", "arguments": '{"city": "Oslo"}'},
            {"name": "weather", "arguments": '{"city": "Rome"}'},
            {"name": "mail", "arguments": '{"to": "kim", "body": "hi"}'},
        ]
    ),
    Reply(calls=[{"name": "weather", "arguments": '{"city": "Cairo"}'}]),
    text("All sunny."),
]
WEATHER_AND_MAIL = [
    calls(call("weather", 1, city="Oslo"), call("mail", 2, to="kim", body="hi"), call("mail", 3, to="lee", body="yo")),
    calls(call("mail", 4, to="max", body="third")),
    says("Done."),
]


def openai_agent(saver: Any, url: str) -> Any:
    return create_agent(chat(url), [weather, mail], system_prompt="Be brief.", checkpointer=saver)


def react_agent(saver: Any, url: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from langgraph.prebuilt import create_react_agent

        return create_react_agent(chat(url), [weather, mail], prompt="Be brief.", checkpointer=saver)


class Forecast(BaseModel):
    city: str
    degrees: int


STRUCTURED_SCRIPT = [
    Reply(calls=[{"name": "weather", "arguments": '{"city": "Oslo"}'}]),
    Reply(calls=[{"name": "Forecast", "arguments": '{"city": "Oslo", "degrees": 21}'}]),
]


def structured(saver: Any, url: str) -> Any:
    return create_agent(chat(url), [weather], response_format=ToolStrategy(Forecast), checkpointer=saver)


def scripted_agent(saver: Any) -> Any:
    """The same without HTTP, with a hook that is a node of its own."""

    @before_model
    def hook(state: Any, runtime: Any) -> None:
        RUNS.enter("hook")

    return create_agent(ScriptedChat(replies=WEATHER_AND_MAIL), [weather, mail], middleware=[hook], checkpointer=saver)


def asking_tool(saver: Any) -> Any:
    replies = [
        calls(call("refund", 1, amount=5), call("weather", 2, city="Oslo"), call("refund", 3, amount=9)),
        says("Done."),
    ]
    return create_agent(ScriptedChat(replies=replies), [refund, weather], checkpointer=saver)


def approved(mode: Any = None) -> Any:
    def build(saver: Any) -> Any:
        how = {} if mode is None else {"interrupt_mode": mode}
        middleware = HumanInTheLoopMiddleware({"mail": True, "weather": False}, **how)
        model = ScriptedChat(replies=WEATHER_AND_MAIL)
        return create_agent(model, [weather, mail], middleware=[middleware], checkpointer=saver)

    return build
