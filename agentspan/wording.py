"""Words of messages for people."""

from __future__ import annotations

_UNCOUNTED = frozenset({"text", "bytes", "None", "NoneType"})


def a(noun: str) -> str:
    """The noun with its article: `a dict`, `an int`. Text and None have none."""
    if noun.split(" ")[0].rstrip(",") in _UNCOUNTED:
        return "None" if noun == "NoneType" else noun
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"
