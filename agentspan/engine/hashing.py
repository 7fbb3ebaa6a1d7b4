"""What a decision is bound to (P6)."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def arguments_hash(name: str, arguments: dict[str, Any]) -> str:
    """The hash that binds a decision to a tool and its arguments: 16 hex digits of blake2b over canonical JSON."""
    text = json.dumps([name, arguments], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
