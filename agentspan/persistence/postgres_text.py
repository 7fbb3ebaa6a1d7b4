"""Text as Postgres can keep it: everything but NUL, which is escaped, so that any name comes back as it was."""

from __future__ import annotations

_ESCAPE = "\ue000"
"""A private-use character: nobody's name has it, and if one does it is escaped too."""


def kept(text: str) -> str:
    """The stored form; it keeps prefixes. Raises UnicodeEncodeError for lone surrogates."""
    if not text.isascii():
        text.encode()
    if "\x00" in text or _ESCAPE in text:
        return text.replace(_ESCAPE, _ESCAPE + "e").replace("\x00", _ESCAPE + "0")
    return text


def kept_or_none(text: str | None) -> str | None:
    """`kept` where there may be nothing."""
    return None if text is None else kept(text)


def told(text: str) -> str:
    """What `kept` was given."""
    if _ESCAPE in text:
        return text.replace(_ESCAPE + "0", "\x00").replace(_ESCAPE + "e", _ESCAPE)
    return text


def told_or_none(text: str | None) -> str | None:
    """`told` where there may be nothing."""
    return None if text is None else told(text)
