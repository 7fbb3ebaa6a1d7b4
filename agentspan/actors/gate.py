"""The gate before model calls in a process that runs executions: a call goes through with a permit (`models.permits`).

A model for which no limit is set is never asked about: not one remote call, no task, no lock. For the others, all that
this process wants, has done and was refused goes in one message; while one is under way, what comes up meanwhile is
gathered for the next. Where only rates are limited, a busy process is given some permits more than it asked for, so that
most calls find one here.

Nothing of it is stored. A process that dies leaves permits that run out by themselves; when the supervisor dies, calls wait
until the next one is up, and everything is said again.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentspan.limits import ModelLimit
from agentspan.models.permits import RENEW_S

log = logging.getLogger("agentspan.gate")

Ask = Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]]
"""`PermitDesk.exchange`, from afar. May raise anything; then the outcome is unknown, and it is asked again."""

TELL_AFTER_S = 1.0
"""A wait that is longer is shown in the execution's status."""
WAIT_S = 10.0
DONE_DELAY_S = 0.02
"""How long word of a call that is over waits for company."""
SPARE_S = 1.0
"""How long a permit that nobody asked for is kept."""
SPARES_MAX = 32
RETRY_S = 0.5


@dataclass(frozen=True, slots=True)
class Permit:
    """The right to make one call."""

    permit_id: str
    model: str
    tokens: int
    """What the call is guessed to cost."""

    @property
    def said(self) -> list[Any]:
        return [self.permit_id, self.model, self.tokens]


@dataclass(slots=True)
class _Terms:
    """What is limited of a model."""

    is_tracked: bool
    """Whether it matters when a call is over, or what it cost."""
    may_spare: bool
    recent: deque[float] = field(default_factory=deque)
    """When calls were made during the last second."""
    spares: deque[tuple[float, Permit]] = field(default_factory=deque)


class ModelGate:
    """Lets model calls of this process through. Belongs to one event loop."""

    def __init__(
        self,
        limits: Sequence[ModelLimit],
        ask: Ask,
        *,
        client: str,
        canonical: Callable[[str], str] = lambda model: model,
    ) -> None:
        """`client` names this process, and no other one ever."""
        self._limits = tuple(limits)
        self._ask = ask
        self._client = client
        self._canonical = canonical
        self._terms: dict[str, _Terms | None] = {}
        self._numbers = itertools.count(1)
        self._boot = ""
        self._wishes: dict[str, Permit] = {}
        """Not said yet; as are the three below."""
        self._spare_wishes: dict[str, Permit] = {}
        self._done: list[list[Any]] = []
        self._throttled: list[list[Any]] = []
        self._waiting: dict[str, tuple[Permit, asyncio.Future[Permit]]] = {}
        self._held: dict[str, Permit] = {}
        self._why: dict[str, str] = {}
        self._renew_at: float | None = None
        self._hurry = asyncio.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def limits(self, model: str) -> bool:
        """Whether calls of this model need a permit."""
        return self._terms_of(model) is not None

    def _terms_of(self, model: str) -> _Terms | None:
        if model not in self._terms:
            name = self._canonical(model)
            found = [limit for limit in self._limits if limit.covers(name)]
            tracked = any(limit.in_flight or limit.tokens_per_minute for limit in found)
            spare = not any(limit.in_flight for limit in found)
            self._terms[model] = _Terms(tracked, spare) if found else None
        return self._terms[model]

    # --- what performers call

    async def enter(self, model: str, tokens: int, tell: Callable[[str], object]) -> Permit:
        """Wait for a permit. Cancelling the wait gives it up.

        Args:
            model: `provider/model`; one that is limited.
            tokens: What the call is guessed to cost.
            tell: Told why it waits, when it does for more than a moment; and "" when that is over.
        """
        terms = self._terms_of(model)
        assert terms is not None, "only limited models need permits"
        now = self._now()
        terms.recent.append(now)
        while terms.recent[0] < now - 1.0:
            terms.recent.popleft()
        permit = self._spare(terms, now)
        if permit is None:
            permit = await self._wait(Permit(self._mint(), model, tokens), terms, tell)
        if terms.is_tracked:
            self._held[permit.permit_id] = permit
            self._run("renew", self._renew)
        return permit

    def leave(self, permit: Permit, *, cost: int | None = None) -> None:
        """The call is over. `cost`: its tokens, None when nobody knows."""
        self._held.pop(permit.permit_id, None)
        terms = self._terms_of(permit.model)
        if terms is not None and terms.is_tracked:
            self._say_done(permit, cost=cost)

    def throttled(self, model: str, retry_after_s: float | None) -> None:
        """The provider refused a call because there were too many: nobody is to call before the time is over."""
        self._throttled.append([model, retry_after_s])
        self._run("send", self._send, hurry=True)

    async def close(self) -> None:
        """End what is under way here. Permits run out by themselves."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # --- waiting

    async def _wait(self, permit: Permit, terms: _Terms, tell: Callable[[str], object]) -> Permit:
        granted: asyncio.Future[Permit] = asyncio.get_running_loop().create_future()
        self._waiting[permit.permit_id] = (permit, granted)
        self._wishes[permit.permit_id] = permit
        if terms.may_spare:
            more = min(SPARES_MAX, len(terms.recent) - 1) - len(self._spare_wishes)
            for _ in range(max(0, more)):
                extra = Permit(self._mint(), permit.model, permit.tokens)
                self._spare_wishes[extra.permit_id] = extra
        self._run("send", self._send, hurry=True)
        try:
            await asyncio.wait([granted], timeout=TELL_AFTER_S)
            if not granted.done():
                tell(f"waits for a permit ({self._why.get(permit.model) or permit.model})")
                try:
                    return await granted
                finally:
                    tell("")
            return granted.result()
        except asyncio.CancelledError:
            self._waiting.pop(permit.permit_id, None)
            if self._wishes.pop(permit.permit_id, None) is None:  # Said already; perhaps granted by now.
                self._say_done(permit, is_used=False)
            raise

    def _spare(self, terms: _Terms, now: float) -> Permit | None:
        while terms.spares:
            until, permit = terms.spares.popleft()
            if until > now:
                return permit
            self._say_done(permit, is_used=False)
        return None

    def _return_spares(self, model: str) -> None:
        terms = self._terms_of(model)
        while terms is not None and terms.spares and terms.spares[0][0] <= self._now():
            self._say_done(terms.spares.popleft()[1], is_used=False)

    def _say_done(self, permit: Permit, *, cost: int | None = None, is_used: bool = True) -> None:
        self._done.append([permit.permit_id, permit.model, cost, permit.tokens, is_used])
        self._run("send", self._send)

    def _mint(self) -> str:
        return f"{self._client}:{next(self._numbers)}"

    # --- talking

    def _run(self, name: str, what: Callable[[], Any], *, hurry: bool = False) -> None:
        if hurry:
            self._hurry.set()
        task = self._tasks.get(name)
        if task is None or task.done():
            task = self._tasks[name] = asyncio.create_task(what())
            task.add_done_callback(lambda done: self._ended(name, done))

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(name) is task:
            del self._tasks[name]
        if not task.cancelled() and (problem := task.exception()) is not None:
            log.error("gate.failed", exc_info=problem)

    @property
    def _has_news(self) -> bool:
        return bool(self._wishes or self._done or self._throttled or self._is_due)

    @property
    def _are_in_line(self) -> bool:
        """Whether somebody waits whose wish was said."""
        return len(self._waiting) > len(self._wishes)

    @property
    def _is_due(self) -> bool:
        return self._renew_at is not None and self._renew_at <= self._now()

    async def _send(self) -> None:
        """Say all there is to say, until there is nothing more."""
        while self._has_news:
            if not (self._wishes or self._throttled or self._is_due):
                self._hurry.clear()
                try:
                    async with asyncio.timeout(DONE_DELAY_S):
                        await self._hurry.wait()
                except TimeoutError:
                    pass
            wishes, self._wishes = self._wishes, {}
            spares, self._spare_wishes = self._spare_wishes, {}
            done, self._done = self._done, []
            throttled, self._throttled = self._throttled, []
            self._renew_at = None
            try:
                await self._exchange(
                    {
                        "wishes": [permit.said for permit in wishes.values()],
                        "spares": [permit.said for permit in spares.values()],
                        "held": [permit.said for permit in self._held.values()],
                        "done": done,
                        "throttled": throttled,
                    },
                    spares,
                )
            except ConnectionError:
                self._done, self._throttled = done + self._done, throttled + self._throttled
            if self._are_in_line:
                self._run("collect", self._collect)

    async def _collect(self) -> None:
        """Wait for permits that are not granted yet."""
        while self._are_in_line:
            try:
                await self._exchange({"wait_s": WAIT_S}, {})
            except ConnectionError:
                self._run("send", self._send, hurry=True)

    async def _renew(self) -> None:
        """Say that this process lives, while it holds permits that others may wait for."""
        while self._held:
            await asyncio.sleep(RENEW_S)
            if self._held:
                self._renew_at = self._now()
                self._run("send", self._send, hurry=True)

    async def _exchange(self, said: dict[str, Any], spares: Mapping[str, Permit]) -> None:
        """Say something and heed the answer.

        Raises:
            ConnectionError: No answer. All is to be said again, and will be: what waits is marked as not said.
        """
        models = sorted({permit.model for permit, _ in self._waiting.values()})
        message = {"client": self._client, "boot": self._boot, "models": models, **said}
        try:
            answer = await self._ask({name: value for name, value in message.items() if value})
        except Exception as problem:
            log.warning("gate.no_answer", extra={"problem": repr(problem)[:300]})
            await asyncio.sleep(RETRY_S)
            self._say_again()
            raise ConnectionError from problem
        if self._boot and answer["boot"] != self._boot:
            self._say_again()
            self._run("send", self._send, hurry=True)
        self._boot = answer["boot"]
        self._why = answer["why"]
        for permit_id in answer["granted"]:
            self._wishes.pop(permit_id, None)
            permit, granted = self._waiting.pop(permit_id, (None, None))
            if permit is None or granted is None or granted.done():
                continue  # Given up meanwhile, and said to be.
            granted.set_result(permit)
        until = self._now() + SPARE_S
        for permit_id in answer["spares"]:
            spare = spares[permit_id]
            terms = self._terms_of(spare.model)
            assert terms is not None
            terms.spares.append((until, spare))
            asyncio.get_running_loop().call_later(SPARE_S + 0.05, self._return_spares, spare.model)

    def _say_again(self) -> None:
        self._wishes = {permit_id: permit for permit_id, (permit, _) in self._waiting.items()}

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
