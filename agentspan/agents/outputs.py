"""Typed outputs: what a model is told of an agent's `output_type`, and how its text becomes an instance of it."""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic import TypeAdapter, ValidationError

from agentspan.agents.problems import listing, validation_problems
from agentspan.agents.schema import SCHEMA_ERRORS, PlainJsonSchema, read_json
from agentspan.errors import ConfigurationError, OutputFormatError

WRAPPED = "value"
"""Providers hold a model to JSON objects only, so any other type is asked for as `{"value": ...}`."""


def schema_of_type(kind: Any) -> dict[str, Any]:
    """The JSON schema of a type: a pydantic model, dataclass, TypedDict, or anything else pydantic knows.

    Raises:
        ConfigurationError: The type has no JSON form.
    """
    try:
        schema = TypeAdapter(kind).json_schema(schema_generator=PlainJsonSchema)
    except SCHEMA_ERRORS as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigurationError(
            problem=f"{_name_of(kind)} has no JSON schema ({first}). Use a pydantic model, a dataclass or a TypedDict "
            "whose fields are JSON data."
        ) from None
    schema.pop("title", None)
    if "$ref" in schema:
        # A type that contains itself is a bare reference, and providers want an object at the root.
        schema = {
            **schema["$defs"][schema["$ref"].rpartition("/")[2]],
            **{k: v for k, v in schema.items() if k != "$ref"},
        }
    return schema


class OutputSchema:
    """One output type: its schema, and the way from a model's text to an instance. Read-only; picklable."""

    __slots__ = ("_adapter", "is_wrapped", "json_schema", "kind", "name")

    def __init__(self, kind: Any) -> None:
        schema = schema_of_type(kind)
        self.kind = kind
        self.name = _name_of(kind)
        self.is_wrapped = schema.get("type") != "object"
        self.json_schema = _wrap(schema) if self.is_wrapped else schema
        """What the model is held to: always an object schema."""
        self._adapter: TypeAdapter[Any] | None = None

    def parse(self, text: str) -> tuple[Any, Any]:
        """Read a model's final text.

        Returns:
            JSON data to store, and the instance. `load(data)` gives the instance again.

        Raises:
            OutputFormatError: The text is not JSON or does not fit. The error's text can be sent to the model.
        """
        try:
            data = read_json(_without_fence(text))
        except (ValueError, RecursionError) as error:
            raise self._error({"": f"it is not valid JSON: {error}"}) from None
        if self.is_wrapped and isinstance(data, dict) and set(data) == {WRAPPED}:
            data = data[WRAPPED]
        try:
            instance = self._validate(data)
        except ValidationError as error:
            raise self._error(validation_problems(error, data)) from None
        return self._plain(instance, data), instance

    def load(self, data: Any) -> Any:
        """The instance for JSON data that `parse` returned.

        Raises:
            OutputFormatError: It no longer fits, because the type has changed since.
        """
        try:
            return self._validate(data)
        except ValidationError as error:
            raise self._error(validation_problems(error, data)) from None

    def _plain(self, instance: Any, data: Any) -> Any:
        """The instance as JSON data, with its defaults, as long as that reads back as the same instance.

        Fields that are excluded and validators that change what they are given would not survive; then what the model
        wrote is kept.
        """
        try:
            plain = self._types().dump_python(instance, mode="json", by_alias=True, round_trip=True, warnings="none")
            return plain if self._validate(plain) == instance else data
        except ValueError:
            return data

    def _validate(self, data: Any) -> Any:
        return self._types().validate_json(json.dumps(data))

    def _types(self) -> TypeAdapter[Any]:
        if self._adapter is None:
            self._adapter = TypeAdapter(self.kind)
        return self._adapter

    def _error(self, problems: dict[str, str]) -> OutputFormatError:
        return OutputFormatError(output=self.name, problems=problems, listing=listing(problems))

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__ if name != "_adapter"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
        self._adapter = None


def _wrap(schema: dict[str, Any]) -> dict[str, Any]:
    definitions = schema.pop("$defs", None)
    wrapped: dict[str, Any] = {
        "type": "object",
        "properties": {WRAPPED: schema},
        "required": [WRAPPED],
        "additionalProperties": False,
    }
    if definitions:
        wrapped["$defs"] = definitions
    return wrapped


def _without_fence(text: str) -> str:
    """The text without a Markdown fence around it, which models like to add."""
    text = text.strip()
    if text.startswith("```") and text.endswith("```") and "\n" in text:
        return text[text.index("\n") : -3]
    return text


def _name_of(kind: Any) -> str:
    name = getattr(kind, "__name__", None) if isinstance(kind, type) else None
    # Providers take the names they take for tools; a generic model is called `Page[Item]`.
    return re.sub(r"[^a-zA-Z0-9_-]+", "_", name).strip("_")[:64] if name else "output"
