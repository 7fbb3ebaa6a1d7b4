"""A proxy that pools transactions, as PgBouncer does in that mode: each transaction goes to any server connection that is
free, so nothing that a client left in a session is there the next time. Accepts everybody."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg

_STARTUP_ONLY = {80877103: b"N", 80877104: b"N"}
_CANCEL = 80877102
_PARAMETERS = {
    "server_version": "16.0",
    "server_encoding": "UTF8",
    "client_encoding": "UTF8",
    "standard_conforming_strings": "on",
    "integer_datetimes": "on",
}


class Pooler:
    """A pool of server connections behind one port."""

    def __init__(self, servers: list[psycopg.Connection[tuple[object, ...]]]) -> None:
        self._servers = servers
        self._free: list[socket.socket] = []
        self._change = asyncio.Condition()
        self.port = 0
        self.transactions = 0
        self.used: set[int] = set()
        """Server connections that served somebody."""
        for one in servers:
            raw = socket.socket(fileno=one.fileno())
            raw.setblocking(False)
            self._free.append(raw)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client."""
        try:
            if await self._greet(reader, writer):
                while await self._transaction(reader, writer):
                    pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # The client is gone.
        finally:
            writer.close()

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        while True:
            (length,) = struct.unpack("!i", await reader.readexactly(4))
            (code,) = struct.unpack("!i", (await reader.readexactly(length - 4))[:4])
            if code == _CANCEL:
                return False
            if code not in _STARTUP_ONLY:
                break
            writer.write(_STARTUP_ONLY[code])
        writer.write(_message(b"R", struct.pack("!i", 0)))
        for name, value in _PARAMETERS.items():
            writer.write(_message(b"S", f"{name}\0{value}\0".encode()))
        writer.write(_message(b"K", struct.pack("!ii", 1, 1)) + _message(b"Z", b"I"))
        return True

    async def _transaction(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        asked = await _question(reader)
        if asked is None:
            return False
        server = await self._take()
        try:
            while True:
                state = await self._exchange(server, asked, writer)
                if state == b"I":
                    self.transactions += 1
                    return True
                more = await _question(reader)
                if more is None:
                    return False
                asked = more
        finally:
            await self._give_back(server)

    async def _exchange(self, server: socket.socket, asked: bytes, writer: asyncio.StreamWriter) -> bytes:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(server, asked)
        buffer = b""
        while True:
            buffer += await loop.sock_recv(server, 1 << 16)
            while len(buffer) >= 5:
                size = 1 + struct.unpack("!i", buffer[1:5])[0]
                if len(buffer) < size:
                    break
                message, buffer = buffer[:size], buffer[size:]
                writer.write(message)
                if message[:1] == b"Z":
                    await writer.drain()
                    return message[5:6]

    async def _take(self) -> socket.socket:
        async with self._change:
            await self._change.wait_for(lambda: self._free)
            server = self._free.pop(random.randrange(len(self._free)))
            self.used.add(server.fileno())
            return server

    async def _give_back(self, server: socket.socket) -> None:
        async with self._change:
            self._free.append(server)
            self._change.notify()

    def close(self) -> None:
        """Let the server connections go."""
        for raw in self._free:
            raw.detach()
        for one in self._servers:
            one.close()


async def _question(reader: asyncio.StreamReader) -> bytes | None:
    """What the client sends until it waits for an answer; None when it leaves."""
    asked = b""
    while True:
        head = await reader.readexactly(5)
        if head[:1] == b"X":
            return None
        asked += head + await reader.readexactly(struct.unpack("!i", head[1:])[0] - 4)
        if head[:1] in (b"S", b"Q"):
            return asked


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


@asynccontextmanager
async def pooler(url: str, *, size: int = 3) -> AsyncIterator[Pooler]:
    """A running proxy to the database of a URL."""
    servers = [await asyncio.to_thread(psycopg.connect, url, autocommit=True) for _ in range(size)]
    made = Pooler(servers)
    async with await asyncio.start_server(made.serve, "127.0.0.1", 0) as listener:
        made.port = listener.sockets[0].getsockname()[1]
        try:
            yield made
        finally:
            listener.close()
    made.close()
