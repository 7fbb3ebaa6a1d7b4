"""`human_task` on a bare graph: LangGraph itself runs it, with its own saver."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, TypedDict

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command
from pydantic import BaseModel

from agentspan.agents.frameworks.langgraph import human_task


class Draft(TypedDict, total=False):
    text: str
    verdict: str
    note: str
    approved: bool


class DraftModel(BaseModel):
    text: str = ""
    verdict: str = ""


@dataclasses.dataclass
class DraftData:
    text: str = ""
    verdict: str = ""


CONFIG: RunnableConfig = {"configurable": {"thread_id": "t"}}


def graph(node: Any, schema: Any = Draft) -> Any:
    builder = StateGraph(schema)
    builder.add_node("review", node)
    builder.add_node("after", lambda state: {})
    builder.add_edge(START, "review")
    builder.add_edge("after", END)
    return builder.compile(checkpointer=InMemorySaver())


async def answered(app: Any, answer: Any) -> tuple[Any, Any]:
    """What the node asks, and the state once it is answered."""
    asked = await app.ainvoke({"text": "a draft"}, CONFIG)
    (question,) = asked["__interrupt__"]
    return question.value, await app.ainvoke(Command(resume={question.id: answer}), CONFIG)


@human_task(prompt="Judge it.")
def nothing(state: Draft) -> None:
    pass


@human_task
async def nothing_async(state):  # type: ignore[no-untyped-def]
    pass


@pytest.mark.parametrize(("node", "prompt"), [(nothing, "Judge it."), (nothing_async, "")])
async def test_the_answer_becomes_part_of_the_state(node: Any, prompt: str) -> None:
    question, state = await answered(graph(node), {"verdict": "good", "unknown": 1})
    assert question == {"type": "human_task", "node": node.__name__, "prompt": prompt}
    assert state == {"text": "a draft", "verdict": "good"}


@pytest.mark.parametrize("schema", [DraftModel, DraftData])
async def test_a_state_class_is_answered_by_its_fields(schema: Any) -> None:
    @human_task(prompt="Judge it.")
    def judged(state: Any) -> dict[str, str]:
        assert isinstance(state, schema)
        return {"text": state.text + ", " + state.verdict}

    _, state = await answered(graph(judged, schema), {"verdict": "good", "unknown": 1})
    assert state == {"text": "a draft, good", "verdict": "good"}


async def test_the_function_runs_after_the_answer_and_does_not_override_it() -> None:
    seen: list[Any] = []

    @human_task(prompt="Judge it.")
    async def node(state: Draft, config: RunnableConfig) -> Draft:
        seen.append((dict(state), config["configurable"]["thread_id"]))
        return {"verdict": "from the function", "note": "kept"}

    _, state = await answered(graph(node), {"verdict": "bad"})
    assert seen == [({"text": "a draft", "verdict": "bad"}, "t")]
    assert state == {"text": "a draft", "verdict": "bad", "note": "kept"}


async def test_a_decision_is_kept_as_approved() -> None:
    _, state = await answered(graph(nothing), False)
    assert state == {"text": "a draft", "approved": False}


async def test_any_other_answer_is_seen_as_response() -> None:
    @human_task
    def node(state: Any) -> dict[str, Any]:
        return {"verdict": state["response"]}

    _, state = await answered(graph(node), "fine")
    assert state["verdict"] == "fine"


async def test_the_function_may_say_where_to_go() -> None:
    @human_task
    def node(state: Draft) -> Command[Literal["after"]]:
        return Command(goto="after", update={"note": "gone on"})

    app = graph(node)
    assert ("review", "after") in {(edge.source, edge.target) for edge in app.get_graph().edges}
    _, state = await answered(app, {"verdict": "good"})
    assert state == {"text": "a draft", "verdict": "good", "note": "gone on"}
