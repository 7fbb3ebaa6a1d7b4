"""Which providers' keys are set, and whether the providers take them. Names only: a key is never printed."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from agentspan.cli.checks import Check
from agentspan.errors import ModelNotFoundError
from agentspan.models.providers import Endpoint, key_variables, resolve

TIMEOUT_S = 10.0
_PATHS = {"openrouter": "key"}
"""What to ask for instead of the models: OpenRouter lists those without a key."""


def set_providers(environ: Mapping[str, str]) -> dict[str, str]:
    """Providers with a key, and the variable it is in."""
    found = {}
    for provider, variables in key_variables().items():
        variable = next((name for name in variables if environ.get(name, "").strip()), None)
        if variable is not None:
            found[provider] = variable
    return found


def overview(environ: Mapping[str, str] | None = None) -> Check:
    """One line on all keys."""
    found = set_providers(os.environ if environ is None else environ)
    if found:
        return Check(name="Model keys", state="ok", detail=", ".join(f"{name} ({key})" for name, key in found.items()))
    return Check(
        name="Model keys",
        state="warn",
        detail="none is set in this shell",
        advice="Set one where the server runs, such as OPENAI_API_KEY; `scripted/echo` needs none.",
    )


def try_all(environ: Mapping[str, str] | None = None) -> list[Check]:
    """Ask each provider that has a key for its list of models, all at the same time."""
    here = os.environ if environ is None else environ
    found = set_providers(here)
    with ThreadPoolExecutor(max_workers=max(1, len(found))) as pool:
        return list(pool.map(lambda provider: _try(provider, found[provider], here), found))


def _try(provider: str, variable: str, environ: Mapping[str, str]) -> Check:
    name = f"Key of {provider}"
    try:
        endpoint = resolve(f"{provider}/any", environ=environ)
    except ModelNotFoundError as problem:
        return Check(name=name, state="fail", detail=str(problem), advice=f"Correct {variable} or the base URL.")
    try:
        status = _get(endpoint, _PATHS.get(provider, "models"))
    except (OSError, ValueError) as problem:
        return Check(
            name=name,
            state="warn",
            detail=f"{endpoint.base_url} does not answer: {getattr(problem, 'reason', problem)}",
            advice="Look at the network, a proxy (HTTPS_PROXY), or the base URL.",
        )
    if status in (401, 403):
        return Check(
            name=name, state="fail", detail=f"refused (HTTP {status})", advice=f"Put a valid key into {variable}."
        )
    if not 200 <= status < 300:
        return Check(name=name, state="warn", detail=f"no verdict: HTTP {status} from {endpoint.base_url}")
    return Check(name=name, state="ok", detail=f"taken by {endpoint.base_url}")


def _get(endpoint: Endpoint, path: str) -> int:
    headers = {"Authorization": f"Bearer {endpoint.api_key}", "User-Agent": "agentspan-doctor"}
    if endpoint.provider == "anthropic":
        headers |= {"x-api-key": endpoint.api_key, "anthropic-version": "2023-06-01"}
    if endpoint.provider == "azure":
        headers["api-key"] = endpoint.api_key
    request = urllib.request.Request(f"{endpoint.base_url}/{path}", headers=headers)
    try:
        with urllib.request.build_opener(_StayHere).open(request, timeout=TIMEOUT_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        refused.close()
        return int(refused.code)


class _StayHere(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the key is for this host only."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None
