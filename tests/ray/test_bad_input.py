"""What cannot be done is refused with a typed error, before anything happened; what is damaged is set aside."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agentspan.agents import Agent, AgentHandle, AgentRuntime, Status, tool
from agentspan.errors import (
    AgentNotFoundError,
    AmbiguousDecisionError,
    ConfigurationError,
    CorruptRecordError,
    DecisionMismatchError,
    ExecutionFinishedError,
    InvalidDecisionError,
    InvalidPromptError,
    NothingPendingError,
    UnknownCallError,
    UnknownExecutionError,
    UnshippableCodeError,
)
from agentspan.testing import ScriptedModel, call, calls, say
from tests.ray.agents import gate, make_agent
from tests.support.cluster import Server, until
from tests.support.ledger import Ledger


def test_what_is_unknown_or_of_the_wrong_kind_starts_nothing(runtime: AgentRuntime, ledger: Ledger) -> None:
    count = len(runtime.executions(limit=1000))
    agent = make_agent("careful", ledger, ScriptedModel("hi"))

    with pytest.raises(AgentNotFoundError, match="'nobody' is deployed"):
        runtime.start("nobody", "go")
    for prompt in (None, 7, {"text": "x"}, [], ["x"], [{"content": "no role"}], b"bytes"):
        with pytest.raises(InvalidPromptError, match="'careful'"):
            runtime.start(agent, prompt)
    with pytest.raises(ConfigurationError, match="not an int"):
        runtime.start(7, "go")  # type: ignore[arg-type]
    lock = threading.Lock()

    @tool
    def locked() -> str:
        """Use a lock of this process."""
        with lock:
            return "x"

    with pytest.raises(UnshippableCodeError, match="locked"):
        runtime.start(Agent("locker", model=str(ScriptedModel("hi")), tools=[locked]), "go")
    assert len(runtime.executions(limit=1000)) == count


def test_an_execution_nobody_knows(runtime: AgentRuntime) -> None:
    handle = runtime.handle("ex-none")

    for verb in (handle.get_status, handle.join, handle.approve, handle.cancel, lambda: list(handle.stream())):
        with pytest.raises(UnknownExecutionError, match="ex-none"):
            verb()
    with pytest.raises(UnknownExecutionError):
        runtime.resume("ex-none")


def test_decisions_that_fit_nothing_decide_nothing(runtime: AgentRuntime, ledger: Ledger) -> None:
    script = ScriptedModel([calls(call("refund", amount=1), call("refund", amount=2)), say("ok")])
    handle = runtime.start(make_agent("decider", ledger, script), "go")
    until("two refunds", lambda: len(handle.get_status().pending) == 2)
    blind = runtime.handle(handle.execution_id)  # Has shown nothing to anybody.

    with pytest.raises(UnknownCallError, match="call_9"):
        blind.approve("call_9")
    with pytest.raises(AmbiguousDecisionError):
        blind.approve()
    with pytest.raises(InvalidDecisionError):
        blind.approve("call_0_0", arguments={"amount": "much", "to": "me"})
    with pytest.raises(DecisionMismatchError):
        seen_before_an_edit(blind).approve("call_0_0")
    blind.approve("call_0_0", arguments={"amount": 1.5})
    blind.reject("too much", "call_0_1")
    result = handle.join(30)
    assert [(record.status, record.result) for record in result.tool_calls] == [
        ("completed", "refunded 1.5"),
        ("rejected", None),
    ]
    assert result.is_rejected
    with pytest.raises(ExecutionFinishedError, match="COMPLETED"):
        handle.cancel()

    busy = runtime.start(make_agent("busy", ledger, ScriptedModel([call("work", n=1, hold=1), say("x")])), "go")
    ledger.entered(busy.execution_id)
    with pytest.raises(NothingPendingError, match="waits for no decision"):
        busy.approve()
    ledger.open(gate(busy.execution_id, 1))
    assert busy.join(30).output == "x"


def test_arguments_that_do_not_fit_go_back_to_the_model(runtime: AgentRuntime, ledger: Ledger) -> None:
    script = ScriptedModel(
        [call("work", n="many", colour="red"), call("nothing_like_it"), call("work", n=2), say("ok")]
    )

    result = runtime.run(make_agent("mender", ledger, script), "go", timeout=30)

    assert result.output == "ok"
    heard = [message["content"] for message in result.messages if message["role"] == "tool"]
    assert "n" in heard[0]
    assert "colour" in heard[0]
    assert "nothing_like_it" in heard[1]
    assert heard[2] == "did 2 at attempt 1"
    assert len(ledger.entered(result.execution_id)) == 1


def test_a_prompt_of_ten_megabytes_works(runtime: AgentRuntime, ledger: Ledger) -> None:
    prompt = "0123456789" * 1_000_000

    result = runtime.run(
        make_agent("reader", ledger, ScriptedModel([call("work", n=1), say("read")])), prompt, timeout=60
    )

    assert result.output == "read"
    assert result.messages[0]["content"] == prompt


def test_a_flipped_byte_quarantines_one_execution_and_the_others_go_on(
    server: Server, runtime: AgentRuntime, ledger: Ledger
) -> None:
    agent = make_agent("waiting", ledger, ScriptedModel([call("refund", amount=3), say("{last_tool_result}")]))
    sound, damaged = runtime.start(agent, "refund"), runtime.start(agent, "refund")
    for handle in (sound, damaged):
        until("hibernation", lambda handle=handle: is_asleep(runtime, handle.execution_id))
    flip_a_byte(server.home / "agentspan.db", damaged.execution_id)

    runtime.approve(damaged.execution_id)
    runtime.approve(sound.execution_id)

    result = damaged.join(30)
    assert result.status is Status.QUARANTINED
    assert result.error is not None
    assert damaged.execution_id in result.error
    assert sound.join(30).output == "refunded 3"
    status = damaged.get_status()
    assert (status.status, status.is_complete) == (Status.QUARANTINED, True)
    assert status.reason is not None
    with pytest.raises(CorruptRecordError):
        list(damaged.stream())  # Ends, too.
    damaged.cancel()
    assert ledger.entered(damaged.execution_id, count=0) == []


def is_asleep(runtime: AgentRuntime, execution_id: str) -> bool:
    shown: dict[str, Any] = runtime.show(execution_id)
    return bool(shown["pending_calls"]) and not shown["resident"]


def flip_a_byte(path: Path, execution_id: str) -> None:
    """Change one byte in the middle of the execution's model answer, behind everybody's back."""
    with closing(sqlite3.connect(path, timeout=20)) as db, db:
        (number,) = db.execute("SELECT id FROM executions WHERE execution_id = ?", (execution_id,)).fetchone()
        (body,) = db.execute("SELECT body FROM records WHERE id = ?", ((number << 32) | 1,)).fetchone()
        middle = len(body) // 2
        flipped = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
        db.execute("UPDATE records SET body = ? WHERE id = ?", (flipped, (number << 32) | 1))


def seen_before_an_edit(handle: AgentHandle) -> AgentHandle:
    """A handle that showed its user other arguments than the call has."""
    handle = AgentHandle(handle.execution_id, handle.runtime)
    handle._shown["call_0_0"] = "0" * 16
    return handle


def test_a_timeout_that_is_none_starts_nothing(runtime: AgentRuntime) -> None:
    agent = Agent("untimed", model="scripted/echo")
    for start in (runtime.start, runtime.run):
        with pytest.raises(ConfigurationError, match="timeout"):
            start(agent, "go", timeout="soon")  # type: ignore[arg-type]
    assert runtime.executions(agent="untimed") == []
