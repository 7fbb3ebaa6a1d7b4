"""The live end of an execution's journal: lets readers wait for the next event instead of polling the store.

The driver writes on its loop, readers wait on theirs (an actor's control methods run on another thread). What has left
the window is read from the store by the caller; the feed only says so.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import Any

from agentspan.engine.events import events_of
from agentspan.engine.records import AnyRecord, GraphTold

WINDOW_RECORDS_MAX = 256
TOKENS_MAX = 4096
NO_TOKENS = 2**62
"""The token cursor of a reader that wants none."""


class Feed:
    """A bounded window over the newest records, with waiting. Safe to use from several threads."""

    def __init__(self, execution_id: str) -> None:
        self.execution_id = execution_id
        self.wants_tokens = False
        """Set once a reader asked for tokens; the driver then streams model replies."""
        self._lock = threading.Lock()
        self._window: deque[tuple[int, AnyRecord]] = deque(maxlen=WINDOW_RECORDS_MAX)  # (events told before it, record)
        self._events = 0
        self._base: int | None = None  # events told before the oldest record in the window; None until `open`
        self._tokens: deque[tuple[int, str]] = deque(maxlen=TOKENS_MAX)
        self._token_count = 0
        self._closed = False
        self._waiters: set[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = set()

    @property
    def is_closed(self) -> bool:
        """Whether its incarnation is over."""
        return self._closed

    def open(self, events: int) -> None:
        """Say how many events the journal has told already."""
        with self._lock:
            self._events, self._base = events, events
            self._wake()

    def publish(self, records: list[tuple[AnyRecord, int]]) -> None:
        """Append committed records, each with the number of the last event it tells."""
        with self._lock:
            for record, events_to in records:
                self._window.append((self._events, record))
                self._events = events_to
            if self._window:
                self._base = self._window[0][0]
            if any(_has_text(record) for record, _ in records):
                # The committed text replaces the tokens it was streamed as.
                self._tokens.clear()
            self._wake()

    def token(self, text: str) -> None:
        """Append one streamed piece of text; it is live only and never numbered."""
        with self._lock:
            self._token_count += 1
            self._tokens.append((self._token_count, text))
            self._wake()

    def close(self) -> None:
        """Wake every reader for good: this incarnation publishes nothing more."""
        with self._lock:
            self._closed = True
            self._wake()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, set()
        for loop, waiter in waiters:
            try:
                loop.call_soon_threadsafe(_release, waiter)
            except RuntimeError:
                pass  # The reader's loop is closed; so is its interest.

    def read(self, after: int, after_token: int = 0) -> dict[str, Any] | None:
        """What a reader at event `after` has not seen, or None when that is older than the window.

        `{"events": [dict], "next": int, "tokens": [str], "next_token": int, "closed": bool}`.
        """
        with self._lock:
            if self._base is None or after < self._base:
                return None
            records = [(told, record) for told, record in self._window]
            if self._token_count < after_token != NO_TOKENS:
                after_token = 0  # The reader counted those of an incarnation that died.
            tokens = [text for number, text in self._tokens if number > after_token]
            next_token, last, closed = self._token_count, self._events, self._closed
        events = [
            event.to_dict()
            for told, record in records
            for event in events_of(record, execution_id=self.execution_id, first=told + 1)
            if event.seq is not None and event.seq > after
        ]
        return {
            "events": events,
            "next": max(after, last),
            "tokens": tokens,
            "next_token": next_token,
            "closed": closed,
        }

    async def wait(self, after: int, after_token: int, timeout_s: float) -> dict[str, Any] | None:
        """`read`, but wait up to `timeout_s` for something new; before `open`, for that."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            waiter: asyncio.Future[None] = loop.create_future()
            with self._lock:
                self._waiters.add((loop, waiter))
                early = self._base is None and not self._closed
            try:
                page = self.read(after, after_token)
                left = deadline - loop.time()
                told = not early and (page is None or page["events"] or page["tokens"] or page["closed"])
                if told or left <= 0:
                    return page
                async with asyncio.timeout(left):
                    await waiter
            except TimeoutError:
                return self.read(after, after_token)
            finally:  # Also when the reader goes away: an execution may wait for days, with readers coming and going.
                with self._lock:
                    self._waiters.discard((loop, waiter))


def _has_text(record: AnyRecord) -> bool:
    """Whether it tells what a model said. That a graph's node has started, say, does not: tokens may have come already."""
    if isinstance(record, GraphTold):
        return any(told["type"] == "message" for told in record.told)
    return True


def _release(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
