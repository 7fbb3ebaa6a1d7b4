"""Words for definition errors: what the caller may have meant, and what this version does not do yet."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """` Did you mean 'x'?` with the nearest option, or an empty string when none is near."""
    near = get_close_matches(word, list(options), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""


def listed(options: Iterable[str]) -> str:
    """The options as text: `a, b, c`."""
    return ", ".join(options)


def unknown_option(word: str, options: Iterable[str], *, later: Iterable[str] = ()) -> str:
    """Say why a keyword argument was refused: not supported yet, misspelt, or simply not there."""
    options = list(options)
    if word in later:
        return f"{word!r} is not supported by this version of AgentSpan yet. Leave it out; nothing was defined."
    return f"there is no option {word!r}.{did_you_mean(word, options)} The options are: {listed(options)}."
