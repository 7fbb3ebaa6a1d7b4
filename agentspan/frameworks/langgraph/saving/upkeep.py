"""Removing and copying checkpoints. What remains is rewritten first, so that it refers to nothing that goes.

Not for threads that a graph is running on: what it stores next may refer to what is removed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from agentspan.errors import ConfigurationError
from agentspan.frameworks.langgraph.saving.channel_reading import Opaque
from agentspan.frameworks.langgraph.saving.channels import Serde
from agentspan.frameworks.langgraph.saving.checkpoints import Known, encode_checkpoint
from agentspan.frameworks.langgraph.saving.ports import ThreadPort
from agentspan.frameworks.langgraph.saving.reads import RowPages
from agentspan.frameworks.langgraph.saving.shelf import Memory, Shelf
from agentspan.frameworks.langgraph.saving.steps import Steps
from agentspan.persistence.threads import CheckpointRow, ThreadWrite

_DELTA_COUNTERS = "counters_since_delta_snapshot"


class Upkeep:
    """Works on stored forms: it does not need the types that are in the state."""

    def __init__(self, port: ThreadPort, serde: Serde, memory: Memory) -> None:
        self._port = port
        self._serde = Opaque(serde)
        self._memory = memory

    def delete_thread(self, thread_id: str) -> Steps[None]:
        """Remove a thread."""
        self._memory.forget(thread_id)
        yield self._port.read(lambda store: store.delete_thread(thread_id))
        self._memory.forget(thread_id)

    def copy_thread(self, source: str, target: str) -> Steps[None]:
        """Copy a thread."""
        yield self._port.read(lambda store: store.copy_thread(source, target))
        self._memory.forget(target)

    def prune(self, thread_ids: Sequence[str], strategy: str) -> Steps[None]:
        """Keep the latest of each namespace, or nothing."""
        if strategy not in ("keep_latest", "delete"):
            raise ConfigurationError(problem=f"strategy={strategy!r} is not known; use 'keep_latest' or 'delete'.")
        for thread_id in thread_ids:
            if strategy == "delete":
                yield from self.delete_thread(thread_id)
                continue
            rows = yield from self._rows(thread_id)
            for (_, ns), of in _by_namespace(rows).items():
                shelf = yield from self._shelf(thread_id, ns, of)
                yield from self._keep(thread_id, ns, of, shelf, _needed(shelf, of, self._serde))

    def delete_for_runs(self, run_ids: Sequence[str], thread_id: str | None) -> Steps[None]:
        """Remove the checkpoints of some runs, in all threads or in one."""
        if not run_ids:
            return
        wanted = set(run_ids)
        rows = yield from self._rows(thread_id)
        for (owner, ns), of in _by_namespace(rows).items():
            keep = {row.checkpoint_id for row in of if row.body["m"].get("run_id") not in wanted}
            if len(keep) < len(of):
                shelf = yield from self._shelf(owner, ns, of)
                yield from self._keep(owner, ns, of, shelf, keep)

    def _rows(self, thread_id: str | None) -> Steps[list[tuple[str, CheckpointRow]]]:
        pages = RowPages(thread_id, None)
        rows: list[tuple[str, CheckpointRow]] = []
        while not pages.is_done:
            page = yield self._port.read(pages.next)
            rows += [(found.thread_id, found.row) for found in page]
        return rows

    def _shelf(self, thread_id: str, ns: str, rows: Sequence[CheckpointRow]) -> Steps[Shelf]:
        shelf = Shelf(thread_id, ns)
        shelf.add(rows)
        wanted = [(row.checkpoint_id, None) for row in rows]
        yield self._port.read(lambda store: shelf.fetch(store, wanted))
        return shelf

    def _keep(
        self, thread_id: str, ns: str, rows: Sequence[CheckpointRow], shelf: Shelf, keep: Collection[str]
    ) -> Steps[None]:
        """Remove all other checkpoints of a namespace. `rows` are all there are, the last stored first."""
        gone = [(ns, row.checkpoint_id) for row in rows if row.checkpoint_id not in keep]
        if not gone:
            return
        self._memory.forget(thread_id)
        known: dict[str, Known] = {}
        kept: list[CheckpointRow] = []
        for row in reversed(rows):
            if row.checkpoint_id in keep:
                new, known[row.checkpoint_id] = self._rewritten(shelf, row, known.get(row.parent_id or ""))
                kept.append(new)
        # Also with nothing to rewrite: this is what the store refuses when the thread is an execution's.
        yield self._port.push(thread_id, ThreadWrite(checkpoints=kept))
        yield self._port.read(lambda store: store.delete_checkpoints(thread_id, gone))
        self._memory.forget(thread_id)

    def _rewritten(self, shelf: Shelf, row: CheckpointRow, known: Known | None) -> tuple[CheckpointRow, Known]:
        opened = shelf.open(row.checkpoint_id, self._serde)
        return encode_checkpoint(
            opened.checkpoint,
            opened.metadata,
            ns=row.ns,
            parent_id=row.parent_id,
            known=known,
            changed=(),
            serde=self._serde,
        )


def _by_namespace(rows: Sequence[tuple[str, CheckpointRow]]) -> dict[tuple[str, str], list[CheckpointRow]]:
    found: dict[tuple[str, str], list[CheckpointRow]] = {}
    for thread_id, row in rows:
        found.setdefault((thread_id, row.ns), []).append(row)
    return found


def _needed(shelf: Shelf, rows: Sequence[CheckpointRow], serde: Serde) -> set[str]:
    """The latest checkpoint, and the ancestors that its `DeltaChannel`s are rebuilt from.

    LangGraph counts, in the metadata, the steps since a `DeltaChannel` was stored as a whole. One that is counted and
    has no value is rebuilt from the writes on the ancestors, back to the nearest that has a value.
    """
    by_id = {row.checkpoint_id: row for row in rows}
    at: CheckpointRow | None = rows[0]
    keep = {rows[0].checkpoint_id}
    latest = shelf.row(rows[0].checkpoint_id)
    open_channels = set(latest.metadata(serde).get(_DELTA_COUNTERS) or ()) - latest.has()
    while open_channels and at is not None:
        at = by_id.get(at.parent_id or "")
        if at is not None:
            keep.add(at.checkpoint_id)
            open_channels -= shelf.row(at.checkpoint_id).has()
    return keep
