"""A LangGraph program as its author wrote it. `langgraph_app_durable.py` is the same program, durable: compare the two.

    python examples/langgraph_app.py
    diff examples/langgraph_app.py examples/langgraph_app_durable.py     # one import and one call

Both need `langchain` beside AgentSpan. The agent looks up who gets the newsletter and mails each of them; the file `outbox`
plays the mail provider. Set CHAT_MODEL (`openai:gpt-4o-mini`, with `langchain-openai`) to use a real model.
"""

import os
import time
from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult

OUTBOX = Path("outbox").absolute()
SUBSCRIBERS = ["ada", "grace", "margaret"]
NEWSLETTER = {"messages": [{"role": "user", "content": "Send this week's newsletter."}]}


class ScriptedChat(BaseChatModel):
    """Stands for a chat model, so that this runs without a key: its n-th answer in a conversation is always the same."""

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        calls = [("list_subscribers", {}), *(("send_mail", {"to": name}) for name in SUBSCRIBERS)]
        turn = sum(isinstance(message, AIMessage) for message in messages)
        if turn < len(calls):
            name, args_of_call = calls[turn]
            answer = AIMessage("", tool_calls=[{"name": name, "args": args_of_call, "id": f"call_{turn}"}])
        else:
            answer = AIMessage(f"The newsletter went to {', '.join(SUBSCRIBERS)}.")
        return ChatResult(generations=[ChatGeneration(message=answer)])

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self

    @property
    def _llm_type(self) -> str:
        return "scripted"


def list_subscribers() -> list[str]:
    """Who gets the newsletter."""
    return SUBSCRIBERS


def send_mail(to: str) -> str:
    """Send the newsletter to one person."""
    time.sleep(0.8)  # Talking to the provider.
    with OUTBOX.open("a") as outbox:
        outbox.write(f"{to}\n")
    return f"sent to {to}"


app = create_agent(
    os.environ.get("CHAT_MODEL") or ScriptedChat(),
    tools=[list_subscribers, send_mail],
    system_prompt="Send the newsletter to every subscriber, one mail at a time. Then say who got it.",
)

if __name__ == "__main__":
    state = app.invoke(NEWSLETTER)
    print(state["messages"][-1].content)
