"""What a provider's failure means: whom to blame, and whether to try again.

| Status | Error | |
|---|---|---|
| 408, 409, 425, 429, 5xx, none | `ModelRetryableError` | 429 with `insufficient_quota` is for good: waiting does not pay a bill |
| 401, 403 | `ModelAuthError` | names the variable that holds the key |
| 404 | `ModelNotFoundError` | |
| 200 | `ModelReplyError` | answered, but not with a chat completion |
| other | `ModelError` | |
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from agentspan.errors import (
    ModelAuthError,
    ModelError,
    ModelNotFoundError,
    ModelReplyError,
    ModelRetryableError,
)

RETRYABLE_STATUSES = frozenset({408, 409, 425, 429})
QUOTA_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
PROBLEM_CHARACTERS_MAX = 600


def status_error(
    *,
    model: str,
    status: int | None,
    problem: str,
    key_variable: str,
    code: str | None = None,
    retry_after_s: float | None = None,
) -> ModelError:
    """The error for an HTTP status, or for no answer at all (`status=None`)."""
    if status is None or status >= 500 or (status in RETRYABLE_STATUSES and code not in QUOTA_CODES):
        return ModelRetryableError(model=model, problem=problem, status=status, retry_after_s=retry_after_s)
    if status in (401, 403):
        return ModelAuthError(model=model, problem=problem, status=status, key_variable=key_variable)
    if status == 404:
        return ModelNotFoundError(model=model, problem=problem, status=status)
    if status < 300:
        return ModelReplyError(model=model, problem=problem)
    return ModelError(model=model, problem=problem, status=status)


def described(body: Any) -> tuple[str, str | None]:
    """The provider's message and code out of an error body of any of the usual shapes."""
    if isinstance(body, list) and body:  # Gemini wraps its errors in a list
        body = body[0]
    if isinstance(body, dict) and isinstance(body.get("error"), (dict, str)):
        body = body["error"]
    if not isinstance(body, dict):
        return ("" if body is None else str(body)), None
    code = body.get("code") or body.get("type")
    message = body.get("message") or body.get("detail") or body
    if not isinstance(message, str):
        message = json.dumps(message, ensure_ascii=False, default=str)
    return message, None if code is None else str(code)


def cleaned(text: str, secret: str) -> str:
    """Fit to show: one line, not endless, and without the key, which some servers echo."""
    text = " ".join(text.replace(secret, "***").split())
    return text if len(text) <= PROBLEM_CHARACTERS_MAX else text[:PROBLEM_CHARACTERS_MAX] + "…"


def retry_after_s(headers: Mapping[str, str], *, now: datetime) -> float | None:
    """How long the provider asks to wait: `retry-after-ms`, `Retry-After` in seconds, or as an HTTP date (RFC 9110)."""
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * scale
        except ValueError:
            continue
        return max(0.0, seconds) if math.isfinite(seconds) else None
    try:
        at = parsedate_to_datetime(headers.get("retry-after", ""))
    except (TypeError, ValueError):
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return max(0.0, (at - now).total_seconds())
