"""For LangGraph apps: nodes that a person does.

@human_task(prompt="Review the draft and give a verdict.")
def review(state):
    pass

graph.add_node("review", review)
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, overload

F = TypeVar("F", bound=Callable[..., Any])


@overload
def human_task(func: F) -> F: ...


@overload
def human_task(func: None = None, *, prompt: str = "") -> Callable[[F], F]: ...


def human_task(func: Any = None, *, prompt: str = "") -> Any:
    """Make a node that waits for a person, whose answer becomes part of the state.

    The node interrupts with `{"type": "human_task", "node": ..., "prompt": ...}`. The answer is its update of the state:
    a dict by its keys (LangGraph leaves out those the state does not have), True or False as `approved`, anything else as
    `response`. The function may do nothing; if it does, it runs after the answer, sees it in its state, and what it
    returns is part of the update, but never in place of what the person said.

    It is LangGraph's own `interrupt`, so the graph behaves the same without AgentSpan, given a checkpointer.

    Args:
        func: The node, sync or async, with any arguments a node may have.
        prompt: What the person is asked to do.
    """
    if func is None:
        return lambda node: _human_node(node, prompt)
    return _human_node(func, prompt)


def _human_node(node: Callable[..., Any], prompt: str) -> Callable[..., Any]:
    name = getattr(node, "__name__", type(node).__name__)
    question = {"type": "human_task", "node": name, "prompt": prompt}

    # `wraps` keeps the signature, from which LangGraph reads the input schema and what else to pass.
    if inspect.iscoroutinefunction(node):

        @functools.wraps(node)
        async def asking_async(state: Any, *args: Any, **kwargs: Any) -> Any:
            answer = _ask(question)
            return _merged(await node(_with(state, answer), *args, **kwargs), answer)

        return asking_async

    @functools.wraps(node)
    def asking(state: Any, *args: Any, **kwargs: Any) -> Any:
        answer = _ask(question)
        return _merged(node(_with(state, answer), *args, **kwargs), answer)

    return asking


def _ask(question: dict[str, Any]) -> dict[str, Any]:
    from langgraph.types import interrupt

    answer = interrupt(question)
    if isinstance(answer, Mapping):
        return dict(answer)
    return {"approved": answer} if isinstance(answer, bool) else {"response": answer}


def _with(state: Any, answer: dict[str, Any]) -> Any:
    """The state as the node's function sees it; of a class, with the fields that it has."""
    if isinstance(state, Mapping):
        return {**state, **answer}
    if dataclasses.is_dataclass(state) and not isinstance(state, type):
        names = {field.name for field in dataclasses.fields(state) if field.init}
        return dataclasses.replace(state, **{name: value for name, value in answer.items() if name in names})
    fields = getattr(type(state), "model_fields", None)
    if fields is not None:
        return state.model_copy(update={name: value for name, value in answer.items() if name in fields})
    return state


def _merged(returned: Any, answer: dict[str, Any]) -> Any:
    """The update of the node: what its function returned, and over it the answer."""
    if returned is None:
        return answer
    if isinstance(returned, Mapping):
        return {**returned, **answer}
    from langgraph.types import Command

    if isinstance(returned, Command) and (returned.update is None or isinstance(returned.update, Mapping)):
        return dataclasses.replace(returned, update={**(returned.update or {}), **answer})
    return [returned, answer] if isinstance(returned, Command) else returned
