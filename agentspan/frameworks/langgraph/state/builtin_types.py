"""The classes of LangChain and LangGraph that state may hold without being declared.

They are written as numbers and looked up by name in this table, which is for ever: append only. A module is imported
only when a value of one of its classes is loaded.
"""

from __future__ import annotations

import importlib
import sys

from agentspan.frameworks.langgraph.state.wire import UnknownType

_MESSAGES = (
    "AIMessage HumanMessage ToolMessage SystemMessage RemoveMessage ChatMessage FunctionMessage AIMessageChunk "
    "HumanMessageChunk ToolMessageChunk SystemMessageChunk ChatMessageChunk FunctionMessageChunk"
)
_NAMES: tuple[tuple[str, str], ...] = (
    *(("langchain_core.messages", name) for name in _MESSAGES.split()),
    ("langgraph.types", "Send"),
    ("langgraph.types", "Command"),
    ("langgraph.types", "Interrupt"),
    ("langgraph.types", "Overwrite"),
    ("langgraph.types", "TimeoutPolicy"),
    ("langgraph.types", "StateSnapshot"),
    ("langgraph.types", "PregelTask"),
    ("langgraph.types", "GraphOutput"),
    ("langgraph.checkpoint.serde.types", "_DeltaSnapshot"),
    ("langgraph.store.base", "Item"),
    ("langgraph.store.base", "SearchItem"),
    ("langgraph.errors", "NodeError"),
    ("langgraph.func", "entrypoint.final"),
    ("langchain_core.runnables.utils", "AddableDict"),
    ("langchain_core.messages.base", "TextAccessor"),
    ("langchain_core.messages", "BaseMessage"),
    ("langchain_core.messages", "BaseMessageChunk"),
    ("langchain_core.documents", "Document"),
    ("langchain_core.documents.base", "Blob"),
    ("langchain_core.prompt_values", "StringPromptValue"),
    ("langchain_core.prompt_values", "ChatPromptValue"),
    ("langchain_core.prompt_values", "ChatPromptValueConcrete"),
    ("langchain_core.prompt_values", "ImagePromptValue"),
    ("langchain_core.outputs", "Generation"),
    ("langchain_core.outputs", "GenerationChunk"),
    ("langchain_core.outputs", "ChatGeneration"),
    ("langchain_core.outputs", "ChatGenerationChunk"),
    ("langchain_core.outputs", "ChatResult"),
    ("langchain_core.outputs", "LLMResult"),
    ("langchain_core.outputs", "RunInfo"),
    ("langchain_core.agents", "AgentAction"),
    ("langchain_core.agents", "AgentActionMessageLog"),
    ("langchain_core.agents", "AgentStep"),
    ("langchain_core.agents", "AgentFinish"),
)
_NUMBERS = {(module.partition(".")[0], name): number for number, (module, name) in enumerate(_NAMES)}

EXCEPTION_MODULES = frozenset(
    {"langgraph.errors", "langchain_core.exceptions", "langchain_core.tools.base", "agentspan.errors"}
)
"""Modules whose exception classes may be made again from stored errors."""


def class_of(number: int) -> type:
    """The class with this number; its module is imported if need be. Raises `UnknownType`."""
    if not 0 <= number < len(_NAMES):
        raise UnknownType(f"built-in type number {number}, from a newer AgentSpan")
    module, qualname = _NAMES[number]
    try:
        found: object = importlib.import_module(module)
        for name in qualname.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError):
        raise UnknownType(f"{module}.{qualname}, which the installed LangChain or LangGraph does not have") from None
    assert isinstance(found, type)
    return found


def number_of(cls: type) -> int | None:
    """The number of a class of this table, or None."""
    number = _NUMBERS.get((cls.__module__.partition(".")[0], cls.__qualname__))
    if number is None:
        return None
    # A class of the same name elsewhere in the package is another class. Classes imported by nobody have no values, but
    # the public module of one that has may not be imported yet.
    try:
        return number if class_of(number) is cls else None
    except UnknownType:
        return None


def exception_of(module: str, qualname: str) -> type[Exception] | None:
    """The exception class of this name if it may be made again without being declared: Python's own, and our frameworks'."""
    if module != "builtins" and module not in EXCEPTION_MODULES:
        return None
    found = getattr(sys.modules.get(module) or _import(module), qualname, None)
    return found if isinstance(found, type) and issubclass(found, Exception) and found.__module__ == module else None


def _import(module: str) -> object:
    try:
        return importlib.import_module(module)
    except ImportError:
        return None
