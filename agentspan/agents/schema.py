"""From a Python function to the arguments a model may give it, and back.

The signature is read once, when the tool is defined, and every mistake in it is refused then. What is kept is data: the
JSON schema, and the resolved type of each argument. The pydantic validator is built from it at the first call and left
out of pickles. Types are kept resolved, not as text, because a function that was shipped by value no longer has the
module that its annotations would have to be looked up in.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, cast

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import PydanticSerializationError, PydanticUndefined

from agentspan.agents.problems import accepted_arguments, listing, schema_problems, validation_problems
from agentspan.agents.signature import REQUIRED, Argument, read_signature
from agentspan.errors import ToolArgumentsError, ToolDefinitionError
from agentspan.wording import a

SCHEMA_ERRORS = (PydanticUserError, PydanticUndefinedAnnotation, TypeError, ValueError, NameError)
"""What pydantic raises for a type it cannot handle."""


class PlainJsonSchema(GenerateJsonSchema):
    """JSON schema without the titles pydantic makes up from field names: they are tokens that say nothing new."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


class ArgumentSchema:
    """The arguments of one function: what a model is told of them, and the check of what it then sends.

    Read-only. Use `ArgumentSchema.of(function, tool="name")`.
    """

    __slots__ = ("_model", "arguments", "context_parameter", "description", "json_schema", "takes_self", "tool")

    def __init__(
        self,
        *,
        tool: str,
        arguments: tuple[Argument, ...],
        context_parameter: str | None = None,
        takes_self: bool = False,
        description: str = "",
    ) -> None:
        self.tool = tool
        self.arguments = arguments
        self.context_parameter = context_parameter
        """The parameter that takes the `ToolContext`, if there is one. It is not part of the schema."""
        self.takes_self = takes_self
        """A method that was decorated in its class: it can be called only once it is bound to an instance."""
        self.description = description
        """What the docstring says, without the sections on arguments and results."""
        self._model: type[BaseModel] | None = None
        self.json_schema: dict[str, Any] = self._build_json_schema()

    @classmethod
    def of(cls, function: Callable[..., Any], *, tool: str) -> ArgumentSchema:
        """Read a function's signature and docstring.

        Raises:
            ToolDefinitionError: A model could not call it, or not safely; says which parameter and what to write.
        """
        signature = read_signature(function, tool=tool)
        return cls(
            tool=tool,
            arguments=signature.arguments,
            context_parameter=signature.context_parameter,
            takes_self=signature.takes_self,
            description=signature.description,
        )

    # --- use

    def validate(self, raw: str | Mapping[str, Any]) -> dict[str, Any]:
        """Turn what a model sent into keyword arguments: checked, converted to the annotated types, defaults filled in.

        Args:
            raw: JSON text of an object (empty text stands for no arguments), or that object.

        Raises:
            ToolArgumentsError: Nothing was called; its text tells the model what to mend.
        """
        data = arguments_object(raw, tool=self.tool, schema=self.json_schema)
        model = self._validator()
        try:
            text = json.dumps(data)
        except (TypeError, ValueError):
            text = None  # Python values, from a test or another program: checked as they are.
        try:
            # JSON text even for a dict, so that recorded arguments meet the same rules as fresh ones (in strict mode a
            # date may be written as text in JSON, but not in Python).
            checked = model.model_validate(data) if text is None else model.model_validate_json(text)
        except ValidationError as error:
            names = tuple(self.json_schema.get("properties", ()))
            problems = validation_problems(error, data, names=names)
            raise arguments_error(self.tool, problems, self.json_schema) from None
        return {argument.name: getattr(checked, _field(index)) for index, argument in enumerate(self.arguments)}

    def to_plain(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """JSON data of validated arguments, as a model would have written them, with every default spelt out.

        `validate(to_plain(arguments))` gives equal arguments for types whose validators only check.
        """
        values = {
            _field(index): arguments[argument.name]
            for index, argument in enumerate(self.arguments)
            if argument.name in arguments
        }
        filled = self._validator().model_construct(**values)
        return filled.model_dump(mode="json", by_alias=True, round_trip=True, warnings="none")

    def to_record(self, raw: str | Mapping[str, Any]) -> dict[str, Any]:
        """JSON data to store for what a model sent: `validate` gives the same arguments for it, however often.

        That is `to_plain`, with the defaults spelt out, unless reading it back would give something else: a validator
        that changes its value would change it twice, and a field that is excluded from output would be lost. Then it is
        what the model wrote.

        Raises:
            ToolArgumentsError: It does not fit.
        """
        validated = self.validate(raw)
        try:
            plain = self.to_plain(validated)
            if self.validate(plain) == validated:
                return plain
        except ValueError:
            pass  # It cannot be written or read back at all, which is one more way of not being the same.
        return arguments_object(raw, tool=self.tool, schema=self.json_schema)

    # --- building

    def _validator(self) -> type[BaseModel]:
        # Two threads may both build it; they build the same, and the later one wins.
        if self._model is None:
            self._model = _model(self.tool, self.arguments)
        return self._model

    def _build_json_schema(self) -> dict[str, Any]:
        try:
            model = self._validator()
        except SCHEMA_ERRORS as error:
            self._refuse_untyped(error)
        for argument in self.arguments:
            self._refuse_unstorable_default(argument)
        try:
            schema = model.model_json_schema(schema_generator=PlainJsonSchema)
        except SCHEMA_ERRORS as error:
            self._refuse_untyped(error)
        schema.pop("title", None)
        schema.setdefault("properties", {})
        return schema

    def _refuse_untyped(self, error: Exception) -> NoReturn:
        """Find the argument that pydantic cannot handle: its own message names only the type."""
        for argument in self.arguments:
            try:
                _model(self.tool, (argument,)).model_json_schema(schema_generator=PlainJsonSchema)
            except SCHEMA_ERRORS as cause:
                _refuse(
                    self.tool,
                    f"no JSON schema can be made for its argument {argument.name!r}: {_first_line(cause)}. Take JSON "
                    "data, a pydantic model or a dataclass; objects such as clients and connections come from "
                    "ToolContext.dependencies, or are made inside the tool.",
                )
        _refuse(self.tool, f"no JSON schema can be made for its arguments: {_first_line(error)}.")

    def _refuse_unstorable_default(self, argument: Argument) -> None:
        default = argument.default
        if isinstance(default, FieldInfo):
            default = default.default
        if any(default is absent for absent in (REQUIRED, PydanticUndefined, Ellipsis, None)):
            return
        try:
            _model(self.tool, (argument,)).model_construct().model_dump(mode="json", warnings="none")
        except PydanticSerializationError:
            _refuse(
                self.tool,
                f"the default of its argument {argument.name!r} is {a(type(default).__name__)}, which has no JSON form, "
                "so the call could not be recorded. Use None and put the object in its place inside the function.",
            )

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__ if name != "_model"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
        self._model = None


# --- shared with tools that have no function -------------------------------------------------------------------------


def arguments_object(raw: str | Mapping[str, Any], *, tool: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON object in what a model sent, before any check of its content.

    Raises:
        ToolArgumentsError: It is not JSON, or not an object.
    """
    if isinstance(raw, Mapping):
        return dict(raw)
    if not raw.strip():
        return {}  # Some providers send nothing for a call without arguments.
    try:
        data = read_json(raw)
    except (ValueError, RecursionError) as error:
        problem = f"the arguments are not valid JSON: {_first_line(error)}"
        raise arguments_error(tool, {"": problem}, schema) from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        found = "an array" if isinstance(data, list) else "a bare value"
        problem = f"the arguments must be one JSON object, not {found}"
        raise arguments_error(tool, {"": problem}, schema)
    return data


def read_json(text: str) -> Any:
    """Parse JSON text as strictly as those do who will store it.

    Raises:
        ValueError: It is not JSON; or it is `NaN`, `Infinity` or half a surrogate pair, which only Python takes.
        RecursionError: It is nested too deeply.
    """
    data = json.loads(text, parse_constant=_refuse_constant)
    if "\\ud" in text.lower():
        json.dumps(data, ensure_ascii=False).encode()
    return data


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def check_arguments(raw: str | Mapping[str, Any], *, tool: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON object a model sent, checked against a JSON schema. For tools that people or messages answer.

    Raises:
        ToolArgumentsError: It does not fit.
    """
    data = arguments_object(raw, tool=tool, schema=schema)
    if problems := schema_problems(schema, data):
        raise arguments_error(tool, problems, schema)
    return data


def arguments_error(tool: str, problems: Mapping[str, str], schema: Mapping[str, Any]) -> ToolArgumentsError:
    """The error for these problems, with what the tool takes instead."""
    return ToolArgumentsError(
        tool=tool, problems=dict(problems), listing=listing(problems), accepted=accepted_arguments(schema)
    )


# --- pydantic --------------------------------------------------------------------------------------------------------


def _field(index: int) -> str:
    # Not the argument's own name, which may be one that pydantic keeps for itself (`schema`, `copy`, `_id`, `model_x`).
    return f"argument_{index}_"


def _model(tool: str, arguments: tuple[Argument, ...]) -> type[BaseModel]:
    fields: dict[str, Any] = {
        _field(index): (argument.hint, ... if argument.default is REQUIRED else argument.default)
        for index, argument in enumerate(arguments)
    }
    # Numbers for text: models write an order number without quotes, and a turn costs more than reading it kindly.
    config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)
    return cast("type[BaseModel]", cast(Any, create_model)(f"{tool}_arguments", __config__=config, **fields))


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__


def _refuse(tool: str, problem: str) -> NoReturn:
    raise ToolDefinitionError(tool=tool, problem=problem)
