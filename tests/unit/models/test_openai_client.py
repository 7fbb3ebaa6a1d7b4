"""The real openai client over a real loopback socket."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agentspan.errors import (
    ModelAuthError,
    ModelError,
    ModelNotFoundError,
    ModelReplyError,
    ModelRetryableError,
)
from agentspan.models import ModelReply, ModelRequest
from agentspan.models.openai_client import Clients, OpenAIModel
from agentspan.models.providers import resolve
from agentspan.models.wire import assistant_message
from tests.support.model_server import ModelServer, Reply, fault, text, tool, tool_turns

KEY = "sk-very-secret-0123456789"
TOOLS = [{"type": "function", "function": {"name": "lookup", "description": "", "parameters": {"type": "object"}}}]


def request(**changes: Any) -> ModelRequest:
    fields: dict[str, Any] = {
        "model": "openai/gpt-4o",
        "messages": [{"role": "user", "content": "hi"}],
        "idempotency_key": "e1/3",
    }
    return ModelRequest(**{**fields, **changes})


@asynccontextmanager
async def serving(
    *replies: Reply, model: str = "openai/gpt-4o", timeout_s: float = 10.0, environ: dict[str, str] | None = None
) -> AsyncIterator[tuple[OpenAIModel, ModelServer]]:
    with ModelServer(replies) as server:
        clients = Clients(timeout_s=timeout_s)
        keys = {"OPENAI_API_KEY": KEY, "ANTHROPIC_API_KEY": KEY, "AZURE_OPENAI_API_KEY": KEY, "MISTRAL_API_KEY": KEY}
        endpoint = resolve(model, base_url=server.url, environ={**keys, **(environ or {})})
        try:
            yield OpenAIModel(endpoint, clients), server
        finally:
            await clients.aclose()


async def answered(*replies: Reply, on_token: Any = None, **changes: Any) -> ModelReply:
    async with serving(*replies) as (model, _):
        return await model.complete(request(**changes), on_token=on_token)


async def refused(*replies: Reply, on_token: Any = None, timeout_s: float = 10.0) -> ModelError:
    async with serving(*replies, timeout_s=timeout_s) as (model, _):
        with pytest.raises(ModelError) as caught:
            await model.complete(request(), on_token=on_token)
    return caught.value


async def test_text_and_usage_come_back():
    reply = await answered(text("hello"))
    assert (reply.text, reply.calls, reply.finish_reason, reply.served_by) == ("hello", (), "stop", "scripted-1")
    assert (reply.prompt_tokens, reply.completion_tokens, reply.total_tokens) == (11, 7, 18)


async def test_a_request_carries_the_idempotency_key_and_only_what_was_set():
    async with serving(text("ok")) as (model, server):
        await model.complete(request())
        sent = server.calls[0]
    assert sent.key == "e1/3"
    assert sent.body == {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
    assert sent.headers["authorization"] == f"Bearer {KEY}"
    assert not [name for name in sent.headers if name.startswith("x-stainless")]


async def test_everything_that_was_set_is_sent():
    async with serving(text("ok")) as (model, server):
        await model.complete(
            request(tools=TOOLS, response_format={"type": "json_object"}, temperature=0.0, max_tokens=5)
        )
        body = server.calls[0].body
    assert body["tools"] == TOOLS
    assert body["response_format"] == {"type": "json_object"}
    assert (body["temperature"], body["max_tokens"]) == (0.0, 5)


async def test_tool_calls_come_back_with_their_raw_arguments():
    reply = await answered(tool("lookup", '{"q": broken'), tools=TOOLS)
    assert [(one.call_id, one.name, one.arguments) for one in reply.calls] == [("call_0_0", "lookup", '{"q": broken')]
    assert reply.finish_reason == "tool_calls"


async def test_a_stream_gives_the_same_reply_as_a_whole_answer():
    answer = Reply(
        text="several words here",
        calls=[{"name": "a", "arguments": '{"x": 1}'}, {"name": "b", "arguments": "{}"}],
        message={"reasoning_content": "hmm"},
    )
    pieces: list[str] = []
    streamed = await answered(answer, on_token=pieces.append)
    assert streamed == await answered(answer)
    assert pieces == ["several ", "words ", "here"]
    assert streamed.thinking == "hmm"
    assert streamed.total_tokens == 18


async def test_only_a_listener_makes_it_stream():
    async with serving(text("ok")) as (model, server):
        await model.complete(request(), on_token=lambda piece: None)
        await model.complete(request())
    assert server.calls[0].body["stream"] is True
    assert server.calls[0].body["stream_options"] == {"include_usage": True}
    assert "stream" not in server.calls[1].body


async def test_mistral_is_not_sent_stream_options():
    async with serving(text("ok"), model="mistral/mistral-large-latest") as (model, server):
        await model.complete(request(), on_token=lambda piece: None)
    assert "stream_options" not in server.calls[0].body


async def test_a_connection_is_used_again():
    async with serving(text("ok")) as (model, server):
        for _ in range(3):
            await model.complete(request())
            await model.complete(request(), on_token=lambda piece: None)
        assert server.connection_count == 1


async def test_429_says_how_long_to_wait():
    error = await refused(fault(429, "slow down", headers={"Retry-After": "7"}))
    assert isinstance(error, ModelRetryableError)
    assert (error.status, error.retry_after_s, error.model) == (429, 7.0, "openai/gpt-4o")
    assert "slow down" in str(error)


async def test_429_without_money_is_for_good():
    error = await refused(fault(429, "You exceeded your current quota", code="insufficient_quota"))
    assert not isinstance(error, ModelRetryableError)


@pytest.mark.parametrize("status", [408, 409, 500, 502, 503, 529])
async def test_passing_trouble_is_retryable_and_asked_once(status: int):
    async with serving(fault(status), text("ok")) as (model, server):
        with pytest.raises(ModelRetryableError) as caught:
            await model.complete(request())
        assert server.call_count == 1
    assert (caught.value.status, caught.value.retry_after_s) == (status, None)


@pytest.mark.parametrize("on_token", [None, lambda piece: None])
@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_key_is_named_by_its_variable_and_never_shown(
    status: int, on_token: Any, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    error = await refused(fault(status, f"Incorrect API key provided: {KEY}"), on_token=on_token)
    assert isinstance(error, ModelAuthError)
    assert (error.key_variable, error.status) == ("OPENAI_API_KEY", status)
    shown = "".join(traceback.format_exception(error)) + caplog.text + repr(error.facts)
    assert "OPENAI_API_KEY" in shown
    assert KEY not in shown


async def test_the_model_does_not_print_its_key():
    async with serving(text("ok")) as (model, _):
        assert KEY not in repr(model) + str(model.endpoint)


@pytest.mark.parametrize("status", [400, 422])
async def test_a_bad_request_names_the_model_and_the_providers_words(status: int):
    error = await refused(fault(status, "tools[0] is not valid"))
    assert type(error) is ModelError
    assert "openai/gpt-4o" in str(error)
    assert "tools[0] is not valid" in str(error)


async def test_an_unknown_model_is_not_found():
    assert isinstance(await refused(fault(404, "The model does not exist")), ModelNotFoundError)


async def test_a_slow_answer_ends_at_the_deadline():
    error = await refused(Reply(hang=True), timeout_s=0.1)
    assert isinstance(error, ModelRetryableError)
    assert error.status is None
    assert "0.1 s" in str(error)


async def test_an_answer_that_trickles_ends_at_the_deadline():
    # Every chunk comes in time, so only a limit on the whole call can end it.
    async with serving(text("a b c d e f g h", trickle_s=0.05), timeout_s=0.2) as (model, _):
        with pytest.raises(ModelRetryableError):
            await model.complete(request(), on_token=lambda piece: None)


@pytest.mark.parametrize("on_token", [None, lambda piece: None])
@pytest.mark.parametrize("reply", [Reply(drop=True), Reply(text="cut off here", drop_after=150)])
async def test_a_lost_connection_is_retryable(reply: Reply, on_token: Any):
    error = await refused(reply, on_token=on_token)
    assert isinstance(error, ModelRetryableError)
    assert error.status is None
    assert "127.0.0.1" in str(error)


async def test_nobody_listening_is_retryable():
    endpoint = resolve("openai/gpt-4o", base_url="http://127.0.0.1:1/v1", environ={})
    model = OpenAIModel(endpoint)
    with pytest.raises(ModelRetryableError, match=r"127\.0\.0\.1:1"):
        await model.complete(request())
    await model.aclose()


async def test_a_stream_that_ends_early_is_not_taken_for_a_whole_answer():
    chunk = {"id": "1", "choices": [{"index": 0, "delta": {"content": "half an ans"}, "finish_reason": None}]}
    error = await refused(Reply(body=f"data: {json.dumps(chunk)}\n\n"), on_token=lambda piece: None)
    assert isinstance(error, ModelRetryableError)


@pytest.mark.parametrize("on_token", [None, lambda piece: None])
@pytest.mark.parametrize("body", ["<html>oops</html>", "{}", '{"choices": []}', "[1]", '{"choices": [{}]}'])
async def test_an_answer_that_is_no_completion_is_refused(body: str, on_token: Any):
    assert isinstance(await refused(Reply(body=body), on_token=on_token), ModelReplyError)


async def test_broken_json_in_a_stream_is_refused():
    assert isinstance(await refused(Reply(body="data: {oops\n\n"), on_token=print), ModelReplyError)


async def test_trouble_inside_an_answer_with_http_200_is_read():
    busy = Reply(body={"error": {"code": 502, "message": "upstream is down"}})
    bad = Reply(body={"error": {"code": 400, "message": "no"}})
    assert isinstance(await refused(busy), ModelRetryableError)
    assert type(await refused(bad)) is ModelError


async def test_trouble_in_the_middle_of_a_stream_is_retryable():
    event = json.dumps({"error": {"type": "overloaded_error", "message": "Overloaded"}})
    error = await refused(Reply(body=f"data: {event}\n\n"), on_token=print)
    assert isinstance(error, ModelRetryableError)
    assert "Overloaded" in str(error)


async def test_cancelling_a_call_cancels_it():
    async with serving(Reply(hang=True)) as (model, server):
        task = asyncio.create_task(model.complete(request()))
        assert await asyncio.to_thread(server.arrived.wait, 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_openais_own_headers_do_not_reach_another_provider(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-1")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Gateway-Token: abc\nAuthorization: Bearer other")
    async with serving(text("ok"), model="anthropic/claude-sonnet-4-5") as (model, server):
        await model.complete(request())
        headers = server.calls[0].headers
    assert headers["authorization"] == f"Bearer {KEY}"
    assert not {"openai-organization", "openai-project", "x-gateway-token"} & headers.keys()


async def test_azure_with_an_api_version_uses_its_key_header_and_query():
    version = {"AZURE_OPENAI_API_VERSION": "2024-10-21"}
    async with serving(text("ok"), model="azure/my-deployment", environ=version) as (model, server):
        await model.complete(request(max_tokens=5))
        call = server.calls[0]
    assert call.head.startswith(b"POST /v1/chat/completions?api-version=2024-10-21 ")
    assert call.headers["api-key"] == KEY
    assert "authorization" not in call.headers
    assert call.body["max_completion_tokens"] == 5


async def test_a_proxy_from_the_environment_is_not_used_for_this_machine(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    assert (await answered(text("ok"))).text == "ok"


async def test_the_same_conversation_gets_the_same_turn_from_the_server():
    with ModelServer(tool_turns(2), by="conversation") as server:
        model = OpenAIModel(resolve("openai/gpt-4o", base_url=server.url, environ={}))
        messages: list[dict[str, Any]] = [{"role": "user", "content": "go"}]
        for turn in range(2):
            reply = await model.complete(request(messages=messages, idempotency_key=str(turn)))
            assert reply == await model.complete(request(messages=messages, idempotency_key=str(turn), attempt=2))
            messages.append(assistant_message(reply))
            messages.append({"role": "tool", "tool_call_id": reply.calls[0].call_id, "content": "found"})
        assert (await model.complete(request(messages=messages, idempotency_key="2"))).text == "done"
        assert server.calls_by_key == {"0": 2, "1": 2, "2": 1}
        await model.aclose()


async def test_the_server_runs_as_a_process(tmp_path: Path):
    script = tmp_path / "replies.json"
    script.write_text(json.dumps([[{"status": 500, "body": "down"}, {"text": "from a process"}]]))
    server = await asyncio.create_subprocess_exec(
        sys.executable,
        "tests/support/model_server.py",
        "--script",
        str(script),
        "--by",
        "conversation",
        stdout=subprocess.PIPE,
    )
    try:
        assert server.stdout is not None
        url = (await asyncio.wait_for(server.stdout.readline(), 20)).decode().strip()
        model = OpenAIModel(resolve("openai/gpt-4o", base_url=url, environ=os.environ))
        with pytest.raises(ModelRetryableError):
            await model.complete(request())
        assert (await model.complete(request(attempt=2))).text == "from a process"
        await model.aclose()
    finally:
        server.terminate()
        await server.wait()
