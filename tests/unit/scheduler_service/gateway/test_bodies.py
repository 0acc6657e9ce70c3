"""Bodies at a gateway: what they ask for, and that nothing but the budget changes."""

import gzip
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as some

from scheduler_service.gateway.bodies import UnreadableError, inflate, prompt_field, read, rewritten

JSON = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats(allow_nan=False) | some.text(max_size=20),
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(some.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
SPACED = some.sampled_from([None, 0, 2, "\t"])
PATHS = some.sampled_from(["thinking_token_budget", "max_tokens", "stream_options.include_usage", "a.b.c"])


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/chat/completions", "messages"),
        ("/openai/v1/chat/completions/?api-version=3", "messages"),
        ("/v1/completions", "prompt"),
        ("/v1/responses", "input"),
    ],
)
def test_routes_say_where_the_prompt_is(path, field):
    assert prompt_field(path) == field


@pytest.mark.parametrize("path", ["", "/", "/v1/models", "/v1/chat/completions/x", "/v1/embeddings"])
def test_other_routes_are_left_alone(path):
    with pytest.raises(UnreadableError, match="route"):
        prompt_field(path)


@pytest.mark.parametrize(
    ("field", "body", "prompt"),
    [
        ("messages", {"messages": [{"role": "user", "content": "a"}]}, "a"),
        ("messages", {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}]},
         "System: s\n\nUser: a"),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"},
                                                                {"type": "image_url", "image_url": {}}]}]}, "a"),
        ("prompt", {"prompt": "a"}, "a"),
        ("prompt", {"prompt": ["a"]}, "a"),
        ("input", {"input": "a", "instructions": "i"}, "System: i\n\nUser: a"),
        ("input", {"input": [{"role": "user", "content": [{"type": "input_text", "text": "a"}]}]}, "a"),
    ],
)  # fmt: skip
def test_the_prompt_is_the_text_of_what_is_asked(field, body, prompt):
    assert read(json.dumps(body).encode(), field).prompt == prompt


@pytest.mark.parametrize(
    ("field", "raw", "reason"),
    [
        ("messages", b"", "json"),
        ("messages", b"[]", "json"),
        ("messages", b"\xff", "json"),
        ("prompt", '{"prompt": "a"}'.encode("utf-16"), "json"),
        ("prompt", '{"prompt": "a"}'.encode("utf-16-le"), "json"),
        ("prompt", '{"prompt": "a"}'.encode("utf-32"), "json"),
        ("messages", b'{"a":' * 100_000, "json"),
        ("messages", b'{"messages": [' + b"[]," * (1 << 17) + b"1]}", "size"),
        ("prompt", b'{"prompt": "a", "b": {' + b'"a":0,' * (1 << 18) + b'"a":0}}', "size"),
        ("prompt", b'{"prompt": "a", "b": ' + b'{"a":' * (1 << 18), "size"),
        ("messages", b"{}", "prompt"),
        ("messages", b'{"messages": "text"}', "prompt"),
        ("messages", b'{"messages": [1, null, {"content": 3}]}', "prompt"),
        ("prompt", b'{"prompt": ["a", "b"]}', "prompt"),
        ("prompt", b'{"prompt": [1, 2, 3]}', "prompt"),
        ("input", b'{"input": ""}', "prompt"),
    ],
)
def test_what_is_not_understood_says_why(field, raw, reason):
    with pytest.raises(UnreadableError, match=reason):
        read(raw, field)


def test_a_long_prompt_of_one_text_is_read_whatever_its_length():
    assert read(json.dumps({"prompt": "a" * (1 << 22), "b": [0] * 1000}).encode(), "prompt").choices == 1


@pytest.mark.parametrize(("n", "choices"), [(None, 1), (1, 1), (3, 3)])
def test_choices_are_a_number_or_one(n, choices):
    assert read(json.dumps({"prompt": "a", "n": n}).encode(), "prompt").choices == choices


@pytest.mark.parametrize("n", [0, -1, True, "64", 64.0, [64]])
def test_choices_that_an_engine_may_count_otherwise_are_not_understood(n):
    """Each of them would get the budget of all."""
    with pytest.raises(UnreadableError, match="choices"):
        read(json.dumps({"prompt": "a", "n": n}).encode(), "prompt")


@pytest.mark.parametrize(
    ("options", "reports"),
    [(None, False), ({}, False), ({"include_usage": True}, True), ({"include_usage": 1}, False), ([], False)],
)
def test_a_stream_reports_its_usage_only_where_that_was_asked_for(options, reports):
    body = read(json.dumps({"prompt": "a", "stream": True, "stream_options": options}).encode(), "prompt")
    assert (body.streamed, body.reports_usage) == (True, reports)


@given(fields=some.dictionaries(some.text(max_size=20), JSON, max_size=6), indent=SPACED, path=PATHS,
       value=some.integers(0, 1 << 40), ascii_only=some.booleans())  # fmt: skip
def test_a_value_gets_in_and_everything_else_stays(fields, indent, path, value, ascii_only):
    given_body = {**fields, "prompt": "a", "n": 2}
    raw = json.dumps(given_body, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    found = json.loads(rewritten(read(raw, "prompt"), {path: value}))
    place = found
    *parents, name = path.split(".")
    for parent in parents:
        place = place[parent]
    assert place[name] == value
    top = path.split(".")[0]
    assert {k: v for k, v in found.items() if k != top} == {k: v for k, v in given_body.items() if k != top}


@given(fields=some.dictionaries(some.text(max_size=20), JSON, max_size=6), indent=SPACED)
def test_a_field_that_a_body_does_not_have_leaves_its_bytes(fields, indent):
    fields.pop("budget", None)
    raw = json.dumps({**fields, "prompt": "a", "n": 2}, indent=indent).encode()
    found = rewritten(read(raw, "prompt"), {"budget": 7})
    assert found.endswith(raw[1:])


def test_a_byte_order_mark_stays_in_front():
    raw = '{"prompt": "a"}'.encode("utf-8-sig")
    found = rewritten(read(raw, "prompt"), {"budget": 7})
    assert found.startswith(raw[:4])
    assert json.loads(found) == {"budget": 7, "prompt": "a"}


def test_what_else_is_beside_a_nested_value_stays():
    raw = b'{"prompt": "a", "stream_options": {"x": 1}}'
    found = rewritten(read(raw, "prompt"), {"stream_options.include_usage": True, "budget": 3})
    assert json.loads(found) == {
        "prompt": "a",
        "stream_options": {"x": 1, "include_usage": True},
        "budget": 3,
    }


PACKED = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "": bytes,
    "identity": bytes,
    " GZIP ": gzip.compress,
}


@pytest.mark.parametrize("encoding", PACKED)
def test_encodings_are_undone(encoding):
    assert inflate(PACKED[encoding](b"text"), encoding) == b"text"


@pytest.mark.parametrize(
    ("raw", "encoding", "reason"),
    [
        (b"text", "br", "encoding"),
        (b"text", "gzip", "encoding"),
        (gzip.compress(b"text")[:-9], "gzip", "encoding"),
        (gzip.compress(b"0" * (17 << 20)), "gzip", "size"),
    ],
)
def test_what_cannot_be_undone_says_why(raw, encoding, reason):
    with pytest.raises(UnreadableError, match=reason):
        inflate(raw, encoding)
