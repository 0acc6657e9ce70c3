"""What responses say that they used, in pieces of any size."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as some

from scheduler_service.gateway.usage import StreamedUsage, Used, usage_of, whole_usage

USAGE = {"prompt_tokens": 3, "completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 6}}


def event(found, end="\n\n"):
    return f"data: {json.dumps(found)}{end}".encode()


def word(at=0, **more):
    return {"choices": [{"index": 0, "delta": {"content": f'{at} "usage"'}}], **more}


@pytest.mark.parametrize(
    ("usage", "used"),
    [
        (USAGE, Used(9, 6, 3)),
        ({"completion_tokens": 9}, Used(9)),
        ({"completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 0}}, Used(9)),
        ({"completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 50}}, Used(9, 9)),
        ({"completion_tokens": 9, "completion_tokens_details": None}, Used(9)),
        ({"input_tokens": 3, "output_tokens": 9, "output_tokens_details": {"reasoning_tokens": 6}}, Used(9, 6, 3)),
        ({"completion_tokens": True}, None),
        ({"completion_tokens": -1}, None),
        ({"completion_tokens": 2**40}, None),
        ({"completion_tokens": "9"}, None),
        ({}, None),
        ([], None),
        (None, None),
    ],
)
def test_usage_is_read_as_servers_write_it(usage, used):
    assert usage_of({"usage": usage}) == used
    assert whole_usage(json.dumps({"usage": usage}).encode()) == used


@pytest.mark.parametrize("body", [b"", b"no", b"[]", b"3", b'{"a":' * 100_000])
def test_a_body_that_says_nothing_has_no_usage(body):
    assert whole_usage(body) is None


@given(
    words=some.integers(0, 8),
    cuts=some.lists(some.integers(1, 60), max_size=40),
    take_out=some.booleans(),
    ends=some.lists(some.sampled_from(["\n\n", "\r\n\r\n", "\n\n: ping\r\n\r\n", "\n\r\n"]), min_size=10, max_size=10),
    nulls=some.booleans(),
)
def test_in_pieces_of_any_size_the_usage_is_found_and_nothing_else_is_lost(words, cuts, take_out, ends, nulls):
    """``nulls``: every event says that it has no usage, as OpenAI does. Proxies end lines, and ping, in other ways."""
    more = {"usage": None} if nulls else {}
    before = b"".join(event(word(at, **more), ends[at]) for at in range(words))
    alone, ping = event({"choices": [], "usage": USAGE}, ends[8].replace(": ping\r\n\r\n", "")), b": ping\r\n\r\n"
    after = ping * (": ping" in ends[8]) + f"data: [DONE]{ends[9]}".encode()
    stream, left = StreamedUsage(take_out=take_out), before + alone + after
    came = b""
    for cut in cuts:
        came += stream.feed(left[:cut])
        left = left[cut:]
    came += stream.feed(left, last=True)
    assert came == before + (b"" if take_out else alone) + after
    assert stream.used == Used(9, 6, 3)


@given(some.lists(some.binary(max_size=50), max_size=10))
def test_bytes_that_are_no_events_pass(chunks):
    stream = StreamedUsage(take_out=True)
    came = b"".join(stream.feed(chunk) for chunk in chunks) + stream.feed(b"", last=True)
    assert came == b"".join(chunks)


def test_an_event_that_never_ends_is_not_held_for_ever():
    stream = StreamedUsage(take_out=True)
    assert stream.feed(b"data: " + b"x" * (2 << 20))


def test_a_usage_with_a_choice_beside_it_stays():
    stream = StreamedUsage(take_out=True)
    both = event(word(usage=USAGE))
    assert stream.feed(both) == both
    assert stream.used == Used(9, 6, 3)


def test_the_last_event_of_a_response_says_its_usage():
    stream = StreamedUsage(take_out=True)
    done = b"event: response.completed\n" + event(
        {"type": "response.completed", "response": {"usage": {"output_tokens": 5}}}
    )
    assert stream.feed(done) == done
    assert stream.used == Used(5)


def test_events_are_counted_for_streams_that_break_off():
    stream = StreamedUsage(take_out=False)
    for at in range(5):
        stream.feed(event(word(at)))
    assert (stream.used, stream.events) == (None, 5)
