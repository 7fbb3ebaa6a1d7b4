"""The scripted model: an OpenAI-compatible server in a process of its own, with a latency that each request chooses.

The model's name says what it does: `t10-d200-abc` asks for the tool in 10 turns, then ends, and takes 200 ms for every
answer. The turn is read off the request itself (how many assistant messages it carries), so a system that crashed and asks
again gets the same answer. When the name ends in a tag, here `abc`, the server notes when each request arrived, and
`GET /arrivals/abc` returns these times (seconds since 1970): an observer that none of the measured systems controls.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections import defaultdict
from typing import cast

HEAD_END = b"\r\n\r\n"
LENGTH = re.compile(rb"content-length:\s*(\d+)", re.IGNORECASE)
MODEL = re.compile(rb'"model"\s*:\s*"t(\d+)-d(\d+)-([\w.]*)"')
# Inside a JSON string the quotes would be escaped, so this matches only real members of the request.
ASSISTANT = re.compile(rb'"role"\s*:\s*"assistant"')
USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}


def model_name(turns: int, delay_ms: int = 0, tag: str = "") -> str:
    """The name of the model that asks for the tool `turns` times."""
    return f"t{turns}-d{delay_ms}-{tag}"


def answer(turn: int, turns: int) -> bytes:
    """The whole HTTP answer of one turn, from 0."""
    message: dict[str, object] = {"role": "assistant", "content": None if turn < turns else "done"}
    if turn < turns:
        function = {"name": "lookup", "arguments": json.dumps({"turn": turn})}
        message["tool_calls"] = [{"id": f"call_{turn}", "type": "function", "function": function}]
    finish = "tool_calls" if turn < turns else "stop"
    body = json.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1700000000,
            "model": "scripted-1",
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": USAGE,
        }
    ).encode()
    return _http(body)


def _http(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


class Model:
    """What all connections share."""

    def __init__(self) -> None:
        self.arrivals: dict[str, list[float]] = defaultdict(list)
        self._answers: dict[tuple[int, int], bytes] = {}

    def reply(self, head: bytes, body: bytes) -> tuple[float, bytes]:
        """Seconds to wait, and what to send then."""
        if head.startswith(b"GET /arrivals/"):
            tag = head.split(b" ", 2)[1].rpartition(b"/")[2].decode()
            return 0.0, _http(json.dumps(self.arrivals.get(tag, [])).encode())
        found = MODEL.search(body)
        if found is None:
            return 0.0, _http(b'{"error": {"message": "no such model"}}', "404 Not Found")
        turns, delay_ms, tag = int(found[1]), int(found[2]), found[3].decode()
        if tag:
            self.arrivals[tag].append(time.time())
        key = (len(ASSISTANT.findall(body)), turns)
        if key not in self._answers:
            self._answers[key] = answer(*key)
        return delay_ms / 1e3, self._answers[key]


class Connection(asyncio.Protocol):
    """One connection of a client. Requests come one after the other, as the openai client sends them."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while True:
            end = self._received.find(HEAD_END)
            if end < 0:
                return
            head = bytes(self._received[:end])
            length = LENGTH.search(head)
            size = end + len(HEAD_END) + (int(length[1]) if length else 0)
            if len(self._received) < size:
                return
            body = bytes(self._received[end + len(HEAD_END) : size])
            del self._received[:size]
            delay_s, reply = self._model.reply(head, body)
            if delay_s:
                asyncio.get_running_loop().call_later(delay_s, self._send, reply)
            else:
                self._send(reply)

    def _send(self, reply: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(reply)


async def serve() -> None:
    """Listen on a free loopback port and print the base URL."""
    model = Model()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(model), "127.0.0.1", 0, backlog=4096)
    sys.stdout.write(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1\n")
    sys.stdout.flush()
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve())
