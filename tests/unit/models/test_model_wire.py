"""Requests, replies and what providers make of the format; and what their failures mean."""

from __future__ import annotations

import json
import pickle
from datetime import UTC, datetime
from typing import Any

import pytest

from agentspan.errors import ModelAuthError, ModelReplyError, ModelRetryableError
from agentspan.models import ModelRequest
from agentspan.models.problems import cleaned, described, retry_after_s, status_error
from agentspan.models.providers import resolve
from agentspan.models.wire import StreamedReply, assistant_message, encode_request, parse_reply

REQUEST = ModelRequest(model="openai/gpt-4o", messages=[{"role": "user", "content": "hi"}], idempotency_key="e1/0")
ENDPOINT = resolve("openai/gpt-4o", environ={"OPENAI_API_KEY": "sk"})
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def completion(message: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": "c1", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], **more}


def streamed(*deltas: dict[str, Any]) -> StreamedReply:
    reply = StreamedReply()
    for delta in deltas:
        reply.add({"choices": [{"index": 0, "delta": delta}]})
    reply.add({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
    return reply


def test_text_that_is_not_valid_unicode_can_be_sent():
    broken = ModelRequest(model="m", messages=[{"role": "tool", "content": "a\ud800ü"}], idempotency_key="k")
    body = encode_request(broken, ENDPOINT, stream=False)
    assert json.loads(body)["messages"][0]["content"] == "a?ü"


def test_null_content_and_missing_usage_are_an_empty_reply():
    reply = parse_reply(completion({"role": "assistant", "content": None}), REQUEST)
    assert (reply.text, reply.total_tokens) == ("", 0)


def test_thinking_is_read_wherever_providers_put_it():
    for message in (
        {"content": "a", "reasoning_content": "t"},
        {"content": "a", "reasoning": "t"},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "t"}]}, {"type": "text", "text": "a"}]},
    ):
        reply = parse_reply(completion(message), REQUEST)
        assert (reply.text, reply.thinking) == ("a", "t")


def test_a_refusal_is_the_text():
    assert parse_reply(completion({"content": None, "refusal": "I cannot."}), REQUEST).text == "I cannot."


def test_calls_without_an_id_get_one_that_a_retry_gets_too():
    call = {"type": "function", "function": {"name": "a", "arguments": ""}}
    message = {"content": None, "tool_calls": [call, {**call, "id": "x"}, {**call, "id": "x"}]}
    first, second = (parse_reply(completion(message), REQUEST) for _ in range(2))
    assert first == second
    assert len({one.call_id for one in first.calls}) == 3
    assert first.calls[1].call_id == "x"


def test_empty_arguments_are_an_empty_object_and_objects_become_text():
    def arguments(value: Any) -> str:
        message = {"tool_calls": [{"id": "x", "function": {"name": "a", "arguments": value}}]}
        return parse_reply(completion(message), REQUEST).calls[0].arguments

    assert (arguments(""), arguments(None), arguments({"q": 1}), arguments("{oops")) == (
        "{}",
        "{}",
        '{"q": 1}',
        "{oops",
    )


def test_a_call_without_a_name_is_refused():
    with pytest.raises(ModelReplyError, match="names no function"):
        parse_reply(completion({"tool_calls": [{"id": "x", "function": {"arguments": "{}"}}]}), REQUEST)


def test_geminis_signature_goes_back_with_its_call():
    extra = {"google": {"thought_signature": "sig"}}
    message = {"tool_calls": [{"id": "x", "function": {"name": "a", "arguments": "{}"}, "extra_content": extra}]}
    reply = parse_reply(completion(message), REQUEST)
    assert assistant_message(reply)["tool_calls"][0]["extra_content"] == extra
    again = streamed({"tool_calls": [{**message["tool_calls"][0], "index": 0}]}).finish(REQUEST)
    assert again.extra["call_extras"] == reply.extra["call_extras"]


def test_parallel_calls_are_told_apart_by_id_if_the_index_is_wrong_or_missing():
    def call(call_id: str, **more: Any) -> dict[str, Any]:
        return {"tool_calls": [{"id": call_id, "function": {"name": call_id, "arguments": "{}"}, **more}]}

    for more in ({"index": 0}, {}):
        reply = streamed(call("a", **more), call("b", **more)).finish(REQUEST)
        assert [(one.call_id, one.name, one.arguments) for one in reply.calls] == [("a", "a", "{}"), ("b", "b", "{}")]


def test_a_name_that_is_repeated_in_every_piece_does_not_grow():
    pieces = [{"tool_calls": [{"index": 0, "id": "x", "function": {"name": "look", "arguments": a}}]} for a in "{}"]
    assert streamed(*pieces).finish(REQUEST).calls[0].name == "look"


def test_usage_that_grows_along_a_stream_counts_once():
    reply = StreamedReply()
    for total in (3, 5):
        usage = {"prompt_tokens": 2, "completion_tokens": total - 2, "total_tokens": total}
        reply.add({"choices": [{"delta": {"content": "x"}, "finish_reason": "stop"}], "usage": usage})
    assert reply.finish(REQUEST).total_tokens == 5


def test_a_text_message_has_content_and_a_call_has_calls():
    assert assistant_message(parse_reply(completion({"content": ""}), REQUEST)) == {"role": "assistant", "content": ""}


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "3", "retry-after-ms": "1500"}, 1.5),
        ({"retry-after": "Thu, 01 Jan 2026 00:00:10 GMT"}, 10.0),
        ({"retry-after": "Wed, 31 Dec 2025 23:59:00 GMT"}, 0.0),
        ({"retry-after": "-4"}, 0.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "soon"}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None):
    assert retry_after_s(headers, now=NOW) == seconds


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"error": {"message": "m", "code": "c"}}, ("m", "c")),
        ([{"error": {"message": "m", "code": 400}}], ("m", "400")),
        ({"message": "m", "type": "t"}, ("m", "t")),
        ({"detail": [{"msg": "bad"}]}, ('[{"msg": "bad"}]', None)),
        ("plain", ("plain", None)),
        (None, ("", None)),
    ],
)
def test_error_bodies_of_every_shape(body: Any, expected: tuple[str, str | None]):
    assert described(body) == expected


def test_a_message_is_one_line_without_the_key_and_ends():
    shown = cleaned("bad key sk-1\n" + "x" * 2000, "sk-1")
    assert "sk-1" not in shown
    assert "\n" not in shown
    assert len(shown) < 700


def test_errors_survive_the_trip_between_processes():
    for status, kind in ((None, ModelRetryableError), (401, ModelAuthError)):
        error = status_error(model="m", status=status, problem="p", key_variable="K", retry_after_s=1.0)
        assert isinstance(error, kind)
        assert pickle.loads(pickle.dumps(error)).facts == error.facts
