"""A small OpenAI-compatible HTTP server on a real loopback socket, playing a script.

For tests that want the real client, a real socket and real trouble (429, hanging, dropped connections), and for
benchmarks: every reply is encoded once, so a request costs a fraction of a millisecond.

In a thread, for tests:

    with ModelServer([text("hello")]) as server:
        ...                              # base_url=server.url
        assert server.calls[0].body["model"] == "gpt-4o"

As a process, for benchmarks and crash tests, so that it neither shares our GIL nor dies with us; it prints its URL:

    python tests/support/model_server.py --tool-turns 5
    python tests/support/model_server.py --script replies.json --by conversation

A script is a list of replies. `by="call"` plays one per HTTP call and then repeats the last. `by="conversation"` picks
by how many assistant messages the request carries, so a client that crashed and asks again gets the same answer; there
an entry may be a list, played by how often this `Idempotency-Key` was seen (`[fault(500), text("hi")]`).

`GET /stats` answers `{"calls": n, "by_key": {key: n}}`, from any process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

TRICKLE_BYTES = 64
HEAD_END = b"\r\n\r\n"
CONTENT_LENGTH = re.compile(rb"content-length:\s*(\d+)", re.IGNORECASE)
IDEMPOTENCY_KEY = re.compile(rb"idempotency-key:\s*(.*?)\r\n", re.IGNORECASE)
# Inside a JSON string the quotes would be escaped, so these match only real members of the request.
ASSISTANT_ROLE = re.compile(rb'"role"\s*:\s*"assistant"')
STREAM_TRUE = re.compile(rb'"stream"\s*:\s*true')
REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 429: "Too Many Requests", 500: "Internal Server Error"}


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One answer of the server, or one kind of trouble."""

    text: str = ""
    calls: Sequence[dict[str, Any]] = ()
    """`{"id", "name", "arguments": "<json text>"}`; `id` may be left out."""
    message: dict[str, Any] = field(default_factory=dict)
    """More members of the assistant message, such as `reasoning_content`."""
    finish_reason: str | None = None
    usage: dict[str, int] | None = field(
        default_factory=lambda: {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    )
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None
    """Sent instead of a completion: text as it is, anything else as JSON."""
    delay_s: float = 0.0
    hang: bool = False
    """Accept the request and never answer."""
    drop: bool = False
    """Close the connection without an answer."""
    drop_after: int | None = None
    """Close the connection after this many bytes of the answer."""
    trickle_s: float = 0.0
    """Send the answer in small pieces with this pause between them."""

    def encoded(self, turn: int) -> tuple[bytes, bytes]:
        """The answer as bytes: plain, and as a stream of events."""
        if self.status != 200 or self.body is not None:
            body = self.body if isinstance(self.body, str) else json.dumps(self.body)
            plain = self._http(body.encode(), "application/json")
            if body.startswith("data:"):
                return plain, self._http(body.encode(), "text/event-stream")
            return plain, plain
        calls = [
            {
                "id": call.get("id", f"call_{turn}_{index}"),
                "type": "function",
                "function": {"name": call["name"], "arguments": call["arguments"]},
            }
            for index, call in enumerate(self.calls)
        ]
        return (
            self._http(json.dumps(self._completion(calls)).encode(), "application/json"),
            self._http(self._events(calls), "text/event-stream"),
        )

    def _http(self, body: bytes, content_type: str) -> bytes:
        headers = {"Content-Type": content_type, "Content-Length": str(len(body)), **self.headers}
        lines = [f"HTTP/1.1 {self.status} {REASONS.get(self.status, 'Status')}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join(lines).encode() + HEAD_END + body

    def _finish(self) -> str:
        return self.finish_reason or ("tool_calls" if self.calls else "stop")

    def _completion(self, calls: list[dict[str, Any]]) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": self.text or None, **self.message}
        if calls:
            message["tool_calls"] = calls
        completion = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1700000000,
            "model": "scripted-1",
            "choices": [{"index": 0, "message": message, "finish_reason": self._finish()}],
        }
        return completion if self.usage is None else {**completion, "usage": self.usage}

    def _events(self, calls: list[dict[str, Any]]) -> bytes:
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": "", **self.message}]
        deltas += [{"content": piece} for piece in re.findall(r"\S+\s*|\s+", self.text)]
        for index, call in enumerate(calls):
            # Named first, then its arguments in two pieces: what real providers do.
            function, arguments = call["function"], call["function"]["arguments"]
            half = len(arguments) // 2
            deltas.append({"tool_calls": [{**call, "index": index, "function": {**function, "arguments": ""}}]})
            for piece in (arguments[:half], arguments[half:]):
                deltas.append({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
        base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1700000000, "model": "scripted-1"}
        chunks = [{**base, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
        chunks.append({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": self._finish()}]})
        if self.usage is not None:
            chunks.append({**base, "choices": [], "usage": self.usage})
        return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"


def text(content: str, **more: Any) -> Reply:
    """A plain answer."""
    return Reply(text=content, **more)


def tool(name: str, arguments: dict[str, Any] | str = "{}", **more: Any) -> Reply:
    """An answer that asks for one tool call; `arguments` as text is sent as it is, valid or not."""
    encoded = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return Reply(calls=[{"name": name, "arguments": encoded}], **more)


def fault(status: int, message: str = "scripted trouble", code: str | None = None, **more: Any) -> Reply:
    """An error in OpenAI's form; give `headers={"Retry-After": "2"}` to ask for a pause."""
    return Reply(status=status, body={"error": {"message": message, "type": code, "code": code}}, **more)


def tool_turns(count: int, *, name: str = "lookup", final: str = "done") -> list[Reply]:
    """`count` answers that each ask for one tool call, then a text; play it with `by="conversation"`."""
    return [tool(name, {"turn": turn}) for turn in range(count)] + [text(final)]


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request the server has received."""

    key: str
    """Its `Idempotency-Key`, or ""."""
    head: bytes
    raw: bytes
    received_at: float

    @property
    def body(self) -> Any:
        return json.loads(self.raw)

    @property
    def headers(self) -> dict[str, str]:
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


@final
class ModelServer:
    """The server. A context manager: it runs in its own thread between enter and exit."""

    def __init__(
        self,
        replies: Sequence[Reply | Sequence[Reply]],
        *,
        by: str = "call",
        keep_calls: bool = True,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        if by not in ("call", "conversation"):
            raise ValueError(f"by is {by!r}; it is 'call' or 'conversation'")
        self.replies = [[entry] if isinstance(entry, Reply) else list(entry) for entry in replies]
        self.encoded = [[reply.encoded(turn) for reply in entry] for turn, entry in enumerate(self.replies)]
        self.by = by
        self.keep_calls = keep_calls
        self.calls: list[Call] = []
        self.calls_by_key: Counter[str] = Counter()
        self.call_count = 0
        self.connection_count = 0
        self.at_once = 0
        self.at_once_max = 0
        """Calls that were being answered late (`delay_s`, `hang`) at the same time."""
        self.arrived = threading.Event()
        """Set when the first request is in: what a test waits on before it kills the client."""
        self.host, self.port = host, port
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._connections: set[_Connection] = set()

    @property
    def url(self) -> str:
        """The base URL for an OpenAI client."""
        return f"http://{self.host}:{self.port}/v1"

    def __enter__(self) -> ModelServer:
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self.serve(ready.set)), daemon=True)
        self._thread.start()
        if not ready.wait(10):
            raise RuntimeError("the model server did not start within 10 s")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None
        assert self._thread is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def serve(self, started: Any = lambda: None) -> None:
        """Listen until stopped; `started` is called once `url` is right."""
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await self._loop.create_server(lambda: _Connection(self), self.host, self.port)
        self.port = server.sockets[0].getsockname()[1]
        started()
        await self._stop.wait()
        server.close()
        for connection in list(self._connections):
            connection.transport.abort()
        await asyncio.sleep(0)  # lets the aborted connections leave before the loop closes

    def receive(self, head: bytes, raw: bytes) -> tuple[Reply, bytes]:
        """Count one call and choose its answer."""
        found = IDEMPOTENCY_KEY.search(head)
        key = found.group(1).decode("latin-1").strip() if found else ""
        number = self.call_count if self.by == "call" else len(ASSISTANT_ROLE.findall(raw))
        turn = min(number, len(self.replies) - 1)
        attempt = min(self.calls_by_key[key], len(self.replies[turn]) - 1)
        self.call_count += 1
        self.calls_by_key[key] += 1
        if self.keep_calls:
            self.calls.append(Call(key=key, head=head, raw=raw, received_at=time.monotonic()))
        self.arrived.set()
        return self.replies[turn][attempt], self.encoded[turn][attempt][1 if STREAM_TRUE.search(raw) else 0]

    def stats(self) -> bytes:
        body = json.dumps({"calls": self.call_count, "by_key": dict(self.calls_by_key)}).encode()
        return Reply()._http(body, "application/json")


class _Connection(asyncio.Protocol):
    """One keep-alive connection. A plain protocol: `asyncio.start_server` costs three times as much per request."""

    transport: asyncio.Transport

    def __init__(self, server: ModelServer) -> None:
        self.server = server
        self.buffer = b""
        self.busy = False
        self.is_late = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.server._connections.add(self)
        self.server.connection_count += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self.server._connections.discard(self)
        self.no_longer_late()

    def no_longer_late(self) -> None:
        self.server.at_once -= self.is_late
        self.is_late = False

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        self.advance()

    def advance(self) -> None:
        """Answer what is in the buffer, one request after the other."""
        while not self.busy:
            head_end = self.buffer.find(HEAD_END)
            if head_end < 0:
                return
            head = self.buffer[: head_end + 2]
            length = CONTENT_LENGTH.search(head)
            body_start = head_end + len(HEAD_END)
            body_end = body_start + (int(length.group(1)) if length else 0)
            if len(self.buffer) < body_end:
                return
            raw, self.buffer = self.buffer[body_start:body_end], self.buffer[body_end:]
            if head.startswith(b"GET"):
                self.transport.write(self.server.stats())
            else:
                self.answer(*self.server.receive(head, raw))

    def answer(self, reply: Reply, encoded: bytes) -> None:
        if reply.hang or reply.delay_s:
            self.is_late = True
            self.server.at_once += 1
            self.server.at_once_max = max(self.server.at_once_max, self.server.at_once)
        if reply.hang:
            self.busy = True
        elif reply.drop:
            self.transport.abort()
            self.busy = True
        elif reply.delay_s:
            self.busy = True
            asyncio.get_running_loop().call_later(reply.delay_s, self.late, reply, encoded)
        else:
            self.write(reply, encoded)

    def late(self, reply: Reply, encoded: bytes) -> None:
        self.busy = False
        self.no_longer_late()
        if not self.transport.is_closing():
            self.write(reply, encoded)
            self.advance()

    def write(self, reply: Reply, encoded: bytes) -> None:
        if reply.trickle_s:
            self.busy = True
            self.trickle(reply, encoded)
        elif reply.drop_after is None:
            self.transport.write(encoded)
        else:
            self.transport.write(encoded[: reply.drop_after])
            self.transport.close()
            self.busy = True

    def trickle(self, reply: Reply, rest: bytes) -> None:
        if self.transport.is_closing():
            return
        self.transport.write(rest[:TRICKLE_BYTES])
        if rest[TRICKLE_BYTES:]:
            asyncio.get_running_loop().call_later(reply.trickle_s, self.trickle, reply, rest[TRICKLE_BYTES:])
        else:
            self.busy = False
            self.advance()


def load(path: Path) -> list[Reply | list[Reply]]:
    """A script file: a JSON list whose entries hold the fields of `Reply`, or lists of such."""
    return [
        [Reply(**fields) for fields in entry] if isinstance(entry, list) else Reply(**entry)
        for entry in json.loads(path.read_text())
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="A scripted OpenAI-compatible server on loopback.")
    parser.add_argument("--script", type=Path, help="JSON list of replies")
    parser.add_argument("--tool-turns", type=int, help="N tool calls, then a text, by conversation")
    parser.add_argument("--by", choices=("call", "conversation"), default="call")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--keep-calls", action="store_true", help="keep request bodies in memory")
    options = parser.parse_args()
    replies: Sequence[Reply | Sequence[Reply]] = [text("hello")]
    if options.script is not None:
        replies = load(options.script)
    elif options.tool_turns is not None:
        replies, options.by = tool_turns(options.tool_turns), "conversation"
    server = ModelServer(replies, by=options.by, keep_calls=options.keep_calls, host=options.host, port=options.port)

    def announce() -> None:
        sys.stdout.write(server.url + "\n")
        sys.stdout.flush()

    try:
        asyncio.run(server.serve(announce))
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
