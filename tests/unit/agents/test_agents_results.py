from __future__ import annotations

import dataclasses
import json
import pickle
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel

from agentspan.agents.events import AgentEvent, EventType
from agentspan.agents.results import (
    AgentResult,
    AgentStatus,
    DeploymentInfo,
    FinishReason,
    PendingTool,
    Status,
    TokenUsage,
    ToolCallRecord,
)

AT = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
PENDING = PendingTool(
    call_id="c1",
    tool_name="refund",
    arguments={"amount": 3},
    question="Refund?",
    arguments_hash="h",
    asked_at=AT,
    agent_name="support",
)


class Verdict(BaseModel):
    ok: bool
    at: datetime = AT


@pytest.mark.parametrize(
    ("status", "terminal", "settled"),
    [
        ("QUEUED", False, False),
        ("RUNNING", False, False),
        ("WAITING", False, False),
        ("PAUSED", False, False),
        ("COMPLETED", True, True),
        ("FAILED", True, True),
        ("TERMINATED", True, True),
        ("TIMED_OUT", True, True),
        ("QUARANTINED", False, True),
    ],
)
def test_statuses(status: str, terminal: bool, settled: bool) -> None:
    found = Status(status)
    assert found == status
    assert f"{found}" == str(found) == status
    assert (found.is_terminal, found.is_settled) == (terminal, settled)
    assert json.dumps(found) == f'"{status}"'


def test_every_status_is_in_the_table_above() -> None:
    assert len(Status) == 9


def test_finish_reasons_print_as_their_value() -> None:
    assert ",".join(str(reason) for reason in FinishReason) == (
        "stop,length,tool_calls,error,cancelled,timeout,guardrail,rejected,stopped,max_turns"
    )


def test_usages_add_up() -> None:
    assert TokenUsage(1, 2, 3) + TokenUsage(10, 20, 30) == TokenUsage(11, 22, 33)
    assert sum([TokenUsage(1, 2, 3)] * 2, TokenUsage()) == TokenUsage(2, 4, 6)
    with pytest.raises(TypeError):
        TokenUsage() + 1  # type: ignore[operator]


def test_a_pending_tool_reads_like_a_mapping() -> None:
    assert isinstance(PENDING, Mapping)
    assert PENDING["tool_name"] == "refund"
    assert PENDING["parameters"] == PENDING.arguments == {"amount": 3}
    assert PENDING["taskRefName"] == "c1"
    assert PENDING.get("response_ui_schema") is None
    assert "question" in PENDING
    assert len(dict(PENDING)) == len(PENDING) == 12
    with pytest.raises(KeyError):
        PENDING["nothing"]
    assert bool(PENDING)


def test_is_rejected_says_that_a_person_said_no() -> None:
    assert not AgentResult().is_rejected
    calls = [ToolCallRecord(call_id="1", name="a"), ToolCallRecord(call_id="2", name="b", status="rejected")]
    result = AgentResult(tool_calls=calls)
    assert result.is_rejected
    assert result.is_success
    assert AgentResult(finish_reason=FinishReason.REJECTED).is_rejected


@pytest.mark.parametrize(
    ("status", "success", "failed"),
    [
        (Status.COMPLETED, True, False),
        (Status.FAILED, False, True),
        (Status.TIMED_OUT, False, True),
        (Status.QUARANTINED, False, True),
        (Status.TERMINATED, False, False),
    ],
)
def test_success_and_failure(status: Status, success: bool, failed: bool) -> None:
    result = AgentResult(status=status)
    assert (result.is_success, result.is_failed) == (success, failed)
    assert result.correlation_id is None


def test_everything_becomes_json_data() -> None:
    status = AgentStatus(execution_id="e1", status=Status.WAITING, pending_tool=PENDING, pending=[PENDING])
    result = AgentResult(
        output=Verdict(ok=True),
        execution_id="e1",
        finish_reason=FinishReason.STOP,
        token_usage=TokenUsage(1, 2, 3),
        tool_calls=[ToolCallRecord(call_id="c", name="n", result={"raw": b"\xff"}, decided_at=AT)],
        metadata={"odd": object},
    )
    info = DeploymentInfo(registered_name="a", agent_name="a", deployment_id="d", source="m:a")
    for value in (status, result, info, PENDING, TokenUsage(1, 2, 3)):
        json.dumps(value.to_dict())
    assert status.to_dict()["status"] == "WAITING"
    assert status.to_dict()["pending"][0]["arguments"] == {"amount": 3}
    assert status.to_dict()["pending_tool"]["asked_at"] == "2026-01-02T03:04:05.000678Z"
    plain = result.to_dict()
    assert plain["output"] == {"ok": True, "at": "2026-01-02T03:04:05.000678Z"}
    assert plain["finish_reason"] == "stop"
    assert plain["token_usage"] == {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    assert plain["tool_calls"][0]["decided_at"] == "2026-01-02T03:04:05.000678Z"


@pytest.mark.parametrize(
    "value", [PENDING, AgentStatus(pending=[PENDING]), AgentResult(output="x"), TokenUsage(1, 2, 3)]
)
def test_values_are_frozen_and_pickle(value: Any) -> None:
    assert pickle.loads(pickle.dumps(value)) == value
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, dataclasses.fields(value)[0].name, "other")


@pytest.mark.parametrize("rich", [True, False])
def test_printing_a_result(rich: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if not rich:
        monkeypatch.setitem(sys.modules, "rich.console", None)
    AgentResult(output="[bold]42[/bold]", execution_id="e1", finish_reason=FinishReason.STOP).print_result()
    AgentResult(output={"a": Verdict(ok=True)}, status=Status.FAILED, error="it broke").print_result()
    AgentResult(status=Status.TERMINATED).print_result()
    said = capsys.readouterr().out
    assert "[bold]42[/bold]" in said
    assert "COMPLETED (stop)" in said
    assert "it broke" in said
    assert '"ok": true' in said
    assert "TERMINATED" in said


# --- events


@pytest.mark.parametrize(
    "event",
    [
        AgentEvent(type=EventType.DONE),
        AgentEvent(type=EventType.TOKEN, execution_id="e1", content="to"),
        AgentEvent(type=EventType.MESSAGE, content="", output="", result=False),
        AgentEvent(
            type=EventType.TOOL_RESULT,
            execution_id="e1",
            seq=0,
            at=AT,
            tool_name="t",
            args={"a": 1},
            result=[1],
            call_id="c",
            attempt=2,
            target="other",
            output={"x": 1},
            guardrail_name="g",
            will_retry=True,
            agent_path="root/child",
            data={"k": None},
        ),
    ],
)
def test_events_go_to_json_and_back(event: AgentEvent) -> None:
    plain = json.loads(json.dumps(event.to_dict()))
    assert AgentEvent.from_dict(plain) == event
    assert isinstance(AgentEvent.from_dict(plain).type, EventType)


def test_what_is_not_set_is_not_sent() -> None:
    assert AgentEvent(type=EventType.DONE).to_dict() == {"type": "done"}


def test_newer_events_do_not_stop_an_older_reader() -> None:
    event = AgentEvent.from_dict({"type": "subagent_start", "seq": 3, "news": 1})
    assert (event.type, event.seq) == ("subagent_start", 3)
    assert event.to_dict() == {"type": "subagent_start", "seq": 3}


def test_event_types_are_text() -> None:
    assert EventType.TOOL_CALL == "tool_call"
    assert f"{EventType.TOOL_CALL}" == "tool_call"
