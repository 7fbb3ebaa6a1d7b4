"""What a graph holds that pickles badly, and how it travels instead. For code that goes by value only.

* A chat model or an embedding that holds clients (locks, sockets) is made anew from the fields its author set.
* A `SecretStr` whose value an environment variable holds travels as the name of the variable.
* A saver stays here: the graph gets ours. An `InMemoryCache` travels without its entries.

LangGraph's own markers (`MISSING`, `SKIP_WRITE`, ...), compared with `is`, are handled for all libraries alike, by
`actors/localcode.py`. Stored code refers to the `rebuild_*` functions below: keep their names and arguments.
"""

from __future__ import annotations

import copy
import os
import re
import sys
from collections.abc import Callable
from typing import Any

from agentspan.errors import ConfigurationError

SECRET_CHARS_MIN = 12
"""Shorter secrets count as an environment variable's only if that has a secret's name: they are equal by chance."""

_SECRET_NAME = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS?)$", re.IGNORECASE)
_PLAIN = (str, int, float, bool, bytes, dict, list, tuple, set, frozenset, type(None))


def reduce_object(obj: Any, pickles: Callable[[Any], bool]) -> Any:
    """How to pickle `obj`, as `__reduce__` would say it; NotImplemented for nearly everything.

    Args:
        pickles: Says whether an object pickles if this function leaves it alone.

    Raises:
        Exception: A model cannot be made from its fields: whatever its constructor raises.
    """
    kind = type(obj)
    if kind is type or not _is_of(kind, _KINDS):
        return NotImplemented
    if _is_of(kind, _SECRETS):
        return _secret_reduce(obj)
    if _is_of(kind, _CACHES):
        return kind, ()
    if _is_of(kind, _GRAPHS):
        return _graph_reduce(obj)
    return NotImplemented if pickles(obj) else _model_reduce(obj)


_MODELS = (
    ("langchain_core.language_models.base", "BaseLanguageModel"),
    ("langchain_core.embeddings.embeddings", "Embeddings"),
)
_SECRETS = (("pydantic.types", "SecretStr"),)
_CACHES = (("langgraph.cache.memory", "InMemoryCache"),)
_GRAPHS = (("langgraph.pregel.main", "Pregel"),)
_KINDS = _MODELS + _SECRETS + _CACHES + _GRAPHS


def _is_of(kind: type, names: tuple[tuple[str, str], ...]) -> bool:
    """Whether a class is or derives from one of these, without importing what is not imported."""
    classes = (getattr(sys.modules.get(module), name, None) for module, name in names)
    return any(cls in kind.__mro__ for cls in classes if cls is not None)


# --- graphs --------------------------------------------------------------------------------------------------------


def _graph_reduce(app: Any) -> Any:
    if app.checkpointer is None or isinstance(app.checkpointer, bool):
        return NotImplemented
    bare = copy.copy(app)
    bare.checkpointer = None
    return bare.__reduce_ex__(5)


# --- secrets -------------------------------------------------------------------------------------------------------


def _secret_reduce(secret: Any) -> Any:
    name = _variable_with(secret.get_secret_value())
    return NotImplemented if name is None else (rebuild_secret, (name,))


def _variable_with(value: str) -> str | None:
    """The environment variable that holds a secret; of several, one with a secret's name."""
    names = [name for name, held in os.environ.items() if held == value and value]
    named = sorted(name for name in names if _SECRET_NAME.search(name))
    if named:
        return named[0]
    return min(names, default=None) if len(value) >= SECRET_CHARS_MIN else None


def rebuild_secret(variable: str) -> Any:
    """Undo the pickling of a secret: read it from the environment.

    Raises:
        ConfigurationError: The variable is not set here.
    """
    from pydantic import SecretStr

    value = os.environ.get(variable)
    if value is None:
        raise ConfigurationError(
            problem=f"The graph takes a key from the environment variable {variable}, which is not set where it runs; keys "
            "do not travel with code. Set it where the server runs, and start the server again."
        )
    return SecretStr(value)


# --- models --------------------------------------------------------------------------------------------------------


def _model_reduce(model: Any) -> Any:
    fields = getattr(type(model), "model_fields", None)
    if not isinstance(fields, dict):
        return NotImplemented
    kept = {name: getattr(model, name) for name in sorted(model.model_fields_set) if not fields[name].exclude}
    rebuilt = rebuild_model(type(model), kept)
    for name in sorted(model.model_fields_set - kept.keys()):
        # Excluded fields are mostly the clients that the model made for itself, and makes again. One that it does not
        # make again was given by the user: it travels, or is to blame for the refusal.
        given, made = getattr(model, name), getattr(rebuilt, name)
        if given is not None and (made is None or (isinstance(given, _PLAIN) and given != made)):
            kept[name] = given
    return rebuild_model, (type(model), kept)


def rebuild_model(cls: Any, fields: dict[str, Any]) -> Any:
    """Undo the pickling of a model: make one from the fields that were set.

    Raises:
        Exception: Whatever the model's constructor raises.
    """
    by_name = cls.model_config.get("populate_by_name") or cls.model_config.get("validate_by_name")
    arguments = fields if by_name else {cls.model_fields[name].alias or name: value for name, value in fields.items()}
    return cls(**arguments)
