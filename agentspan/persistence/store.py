"""The port to persistent storage: what every store promises.

One class of tests (`agentspan.testing.store_contract`) says the same in code, and every store passes it. The rules a
caller relies on:

* `commit` is all or none, carries the caller's epoch, and is refused when a newer epoch holds the execution (P4).
* `commit` is idempotent on (execution, seq, epoch): after an unknown outcome, the same commit may be sent again.
* A signal is stored before `send` returns; the first decision on a call wins, later ones get the first back (P5).
* Loading never runs code; a row that fails its check raises `CorruptRecordError` for that execution only (P11).

Instants are UTC seconds as floats (`…_at`); bodies are plain data (str, bytes, int of any size, float, bool, None,
list, tuple, dict with string keys) and come back as they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from agentspan.engine.admit import Signal
from agentspan.persistence.threads import ThreadStore, ThreadWrite


@dataclass(frozen=True, slots=True, kw_only=True)
class NewExecution:
    """A request to create an execution."""

    execution_id: str
    request_id: str
    """Minted by the client: the same request delivered twice creates one execution."""
    agent: str
    deployment_id: str
    started: dict[str, Any]
    """The body of record 0 (kind `started`). The store fills in `session_from` when `session_id` is set, unless it is
    there already."""
    session_id: str = ""
    idempotency_key: str | None = None
    """Unique per agent name. A second start with it returns the first execution."""
    created_at: float
    wake_at: float | None = None
    """When time alone changes something, even if it has not begun by then: its deadline."""
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """What `create` did."""

    execution_id: str
    is_new: bool
    """False: an earlier request or the idempotency key had created it already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionRow:
    """What is kept about an execution beside its journal; enough to list, find and schedule it."""

    execution_id: str
    agent: str
    deployment_id: str
    status: str
    """A `Status` value."""
    epoch: int
    """0 until the first incarnation takes over."""
    seq: int
    """The last record."""
    events: int
    """Events told by the journal so far."""
    session_id: str
    idempotency_key: str | None
    created_at: float
    updated_at: float
    wake_at: float | None
    """When time alone changes something (retry, deadline); None for never."""
    resident: bool
    """An incarnation holds it, or held it and died; False after a clean hibernation or end."""
    crashes: int
    """Take-overs after a crash since the last progress."""
    recoveries: int
    """Take-overs after a crash in all."""
    host: dict[str, Any]
    """Where the current incarnation lives: actor, pid, node. Empty when none does."""
    current_task: str
    """What it is doing, for people: `model`, `tool:search`, …"""
    finish_reason: str | None
    error: str | None
    metadata: dict[str, Any]
    inbox: int
    """Signals accepted and not yet applied."""
    pending: int
    """Calls that wait for a person or a message and are not decided yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingRow:
    """A call that waits for a decision."""

    execution_id: str
    call_id: str
    path: str
    ask: str
    """`approval`, `question`, `message`, `crash`, `interrupt` or `breakpoint`."""
    tool: str
    arguments: dict[str, Any] | None
    arguments_hash: str
    question: str = ""
    response_schema: dict[str, Any] | None = None
    parameters: dict[str, Any] | None = None
    """JSON schema that edited arguments must fit."""
    form: dict[str, Any] = field(default_factory=dict)
    """Interrupts: what kind of answer is wanted (`engine.answers`)."""
    asked_at: float
    decided_by_signal: str | None = None
    """The signal that decided it; its record may not be committed yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """One stored record."""

    seq: int
    kind: str
    body: dict[str, Any]
    events_to: int
    """The number of the last event told by the journal up to and including this record."""
    epoch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RowChange:
    """What a commit makes of the execution's row."""

    status: str
    updated_at: float
    wake_at: float | None = None
    resident: bool = True
    current_task: str = ""
    finish_reason: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """One step: everything that becomes true together.

    With no records it only changes the row (hibernation) and the thread; sent again it does so again, to the same end.
    """

    execution_id: str
    epoch: int
    entries: Sequence[JournalEntry]
    """`seq` follows the stored tail without a gap."""
    seq: int
    """The journal's last seq after this commit (the stored tail when there are no entries)."""
    change: RowChange
    consumed: Sequence[str] = ()
    """Signal IDs that these records put into effect (or that had nothing to change any more)."""
    opens: Sequence[PendingRow] = ()
    closes: Sequence[str] = ()
    """Call IDs that wait no longer. All of them when the status is terminal."""
    snapshot: dict[str, Any] | None = None
    """The full state as of `seq`; replaces the one before."""
    progress: bool = True
    """Resets the crash count: something new was achieved."""
    thread: ThreadWrite | None = None
    """What this step adds to the execution's thread (which has the execution's ID)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What a commit wrote."""

    bytes_written: int
    """Bytes of record bodies (and of their new large values)."""
    snapshot_bytes: int = 0
    thread_bytes: int = 0
    """Bytes of the thread's bodies (and of their new large values)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenOver:
    """A new incarnation's right to write."""

    epoch: int
    crashed: bool
    """The last incarnation did not leave cleanly (and there was one)."""
    crashes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Everything needed to go on: the snapshot and what came after it."""

    row: ExecutionRow
    snapshot: dict[str, Any] | None
    snapshot_seq: int
    """-1 when there is no snapshot."""
    entries: Sequence[JournalEntry]
    """Those after `snapshot_seq`, in order, without a gap."""
    snapshot_bytes: int = 0
    entries_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The answer to a signal."""

    signal: Signal
    """The signal that counts: for a decision on a decided call, the first one."""
    is_new: bool
    """False: another signal had decided the call before. The same signal sent again gets its first answer again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentRow:
    """One version of an agent."""

    deployment_id: str
    """Content hash."""
    agent: str
    kind: str
    """`agent` (native) or the name of a framework adapter."""
    source: str
    """`reference`, `value` or `client`."""
    reference: str | None
    """`package.module:attribute`, when by reference."""
    code: bytes | None
    """Cloudpickle, when by value. Never loaded without a valid signature."""
    signature: str
    spec: dict[str, Any]
    python: str
    """The Python (major.minor) that made `code`."""
    created_at: float


CLIENT_PREFIX = "client-"
"""How the IDs of deployments begin whose executions run in the client's process; no code is kept of them."""


def runs_in_client(deployment_id: str) -> bool:
    """Whether executions of this deployment are none of the supervisor's business."""
    return deployment_id.startswith(CLIENT_PREFIX)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What `gc` removed, or would remove."""

    executions: int
    records: int
    blobs: int
    bytes: int
    dry_run: bool
    execution_ids: Sequence[str] = ()


class Store(ThreadStore, Protocol):
    """Persistent storage. All methods may raise `StoreUnavailableError` (outcome unknown)."""

    async def close(self) -> None:
        """Let go of the storage. Idempotent."""
        ...

    # --- executions

    async def create(self, new: NewExecution) -> Created:
        """Accept an execution: its row and record 0, in one transaction.

        Status QUEUED, epoch 0, seq 0, not resident. When `session_id` is set, the newest COMPLETED execution of the same
        agent and session becomes `session_from` in record 0.
        """
        ...

    async def take_over(
        self, execution_id: str, *, host: dict[str, Any], expected_epoch: int | None = None, blame: bool = True
    ) -> TakenOver:
        """Make the caller's new incarnation the only writer: raise the epoch by one and mark it resident.

        With `expected_epoch` the epoch is raised only from that value, so that two rescuers cannot both do it. After a
        crash, `blame` says whether it counts towards `crashes` (it may be the execution's own doing) or only towards
        `recoveries` (the server was restarted, say).

        Raises:
            UnknownExecutionError, ExecutionFinishedError: Nothing to take over.
            StaleEpochError: `expected_epoch` is not the held epoch.
        """
        ...

    async def set_host(self, execution_id: str, *, epoch: int, host: dict[str, Any]) -> None:
        """Note where the incarnation `epoch` lives; ignored if it is no longer the holder."""
        ...

    async def load(self, execution_id: str) -> Loaded:
        """Read the latest state: O(state) bytes, however long the journal.

        Raises:
            UnknownExecutionError: No such execution.
            CorruptRecordError: A row fails its check.
        """
        ...

    async def commit(self, commit: Commit) -> Receipt:
        """Write one step, all or none.

        Raises:
            StaleEpochError: A newer incarnation holds the execution; nothing was written.
            SequenceConflictError: `entries` do not follow the tail and are not already there from the same epoch.
            ExecutionFinishedError: They would follow the last record of an execution that has ended.
            UnstorableValueError: A body is not plain data; nothing was written.
        """
        ...

    async def quarantine(self, execution_id: str, *, error: str) -> None:
        """Set a damaged, unfinished execution aside as QUARANTINED and raise its epoch; its journal stays as it is."""
        ...

    async def release(self, execution_id: str) -> bool:
        """Let a quarantined execution run again, its rows having been repaired. False if it is not quarantined.

        It counts as running on an incarnation that died, so the next take-over recovers it.
        """
        ...

    async def row(self, execution_id: str) -> ExecutionRow:
        """One row. Raises UnknownExecutionError."""
        ...

    async def find(self, prefix: str) -> str:
        """The full ID for a short one. Raises UnknownExecutionError, AmbiguousExecutionError (names up to 5)."""
        ...

    async def rows(
        self,
        *,
        statuses: Sequence[str] | None = None,
        agent: str | None = None,
        session_id: str | None = None,
        limit: int = 100,
        before: float | None = None,
    ) -> list[ExecutionRow]:
        """Rows, newest first; `before` continues a listing (created_at)."""
        ...

    async def unfinished(self) -> list[ExecutionRow]:
        """Every row that is not terminal and not quarantined, oldest first: what a supervisor has to look after."""
        ...

    async def journal(self, execution_id: str, *, after_seq: int = -1, limit: int = 1000) -> list[JournalEntry]:
        """Records after `after_seq`, in order."""
        ...

    async def journal_after_event(self, execution_id: str, *, event: int, limit: int = 1000) -> list[JournalEntry]:
        """Records that tell any event after number `event`, in order (the first may also tell earlier ones)."""
        ...

    # --- signals

    async def send(self, signal: Signal) -> Accepted:
        """Store a signal. Idempotent on `signal_id`.

        For decisions the call is looked up among the pending ones (`call_id` None: the only one), the hash and, for
        `approve` with arguments and `respond`, the JSON schemas are checked, and the returned signal carries the
        resolved `call_id`. A call that was decided before returns the first decision, with `is_new` False.

        Raises:
            UnknownExecutionError, ExecutionFinishedError, NothingPendingError, UnknownCallError,
            AmbiguousDecisionError, DecisionMismatchError, InvalidDecisionError: Nothing was stored.
        """
        ...

    async def inbox(self, execution_id: str) -> list[Signal]:
        """Accepted signals not yet consumed by a commit, in the order they were accepted."""
        ...

    async def pending(self, execution_id: str | None = None, *, limit: int = 100) -> list[PendingRow]:
        """Calls that wait and are not decided, oldest first; of one execution or of all."""
        ...

    # --- deployments

    async def save_deployment(self, deployment: DeploymentRow) -> bool:
        """Keep a version and make it the current one of its agent name. False if this ID was there already."""
        ...

    async def deployment(self, deployment_id: str) -> DeploymentRow | None:
        """One version, or None."""
        ...

    async def current_deployment(self, agent: str) -> DeploymentRow | None:
        """The version a start by name uses: the last one saved under that name, or None."""
        ...

    async def deployments(self) -> list[DeploymentRow]:
        """The current version of every agent (without `code`), by name."""
        ...

    # --- upkeep

    async def gc(self, *, finished_before: float, dry_run: bool = True, limit: int = 10_000) -> Sweep:
        """Remove executions that ended before an instant, with their threads and all that only they refer to.

        What an unfinished execution continues is kept, and so is all of a session while one of it has not begun.
        """
        ...

    async def info(self) -> dict[str, Any]:
        """For `doctor`: kind, where, schema version, size in bytes, counts by status, number of threads."""
        ...
