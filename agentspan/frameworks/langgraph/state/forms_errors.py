"""How exceptions are stored: LangGraph keeps the error of a failed task as a value of its state.

    46  [module:qualname, text, arguments or nil, attributes or nil]

An error is never refused: what cannot be stored of it is left out, and its text always can. It comes back as what it was
if its class is Python's own, one of our frameworks' or declared by the graph; else as a `StoredError` with the same text.
No `__init__` of a declared class runs. Tracebacks and causes are not kept.
"""

from __future__ import annotations

import builtins
from typing import Any

from ormsgpack import Ext

from agentspan.frameworks.langgraph.state.builtin_types import exception_of
from agentspan.frameworks.langgraph.state.wire import Loader, Reader, StateBytesError, UnknownType, Writer

_ERROR = 46


class StoredError(RuntimeError):
    """An error whose class this graph does not declare. `str(error)` is "TypeName: message"."""

    def __init__(self, stored_type: str, text: str) -> None:
        name = stored_type.rpartition(":")[2].rpartition(".")[2]
        super().__init__(f"{name}: {text}" if text else name)
        self.stored_type = stored_type
        """`module:qualname` of the class it had."""
        self.text = text

    def __reduce__(self) -> tuple[Any, ...]:
        return StoredError, (self.stored_type, self.text)


def dump_error(writer: Writer, error: BaseException) -> Ext:
    """For a value of any exception class."""
    if type(error) is StoredError:
        return Ext(_ERROR, writer.pack([error.stored_type, error.text, None, None]))
    cls = type(error)
    args, attributes = _parts_of(error)
    return Ext(
        _ERROR,
        writer.pack(
            [
                f"{cls.__module__}:{cls.__qualname__}".replace("__mp_main__:", "__main__:", 1),
                _text_of(error),
                _storable(writer, args),
                _storable(writer, attributes),
            ]
        ),
    )


def _parts_of(error: BaseException) -> tuple[list[Any], dict[str, Any] | None]:
    if type(error).__module__ == builtins.__name__:
        # `args` of an OSError lack its file name. Python's own `__reduce__` is safe to call.
        made: Any = error.__reduce__()
        _, args, *state = made
        return list(args), dict(state[0]) if state and state[0] else None
    return list(error.args), dict(error.__dict__) or None


def _text_of(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:
        # Its own `__str__` failed; an error that cannot tell itself is still an error.
        return f"<{type(error).__name__} that could not be printed>"
    return str.__str__(text)


def _storable(writer: Writer, value: Any) -> Any:
    """The value, or None when it cannot be stored."""
    if not value:
        return value
    try:
        writer.fresh().pack(value)
    except Exception:
        return None  # An error that refuses to be stored would hide the failure it tells of.
    return value


def _load(reader: Reader, data: bytes) -> BaseException:
    name, text, args, attributes = reader.unpack(data)
    if not isinstance(name, str) or not isinstance(text, str):
        raise StateBytesError("an error in it has no name")
    module, _, qualname = name.partition(":")
    try:
        cls: type = exception_of(module, qualname) or reader.resolve(name).cls
    except UnknownType:
        return StoredError(name, text)
    if not issubclass(cls, BaseException) or args is None:
        return StoredError(name, text)
    return _make(cls, args, attributes) or StoredError(name, text)


def _make(cls: type[BaseException], args: list[Any], attributes: dict[str, Any] | None) -> BaseException | None:
    try:
        if cls.__module__ == builtins.__name__:
            error = cls(*args)
        else:
            error = cls.__new__(cls, *args)
            error.args = tuple(args)
    except Exception:
        return None  # Its class takes other arguments now.
    error.__dict__.update(attributes or {})
    return error


ERROR_LOADERS: dict[int, Loader] = {_ERROR: _load}
