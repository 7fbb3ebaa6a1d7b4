"""User code to bytes: what of it is local, how it is pickled by value, and who is to blame when it cannot be.

The classes and functions of a *local* module (the script, a notebook cell, a file beside the script) exist on no other
node, so they are pickled whole. All others are pickled by name. `CodePickler` adds to Ray's cloudpickle what would
otherwise pickle without an error and then fail, or do harm, where it is loaded:

* an open file: cloudpickle ships its content;
* `functools.lru_cache` functions, `NewType`, `ParamSpec`: they pickle by name, even those of `__main__`;
* a library's sentinel, such as `dataclasses.MISSING`: its copy would no longer *be* it;
* `os.environ`: its content, keys and all, would travel;
* an import of a local module inside a function: cloudpickle does not see it;
* a `TypedDict` that has no trace of what it was made from: its copy could not be made;
* a class in a function: its copy would have another name, and what it is stored under would not be found again;
* chat models, keys and savers in a LangGraph app: see `frameworks/langgraph/app/pickling.py`;
* anything else that pickles by name in a local module: found by reading the names in the finished pickle.

The fingerprint of a pickle is the same in each run of the same program, which its bytes are not: they hold a random ID
for each class, addresses, and sets in hash order. Within one process they are the same as long as nothing was changed, so
what is packed at each start is pickled again (only that tells whether a global or a cell of a notebook is another one)
but neither read again nor digested again.
"""

from __future__ import annotations

import functools
import io
import os
import pickletools
import re
import sys
import types
import typing
import weakref
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, NamedTuple

import ray
import typing_extensions
from ray import cloudpickle

from agentspan.actors.locality import Unshippable, is_local, local_modules_by_value, refuse_local_imports
from agentspan.frameworks.langgraph.app.pickling import LiteralSecret, reduce_object

KEY_REMEDY = (
    "Leave it out, and set the variable that the provider reads (OPENAI_API_KEY, ...) where the server runs; or put it into "
    "an environment variable here and there, and read os.environ where the model is made."
)
REASON_CHARS_MAX = 200
"""How much of an exception's own text an error repeats."""


class _Plain(typing.TypedDict): ...


class _Extended(typing_extensions.TypedDict): ...


_TYPED_DICTS: dict[Any, Any] = {type(_Plain): typing.TypedDict, type(_Extended): typing_extensions.TypedDict}
"""The classes of typed dicts' classes, and what one derives from to make another."""


class Packed(NamedTuple):
    """Pickled code."""

    code: bytes
    fingerprint: bytes
    """Says the same for the same code in each process, so that running a script again is no new version."""


def pickle_by_value(value: Any) -> Packed:
    """Pickle a value with the local code it refers to.

    Raises:
        Exception: Something in it cannot be pickled, or must not be; ask `blame` what.
    """
    with local_modules_by_value():
        code, addresses = _dump(value)
        digest = blake2b(code, digest_size=32).digest()
        fingerprint = _fingerprints.get(digest)
        if fingerprint is None:
            _refuse_named(code)
            fingerprint = _Fingerprint(addresses).of(value)
            if len(_fingerprints) >= FINGERPRINTS_MAX:
                del _fingerprints[next(iter(_fingerprints))]
            _fingerprints[digest] = fingerprint
    return Packed(code, fingerprint)


FINGERPRINTS_MAX = 256
_fingerprints: dict[bytes, bytes] = {}
"""Of the pickles that this process has made and found fit to travel, by the digest of their bytes."""


# --- pickling ------------------------------------------------------------------------------------------------------


def dump(value: Any) -> bytes:
    """Pickle a value, inside `local_modules_by_value`. Raises as `pickle_by_value` does."""
    code, _ = _dump(value)
    _refuse_named(code)
    return code


def _dump(value: Any) -> tuple[bytes, set[int]]:
    with io.BytesIO() as buffer:
        pickler = CodePickler(buffer)
        pickler.dump(value)
        return buffer.getvalue(), pickler.addresses


def _refuse_named(code: bytes) -> None:
    for module, name in sorted(_named_globals(code)):
        held = sys.modules.get(module)
        if module == "__main__" or (held is not None and is_local(held)):
            raise Unshippable(
                f"{module}.{name} can only be pickled by name, and the module {module!r} is not on the cluster",
                "Put it into an installed module, or make it inside the tool.",
            )


_WORD = re.compile(r"[A-Za-z_]\w*")
_NAMEABLE = (type, types.ModuleType, types.GenericAlias, types.UnionType)


class CodePickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Ray's cloudpickle (the stand-alone one has registries of its own), with the cases above handled or refused."""

    def __init__(self, file: typing.IO[bytes], *, as_it_is: Any = None) -> None:
        """`as_it_is` is an object that no framework's rule is applied to."""
        super().__init__(file, protocol=5)
        self._as_it_is = as_it_is
        self.addresses: set[int] = set()
        """Of the objects met. Schemas contain those of classes and types as text."""
        self._sentinels: dict[int, tuple[types.ModuleType, str]] | None = None
        self._names: dict[str, dict[int, str]] = {}
        """What modules hold, by its address: looked up for many objects, and a module may hold thousands."""

    def reducer_override(self, obj: Any) -> Any:
        self.addresses.add(id(obj))
        named = _named.get(id(obj))
        if named is not None and named() is obj:
            return NotImplemented
        kind = type(obj)  # Not isinstance: it asks the object for its __class__, which a lazy proxy answers with work.
        if kind is types.FunctionType:
            reduced = super().reducer_override(obj)
            if reduced is not NotImplemented:
                refuse_local_imports(obj.__code__, obj.__globals__)
                _keep_annotated_names(obj, reduced)
            else:
                _note_named(obj)
            return reduced
        if obj is os.environ:
            return getattr, (os, "environ")
        if kind is functools._lru_cache_wrapper:
            return _cached_function_reduce(obj)
        if kind is typing.NewType and not _is_found_by_name(obj):
            return rebuild_new_type, (obj.__name__, obj.__qualname__, obj.__module__, obj.__supertype__)
        if kind in (typing.ParamSpec, typing.TypeVarTuple) and not _is_found_by_name(obj):
            return kind, (obj.__name__,)
        if issubclass(kind, io.IOBase) and not issubclass(kind, (io.BytesIO, io.StringIO)):
            return _standard_stream_reduce(obj)
        if issubclass(kind, (ray.ObjectRef, ray.actor.ActorHandle)):
            raise Unshippable("It belongs to this Ray cluster and ends with it, but a deployment does not")
        if kind in _TYPED_DICTS and "__orig_bases__" not in obj.__dict__:
            return self._typed_dict_reduce(obj)
        if (sentinel := self._sentinel(obj)) is not None:
            return getattr, sentinel
        if obj is not self._as_it_is:
            try:
                reduced = reduce_object(obj, _pickles)
            except LiteralSecret as problem:
                raise Unshippable(f"{problem}, and keys do not travel with code", KEY_REMEDY) from None
            if reduced is not NotImplemented:
                return reduced
        reduced = super().reducer_override(obj)
        if issubclass(kind, type):
            if reduced is NotImplemented:
                _note_named(obj)
            elif isinstance(reduced, tuple) and len(reduced) > 2:
                _keep_own_name(obj, reduced[2][0])
        return reduced

    def _typed_dict_reduce(self, obj: Any) -> Any:
        """Python 3.11 keeps no trace of a TypedDict's own bases: cloudpickle would make a copy from plain `dict`."""
        reduced = super().reducer_override(obj)
        if not isinstance(reduced, tuple):
            return reduced
        make, (metaclass, name, _, *more), *rest = reduced
        return make, (metaclass, name, (_TYPED_DICTS[metaclass],), *more), *rest

    def _sentinel(self, obj: Any) -> tuple[types.ModuleType, str] | None:
        """Where a library keeps an object that says nothing but that it is this one (compared with `is`)."""
        kind: Any = type(obj)
        if kind is object:
            if self._sentinels is None:
                self._sentinels = _bare_objects(len(sys.modules))
            return self._sentinels.get(id(obj))
        if kind.__reduce_ex__ is not object.__reduce_ex__ or kind.__reduce__ is not object.__reduce__:
            return None
        module = sys.modules.get(kind.__module__)
        if getattr(obj, "__dict__", None) or module is None or is_local(module):
            return None
        names = self._names.get(kind.__module__)
        if names is None:
            held = list(module.__dict__.items())
            names = self._names[kind.__module__] = {id(value): name for name, value in reversed(held)}
        return (module, names[id(obj)]) if id(obj) in names else None


_named: dict[int, weakref.ref[Any]] = {}
"""Classes and functions of libraries that were found to pickle by name, by their address. Finding out is what takes long."""


def _note_named(obj: Any) -> None:
    module = sys.modules.get(obj.__module__)
    if module is not None and not is_local(module):
        address = id(obj)
        _named[address] = weakref.ref(obj, lambda _: _named.pop(address, None))


def _keep_annotated_names(function: types.FunctionType, reduced: Any) -> None:
    """Have the types travel that only text annotations name (`from __future__ import annotations`).

    cloudpickle takes along the globals that the code uses. LangChain reads the annotations of a tool where it runs.
    """
    kept = reduced[2][1]["__globals__"]
    for text in function.__annotations__.values():
        for name in _WORD.findall(text) if isinstance(text, str) else ():
            value = function.__globals__.get(name)
            if name not in kept and (isinstance(value, _NAMEABLE) or type(value).__module__ == "typing"):
                kept[name] = value


def _keep_own_name(cls: type, attributes: dict[str, Any]) -> None:
    """Have a class that travels whole keep its `__qualname__`, and leave behind where it was made.

    pydantic remembers the locals of the function around a model, for names that it could not resolve yet: a runtime among
    them could not travel, and a key should not.
    """
    if cls.__qualname__ != cls.__name__:
        attributes["__qualname__"] = cls.__qualname__
    if attributes.get("__pydantic_complete__"):
        attributes.pop("__pydantic_parent_namespace__", None)


def _pickles(obj: Any) -> bool:
    """Whether an object pickles without a framework's rule for it."""
    try:
        CodePickler(io.BytesIO(), as_it_is=obj).dump(obj)
    except Exception:  # Pickling runs the objects' own code, which may raise anything.
        return False
    return True


@functools.lru_cache(1)
def _bare_objects(modules: int) -> dict[int, tuple[types.ModuleType, str]]:
    """Every `object()` that is an attribute of a module other nodes have too. Looked for again when there are more."""
    return {
        id(value): (module, name)
        for module in list(sys.modules.values())
        if isinstance(module, types.ModuleType) and not is_local(module)
        for name, value in list(module.__dict__.items())
        if type(value) is object
    }


def rebuild_cached(function: Callable[..., Any], maxsize: int | None, typed: bool) -> Any:
    """Undo the pickling of an `lru_cache` function, with an empty cache. Stored code refers to this name: keep it."""
    return functools.lru_cache(maxsize, typed)(function)


def rebuild_new_type(name: str, qualname: str, module: str, supertype: Any) -> Any:
    """Undo the pickling of a `NewType`. Stored code refers to this name: keep it."""
    make: Any = typing.NewType  # Type checkers want a literal name.
    made = make(name, supertype)
    made.__qualname__, made.__module__ = qualname, module
    return made


def _cached_function_reduce(obj: Any) -> Any:
    if _is_found_by_name(obj):
        return NotImplemented
    settings = obj.cache_parameters()
    own = {name: value for name, value in vars(obj).items() if name != "__wrapped__"}
    return rebuild_cached, (obj.__wrapped__, settings["maxsize"], settings["typed"]), own


def _standard_stream_reduce(obj: io.IOBase) -> Any:
    for name in ("stdout", "stderr"):
        if obj is getattr(sys, name):
            return getattr, (sys, name)
    raise Unshippable("It is an open file", "Open it inside the tool.")


def _is_found_by_name(obj: Any) -> bool:
    """Whether an object is an attribute of a module that other nodes have too."""
    module = sys.modules.get(getattr(obj, "__module__", None) or "")
    if module is None or is_local(module):
        return False
    found: Any = module
    for name in getattr(obj, "__qualname__", obj.__name__).split("."):
        found = getattr(found, name, None)
    return found is obj


def _named_globals(code: bytes) -> set[tuple[str, str]]:
    """Every (module, name) that loading a pickle would look up. Nothing is loaded.

    STACK_GLOBAL takes the last two texts pushed; a text comes from its own opcode or from the memo.
    """
    found: set[tuple[str, str]] = set()
    memo: list[str | None] = []
    texts: list[str | None] = [None, None]
    latest: str | None = None  # What MEMOIZE would remember, when it is text.
    for opcode, argument, _ in pickletools.genops(code):
        name = opcode.name
        if name == "MEMOIZE":
            memo.append(latest)
        elif name in ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"):
            latest = argument
            texts = [texts[1], latest]
        elif name in ("BINGET", "LONG_BINGET"):
            texts = [texts[1], memo[typing.cast(int, argument)]]
        elif name == "STACK_GLOBAL":
            if texts[0] is not None and texts[1] is not None:
                found.add((texts[0], texts[1]))
            latest = None
        elif name != "FRAME":
            latest = None
    return found


# --- the fingerprint -----------------------------------------------------------------------------------------------


class _Fingerprint:
    """Digests what a pickle says, without what differs from run to run."""

    def __init__(self, addresses: set[int]) -> None:
        self._addresses = addresses
        self._open: set[int] = set()

    def of(self, value: Any) -> bytes:
        with io.BytesIO() as buffer:
            _StablePickler(buffer, self).dump(value)
            return blake2b(buffer.getvalue(), digest_size=32).digest()

    def text(self, text: str) -> bytes:
        # Not as text, which pickles differently depending on which equal texts are one object. And pydantic puts
        # "module.Type:<address>" into schemas: those addresses, and no other numbers, are left out.
        stable = _ADDRESS.sub(lambda found: ":" if int(found[1]) in self._addresses else found[0], text)
        return b"text " + stable.encode("utf-8", "surrogatepass")

    def members(self, value: set[Any] | frozenset[Any]) -> tuple[str, list[bytes]]:
        if id(value) in self._open:
            return "set", []  # It contains itself, by way of an object.
        self._open.add(id(value))
        try:
            return type(value).__name__, sorted(self.of(member) for member in value)
        finally:
            self._open.discard(id(value))


_ADDRESS = re.compile(r":(\d{6,20})\b")


class _StablePickler(CodePickler):
    """Writes a stream that is only hashed, never loaded."""

    def __init__(self, file: typing.IO[bytes], fingerprint: _Fingerprint) -> None:
        super().__init__(file)
        self._fingerprint = fingerprint

    def persistent_id(self, obj: Any) -> Any:
        if type(obj) is str:
            return self._fingerprint.text(obj)
        if type(obj) is set or type(obj) is frozenset:
            return self._fingerprint.members(obj)
        return None

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, typing.TypeVar):
            parts = (obj.__name__, obj.__bound__, obj.__constraints__, obj.__covariant__, obj.__contravariant__)
            return typing.TypeVar, parts
        reduced = super().reducer_override(obj)
        if isinstance(obj, type) and isinstance(reduced, tuple):
            # The tracker ID, new in every process, is the last argument but one of cloudpickle's class constructors.
            arguments = (*reduced[1][:-2], reduced[1][-1])
            return (reduced[0], arguments, *reduced[2:])
        return reduced
