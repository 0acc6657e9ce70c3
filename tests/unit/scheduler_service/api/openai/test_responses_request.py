"""Bodies of responses: what they mean, and by which name they are refused."""

import json

import pytest

from scheduler_service.api.openai.responses_request import parse_response
from scheduler_service.domain import InvalidRequestError


def parsed(input="What is 40 + 2?", **fields):
    return parse_response(json.dumps({"input": input, **fields}).encode())


def refused(body):
    with pytest.raises(InvalidRequestError) as caught:
        parse_response(body if isinstance(body, bytes) else json.dumps(body).encode())
    return caught.value.field_name


EARLIER = [
    {"role": "user", "content": "What is 40 + 2?"},
    {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
    {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [
        {"type": "output_text", "text": "4", "annotations": [], "logprobs": []}, {"type": "output_text", "text": "2"}]},
    {"role": "user", "content": [{"type": "input_text", "text": "Sure?"}]},
]  # fmt: skip


def test_input_becomes_a_prompt():
    assert parsed().prompt == "What is 40 + 2?"
    assert parsed([{"role": "user", "content": "a"}]).prompt == "a"
    assert parsed(instructions="be brief").prompt == "System: be brief\n\nUser: What is 40 + 2?"
    assert parsed(EARLIER).prompt == "User: What is 40 + 2?\n\nAssistant: 42\n\nUser: Sure?"


def test_null_is_as_good_as_absent_everywhere():
    fields = ("model", "stream", "temperature", "top_p", "max_output_tokens", "instructions", "text", "metadata",
              "tools", "previous_response_id", "conversation", "reasoning", "store", "include", "user")  # fmt: skip
    assert parsed(**dict.fromkeys(fields)) == parsed()
    assert parsed(text={"format": None, "verbosity": None}, metadata=None).text == parsed(text={}).text


def test_what_says_no_more_than_what_is_done_anyway_is_taken():
    assert parsed(
        tools=[], tool_choice="auto", store=False, background=False, include=[], truncation="disabled", top_logprobs=0,
        user="u", service_tier="auto", parallel_tool_calls=True, prompt_cache_key="k", safety_identifier="s",
    ) == parsed()  # fmt: skip
    assert parsed(text={"format": {"type": "text"}, "verbosity": "medium"}).prompt == parsed().prompt
    assert parsed(metadata={"a": "b"}).metadata == {"a": "b"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", [{"type": "function"}]), ("tool_choice", "required"), ("max_tool_calls", 1), ("store", True),
        ("previous_response_id", "resp_1"), ("conversation", "c"), ("background", True), ("prompt", {"id": "p"}),
        ("include", ["reasoning.encrypted_content"]), ("truncation", "auto"), ("top_logprobs", 2),
        ("messages", []), ("max_output_tokens", 0), ("max_output_tokens", True), ("max_output_tokens", 2**40),
        ("max_output_tokens", "9"), ("metadata", []), ("instructions", 5), ("instructions", ["a"]), ("stream", 1),
        ("temperature", "hot"), ("something_else", 1), ("input", 5), ("input", []), ("input", {}), ("text", "json"),
    ],
)  # fmt: skip
def test_what_is_not_served_is_refused_by_its_name(name, value):
    assert refused({"input": "q", name: value}) == name


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.type"),
        ({"text": {"format": {"type": "text", "strict": True}}}, "text.format.strict"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"input": [5]}, "input[0]"),
        ({"input": [None]}, "input[0]"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"content": "a"}]}, "input[0].role"),
        ({"input": [{"role": "tool", "content": "a"}]}, "input[0].role"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "1"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": "a"}, {"type": "item_reference", "id": "i"}]}, "input[1].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": 5}]}]}, "input[0].content[0].text"),
        ({"input": [{"role": "user", "content": 5}]}, "input[0].content"),
    ],
)
def test_what_is_no_text_is_refused_by_its_place(fields, name):
    assert refused({"input": "q", **fields}) == name


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"5", b"[" * 100_000, b"\xff\xfe", b'{"input":' * 50_000])
def test_what_is_no_json_object_is_refused(body):
    assert refused(body) == "body"
