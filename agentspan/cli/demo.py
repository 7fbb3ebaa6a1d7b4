"""`agent-span demo`: watch an agent lose its process in the middle of a tool, and finish.

A program starts two agents on the embedded default, the server that `AgentRuntime()` brings up inside it. The first
agent's process is killed while it works; program and server are killed while the second waits for a person. This
process only looks on: it reads the store, joins no Ray cluster, and so sees everything from outside and outlives it.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from agentspan.agents.events import AgentEvent, EventType
from agentspan.bridge import run_sync
from agentspan.cli import demo_ledger as ledger
from agentspan.cli.demo_agents import LIBRARY
from agentspan.cli.demo_check import Evidence, check
from agentspan.cli.demo_screen import Screen
from agentspan.cli.demo_stage import DEADLINE_S, DemoFailed, Stage, family_of, kill
from agentspan.errors import AgentspanError
from agentspan.handle import AgentHandle
from agentspan.runtime import AgentRuntime
from agentspan.testing.scripted import read_ledger

PARTS = len(LIBRARY["Restart protection"])
"""How many parts the work of the tool has that is interrupted."""
KILL_AFTER_PARTS = PARTS // 2

QUESTION = "How did the Apollo 11 landing computer survive its restarts?"
COMPLAINT = "Order 8821 arrived broken. I want my money back."


def demo(*, keep: bool = False, plain: bool = False) -> int:
    """Play the demo. Returns 0 if all was as promised, 1 if anything was not.

    Args:
        keep: Leave the temporary home behind, to look at with `agent-span list` and `show`.
        plain: No colours and nothing that moves.
    """
    screen = Screen(plain=plain)
    stage = Stage()
    try:
        with _sigterm_as_ctrl_c():
            evidence = run_sync(_Story(stage, screen).play())
        tally = check(evidence)
        screen.verdict(evidence, tally)
        return 1 if tally.problems else 0
    except (DemoFailed, AgentspanError) as problem:
        screen.failure(str(problem))
        return 1
    except KeyboardInterrupt:
        screen.failure("interrupted.")
        return 130
    finally:
        stage.close(keep=keep)
        if keep:
            screen.kept(str(stage.home))


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """End on SIGTERM as on Ctrl-C, so that no process is left behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Story:
    """The two acts, and what they leave to be checked."""

    def __init__(self, stage: Stage, screen: Screen) -> None:
        self._stage = stage
        self._screen = screen
        self._runtime = AgentRuntime.offline(stage.settings)
        self._killed: set[int] = set()
        self._actor_recovery_s = 0.0
        self._server_start_s = 0.0

    async def play(self) -> Evidence:
        self._screen.title(str(self._stage.home))
        program = self._stage.program()
        first = await self._act_1(program)
        second = await self._act_2(program)
        return Evidence(
            shown=[await self._runtime.show_async(execution_id) for execution_id in (first, second)],
            tools=ledger.read(self._stage.tool_ledger),
            models=read_ledger(self._stage.model_ledger),
            killed_pids=frozenset(self._killed),
            actor_recovery_s=self._actor_recovery_s,
            server_start_s=self._server_start_s,
        )

    # --- act 1

    async def _act_1(self, program: subprocess.Popen[bytes]) -> str:
        screen = self._screen
        screen.act(
            "Act 1: a process dies in the middle of a tool",
            "A program starts a research agent. No server is up, so the runtime brings one up inside the program; the "
            "agent runs in a process of its own, which is about to be killed.",
        )
        began = time.monotonic()
        with screen.busy("starting the program, and a server in it"):
            execution_id = await self._stage.ask(program, start="researcher", prompt=QUESTION)
        screen.note("program", f"started execution {execution_id}; a server came up for it, {_since(began)}")
        async for event in self._events(AgentHandle(execution_id, self._runtime)):
            screen.tell(event)
            if event.type is EventType.TOOL_CALL and event.tool_name == "read_page":
                await self._kill_in_the_middle(execution_id, str(event.call_id))
        return execution_id

    async def _kill_in_the_middle(self, execution_id: str, call_id: str) -> None:
        """Kill the agent's process when its tool is half done, and wait until the tool runs again."""
        key = f"{execution_id}::{call_id}"
        await self._entry(key, ledger.BEGIN)
        shown = await self._runtime.show_async(execution_id)
        pid = int(shown["host"]["pid"])
        half = await self._entry(key, ledger.PROGRESS, part=KILL_AFTER_PARTS)
        killed_at = time.time()
        kill(pid)
        self._killed.add(pid)
        done = f"{half.part} of {PARTS} parts done"
        self._screen.crash(f"kill -9 {pid}: the agent's process, in the middle of {half.tool} ({done})")
        again = await self._entry(key, ledger.BEGIN, attempt=half.attempt + 1)
        self._actor_recovery_s = again.at - killed_at
        self._screen.recovery(
            f"after {self._actor_recovery_s:.2f} s, in process {again.pid}. What is on record is not run again; "
            f"{again.tool} is attempt {again.attempt}, under the same idempotency key"
        )

    # --- act 2

    async def _act_2(self, program: subprocess.Popen[bytes]) -> str:
        screen = self._screen
        screen.act(
            "Act 2: everything dies while an agent waits for a person",
            "The same program starts a support agent. It may look up orders, but a person has to approve what it pays "
            "back. While it waits, the program and the server in it are killed, and everything below them.",
        )
        execution_id = await self._stage.ask(program, start="support", prompt=COMPLAINT)
        screen.note("program", f"started execution {execution_id}")
        handle = AgentHandle(execution_id, self._runtime)
        read = 0
        async for event in self._events(handle):
            screen.tell(event)
            read = event.seq or read
            if event.type is EventType.WAITING:
                break
        self._killed.update(family_of(program.pid))
        count = await self._stage.kill_all_of(program)
        screen.crash(f"kill -9 of the program, the server and all below: {count} processes. Nothing runs any more")
        began = time.monotonic()
        with screen.busy("starting a server again"):
            await self._stage.server()
        self._server_start_s = time.monotonic() - began
        screen.recovery(f"a server of its own is started on the same home, and answers {_since(began)}")
        await self._approve(handle)
        async for event in self._events(handle, after=read):
            screen.tell(event)
        return execution_id

    async def _approve(self, handle: AgentHandle) -> None:
        """What a person would do, days later: look at what waits, and decide, in a program of its own."""
        status = await handle.get_status_async()
        pending = status.pending_tool
        if pending is None:
            raise DemoFailed(f"execution {handle.execution_id} is {status.status} and waits for nobody.")
        arguments = ", ".join(json.dumps(value) for value in pending.arguments.values())
        self._screen.waiting(f"still: {pending.tool_name}({arguments}). A new program approves it")
        await self._stage.ask(self._stage.program(), approve=handle.execution_id, call_id=pending.call_id)

    # --- both

    async def _events(self, handle: AgentHandle, *, after: int = 0) -> AsyncIterator[AgentEvent]:
        """The stream of an execution, as it happens, to its end; each event has a deadline."""
        stream = handle.stream_async(after=after)
        while True:
            try:
                async with asyncio.timeout(DEADLINE_S):
                    event = await anext(stream, None)
            except TimeoutError:
                raise DemoFailed(f"{DEADLINE_S:g} s went by without an event.\n{self._stage.last_words()}") from None
            if event is None:
                return
            yield event

    async def _entry(self, key: str, what: str, *, attempt: int = 1, part: int = 0) -> ledger.Entry:
        """The tools' ledger entry, once it is there."""

        def look() -> ledger.Entry | None:
            found = (entry for entry in ledger.read(self._stage.tool_ledger) if (entry.key, entry.what) == (key, what))
            return next((entry for entry in found if entry.attempt >= attempt and entry.part >= part), None)

        return await self._stage.until(f"{what} of {key}", look)


def _since(began: float) -> str:
    return f"after {time.monotonic() - began:.1f} s"


if __name__ == "__main__":
    sys.exit(demo(keep="--keep" in sys.argv, plain="--plain" in sys.argv))
