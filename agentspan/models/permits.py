"""Permits for model calls: who may call now, so that all executions of a cluster together keep to the limits.

Pure: instants are handed in (seconds of any clock that does not go back), and nothing waits here.

A permit is asked for under an ID that the asker made, granted once, and given back when the call is over, so every
message may come twice. Wishes are served in the order in which they came; one that is held up by a limit holds up those
behind it that the same limit counts for, and nobody else: a long prompt is not starved by short ones, and a full
provider is not another one's trouble.

**Rates** are token buckets. Each holds a tenth of a minute's allowance, at least one, and is refilled so that never more than
the limit passes in any minute. A call is charged what it is guessed to cost, and corrected by what it did cost.

**Calls in flight** are permits out. An asker that has not been heard of for `LEASE_S` is dead, and its permits are back.

**A provider that says 429** is believed: nobody calls that model before the time it named is over.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentspan.limits import ModelLimit

LEASE_S = 15.0
"""How long the permits of an asker last that is not heard of."""
RENEW_S = 4.0
"""How often an asker says that it lives, while it has permits that others may wait for."""
BURST = 0.1
"""The part of a minute's allowance that may pass at once."""
PAUSE_MIN_S = 1.0
PAUSE_MAX_S = 60.0
"""Bounds of the pause after a 429 that names no time; it doubles from one to the next."""


class Bucket:
    """A token bucket for a limit per minute. May be overdrawn, by a call that is larger than the bucket or cost more."""

    def __init__(self, per_minute: float, *, now: float, is_full: bool = True) -> None:
        self.capacity = max(1.0, per_minute * BURST)
        # Whatever is in the bucket passes in the same minute as what is refilled: together they keep to the limit.
        self.rate = (per_minute - (self.capacity - 1.0)) / 60.0
        self._level = self.capacity if is_full else 0.0
        self._at = now

    def level(self, now: float) -> float:
        """What may pass now."""
        self._level = min(self.capacity, self._level + (now - self._at) * self.rate)
        self._at = now
        return self._level

    def take(self, amount: float, now: float) -> None:
        """Take out; put back with a negative amount."""
        self._level = min(self.capacity, self.level(now) - amount)

    def ready_at(self, amount: float, now: float) -> float:
        """When so much can be taken; more than the bucket holds can when it is full."""
        missing = min(amount, self.capacity) - self.level(now)
        return now if missing <= 1e-9 else now + missing / self.rate


@dataclass(frozen=True, slots=True)
class Wish:
    """Somebody wants to call a model."""

    permit_id: str
    client: str
    model: str
    tokens: int
    """What it is guessed to cost."""
    number: int = 0


@dataclass(slots=True)
class _Limited:
    """One limit, and what it has let through."""

    limit: ModelLimit
    requests: Bucket | None
    tokens: Bucket | None
    out: set[str] = field(default_factory=set)

    def blocked_until(self, tokens: int, now: float, closed_until: float) -> float | None:
        """None: it lets one through. Else until when it surely does not; infinity when that is for others to say."""
        most = self.limit.in_flight
        until = now
        if most is not None:
            if len(self.out) >= most:
                return float("inf")
            until = max(until, closed_until)
        if self.requests is not None:
            until = max(until, self.requests.ready_at(1, now))
        if self.tokens is not None:
            until = max(until, self.tokens.ready_at(tokens, now))
        return until if until > now else None

    def why(self, tokens: int, now: float) -> str:
        limit = self.limit
        if limit.in_flight is not None and len(self.out) >= limit.in_flight:
            return f"{limit.pattern}: {limit.in_flight} calls in flight"
        if self.requests is not None and self.requests.ready_at(1, now) > now:
            return f"{limit.pattern}: {limit.requests_per_minute} requests a minute"
        if self.tokens is not None and self.tokens.ready_at(tokens, now) > now:
            return f"{limit.pattern}: {limit.tokens_per_minute} tokens a minute"
        return f"{limit.pattern}: the calls in flight are being counted"


class Permits:
    """The one place that knows what is out and what may go."""

    def __init__(
        self,
        limits: Sequence[ModelLimit],
        *,
        now: float,
        canonical: Callable[[str], str] = lambda model: model,
        is_successor: bool = False,
    ) -> None:
        """`is_successor`: another one did this until a moment ago. Its permits are out, so this one begins with nothing to
        give, and lets nobody in where calls in flight are limited before all have had time to say what they hold.
        """
        full = not is_successor
        self._limits = [
            _Limited(
                limit,
                Bucket(limit.requests_per_minute, now=now, is_full=full) if limit.requests_per_minute else None,
                Bucket(limit.tokens_per_minute, now=now, is_full=full) if limit.tokens_per_minute else None,
            )
            for limit in limits
        ]
        self._closed_until = now if full else now + 2 * RENEW_S
        self._canonical = canonical
        self._of: dict[str, tuple[_Limited, ...]] = {}
        self._waiting: dict[str, OrderedDict[str, Wish]] = {}
        self._out: dict[str, Wish] = {}
        self._heard: dict[str, float] = {}
        self._paused: dict[str, float] = {}
        self._strikes: dict[str, int] = {}
        self._last_number = 0

    def _limits_of(self, model: str) -> tuple[_Limited, ...]:
        found = self._of.get(model)
        if found is None:
            name = self._canonical(model)
            found = self._of[model] = tuple(limited for limited in self._limits if limited.limit.covers(name))
        return found

    def knows(self, client: str) -> bool:
        """Whether an asker counts as alive."""
        return client in self._heard

    # --- what askers say

    def hear(self, client: str, now: float) -> None:
        """An asker lives."""
        self._heard[client] = now

    def wish(self, client: str, permit_id: str, model: str, tokens: int) -> bool:
        """Somebody wants a permit. Idempotent. True: it has been granted before, and the answer got lost."""
        if permit_id in self._out:
            return True
        line = self._waiting.setdefault(model, OrderedDict())
        if permit_id not in line:
            self._last_number += 1
            line[permit_id] = Wish(permit_id, client, model, tokens, self._last_number)
        return False

    def spare(self, client: str, permit_id: str, model: str, tokens: int, now: float) -> bool:
        """Somebody could use another permit soon. Granted only where plenty is left, and nobody waits."""
        limits = self._limits_of(model)
        if any(limited.limit.in_flight for limited in limits) or self._waiting.get(model):
            return False
        buckets = [(b, n) for limited in limits for b, n in ((limited.requests, 1), (limited.tokens, tokens)) if b]
        if self._pause_of(model, now) or any(b.level(now) - n < b.capacity / 2 for b, n in buckets):
            return False
        self._grant(Wish(permit_id, client, model, tokens), now)
        return True

    def hold(self, client: str, permit_id: str, model: str, tokens: int) -> None:
        """Somebody has a permit, perhaps from whoever did this before. It counts from now on."""
        if permit_id not in self._out:
            wish = self._out[permit_id] = Wish(permit_id, client, model, tokens)
            for limited in self._limits_of(wish.model):
                limited.out.add(permit_id)

    def done(self, permit_id: str, model: str, now: float, *, cost: int | None, guessed: int, is_used: bool) -> None:
        """A permit is back, or is not wanted any more. Idempotent. `cost`: tokens, None when nobody knows."""
        line = self._waiting.get(model)
        if line is not None and line.pop(permit_id, None) is not None:
            return
        held = self._out.pop(permit_id, None)
        for limited in self._limits_of(model):
            limited.out.discard(permit_id)
            if held is None and self._is_tracked(model):
                continue
            if limited.requests is not None and not is_used:
                limited.requests.take(-1, now)
            if limited.tokens is not None:
                limited.tokens.take((cost if cost is not None else guessed) - guessed if is_used else -guessed, now)
        if is_used and cost is not None:
            self._strikes.pop(model, None)

    def throttle(self, model: str, now: float, retry_after_s: float | None) -> None:
        """The provider refused a call: too many."""
        strikes = self._strikes[model] = self._strikes.get(model, 0) + 1
        pause = min(PAUSE_MAX_S, PAUSE_MIN_S * 2.0 ** (strikes - 1)) if retry_after_s is None else retry_after_s
        self._paused[model] = max(self._paused.get(model, now), now + pause)

    # --- who may go

    def pump(self, now: float) -> dict[str, list[str]]:
        """Grant what can be granted: IDs of permits by asker."""
        self._expire(now)
        granted: dict[str, list[str]] = {}
        blocked: set[int] = set()
        heads = {model: line for model, line in self._waiting.items() if line}
        while heads:
            model = min(heads, key=lambda name: next(iter(heads[name].values())).number)
            wish = next(iter(heads[model].values()))
            limits = self._limits_of(model)
            stops = {id(one) for one in limits if one.blocked_until(wish.tokens, now, self._closed_until) is not None}
            if stops or self._pause_of(model, now) or any(id(one) in blocked for one in limits):
                blocked |= stops
                del heads[model]
                continue
            del heads[model][wish.permit_id]
            self._grant(wish, now)
            granted.setdefault(wish.client, []).append(wish.permit_id)
            if not heads[model]:
                del heads[model]
        self._waiting = {model: line for model, line in self._waiting.items() if line}
        return granted

    def next_at(self, now: float) -> float | None:
        """When `pump` may have another answer by time alone; None when nobody waits for time."""
        times = [heard + LEASE_S for heard in self._heard.values()] if self._waiting else []
        blocked: set[int] = set()
        firsts = [next(iter(line.values())) for line in self._waiting.values()]
        for wish in sorted(firsts, key=lambda wish: wish.number):
            limits = self._limits_of(wish.model)
            ready = {id(one): one.blocked_until(wish.tokens, now, self._closed_until) or now for one in limits}
            # Who is held up by an older wish waits for that one, whatever the time.
            if not blocked.intersection(ready):
                times.append(max([*ready.values(), self._pause_of(wish.model, now) or now]))
            blocked.update(one for one, at in ready.items() if at > now)
        times = [at for at in times if at != float("inf")]
        return max(now, min(times)) if times else None

    def why(self, model: str, now: float) -> str:
        """What holds up the first in line for a model, for people; empty when nobody waits."""
        line = self._waiting.get(model)
        if not line:
            return ""
        pause = self._pause_of(model, now)
        if pause:
            return f"{model}: its provider asks to wait {pause - now:.0f} s more"
        wish = next(iter(line.values()))
        limits = self._limits_of(model)
        stops = [one for one in limits if one.blocked_until(wish.tokens, now, self._closed_until) is not None]
        return (stops or list(limits))[0].why(wish.tokens, now)

    def describe(self) -> list[dict[str, Any]]:
        """Each limit, how many permits are out, and how many wait for one, for operators."""
        waiting = [(limited, len(line)) for model, line in self._waiting.items() for limited in self._limits_of(model)]
        return [
            {
                "pattern": limited.limit.pattern,
                "requests_per_minute": limited.limit.requests_per_minute,
                "tokens_per_minute": limited.limit.tokens_per_minute,
                "in_flight_max": limited.limit.in_flight,
                "in_flight": len(limited.out) if limited.limit.in_flight else None,
                "waiting": sum(count for other, count in waiting if other is limited),
            }
            for limited in self._limits
        ]

    def _is_tracked(self, model: str) -> bool:
        return any(one.limit.in_flight or one.limit.tokens_per_minute for one in self._limits_of(model))

    def _grant(self, wish: Wish, now: float) -> None:
        if self._is_tracked(wish.model):  # Else nobody says when the call is over.
            self._out[wish.permit_id] = wish
        for limited in self._limits_of(wish.model):
            if limited.requests is not None:
                limited.requests.take(1, now)
            if limited.tokens is not None:
                limited.tokens.take(wish.tokens, now)
            if limited.limit.in_flight is not None:
                limited.out.add(wish.permit_id)

    def _pause_of(self, model: str, now: float) -> float | None:
        until = self._paused.get(model)
        if until is not None and until <= now:
            del self._paused[model]
            return None
        return until

    def _expire(self, now: float) -> None:
        """What the dead had is back. What they used up is used up."""
        gone = {client for client, heard in self._heard.items() if now - heard >= LEASE_S}
        if not gone:
            return
        for client in gone:
            del self._heard[client]
        self._drop(wish for wish in list(self._out.values()) if wish.client in gone)
        for line in self._waiting.values():
            for wish in [wish for wish in line.values() if wish.client in gone]:
                del line[wish.permit_id]

    def _drop(self, wishes: Iterable[Wish]) -> None:
        for wish in wishes:
            del self._out[wish.permit_id]
            for limited in self._limits_of(wish.model):
                limited.out.discard(wish.permit_id)
