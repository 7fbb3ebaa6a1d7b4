"""Events in order and without a gap, for any number of readers, across crashes."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from agentspan.agents import AgentRuntime, EventType
from agentspan.testing import ScriptedModel, after, call, say
from tests.ray.agents import gate, make_agent
from tests.support.cluster import Server, answer
from tests.support.ledger import Ledger

READING = str(Path(__file__).parent / "clients" / "reading.py")
KINDS = ["started", "tool_call", "tool_result", "tool_call", "tool_result", "message", "done"]


def two_steps(ledger: Ledger, *, name: str = "streamer"):  # type: ignore[no-untyped-def]
    return make_agent(name, ledger, ScriptedModel([call("work", n=1, hold=1), call("work", n=2), say("the end")]))


def test_readers_see_everything_once_and_in_order(server: Server, runtime: AgentRuntime, ledger: Ledger) -> None:
    stream = runtime.stream(two_steps(ledger), "go")
    execution_id = stream.execution_id
    first = [next(stream), next(stream)]  # The call is told before its tool has run.
    assert [str(event.type) for event in first] == KINDS[:2]
    other = server.client(READING, execution_id)  # Another process reads the same, live.
    gone = runtime.stream(handle=runtime.handle(execution_id))
    next(gone)
    del gone  # A reader that goes away changes nothing.
    ledger.entered(execution_id)
    ledger.open(gate(execution_id, 1))

    events = first + list(stream)

    assert [str(event.type) for event in events] == KINDS
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert stream.result.output == "the end"
    assert answer(other) == [[event.seq, str(event.type)] for event in events]
    for number in range(len(events) + 1):  # Later, from anywhere.
        rest = list(runtime.handle(execution_id).stream(after=number))
        assert [event.seq for event in rest] == list(range(number + 1, len(events) + 1))


def test_a_stream_goes_on_through_a_crash(runtime: AgentRuntime, ledger: Ledger) -> None:
    stream = runtime.stream(two_steps(ledger), "go")
    seen = [next(stream), next(stream)]
    ledger.entered(stream.execution_id)
    os.kill(runtime.show(stream.execution_id)["host"]["pid"], signal.SIGKILL)

    seen += list(stream)

    assert [str(event.type) for event in seen] == [*KINDS[:2], "recovered", *KINDS[2:]]
    assert [event.seq for event in seen] == list(range(1, len(seen) + 1))


def test_text_streams_in_as_tokens_for_those_who_ask(runtime: AgentRuntime, ledger: Ledger) -> None:
    words = "one two three four five six"
    agent = make_agent("speaker", ledger, ScriptedModel([after(1.5, say(words))]))

    events = list(runtime.stream(agent, "go", tokens=True))
    plain = list(runtime.stream(agent, "go"))

    tokens = [event.content for event in events if event.type is EventType.TOKEN]
    assert len(tokens) > 1
    assert words.startswith("".join(str(token) for token in tokens))  # What is on record replaces the last of them.
    assert [event.content for event in events if event.type is EventType.MESSAGE] == [words]
    assert [str(event.type) for event in plain] == ["started", "message", "done"]


def test_a_join_that_times_out_leaves_the_execution_alone(runtime: AgentRuntime, ledger: Ledger) -> None:
    handle = runtime.start(two_steps(ledger), "go")
    ledger.entered(handle.execution_id)

    with pytest.raises(TimeoutError, match=handle.execution_id):
        handle.join(0.2)
    with pytest.raises(TimeoutError):
        runtime.run(two_steps(ledger, name="impatient"), "go", timeout=0.5)

    assert handle.get_status().is_running
    ledger.open(gate(handle.execution_id, 1))
    assert handle.join(30).output == "the end"


async def test_the_async_face(runtime: AgentRuntime, ledger: Ledger) -> None:
    handle = await runtime.start_async(two_steps(ledger), "go")

    async def read() -> list[str]:
        return [str(event.type) async for event in handle.stream_async()]

    reading = asyncio.create_task(read())
    await asyncio.to_thread(ledger.entered, handle.execution_id)
    assert (await handle.get_status_async()).is_running
    await asyncio.to_thread(ledger.open, gate(handle.execution_id, 1))
    result = await handle

    assert result.output == "the end"
    assert await asyncio.wait_for(reading, 20) == KINDS
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(runtime.run_async(two_steps(ledger), "go"), 0.5)  # Cancelling a wait cancels only it.


async def test_the_sync_face_inside_a_running_loop(runtime: AgentRuntime, ledger: Ledger) -> None:
    agent = make_agent("notebook", ledger, ScriptedModel([call("work", n=1), say("done")]))

    result = runtime.run(agent, "go", timeout=30)
    handle = runtime.start(agent, "go")

    assert result.output == "done"
    assert [str(event.type) for event in handle.stream()] == ["started", "tool_call", "tool_result", "message", "done"]
    assert handle.join(5).output == "done"
