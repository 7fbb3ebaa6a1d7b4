"""Limits on model calls, as operators write them: `openai rpm=500 tpm=200k in_flight=20; anthropic/claude-opus-* rpm=50`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

_NUMBER = re.compile(r"(\d+(?:\.\d+)?)([kKmM]?)")
_SCALE = {"": 1, "k": 1_000, "m": 1_000_000}
_FIELDS = {"rpm": "requests_per_minute", "tpm": "tokens_per_minute", "in_flight": "in_flight"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLimit:
    """What all executions of a cluster together may ask of the models that a pattern names. None is no limit."""

    pattern: str
    """A provider, `openai`, or a model with `*` and `?`, `openai/gpt-4o*`; `*` is all models together."""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    """Of prompts and answers together."""
    in_flight: int | None = None
    """Calls at the same time."""

    def covers(self, model: str) -> bool:
        """Whether it counts for `provider/model`."""
        provider, _, _ = model.partition("/")
        return fnmatchcase(provider if "/" not in self.pattern and self.pattern != "*" else model, self.pattern)


def parse_limits(text: str) -> tuple[ModelLimit, ...]:
    """Read limits, separated by `;` or line ends.

    Raises:
        ValueError: Says which part cannot be read, and what would be.
    """
    limits = tuple(_limit(part.split()) for part in re.split(r"[;\n]", text) if part.strip())
    patterns = [limit.pattern for limit in limits]
    for pattern in patterns:
        if patterns.count(pattern) > 1:
            raise ValueError(f"{pattern!r} is limited twice; give its limits together.")
    return limits


def _limit(words: Sequence[str]) -> ModelLimit:
    pattern, *terms = words
    said: dict[str, int] = {}
    for term in terms:
        name, _, number = term.partition("=")
        found = _NUMBER.fullmatch(number)
        if name not in _FIELDS or found is None:
            raise ValueError(f"{term!r} is no limit of {pattern!r}; give rpm=…, tpm=… or in_flight=….")
        value = int(float(found[1]) * _SCALE[found[2].lower()])
        if value < 1:
            raise ValueError(f"{term!r} of {pattern!r} would let nothing through; give at least 1.")
        said[_FIELDS[name]] = value
    if not said or "=" in pattern:
        raise ValueError(
            f"{' '.join(words)!r} says no limit; write a provider or a model, then rpm=…, tpm=… or in_flight=…."
        )
    return ModelLimit(pattern=pattern, **said)
