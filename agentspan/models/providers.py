"""Which provider answers for a model name, where, and with which key.

`anthropic/claude-sonnet-4-5` means: provider `anthropic`, model `claude-sonnet-4-5`. Everything after the first slash
belongs to the provider (`openrouter/meta-llama/llama-3.3-70b`). A name without a slash is OpenAI's.

All providers here serve OpenAI's chat completions; those that differ say so in their row. Base URLs come from, in this
order: the agent, `<PROVIDER>_BASE_URL`, the table. Any other OpenAI-compatible server: `openai/<model>` and a base URL.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn
from urllib.parse import urlsplit

from agentspan.errors import ModelNotFoundError

PLACEHOLDER_KEY = "no-key-needed"
"""Sent to local servers, which ignore it; the client insists on some key."""

REASONING_MODEL = re.compile(r"(o\d|gpt-5)")
"""OpenAI models that refuse `max_tokens` wherever they are served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """One row of the table."""

    name: str
    base_url: str | None
    """None: every customer has their own, so a variable or the agent must give it."""
    key_variables: tuple[str, ...] = ()
    """The first one that is set counts. Empty: the provider needs no key."""
    aliases: tuple[str, ...] = ()
    url_variables: tuple[str, ...] = ()
    """Looked at after `<PROVIDER>_BASE_URL`."""
    root_path: str = ""
    """Added to a base URL from a variable that has no path of its own, where other tools give such URLs."""
    token_limit_field: str = "max_tokens"
    """OpenAI replaced it by `max_completion_tokens`; most others know only the old name, and Mistral refuses the new."""
    stream_usage: bool = True
    """Whether `stream_options` may be sent. Mistral and Cohere refuse it and report usage without being asked."""


PROVIDERS: tuple[Provider, ...] = (
    Provider(name="openai", base_url="https://api.openai.com/v1", key_variables=("OPENAI_API_KEY",)),
    Provider(
        name="anthropic",
        base_url="https://api.anthropic.com/v1",
        key_variables=("ANTHROPIC_API_KEY",),
        # Anthropic's own SDK takes the host alone in ANTHROPIC_BASE_URL.
        root_path="/v1",
    ),
    Provider(
        name="gemini",
        base_url="https://generativelanguage.googleapis.com/v1beta/openai",
        key_variables=("GEMINI_API_KEY", "GOOGLE_API_KEY"),
        aliases=("google", "google_gemini"),
    ),
    Provider(
        name="azure",
        base_url=None,
        key_variables=("AZURE_OPENAI_API_KEY", "AZURE_API_KEY"),
        aliases=("azure_openai",),
        url_variables=("AZURE_OPENAI_BASE_URL", "AZURE_OPENAI_ENDPOINT"),
        token_limit_field="max_completion_tokens",
    ),
    Provider(name="groq", base_url="https://api.groq.com/openai/v1", key_variables=("GROQ_API_KEY",)),
    Provider(
        name="mistral", base_url="https://api.mistral.ai/v1", key_variables=("MISTRAL_API_KEY",), stream_usage=False
    ),
    Provider(name="deepseek", base_url="https://api.deepseek.com", key_variables=("DEEPSEEK_API_KEY",)),
    Provider(name="xai", base_url="https://api.x.ai/v1", key_variables=("XAI_API_KEY",)),
    Provider(name="ollama", base_url="http://localhost:11434/v1", root_path="/v1"),
    Provider(name="openrouter", base_url="https://openrouter.ai/api/v1", key_variables=("OPENROUTER_API_KEY",)),
    Provider(
        name="together",
        base_url="https://api.together.xyz/v1",
        key_variables=("TOGETHER_API_KEY",),
        aliases=("together_ai",),
    ),
    Provider(
        name="fireworks",
        base_url="https://api.fireworks.ai/inference/v1",
        key_variables=("FIREWORKS_API_KEY",),
        aliases=("fireworks_ai",),
    ),
    Provider(
        name="cohere",
        base_url="https://api.cohere.ai/compatibility/v1",
        key_variables=("COHERE_API_KEY", "CO_API_KEY"),
        stream_usage=False,
    ),
    Provider(
        name="perplexity",
        base_url="https://api.perplexity.ai",
        key_variables=("PERPLEXITY_API_KEY", "PPLX_API_KEY"),
    ),
    Provider(name="cerebras", base_url="https://api.cerebras.ai/v1", key_variables=("CEREBRAS_API_KEY",)),
    Provider(name="nvidia", base_url="https://integrate.api.nvidia.com/v1", key_variables=("NVIDIA_API_KEY",)),
)

_BY_NAME = {name: provider for provider in PROVIDERS for name in (provider.name, *provider.aliases)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where one model is served. Holds the API key: it is not printed and does not pickle."""

    provider: str
    model_name: str
    """As the provider knows it; for Azure with an API version, the deployment."""
    base_url: str
    """Without a slash at the end."""
    api_key_variable: str
    """For messages: the variable the key came from, or `GEMINI_API_KEY or GOOGLE_API_KEY` if none is set."""
    api_key: str = field(repr=False)
    api_version: str | None = None
    """Azure's older API, one URL per deployment. None: OpenAI's own form."""
    token_limit_field: str = "max_tokens"
    stream_usage: bool = True

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "An Endpoint holds an API key and is not pickled; resolve the model again in the other process."
        )


def provider_names() -> tuple[str, ...]:
    """The providers that `resolve` knows, without aliases."""
    return tuple(provider.name for provider in PROVIDERS)


def canonical(model: str) -> str:
    """`provider/model` with the provider's own name in place of an alias, as limits are written for."""
    provider, slash, name = model.partition("/")
    if not slash:
        return f"openai/{model}"
    known = _BY_NAME.get(provider.lower())
    return f"{known.name if known else provider}/{name}"


def key_variables() -> dict[str, tuple[str, ...]]:
    """For each provider the environment variables that may hold its key; empty where none is needed."""
    return {provider.name: provider.key_variables for provider in PROVIDERS}


def is_loopback(url: str) -> bool:
    """Whether a URL points to this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def resolve(model: str, *, base_url: str | None = None, environ: Mapping[str, str]) -> Endpoint:
    """Find out who serves `model`; nothing is sent.

    Args:
        model: `provider/model`, or a bare OpenAI model name.
        base_url: The agent's own endpoint; goes before every variable.
        environ: Where keys and base URLs are looked up, such as `os.environ`.

    Raises:
        ModelNotFoundError: Unknown provider (names the nearest), no key (names the variable), or an unusable base URL.
    """
    provider, model_name = _split(model)
    url = _base_url(provider, model, base_url, environ)
    variable, key = _key(provider, model, url, environ)
    api_version = None
    if provider.name == "azure":
        url, api_version = _azure(url, model_name, environ)
    return Endpoint(
        provider=provider.name,
        model_name=model_name,
        base_url=url,
        api_key_variable=variable,
        api_key=key,
        api_version=api_version,
        token_limit_field=_token_limit_field(provider, model_name, url),
        stream_usage=provider.stream_usage,
    )


def _split(model: str) -> tuple[Provider, str]:
    prefix, slash, rest = model.strip().partition("/")
    name, model_name = (prefix.lower(), rest) if slash else ("openai", prefix)
    provider = _BY_NAME.get(name)
    if provider is None:
        near = difflib.get_close_matches(name, [*_BY_NAME, "scripted"], n=1)
        guess = f"Did you mean {near[0]!r}? " if near else ""
        raise ModelNotFoundError(
            model=model,
            problem=f"there is no provider {name!r}. {guess}Known: {', '.join(provider_names())}. For another "
            "OpenAI-compatible server write openai/<model> and set the agent's base_url.",
        )
    if not model_name:
        raise ModelNotFoundError(model=model, problem="it names no model; write provider/model, as in openai/gpt-4o.")
    return provider, model_name


def _base_url(provider: Provider, model: str, given: str | None, environ: Mapping[str, str]) -> str:
    variables = (f"{provider.name.upper()}_BASE_URL", *provider.url_variables)
    source, url = "the agent's base_url", given
    if not url:
        source, url = next(((name, environ[name]) for name in variables if environ.get(name)), ("", provider.base_url))
        if url and source and not urlsplit(url).path.strip("/"):
            url = url.rstrip("/") + provider.root_path
    if not url:
        raise ModelNotFoundError(
            model=model, problem=f"its endpoint is not known. Set {provider.url_variables[-1]} or the agent's base_url."
        )
    url = url.strip().rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ModelNotFoundError(
            model=model, problem=f"{source} is not a URL that begins with http:// or https:// and names a host."
        )
    return url


def _key(provider: Provider, model: str, url: str, environ: Mapping[str, str]) -> tuple[str, str]:
    wanted = " or ".join(provider.key_variables) or "no variable"
    for variable in provider.key_variables:
        key = environ.get(variable, "").strip()
        if not key:
            continue
        # The HTTP library would quote such a key in its error, so it is refused here, unquoted.
        if not (key.isascii() and key.isprintable()):
            raise ModelNotFoundError(
                model=model, problem=f"{variable} holds characters that no key has (a line break, or not ASCII)."
            )
        return variable, key
    if not provider.key_variables or is_loopback(url):
        return wanted, PLACEHOLDER_KEY
    raise ModelNotFoundError(model=model, problem=f"no API key. Set {wanted} where the server runs.")


def _azure(url: str, model_name: str, environ: Mapping[str, str]) -> tuple[str, str | None]:
    """Azure's URL and API version: the v1 API unless a version is asked for."""
    version = environ.get("AZURE_OPENAI_API_VERSION") or environ.get("OPENAI_API_VERSION") or None
    if urlsplit(url).path.strip("/"):
        return url, None if url.endswith("/openai/v1") else version
    return (f"{url}/openai/v1", None) if version is None else (f"{url}/openai/deployments/{model_name}", version)


def _token_limit_field(provider: Provider, model_name: str, url: str) -> str:
    if provider.name != "openai":
        return provider.token_limit_field
    # `openai/<model>` is also how other servers are reached, and many of them know only the old name.
    host = urlsplit(url).hostname or ""
    official = host == "api.openai.com" or host.endswith(".api.openai.com")
    return "max_completion_tokens" if official or REASONING_MODEL.match(model_name) else "max_tokens"
