"""Plain data to bytes and back: what every stored body is made of (P11).

A body is one format byte, a digest, and msgpack:

    format (1) | blake2b-8 over context and payload (8) | payload

The *context* is the place a body belongs to (which execution, which seq). It is not stored; whoever reads the body says
what it must be, so a body that was altered, or moved to another row, fails its check. Loading builds str, bytes, int,
float, bool, None, list, tuple and dict, and never runs code.

What msgpack has no form for travels in extension types:

    1  an int beyond 64 bits: big-endian two's complement
    2  a tuple: the msgpack of its items as an array
    3  text with lone surrogates (models cut "\\ud83d…" in half): UTF-8 with surrogates let through
    4  a dict with such a key: the msgpack of [key, value, key, value, …]
    5  text kept elsewhere: the blake2b-32 of its UTF-8
    6  bytes kept elsewhere: their blake2b-32

Text and bytes from `BLOB_BYTES_MIN` on are kept elsewhere, by content, so a document that is part of fifty bodies is
stored once.

Most bodies are small, so the common path is one call of ormsgpack, in C, with no walk over the value in Python. Only
what is large, or refused by ormsgpack, is walked.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, NamedTuple

import ormsgpack
from ormsgpack import Ext

from agentspan.errors import UnstorableValueError
from agentspan.persistence.unstorable import blame

FORMAT = 1
"""Version of the body form. 1: first release."""
BLOB_BYTES_MIN = 16 * 1024
BODY_BYTES_MAX = 512 * 1024 * 1024
"""The largest body or large value; databases have limits of about twice that."""
DEPTH_MAX = 255
"""Levels of nesting ormsgpack can write and read."""

_DIGEST_BYTES = 8
_HEADER_BYTES = 1 + _DIGEST_BYTES
_HEAD = bytes([FORMAT])
_HASH_BYTES = 32
_INT, _TUPLE, _TEXT, _PAIRS, _TEXT_BLOB, _BYTES_BLOB = 1, 2, 3, 4, 5, 6
_OPTIONS = (
    ormsgpack.OPT_PASSTHROUGH_BIG_INT
    | ormsgpack.OPT_PASSTHROUGH_TUPLE
    | ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_UUID
)
_SCALARS = frozenset({int, float, bool, type(None)})

Large = str | bytes
"""A value that is kept beside the body."""


class BodyError(ValueError):
    """Stored bytes are not a body this version can read; the message says why."""


class Packed(NamedTuple):
    """A body, and the large values it only refers to."""

    data: bytes
    blobs: dict[bytes, Large]
    """By hash. Encoded (`blob_bytes`) only when the store does not have it yet."""


class BlobMemo:
    """Remembers the hashes of large values by identity, so that one 10 MB prompt is not hashed for every snapshot.

    Holds a strong reference to each value (an id says nothing about an object that is gone), `bytes_max` in all.
    """

    def __init__(self, bytes_max: int = 64 * 1024 * 1024) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._known: OrderedDict[int, tuple[Large, bytes]] = OrderedDict()
        self._lock = threading.Lock()  # Bodies are packed on the event loop and unpacked on the reader's thread.

    def hash_of(self, value: Large) -> bytes | None:
        """The hash of this very object, if it is remembered."""
        with self._lock:
            known = self._known.get(id(value))
            if known is None:
                return None
            self._known.move_to_end(id(value))
            return known[1]

    def remember(self, value: Large, content_hash: bytes) -> None:
        """Keep the hash of an immutable value."""
        with self._lock:
            if id(value) in self._known:
                return
            self._known[id(value)] = (value, content_hash)
            self._bytes += len(value)
            while self._bytes > self._bytes_max and len(self._known) > 1:
                _, (dropped, _) = self._known.popitem(last=False)
                self._bytes -= len(dropped)


def pack(
    value: Any,
    memo: BlobMemo | None = None,
    *,
    context: bytes = b"",
    spare_depth: int = 0,
    inline: bool = False,
    large: bool = False,
    blob_bytes_min: int = BLOB_BYTES_MIN,
) -> Packed:
    """Turn plain data into a body.

    Args:
        value: str, bytes, int, float, bool, None, and lists, tuples and dicts with string keys of them. Subclasses
            (an `Enum` of strings, a defaultdict, a named tuple) are stored as what they are a kind of.
        memo: Hashes of large values seen before.
        context: The place the body belongs to; `unpack` must be given the same.
        spare_depth: Refuse what is nested so deep that, with this many levels around it, it could not be stored.
        inline: Keep large values in the body.
        large: The caller expects large values: look for them first, instead of after writing them out in vain.
        blob_bytes_min: What counts as large.

    Raises:
        UnstorableValueError: Names the path of the first value that is not plain data.
    """
    payload = None
    if not large:
        try:
            payload = _encode(value, spare_depth)
        except ormsgpack.MsgpackEncodeError:
            pass  # Something in it needs lifting, or cannot be stored at all; the walk below finds out.
    blobs: dict[bytes, Large] = {}
    if payload is None or (not inline and len(payload) >= blob_bytes_min):
        try:
            lifting = _Lifting(blobs, None, sys.maxsize) if inline else _Lifting(blobs, memo, blob_bytes_min)
            payload = _encode(lifting.lift(value), spare_depth)
        except UnstorableValueError:
            raise  # It is a TypeError, and so is ormsgpack's.
        except (ormsgpack.MsgpackEncodeError, RecursionError):
            raise blame(value, depth_max=DEPTH_MAX - spare_depth) from None
    _check_size(len(payload))
    return Packed(_sealed(payload, context), blobs)


def unpack(
    data: bytes,
    get_blob: Callable[[bytes], bytes | None] | None = None,
    *,
    context: bytes = b"",
    memo: BlobMemo | None = None,
) -> Any:
    """Turn a body back into plain data.

    Args:
        data: The body.
        get_blob: Finds a large value by its hash.
        context: What `pack` was given.
        memo: Remembers the hashes of the large values it contains, so that packing them again costs nothing.

    Raises:
        BodyError: Altered, truncated, moved, written by a newer version, or a large value is missing or altered.
    """
    return _Reading(get_blob, memo).decode(_payload(data, context))


def move(data: bytes, *, context: bytes, to: bytes) -> bytes:
    """The same body for another place. Raises BodyError if it does not belong to `context`."""
    return _sealed(_payload(data, context), to)


def large_values(data: bytes, *, context: bytes) -> set[bytes]:
    """The hashes of the large values that a body refers to; none of them is looked at. Raises BodyError."""
    found = set[bytes]()

    def visit(code: int, content: bytes) -> None:
        if code in (_TEXT_BLOB, _BYTES_BLOB):
            found.add(content)
        elif code in (_TUPLE, _PAIRS):
            ormsgpack.unpackb(content, ext_hook=visit)

    ormsgpack.unpackb(_payload(data, context), ext_hook=visit)
    return found


def content_hash(content: bytes) -> bytes:
    """The name of a large value."""
    return blake2b(content, digest_size=_HASH_BYTES).digest()


def blob_bytes(value: Large) -> bytes:
    """A large value as it is stored. Text and bytes of the same content share a blob; the body says which it is."""
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value


def _sealed(payload: bytes | memoryview, context: bytes) -> bytes:
    digest = blake2b(context, digest_size=_DIGEST_BYTES)
    digest.update(payload)
    return b"".join((_HEAD, digest.digest(), payload))


def _payload(data: bytes, context: bytes) -> memoryview:
    if len(data) <= _HEADER_BYTES:
        raise BodyError(f"it is {len(data)} bytes long, too short for a body")
    if data[0] != FORMAT:
        raise BodyError(
            f"its format byte is {data[0]} and this version reads {FORMAT}: written by a newer AgentSpan, or damaged"
        )
    payload = memoryview(data)[_HEADER_BYTES:]
    digest = blake2b(context, digest_size=_DIGEST_BYTES)
    digest.update(payload)
    if digest.digest() != data[1:_HEADER_BYTES]:
        raise BodyError("its bytes do not fit its digest")
    return payload


def _check_size(found_bytes: int) -> None:
    if found_bytes > BODY_BYTES_MAX:
        raise UnstorableValueError(
            path="$",
            found=f"value of {found_bytes} bytes, above the limit of {BODY_BYTES_MAX}",
            hint="keep the content in a file or an object store, and record where it is.",
        )


class _Nest(threading.local):
    """Lists in lists, with a hole in the innermost; one for each thread, because packing fills the hole."""

    def __init__(self) -> None:
        self.by_depth: dict[int, tuple[list[Any], list[Any]]] = {}

    def of_depth(self, depth: int) -> tuple[list[Any], list[Any]]:
        """The outermost list and the one with the hole."""
        nest = self.by_depth.get(depth)
        if nest is None:
            hole: list[Any] = [None]
            outer = hole
            for _ in range(depth - 1):
                outer = [outer]
            nest = self.by_depth[depth] = (outer, hole)
        return nest


_nest = _Nest()


def _encode(value: Any, spare_depth: int = 0) -> bytes:
    if not spare_depth:
        return ormsgpack.packb(value, default=_stand_in, option=_OPTIONS)
    # ormsgpack counts the levels itself, in C. Packing the value inside of one-item lists (one byte each, cut off
    # again) makes it count the spare ones too; a walk in Python would cost as much as all the rest.
    outer, hole = _nest.of_depth(spare_depth)
    hole[0] = value
    try:
        return ormsgpack.packb(outer, default=_stand_in, option=_OPTIONS)[spare_depth:]
    finally:
        hole[0] = None


def _stand_in(value: Any) -> Any:
    """What ormsgpack writes for a value it does not know."""
    if isinstance(value, int):
        return Ext(_INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))
    if isinstance(value, tuple):
        return Ext(_TUPLE, _encode(list(value)))
    if isinstance(value, float):
        return float(value)
    raise TypeError(type(value).__name__)


def _is_odd(text: str) -> bool:
    """It has lone surrogates, so there is no UTF-8 for it."""
    if text.isascii():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


class _Lifting:
    """Replaces what ormsgpack would refuse or should not contain; copies only the containers on the way to it."""

    def __init__(self, blobs: dict[bytes, Large], memo: BlobMemo | None, bytes_min: int) -> None:
        self._blobs = blobs
        self._memo = memo
        self._bytes_min = bytes_min

    def lift(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, dict):
            return self._dict(value)
        if isinstance(value, list):
            return self._items(value)
        if isinstance(value, tuple):
            items = self._items(list(value))
            return Ext(_TUPLE, _encode(items))
        if isinstance(value, (bytes, bytearray, memoryview)) and len(value) >= self._bytes_min:
            return Ext(_BYTES_BLOB, self._keep(bytes(value)))
        return value

    def _text(self, text: str) -> Any:
        if len(text) * 4 >= self._bytes_min:
            known = self._memo.hash_of(text) if self._memo is not None else None
            if known is not None:
                self._blobs[known] = text
                return Ext(_TEXT_BLOB, known)
            if len(text) >= self._bytes_min or (not text.isascii() and len(blob_bytes(text)) >= self._bytes_min):
                return Ext(_TEXT_BLOB, self._keep(str.__str__(text)))
        return Ext(_TEXT, blob_bytes(text)) if _is_odd(text) else text

    def _keep(self, value: Large) -> bytes:
        known = self._memo.hash_of(value) if self._memo is not None else None
        if known is None:
            content = blob_bytes(value)
            _check_size(len(content))
            known = content_hash(content)
            if self._memo is not None:
                self._memo.remember(value, known)
        self._blobs[known] = value
        return known

    def _items(self, items: list[Any]) -> list[Any]:
        if _SCALARS.issuperset(map(type, items)):
            return items  # An embedding is a hundred thousand floats; nothing in it needs lifting.
        return [self.lift(item) for item in items]

    def _dict(self, given: dict[Any, Any]) -> Any:
        lifted: dict[Any, Any] = {}
        odd_keys = False
        for key, value in given.items():
            if type(key) is not str and isinstance(key, str):
                key = str.__str__(key)
            if isinstance(key, str) and _is_odd(key):
                odd_keys = True
            lifted[key] = value if type(value) in _SCALARS else self.lift(value)
        if not odd_keys:
            return lifted
        pairs = [part for key, value in lifted.items() for part in (self.lift(key), value)]
        return Ext(_PAIRS, _encode(pairs))


class _Reading:
    """Decodes one body."""

    def __init__(self, get_blob: Callable[[bytes], bytes | None] | None, memo: BlobMemo | None) -> None:
        self._get_blob = get_blob
        self._memo = memo
        self._found: dict[tuple[int, bytes], Large] = {}
        self._problem: BodyError | None = None

    def decode(self, payload: bytes | memoryview) -> Any:
        try:
            return ormsgpack.unpackb(payload, ext_hook=self._extension)
        except ormsgpack.MsgpackDecodeError as problem:
            # What goes wrong in the hook is not told by ormsgpack, so the hook keeps it here.
            raise self._problem or BodyError(f"it is not msgpack: {problem}") from None

    def _extension(self, code: int, data: bytes) -> Any:
        try:
            return self._value(code, data)
        except BodyError as problem:
            self._problem = self._problem or problem
            raise

    def _value(self, code: int, data: bytes) -> Any:
        if code == _INT:
            return int.from_bytes(data, "big", signed=True)
        if code == _TUPLE:
            return tuple(self.decode(data))
        if code == _TEXT:
            return data.decode("utf-8", "surrogatepass")
        if code == _PAIRS:
            parts = self.decode(data)
            return dict(zip(parts[::2], parts[1::2], strict=True))
        if code in (_TEXT_BLOB, _BYTES_BLOB):
            return self._large(code, data)
        raise BodyError(f"it contains extension type {code}, which this version does not know")

    def _large(self, code: int, name: bytes) -> Large:
        found = self._found.get((code, name))
        if found is None:
            content = self._get_blob(name) if self._get_blob is not None else None
            if content is None:
                raise BodyError(f"the large value {name.hex()[:16]} it refers to is missing")
            if content_hash(content) != name:
                raise BodyError(f"the large value {name.hex()[:16]} it refers to does not fit its hash")
            found = content.decode("utf-8", "surrogatepass") if code == _TEXT_BLOB else content
            self._found[code, name] = found
            if self._memo is not None:
                self._memo.remember(found, name)
        return found
