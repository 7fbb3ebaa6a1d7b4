"""What looks like a key to some service: by the forms that providers give theirs, so that code is not refused by chance."""

from __future__ import annotations

import re
from collections.abc import Iterator

SECRET_CHARS_MIN = 20
"""Shorter texts that are called a secret are stand-ins (`EMPTY`, `not-needed`), which servers of one's own take."""
_DIGITS_MIN = 3
"""Fewer digits are in names that begin like a key, and in examples (`sk-xxxx`)."""

_FORMS = re.compile(
    rb"(?<![A-Za-z0-9])("
    rb"(?:sk|gsk|xai|nvapi|tvly|pplx)-[A-Za-z0-9_-]{20,}|gsk_[A-Za-z0-9]{20,}"
    rb"|(?:AKIA|ASIA)[0-9A-Z]{16}(?![0-9A-Za-z])"
    rb"|AIza[0-9A-Za-z_-]{35}"
    rb"|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{30,}"
    rb"|xox[abprs]-[A-Za-z0-9-]{20,}|hf_[A-Za-z0-9]{30,}|lsv2_(?:pt|sk)_[0-9a-f]{32}"
    rb")|(-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----\s+[A-Za-z0-9+/=]{16,})"
)


def keys_in(data: bytes) -> Iterator[bytes]:
    """What in some bytes has the form of a key."""
    for found in _FORMS.finditer(data):
        name, block = found.groups()
        if block or name.startswith((b"AKIA", b"ASIA")) or sum(map(_is_digit, name)) >= _DIGITS_MIN:
            yield found[0]


def _is_digit(byte: int) -> bool:
    return 48 <= byte <= 57


def is_secret(text: str) -> bool:
    """Whether a text that is called a secret is one."""
    return (
        len(text) >= SECRET_CHARS_MIN
        and text.isprintable()
        and " " not in text
        and sum(character.isdigit() for character in text) >= _DIGITS_MIN
        and any(character.isalpha() for character in text)
    )


def shown(key: str) -> str:
    """A key as people may see it: how it begins."""
    return f"{key[:6]}…" if not key.startswith("-----") else "-----BEGIN PRIVATE KEY…"
