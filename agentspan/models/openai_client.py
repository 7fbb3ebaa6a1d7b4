"""`Model` over the `openai` package, for every provider that serves OpenAI's chat completions.

Two layers of the package are left out, because together they cost more CPU than the rest of the call: the typed
`chat.completions.create` (we post bytes and read the JSON ourselves) and its retries (ours are durable and belong to
the driver). Its telemetry headers go too: they cost 40 µs a call and are nobody's business but OpenAI's.

Importing this module imports `openai`, 0.4 s; `ModelRegistry.warm()` does it off the event loop.
"""

from __future__ import annotations

import functools
import json
import os
import ssl
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import anyio
import openai

from agentspan.errors import ModelError, ModelReplyError, ModelRetryableError
from agentspan.models.base import ModelReply, ModelRequest, OnToken
from agentspan.models.problems import cleaned, described, retry_after_s, status_error
from agentspan.models.providers import Endpoint, is_loopback
from agentspan.models.wire import StreamedReply, encode_request, parse_reply

READ_TIMEOUT_S = 600.0
CONNECT_TIMEOUT_S = 10.0

# Which HTTP library the installed openai is built on: httpx, or httpx2 in newer versions. The names we use are the same.
_http: Any = next(
    sys.modules[base.__module__.partition(".")[0]]
    for base in openai.DefaultAsyncHttpxClient.__mro__
    if base.__module__.startswith("httpx")
)

_TELEMETRY = (
    "X-Stainless-Lang",
    "X-Stainless-Package-Version",
    "X-Stainless-OS",
    "X-Stainless-Arch",
    "X-Stainless-Runtime",
    "X-Stainless-Runtime-Version",
    "X-Stainless-Async",
    "x-stainless-retry-count",
    "x-stainless-read-timeout",
)

_FAILURES: tuple[type[Exception], ...] = (openai.OpenAIError, _http.TransportError, TimeoutError)
"""What a call can raise: openai's errors, the HTTP library's where openai lets them through, our deadline's."""

_tls_lock = threading.Lock()


@functools.lru_cache(maxsize=1)
def _trusting_context() -> ssl.SSLContext:
    context = _http.create_ssl_context()
    assert isinstance(context, ssl.SSLContext)
    return context


def tls_context() -> ssl.SSLContext:
    """The process's one TLS context: loading the certificate authorities takes 20-45 ms. Safe from any thread."""
    with _tls_lock:
        return _trusting_context()


class Clients:
    """The `AsyncOpenAI` clients of one event loop: one for each endpoint and key, so that connections are shared."""

    def __init__(self, *, timeout_s: float = READ_TIMEOUT_S, connect_timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        self.timeout_s = timeout_s
        self.connect_timeout_s = connect_timeout_s
        self._clients: dict[tuple[str, str, str | None], openai.AsyncOpenAI] = {}

    def get(self, endpoint: Endpoint) -> openai.AsyncOpenAI:
        """The client for an endpoint, made on first use."""
        key = (endpoint.base_url, endpoint.api_key, endpoint.api_version)
        client = self._clients.get(key)
        if client is None:
            client = self._clients[key] = self._make(endpoint)
        return client

    def _make(self, endpoint: Endpoint) -> openai.AsyncOpenAI:
        https = endpoint.base_url.startswith("https://")
        http_client = openai.DefaultAsyncHttpxClient(
            # For plain http a context without authorities: free to make, and a redirect to https fails closed.
            verify=tls_context() if https else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            timeout=openai.Timeout(self.timeout_s, connect=self.connect_timeout_s),
            # A proxy from the environment cannot reach this machine's own ports.
            trust_env=not is_loopback(endpoint.base_url),
        )
        if endpoint.api_version is not None:
            return openai.AsyncAzureOpenAI(
                base_url=endpoint.base_url,
                api_key=endpoint.api_key,
                api_version=endpoint.api_version,
                max_retries=0,
                timeout=openai.Timeout(self.timeout_s, connect=self.connect_timeout_s),
                http_client=http_client,
            )
        return openai.AsyncOpenAI(
            base_url=endpoint.base_url,
            api_key=endpoint.api_key,
            max_retries=0,
            timeout=openai.Timeout(self.timeout_s, connect=self.connect_timeout_s),
            http_client=http_client,
        )

    async def aclose(self) -> None:
        """Close all connections. Idempotent."""
        clients, self._clients = self._clients, {}
        for client in clients.values():
            await client.close()


class OpenAIModel:
    """One model of one endpoint. Belongs to the event loop it is first called in.

    Args:
        endpoint: From `providers.resolve`.
        clients: Shared connections; without them the model has its own, closed by `aclose`.
    """

    def __init__(self, endpoint: Endpoint, clients: Clients | None = None) -> None:
        self.endpoint = endpoint
        self._clients = Clients() if clients is None else clients
        self._owns_clients = clients is None
        # An absolute URL: openai would otherwise parse and join the two on every call.
        self._url = f"{endpoint.base_url}/chat/completions"
        self._headers = _fixed_headers(endpoint)

    def __repr__(self) -> str:
        return f"OpenAIModel({self.endpoint!r})"

    async def complete(self, request: ModelRequest, *, on_token: OnToken | None = None) -> ModelReply:
        """Answer one request; streams only if somebody listens. See `Model.complete` for what it raises."""
        try:
            with anyio.fail_after(self._clients.timeout_s):
                if on_token is None:
                    return await self._plain(request)
                return await self._streamed(request, on_token)
        except _FAILURES as error:
            failure = self._failure(error, request)
        # Outside the handler, so that no traceback shows openai's error: its text may quote the key.
        raise failure

    async def aclose(self) -> None:
        """Close the connections, unless they are shared. Idempotent."""
        if self._owns_clients:
            await self._clients.aclose()

    async def _plain(self, request: ModelRequest) -> ModelReply:
        response = await self._clients.get(self.endpoint).post(
            self._url,
            cast_to=_http.Response,
            content=encode_request(request, self.endpoint, stream=False),
            options=self._options(request),
        )
        try:
            data = json.loads(response.content)
        except ValueError as error:
            raise self._unreadable(request, response.text, error) from None
        if isinstance(data, dict) and data.get("error") and not data.get("choices"):
            # OpenRouter and others report upstream trouble with HTTP 200.
            raise self._reported(request, data["error"])
        return parse_reply(data, request)

    async def _streamed(self, request: ModelRequest, on_token: OnToken) -> ModelReply:
        stream = await self._clients.get(self.endpoint).post(
            self._url,
            cast_to=object,
            content=encode_request(request, self.endpoint, stream=True),
            options=self._options(request),
            stream=True,
            stream_cls=openai.AsyncStream[object],
        )
        reply = StreamedReply()
        async with stream:
            kind = stream.response.headers.get("content-type", "")
            if "event-stream" not in kind:
                raise ModelReplyError(model=request.model, problem=f"a stream was asked for, {kind or 'nothing'} came.")
            try:
                async for chunk in stream:
                    piece = reply.add(chunk)
                    if piece:
                        on_token(piece)
            except json.JSONDecodeError as error:
                raise self._unreadable(request, error.doc, error) from None
        if reply.finish_reason is None:
            # The connection ended cleanly but early: half an answer must never be recorded as a whole one.
            raise ModelRetryableError(
                model=request.model,
                problem="the stream ended before the reply was complete.",
                status=None,
                retry_after_s=None,
            )
        return reply.finish(request)

    def _options(self, request: ModelRequest) -> Any:
        key = request.idempotency_key
        # Given twice: as the header that goes out, and so that openai does not make up a key of its own.
        return {"headers": {**self._headers, "Idempotency-Key": key}, "idempotency_key": key}

    def _unreadable(self, request: ModelRequest, text: str, error: ValueError) -> ModelReplyError:
        shown = cleaned(text[:200], self.endpoint.api_key)
        return ModelReplyError(model=request.model, problem=f"it is not JSON ({error}): {shown!r}")

    def _reported(self, request: ModelRequest, body: Any) -> ModelError:
        """The error for trouble that the provider reports inside an answer with HTTP 200."""
        message, code = described(body)
        status = int(code) if code is not None and code.isdecimal() and 400 <= int(code) < 600 else None
        if status is None and code in ("invalid_request_error", "context_length_exceeded", "content_filter"):
            status = 400
        return self._error(request, status, message, code=code)

    def _failure(self, error: Exception, request: ModelRequest) -> ModelError:
        """Our error for one that openai, its HTTP library or the deadline has raised."""
        if isinstance(error, openai.APIStatusError):
            message, code = described(error.body)
            wait_s = retry_after_s(error.response.headers, now=datetime.now(UTC))
            problem = f"HTTP {error.status_code}: {message or 'no message'}"
            return self._error(request, error.status_code, problem, code=code, retry_after_s=wait_s)
        if isinstance(error, (openai.APITimeoutError, _http.TimeoutException, TimeoutError)):
            if isinstance(error.__cause__, _http.ConnectTimeout):
                problem = f"no connection to {self._host} within {self._clients.connect_timeout_s:g} s."
            else:
                problem = f"no whole answer within {self._clients.timeout_s:g} s."
            return self._error(request, None, problem)
        if isinstance(error, (openai.APIConnectionError, _http.TransportError)):
            cause = error.__cause__ or error
            problem = f"the connection to {self._host} failed: {type(cause).__name__} {cause}".rstrip()
            return self._error(request, None, problem)
        if isinstance(error, openai.APIError):
            return self._reported(request, error.body or error.message)
        return self._error(request, 400, f"{type(error).__name__}: {error}")

    def _error(
        self,
        request: ModelRequest,
        status: int | None,
        problem: str,
        *,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> ModelError:
        return status_error(
            model=request.model,
            status=status,
            problem=cleaned(problem, self.endpoint.api_key),
            key_variable=self.endpoint.api_key_variable,
            code=code,
            retry_after_s=retry_after_s,
        )

    @property
    def _host(self) -> str:
        parts = urlsplit(self.endpoint.base_url)
        return parts.hostname or "" if parts.port is None else f"{parts.hostname}:{parts.port}"


def _fixed_headers(endpoint: Endpoint) -> Mapping[str, Any]:
    """The headers every call of an endpoint carries; an `Omit` takes out one that openai would add."""
    omit = openai.Omit()
    headers: dict[str, Any] = dict.fromkeys(_TELEMETRY, omit)
    if endpoint.provider != "openai":
        # openai reads these from the environment, and they are meant for OpenAI: another company must not see them.
        names = ["OpenAI-Organization", "OpenAI-Project"]
        names += [line.partition(":")[0].strip() for line in os.environ.get("OPENAI_CUSTOM_HEADERS", "").splitlines()]
        headers.update((name, omit) for name in names if name)
        headers["Authorization"] = omit if endpoint.api_version is not None else f"Bearer {endpoint.api_key}"
    return headers
