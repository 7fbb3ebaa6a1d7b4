"""What a tool asks of the machine it runs on, in Ray's terms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

MEMORY_BYTES_MAX = 10**14
"""Beyond it Ray's own arithmetic overflows, and it would run anywhere."""
LEAST = 0.0001
"""Ray counts in steps of this."""
_HAVE_OPTIONS = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}


def needs_of(*, num_cpus: Any, num_gpus: Any, memory: Any, resources: Any) -> dict[str, float]:
    """The resources of one call by Ray's names; empty when nothing was asked for. As in Ray, one CPU goes without saying.

    Raises:
        ValueError: Something cannot be asked for; says what can.
    """
    if num_cpus is None and num_gpus is None and memory is None and resources is None:
        return {}
    needs = {"CPU": 1.0 if num_cpus is None else _amount("num_cpus", num_cpus)}
    if num_gpus is not None:
        needs["GPU"] = _units("num_gpus", num_gpus)
    if memory is not None:
        if isinstance(memory, bool) or not isinstance(memory, int) or not 0 < memory <= MEMORY_BYTES_MAX:
            raise ValueError(f"memory is {memory!r}; give whole bytes, 1 to {MEMORY_BYTES_MAX}.")
        needs["memory"] = float(memory)
    if resources is not None and not isinstance(resources, Mapping):
        raise ValueError(f"resources is {resources!r}; give a dict of names and amounts, such as {{'disk': 1}}.")
    for name, amount in (resources or {}).items():
        if not isinstance(name, str) or not name:
            raise ValueError(f"resources has the name {name!r}; names are text.")
        if name in _HAVE_OPTIONS:
            raise ValueError(f"resources names {name!r}; give {_HAVE_OPTIONS[name]}=... instead.")
        needs[name] = _units(f"resources[{name!r}]", amount)
    return needs


def in_words(needs: Mapping[str, float]) -> str:
    """`2 CPU, 1 GPU`, for people."""
    return ", ".join(f"{amount:.15g} {name}" for name, amount in needs.items() if amount) or "no resources"


def _amount(option: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{option} is {value!r}; give a number, 0 or more.")
    if 0 < value < LEAST:
        raise ValueError(f"{option} is {value!r}; the least there is to ask for is {LEAST:g}.")
    return float(value)


def _units(option: str, value: Any) -> float:
    """An amount of what comes in pieces: a part of one, or whole ones."""
    amount = _amount(option, value)
    if amount > 1 and not amount.is_integer():
        raise ValueError(f"{option} is {value!r}; above 1 it has to be a whole number.")
    return amount
