"""What a graph holds that pickles badly, and how it travels instead. For code that goes by value only.

* A chat model or an embedding that holds clients (locks, sockets) is made anew from the fields its author set.
* A `SecretStr` whose value an environment variable holds travels as the name of the variable; any other that is a key is
  refused.
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
from weakref import WeakKeyDictionary

from agentspan.credentials import is_secret, shown
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
    match _sort(type(obj)):
        case "SecretStr":
            return _secret_reduce(obj)
        case "InMemoryCache":
            return type(obj), ()
        case "Pregel" if _has_saver(obj):
            return _without_saver(obj).__reduce_ex__(5)
        case "model" if not pickles(obj):
            return rebuild_model, (type(obj), _travelling_fields(obj))
    return NotImplemented


def travelling(obj: Any) -> dict[str, Any] | None:
    """The attributes by which `obj` travels, where those are not simply all; None for nearly everything.

    Raises:
        Exception: As `reduce_object`.
    """
    match _sort(type(obj)):
        case "Pregel" if _has_saver(obj):
            return dict(vars(_without_saver(obj)))
        case "model":
            return _travelling_fields(obj)
    return None


_BASES = {
    "model": (
        ("langchain_core.language_models.base", "BaseLanguageModel"),
        ("langchain_core.embeddings.embeddings", "Embeddings"),
    ),
    "SecretStr": (("pydantic.types", "SecretStr"),),
    "Pregel": (("langgraph.pregel.main", "Pregel"),),
}


_sorts: WeakKeyDictionary[type, str | None] = WeakKeyDictionary()


def _sort(kind: type) -> str | None:
    """What a class is to this module. Imports nothing: a class that derives from one of these has had it imported."""
    if kind not in _sorts:
        _sorts[kind] = _find_sort(kind)
    return _sorts[kind]


def _find_sort(kind: type) -> str | None:
    for sort, names in _BASES.items():
        classes = (getattr(sys.modules.get(module), name, None) for module, name in names)
        if any(cls in kind.__mro__ for cls in classes if cls is not None):
            return None if sort == "model" and not hasattr(kind, "model_fields") else sort
    is_cache = kind.__name__ == "InMemoryCache" and kind.__module__.startswith("langgraph.cache.")
    return "InMemoryCache" if is_cache else None


# --- graphs --------------------------------------------------------------------------------------------------------


def _has_saver(app: Any) -> bool:
    return app.checkpointer is not None and not isinstance(app.checkpointer, bool)


def _without_saver(app: Any) -> Any:
    bare = copy.copy(app)
    bare.checkpointer = None
    return bare


# --- secrets -------------------------------------------------------------------------------------------------------


class LiteralSecret(Exception):
    """A secret is written into the code that would travel. Says so without the secret."""


def _secret_reduce(secret: Any) -> Any:
    value = secret.get_secret_value()
    name = _variable_with(value)
    if name is not None:
        return rebuild_secret, (name,)
    if isinstance(value, str) and is_secret(value):
        raise LiteralSecret(f"It holds a key that is written into the code ({shown(value)})")
    return NotImplemented


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


def _travelling_fields(model: Any) -> dict[str, Any]:
    fields = type(model).model_fields
    kept = {name: getattr(model, name) for name in sorted(model.model_fields_set) if not fields[name].exclude}
    rebuilt = rebuild_model(type(model), kept)
    for name in sorted(model.model_fields_set - kept.keys()):
        # Excluded fields are mostly the clients that the model made for itself, and makes again. One that it does not
        # make again was given by the user: it travels, or is to blame for the refusal.
        given, made = getattr(model, name), getattr(rebuilt, name)
        if given is not None and (made is None or (isinstance(given, _PLAIN) and given != made)):
            kept[name] = given
    return kept


def rebuild_model(cls: Any, fields: dict[str, Any]) -> Any:
    """Undo the pickling of a model: make one from the fields that were set.

    Raises:
        Exception: Whatever the model's constructor raises.
    """
    by_name = cls.model_config.get("populate_by_name") or cls.model_config.get("validate_by_name")
    arguments = fields if by_name else {cls.model_fields[name].alias or name: value for name, value in fields.items()}
    return cls(**arguments)
