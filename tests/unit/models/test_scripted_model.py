"""The scripted model: the same conversation gets the same answer, in any process."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentspan.errors import (
    ConfigurationError,
    ModelAuthError,
    ModelError,
    ModelReplyError,
    ModelRetryableError,
)
from agentspan.models import ModelReply, ModelRequest
from agentspan.models.wire import assistant_message
from agentspan.testing import ScriptedModel, after, call, calls, fail, raw_call, read_ledger, say

STEPS = [calls(call("search", q="ray"), call("now"), text="Let me look."), fail(429, times=2, retry_after_s=3), "Done."]


def request(*replies: ModelReply, **changes: Any) -> ModelRequest:
    """A conversation in which these replies were given, each with its tools' results."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": "go"}]
    for reply in replies:
        messages.append(assistant_message(reply))
        messages += [{"role": "tool", "tool_call_id": one.call_id, "content": "42"} for one in reply.calls]
    fields: dict[str, Any] = {"model": "scripted/x", "messages": messages, "idempotency_key": f"e1/{len(replies)}"}
    return ModelRequest(**{**fields, **changes})


async def test_a_script_plays_turn_by_turn():
    model = ScriptedModel(STEPS)
    first = await model.complete(request())
    assert first.text == "Let me look."
    assert [(one.call_id, one.name, one.arguments) for one in first.calls] == [
        ("call_0_0", "search", '{"q": "ray"}'),
        ("call_0_1", "now", "{}"),
    ]
    assert first.finish_reason == "tool_calls"
    second = await model.complete(request(first, attempt=3))
    assert (second.text, second.finish_reason) == ("Done.", "stop")
    assert second.total_tokens == second.prompt_tokens + second.completion_tokens > 0


async def test_a_fresh_model_gives_the_same_conversation_the_same_answer():
    first = await ScriptedModel(STEPS).complete(request())
    for _ in range(2):
        assert await ScriptedModel(STEPS).complete(request()) == first
        assert (await ScriptedModel(STEPS).complete(request(first, attempt=3))).text == "Done."


async def test_failures_follow_the_attempt_alone():
    first = await ScriptedModel(STEPS).complete(request())
    for attempt in (1, 2, 1):
        with pytest.raises(ModelRetryableError) as caught:
            await ScriptedModel(STEPS).complete(request(first, attempt=attempt))
        assert (caught.value.status, caught.value.retry_after_s) == (429, 3)


async def test_failures_in_a_row_come_one_after_the_other():
    model = ScriptedModel([fail(429), fail(500, times=2), fail(None), say("ok")])
    statuses = []
    for attempt in range(1, 5):
        with pytest.raises(ModelRetryableError) as caught:
            await model.complete(request(attempt=attempt))
        statuses.append(caught.value.status)
    assert statuses == [429, 500, 500, None]
    assert (await model.complete(request(attempt=5))).text == "ok"


@pytest.mark.parametrize(("status", "kind"), [(401, ModelAuthError), (400, ModelError), (200, ModelReplyError)])
async def test_every_kind_of_failure(status: int, kind: type[ModelError]):
    with pytest.raises(kind):
        await ScriptedModel([fail(status)]).complete(request(attempt=7))


async def test_a_conversation_longer_than_the_script():
    reply = await ScriptedModel(["one"]).complete(request())
    with pytest.raises(ModelError, match="1 turns and the conversation asks for turn 2"):
        await ScriptedModel(["one"]).complete(request(reply))
    again = request(reply, reply)
    assert (await ScriptedModel(["one", "two"], at_end="cycle").complete(again)).text == "one"
    assert (await ScriptedModel(["one", "two"], at_end="repeat").complete(again)).text == "two"
    assert (await ScriptedModel(["one", "two"], skip=1).complete(request(reply, reply))).text == "two"


async def test_call_ids_do_not_repeat_when_a_script_cycles():
    model = ScriptedModel([call("a")], at_end="cycle")
    first = await model.complete(request())
    second = await model.complete(request(first))
    assert first.calls[0].call_id != second.calls[0].call_id


async def test_placeholders_are_filled_and_other_braces_stay():
    model = ScriptedModel([call("echo", said="{last_user_message}", deep=[{"t": "{turn}"}]), "{x} {last_tool_result}"])
    first = await model.complete(request())
    assert json.loads(first.calls[0].arguments) == {"said": "go", "deep": [{"t": "0"}]}
    assert (await model.complete(request(first))).text == "{x} 42"


async def test_broken_arguments_go_out_as_they_are():
    reply = await ScriptedModel([raw_call("a", '{"oops": ')]).complete(request())
    assert reply.calls[0].arguments == '{"oops": '


async def test_a_listener_hears_the_text_in_pieces():
    pieces: list[str] = []
    reply = await ScriptedModel([after(0.01, "  two words ")]).complete(request(), on_token=pieces.append)
    assert "".join(pieces) == reply.text == "  two words "
    assert len(pieces) == 2


@pytest.mark.parametrize(
    "steps",
    [
        STEPS,
        [raw_call("a", "{oops"), after(2, fail(None, times=None)), after(1.5, say("x", thinking="hm"))],
        [say("")],
    ],
)
def test_a_script_survives_json_pickle_and_its_own_name(steps: Any):
    model = ScriptedModel(steps, at_end="cycle", skip=1, ledger="/tmp/l")
    for copy in (ScriptedModel.load(str(model).removeprefix("scripted/")), pickle.loads(pickle.dumps(model))):
        assert copy == model
        assert hash(copy) == hash(model)
    assert ScriptedModel(steps) == ScriptedModel.load(ScriptedModel(steps).script.to_json())


def test_a_name_plays_the_same_script_in_another_process():
    program = (
        "import asyncio, sys; from agentspan.models import *\n"
        "r = ModelRequest(model='m', messages=[{'role': 'user', 'content': 'go'}], idempotency_key='k')\n"
        "print(asyncio.run(ModelRegistry().get(sys.argv[1]).complete(r)).text)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(ScriptedModel(["grüße"]))], capture_output=True, check=True, timeout=60
    )
    assert done.stdout.decode().strip() == "grüße"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[{", "is not JSON"),
        ('{"turn": []}', "neither a list"),
        ('{"turns": [], "at_ends": "x"}', "Did you mean 'at_end'"),
        ('{"turns": [], "at_end": "x"}', "choose fail, repeat, cycle"),
        ('[{"says": "x"}]', "turn 0 has an unknown member 'says'. Did you mean 'say'"),
        ('["ok", {"after_s": 1}]', "turn 1 says nothing"),
        ("[3]", "turn 0 is an int"),
        ('[{"calls": [{"name": "a"}]}]', "turn 0, call 0"),
        ('[{"call": "a", "args": "x"}]', "turn 0, call 0"),
        ('[{"fail": "503"}]', "turn 0: fail"),
    ],
)
def test_a_mistake_in_a_script_is_named(text: str, problem: str):
    with pytest.raises(ConfigurationError) as caught:
        ScriptedModel.load(text)
    assert problem in str(caught.value)


async def test_the_ledger_counts_every_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert read_ledger(tmp_path / "none") == []
    monkeypatch.setenv("AGENTSPAN_SCRIPT_LEDGER", str(tmp_path / "all"))
    model = ScriptedModel([fail(503), fail(None), say("ok")], ledger=tmp_path / "mine")
    for attempt in (1, 2):
        with pytest.raises(ModelRetryableError):
            await model.complete(request(attempt=attempt))
    await model.complete(request(attempt=3))
    lines = read_ledger(tmp_path / "mine")
    assert [(line["key"], line["attempt"], line["turn"], line["outcome"]) for line in lines] == [
        ("e1/0", 1, 0, 503),
        ("e1/0", 2, 0, "lost"),
        ("e1/0", 3, 0, "reply"),
    ]
    assert [line["attempt"] for line in read_ledger(tmp_path / "all")] == [1, 2, 3]


def _write_many(path: str) -> None:
    import asyncio

    async def run() -> None:
        model = ScriptedModel(["x"], ledger=path)
        for _ in range(200):
            await model.complete(request())

    asyncio.run(run())


def test_lines_of_several_processes_do_not_mix(tmp_path: Path):
    path = str(tmp_path / "ledger")
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_write_many, args=(path,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert len(read_ledger(path)) == 400
