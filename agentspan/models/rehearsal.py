"""One model call to nowhere, so that the first real one is not the slow one.

The first request of a process takes about 20 ms longer than the next: the HTTP stack imports its back end, compiles its
patterns and builds its tables when they are first needed. A standby has the time to do that before anybody waits. The call
goes to a socket of this process on the loopback interface; nothing leaves the machine.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from agentspan.models.base import ModelRequest
from agentspan.models.openai_client import Clients, OpenAIModel
from agentspan.models.providers import resolve

log = logging.getLogger("agentspan.models")

TIMEOUT_S = 5.0
ANSWER = (
    b'{"id":"r","object":"chat.completion","created":0,"model":"r","choices":[{"index":0,"finish_reason":"stop",'
    b'"message":{"role":"assistant","content":"ok"}}],"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}}'
)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"


async def rehearse() -> None:
    """Make one call. Never fails: what cannot be rehearsed is only slower."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            async with answering([ANSWER]) as url:
                clients = Clients(timeout_s=TIMEOUT_S)
                try:
                    model = OpenAIModel(resolve("openai/rehearsal", base_url=url, environ={}), clients)
                    message = {"role": "user", "content": "ok?"}
                    await model.complete(
                        ModelRequest(model="openai/rehearsal", messages=[message], idempotency_key="rehearsal")
                    )
                finally:
                    await clients.aclose()
    except Exception:
        log.exception("rehearsal.failed")


@asynccontextmanager
async def answering(bodies: Sequence[bytes]) -> AsyncIterator[str]:
    """The URL of a chat completions endpoint that gives these answers one after the other, again and again."""
    endless = itertools.cycle(bodies)
    serving: set[asyncio.Task[Any]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(
                    int(line.partition(b":")[2])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length:")
                )
                await reader.readexactly(length)
                body = next(endless)
                writer.write(HEAD % len(body) + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # The client has what it wanted, or keeps a connection open that nobody needs any more.
        finally:
            writer.close()
            serving.discard(task)

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()
        for task in serving:
            task.cancel()
