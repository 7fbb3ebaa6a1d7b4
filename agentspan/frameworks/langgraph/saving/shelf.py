"""Rows of checkpoints with all the rows they refer to, and what is remembered of checkpoints between puts."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from agentspan.errors import CorruptRecordError
from agentspan.frameworks.langgraph.saving.channel_reading import Link, decode
from agentspan.frameworks.langgraph.saving.channels import Held, Serde
from agentspan.frameworks.langgraph.saving.checkpoints import Known, Stored
from agentspan.persistence.threads import CheckpointRow, ThreadStore

_CHAIN_MAX = 1000
"""Longer than any ladder: the rows refer to each other in a circle."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A checkpoint that was read."""

    checkpoint: dict[str, Any]
    metadata: dict[str, Any]
    holds: dict[str, Callable[[], Held]]

    def known(self, stored: Stored) -> Known:
        """What the next checkpoint needs to know; call it before anybody can change the values."""
        at = self.checkpoint["channel_versions"]
        held = {channel: (at[channel], hold()) for channel, hold in self.holds.items() if channel in at}
        layout = {name: number for number, name in enumerate(stored.names)}
        return Known(held, stored.layout_at or stored.row.checkpoint_id, layout)


class Shelf:
    """Rows of one namespace of a thread."""

    def __init__(self, thread_id: str, ns: str) -> None:
        self._thread_id = thread_id
        self._ns = ns
        self._rows: dict[str, Stored] = {}

    def add(self, rows: Iterable[CheckpointRow]) -> None:
        """Put rows on it."""
        for row in rows:
            self._rows[row.checkpoint_id] = Stored.of(row)

    def row(self, checkpoint_id: str) -> Stored:
        """A row that is on it."""
        return self._rows[checkpoint_id]

    async def fetch(self, store: ThreadStore, wanted: Sequence[tuple[str, str | None]]) -> None:
        """Read all that is needed for some checkpoints: by ID, with one channel or (None) all of them."""
        asked = set(wanted)
        todo = list(asked)
        while todo:
            await self._read(store, [checkpoint_id for checkpoint_id, _ in todo])
            rows = [self._rows[checkpoint_id] for checkpoint_id, _ in todo if checkpoint_id in self._rows]
            await self._read(store, [row.layout_at for row in rows if row.layout_at is not None and not row.names])
            for row in rows:
                if row.layout_at is not None and not row.names:
                    row.name(self._need(row.layout_at, "names").names)
            more = [
                need
                for checkpoint_id, channel in todo
                if checkpoint_id in self._rows
                for need in self._rows[checkpoint_id].needs(channel)
            ]
            todo = [need for need in dict.fromkeys(more) if need not in asked]
            asked.update(todo)

    async def _read(self, store: ThreadStore, ids: Iterable[str]) -> None:
        missing = [one for one in dict.fromkeys(ids) if one not in self._rows]
        if missing:
            self.add(await store.checkpoints(self._thread_id, self._ns, missing))

    def open(self, checkpoint_id: str, serde: Serde) -> Opened:
        """Read a checkpoint.

        Raises:
            CorruptRecordError: Something it refers to is missing or is another version.
            UnknownStateTypeError: A value is of a type that is not declared.
        """
        stored = self._rows[checkpoint_id]
        checkpoint = stored.frame(serde)
        holds: dict[str, Callable[[], Held]] = {}
        for channel in self._in_order(stored):
            value, holds[channel] = decode(self._chain(stored, channel), serde, f"$.{channel}")
            checkpoint["channel_values"][channel] = value
        return Opened(checkpoint, stored.metadata(serde), holds)

    def value(self, checkpoint_id: str, channel: str, serde: Serde) -> Any:
        """The value of one channel of a checkpoint that has it. Raises as `open` does."""
        return decode(self._chain(self._rows[checkpoint_id], channel), serde, f"$.{channel}")[0]

    def _in_order(self, stored: Stored) -> list[str]:
        have = stored.has()
        return [channel for channel in stored.names if channel in have]

    def _chain(self, stored: Stored, channel: str) -> list[Link]:
        links: list[Link] = []
        at = stored
        for _ in range(_CHAIN_MAX):
            if channel in at.values:
                links.append(at.link(channel))
                following = at.base(channel)
                if following is None:
                    return links
            else:
                following = at.elsewhere.get(channel)
                if following is None:
                    raise self._corrupt(at.row.checkpoint_id, f"it has no value of {channel!r}")
            at = self._need(following[0], channel)
            if at.versions.get(channel) != following[1]:
                raise self._corrupt(at.row.checkpoint_id, f"it has another version of {channel!r}")
        raise self._corrupt(stored.row.checkpoint_id, f"its {channel!r} refers to itself")

    def _need(self, checkpoint_id: str, what: str) -> Stored:
        found = self._rows.get(checkpoint_id)
        if found is None or (what != "names" and not found.names and found.layout_at is not None):
            raise self._corrupt(checkpoint_id, f"{what!r} of a later one refers to it, and it is missing")
        return found

    def _corrupt(self, checkpoint_id: str, problem: str) -> CorruptRecordError:
        of = f" of {self._ns}" if self._ns else ""
        return CorruptRecordError(execution_id=self._thread_id, what=f"checkpoint {checkpoint_id}{of}", problem=problem)


class Memory:
    """What is known of the checkpoints that may get a child soon. Bounded; what was forgotten costs one full value.

    Thread-safe. Shared by all copies of a saver.
    """

    def __init__(self, entries_max: int = 4096, bytes_max: int = 64 * 1024 * 1024) -> None:
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._bytes = 0
        self._known: OrderedDict[tuple[str, str, str], tuple[Known, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, thread_id: str, ns: str, checkpoint_id: str | None) -> Known | None:
        """What is known of a checkpoint."""
        with self._lock:
            found = None if checkpoint_id is None else self._known.get((thread_id, ns, checkpoint_id))
            return None if found is None else found[0]

    def keep(self, thread_id: str, ns: str, checkpoint_id: str, known: Known, instead_of: str | None = None) -> None:
        """Remember a checkpoint; its parent will hardly get another child."""
        size = known.size
        with self._lock:
            self._drop((thread_id, ns, checkpoint_id))
            if instead_of is not None:
                self._drop((thread_id, ns, instead_of))
            self._known[thread_id, ns, checkpoint_id] = (known, size)
            self._bytes += size
            while len(self._known) > self._entries_max or (self._bytes > self._bytes_max and len(self._known) > 1):
                self._drop(next(iter(self._known)))

    def forget(self, thread_id: str) -> None:
        """Forget a thread, because its rows are not what was thought."""
        with self._lock:
            for key in [key for key in self._known if key[0] == thread_id]:
                self._drop(key)

    def _drop(self, key: tuple[str, str, str]) -> None:
        _, size = self._known.pop(key, (None, 0))
        self._bytes -= size
