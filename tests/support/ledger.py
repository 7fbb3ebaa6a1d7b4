"""A process that writes down what tools really did, and that can hold a tool in its middle.

It is nobody's child but the test's, so it sees what a killed actor can no longer tell, and it does not believe the
journal: an effect counts when the tool says so over a loopback socket, before AgentSpan knows of it.

    with ledger_process() as ledger:
        ...                              # in a tool: ledger.enter(key, attempt); ledger.wait("gate")
        ledger.entered(key, count=2)     # in the test: returns once it was so

The protocol is one JSON line each way, one thread per connection; a connection that dies takes its wait with it.
"""

from __future__ import annotations

import json
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

DEADLINE_S = 60.0


@dataclass(frozen=True)
class Ledger:
    """The client's end; plain data, so tools can hold it."""

    port: int

    def enter(self, key: str, attempt: int, **more: Any) -> None:
        """A tool begins: note its idempotency key and attempt."""
        self._ask(op="enter", key=key, attempt=attempt, **more)

    def wait(self, gate: str) -> None:
        """Return once the gate is open. Blocks its thread, as a slow tool would."""
        self._ask(op="wait", gate=gate)

    def open(self, gate: str) -> None:
        """Let everybody through who waits, or will wait, at this gate."""
        self._ask(op="open", gate=gate)

    def entered(self, prefix: str, *, count: int = 1) -> list[dict[str, Any]]:
        """The entries whose key begins with `prefix`, once there are `count` of them.

        Raises:
            TimeoutError: There were fewer for DEADLINE_S.
        """
        found: list[dict[str, Any]] = self._ask(op="entered", prefix=prefix, count=count)
        if len(found) < count:
            raise TimeoutError(f"the ledger has {len(found)} of {count} entries for {prefix!r}: {found}")
        return found

    def since(self, index: int) -> list[dict[str, Any]]:
        """All entries but the first `index`, in the order they came in."""
        found: list[dict[str, Any]] = self._ask(op="since", index=index)
        return found

    def _ask(self, **question: Any) -> Any:
        with socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE_S * 2) as connection:
            connection.sendall(json.dumps(question).encode() + b"\n")
            with connection.makefile("rb") as answers:
                line = answers.readline()
        if not line:
            raise ConnectionError("the ledger is gone")
        return json.loads(line)


class _Books(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Clerk)
        self.changed = threading.Condition()
        self.entries: list[dict[str, Any]] = []
        self.gates: set[str] = set()

    def answer(self, question: dict[str, Any]) -> Any:
        op = question.pop("op")
        with self.changed:
            if op == "enter":
                self.entries.append({**question, "at": time.time()})
                self.changed.notify_all()
            elif op == "open":
                self.gates.add(question["gate"])
                self.changed.notify_all()
            elif op == "wait":
                self.changed.wait_for(lambda: question["gate"] in self.gates)
            elif op == "entered":
                self.changed.wait_for(lambda: len(self._of(question["prefix"])) >= question["count"], DEADLINE_S)
                return self._of(question["prefix"])
            elif op == "since":
                return self.entries[question["index"] :]
            else:
                raise ValueError(f"unknown op {op!r}")
        return None

    def _of(self, prefix: str) -> list[dict[str, Any]]:
        return [entry for entry in self.entries if entry["key"].startswith(prefix)]


class _Clerk(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        books = cast(_Books, self.server)
        line = self.rfile.readline()
        if not line:
            return
        answer = books.answer(json.loads(line))
        try:
            self.wfile.write(json.dumps(answer).encode() + b"\n")
        except OSError:
            pass  # The tool was killed while it waited.


@contextmanager
def ledger_process() -> Iterator[Ledger]:
    """A ledger in a process of its own."""
    process = subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    assert process.stdout is not None
    try:
        yield Ledger(int(process.stdout.readline()))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


if __name__ == "__main__":
    books = _Books()
    print(books.server_address[1], flush=True)
    books.serve_forever()
