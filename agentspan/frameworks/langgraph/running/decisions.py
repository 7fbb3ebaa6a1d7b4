"""What a HumanInTheLoopMiddleware that asks one call at a time lets a person decide: only its JSON schema says it.

The schema is one of `{"type": "object", "properties": {"type": {"const": "approve"}, …}}`, or a `oneOf` of several.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def allowed_decisions(schema: dict[str, Any] | None) -> list[str] | None:
    """The decisions that the schema has; None if it says nothing about them."""
    found = [kind for kind, _ in _branches(schema)]
    return found or None


def edit_schema(schema: dict[str, Any] | None) -> dict[str, Any] | None:
    """The JSON schema of the arguments in the schema's edit; None if there is none."""
    for kind, branch in _branches(schema):
        if kind != "edit":
            continue
        edited = _resolved(branch["properties"].get("edited_action"), schema)
        args = edited.get("properties", {}).get("args")
        if isinstance(args, dict):
            shared = (schema or {}).get("$defs")
            return {**args, "$defs": shared} if shared else args
    return None


def _branches(schema: dict[str, Any] | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each decision of the schema by its type."""
    if schema is None:
        return
    for option in schema.get("oneOf") or schema.get("anyOf") or [schema]:
        branch = _resolved(option, schema)
        kind = _resolved(branch.get("properties"), schema).get("type")
        if isinstance(kind, dict) and isinstance(kind.get("const"), str):
            yield kind["const"], branch


def _resolved(part: Any, schema: dict[str, Any] | None) -> dict[str, Any]:
    """The part, or what it refers to among the schema's own definitions."""
    if not isinstance(part, dict):
        return {}
    reference = part.get("$ref")
    if not isinstance(reference, str):
        return part
    found = (schema or {}).get("$defs", {}).get(reference.removeprefix("#/$defs/"))
    return found if isinstance(found, dict) else {}
