"""Bodies of chat completions: what they mean, and by which name they are refused."""

import json

import pytest

from scheduler_service.api.openai.chat_request import parse_chat
from scheduler_service.domain import InvalidRequestError

MESSAGES = [{"role": "user", "content": "What is 40 + 2?"}]


def parsed(**fields):
    return parse_chat(json.dumps({"messages": MESSAGES, **fields}).encode())


def refused(body):
    with pytest.raises(InvalidRequestError) as caught:
        parse_chat(body if isinstance(body, bytes) else json.dumps(body).encode())
    return caught.value.field_name


def test_messages_become_a_prompt():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert parsed().prompt == "What is 40 + 2?"
    assert parsed(messages=[{"role": "system", "content": "be brief"}, {"role": "user", "content": parts}]).prompt == (
        "System: be brief\n\nUser: ab"
    )


def test_null_is_as_good_as_absent_everywhere():
    fields = ("model", "stream", "stream_options", "temperature", "top_p", "seed", "n", "stop", "tools", "max_tokens",
              "max_completion_tokens", "response_format", "tenant", "traces", "request_id", "user")  # fmt: skip
    assert parsed(**dict.fromkeys(fields)) == parsed()
    assert parsed(stream_options={"include_usage": None}) == parsed()


def test_the_newer_limit_wins_and_a_null_one_does_not_count():
    assert parsed(max_completion_tokens=None, max_tokens=50).words().completion.tokens == 50
    assert parsed(max_completion_tokens=20, max_tokens=50).words().completion.tokens == 20
    assert parsed().words().completion is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stop", "\n"), ("stop", ["a"]), ("tools", [{"type": "function"}]), ("tool_choice", "required"), ("n", 2),
        ("n", True), ("response_format", {"type": "json_object"}), ("logprobs", True), ("top_logprobs", 3),
        ("logit_bias", {"5": 1}), ("presence_penalty", 0.5), ("frequency_penalty", -1), ("modalities", ["audio"]),
        ("functions", [{}]), ("store", True), ("web_search_options", {}),
        ("stream_options", "abc"), ("stream", "yes"), ("temperature", "hot"), ("temperature", True), ("top_k", -1),
        ("max_tokens", 0), ("max_tokens", 1.5), ("max_tokens", 2**40), ("traces", "many"), ("seed", 2**70),
        ("tenant", 5), ("model", 5), ("something_else", 1), ("messages", "hello"), ("messages", []),
        ("priority", 2**40),
    ],
)  # fmt: skip
def test_what_is_not_served_is_refused_by_its_name(name, value):
    assert refused({"messages": MESSAGES, name: value}) == name


def test_what_says_no_more_than_what_is_done_anyway_is_taken():
    assert parsed(
        n=1, stop=[], tools=[], tool_choice="auto", response_format={"type": "text"}, logprobs=False, logit_bias={},
        presence_penalty=0.0, frequency_penalty=0, modalities=["text"], store=False, user="u", metadata={"a": "b"},
        parallel_tool_calls=True, service_tier="auto",
    ) == parsed()  # fmt: skip


@pytest.mark.parametrize(
    ("messages", "name"),
    [
        ([{"role": "user"}], "messages[0].content"),
        ([{"content": "a"}], "messages[0].role"),
        ([{"role": "user", "content": 5}], "messages[0].content"),
        ([{"role": "user", "content": []}], "messages[0].content"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "messages[0].content[0].type"),
        ([{"role": "tool", "content": "a"}], "messages[0].role"),
        ([{"role": "assistant", "content": "a", "tool_calls": [1]}], "messages[0].tool_calls"),
        (["hello"], "messages[0]"),
    ],
)
def test_a_message_that_has_no_text_is_refused_by_its_place(messages, name):
    assert refused({"messages": messages}) == name


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"5", b"[" * 100_000, b'{"messages":' + b"[" * 100_000, b"\xff\xfe", b'"\\ud800"',
     b'{"a":' * 50_000],
)  # fmt: skip
def test_what_is_no_json_object_is_refused(body):
    assert refused(body) == "body"
