"""One request as Envoy tells of it: every message has an answer, whatever comes in whatever order."""

import asyncio
import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as some

from scheduler_service.domain import OverloadedError, QuotaExceededError
from scheduler_service.gateway.budgets import Decision
from scheduler_service.gateway.envoy_messages import ProcessingRequest
from scheduler_service.gateway.processor import Exchange, headers_of, process, refusal
from scheduler_service.grants import Told

RETURNED = {"request_body_mode": "BUFFERED", "response_body_mode": "STREAMED"}


class FakeBudgets:
    """Decides the same for everybody, and remembers what it was told."""

    def __init__(self, decision=None, error=None):
        self.decision, self.error = decision, error
        self.seen, self.told = [], {}

    async def decide(self, seen):
        self.seen.append(seen)
        if self.error:
            raise self.error
        return self.decision

    def settle(self, grant, told):
        if grant in self.told:
            return False
        self.told[grant] = told
        return True


def decision(streamed=True, usage_added=True):
    return Decision(b"new", {"x-budget": "7"}, 1, streamed, usage_added)


def headers(end=False, **values):
    named = [{"key": name.replace("_", "-") if name[0] != "_" else f":{name[1:]}", "raw_value": value.encode()}
             for name, value in values.items()]  # fmt: skip
    return {"headers": {"headers": named}, "end_of_stream": end}


def message(**fields):
    return ProcessingRequest(**fields)


async def through(budgets, *messages):
    exchange = Exchange(budgets)
    found = [await exchange.answer(one) for one in messages]
    exchange.ended()
    return found


async def test_a_decided_body_goes_on_with_its_headers():
    budgets = FakeBudgets(decision())
    first, second = await through(
        budgets,
        message(request_headers=headers(_path="/x", content_encoding="gzip"), protocol_config=RETURNED),
        message(request_body={"body": b"old", "end_of_stream": True}),
    )
    assert first.WhichOneof("response") == "request_headers"
    common = second.request_body.response
    assert common.body_mutation.body == b"new"
    assert {one.header.key: one.header.raw_value for one in common.header_mutation.set_headers} == {
        "x-budget": b"7",
        "content-length": b"3",
    }
    assert list(common.header_mutation.remove_headers) == ["content-encoding", "accept-encoding"]
    assert budgets.seen[0].headers == {":path": "/x", "content-encoding": "gzip"}
    assert budgets.seen[0].returns
    assert budgets.told == {}  # nothing of the response was seen here


async def test_nobody_outside_names_a_grant():
    (found,) = await through(
        FakeBudgets(), message(request_headers=headers(x_predictive_scheduling_request="a/1", x_other="b"))
    )
    removed = found.request_headers.response.header_mutation.remove_headers
    assert list(removed) == ["x-predictive-scheduling-request"]


async def test_a_body_in_parts_passes():
    budgets = FakeBudgets(decision())
    found = await through(budgets, message(request_body={"body": b"part"}))
    assert not found[0].request_body.HasField("response")
    assert budgets.seen == []


async def test_a_refusal_is_an_answer_with_a_time():
    (found,) = await through(
        FakeBudgets(error=QuotaExceededError("a", "its share", 1.2)), message(request_body={"end_of_stream": True})
    )
    told = found.immediate_response
    assert told.status.code == 429
    assert {one.header.key: one.header.raw_value for one in told.headers.set_headers}["retry-after"] == b"2"
    assert json.loads(told.body)["error"]["type"] == "rate_limit_error"
    assert refusal(OverloadedError("full", 1.0)).immediate_response.status.code == 429


def response(*pieces, status="200"):
    usage = b'data: {"choices":[],"usage":{"completion_tokens":9,"prompt_tokens":2}}\n\n'
    chunks = [b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n', usage, *pieces]
    bodies = [{"body": one, "end_of_stream": at == len(chunks) - 1} for at, one in enumerate(chunks)]
    return [message(response_headers=headers(_status=status)), *(message(response_body=one) for one in bodies)]


async def test_a_response_that_passes_is_read_and_the_usage_taken_out():
    budgets = FakeBudgets(decision())
    asked = message(request_body={"body": b"old", "end_of_stream": True})
    found = await through(budgets, asked, *response(b"data: [DONE]\n\n"))
    assert "content-length" in found[1].response_headers.response.header_mutation.remove_headers
    assert not found[2].response_body.HasField("response")
    assert found[3].response_body.response.body_mutation.clear_body
    assert not found[4].response_body.HasField("response")
    told = budgets.told[1]
    assert (told.completion_tokens, told.prompt_tokens, told.failure) == (9, 2, "")


async def test_a_stream_that_is_left_is_settled_by_its_events():
    budgets = FakeBudgets(decision())
    asked = message(request_body={"body": b"old", "end_of_stream": True})
    await through(budgets, asked, *response()[:2])
    assert (budgets.told[1].completion_tokens, budgets.told[1].failure) == (1, "cancelled")


async def test_a_response_with_trailers_is_complete():
    budgets = FakeBudgets(decision())
    asked = message(request_body={"body": b"old", "end_of_stream": True})
    await through(budgets, asked, *response(b"")[:-1], message(response_trailers={}))
    assert (budgets.told[1].completion_tokens, budgets.told[1].failure) == (9, "")


async def test_a_failed_response_used_nothing():
    budgets = FakeBudgets(decision())
    asked = message(request_body={"body": b"old", "end_of_stream": True})
    await through(budgets, asked, message(response_headers=headers(end=True, _status="503")))
    assert budgets.told == {1: Told(completion_tokens=0, failure="HTTP 503")}


async def test_a_whole_response_is_read_at_its_end():
    budgets = FakeBudgets(decision(streamed=False, usage_added=False))
    whole = b'{"choices": [], "usage": {"completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 4}}}'
    found = await through(
        budgets,
        message(request_body={"body": b"old", "end_of_stream": True}),
        message(response_headers=headers(_status="200")),
        message(response_body={"body": whole[:20]}),
        message(response_body={"body": whole[20:], "end_of_stream": True}),
    )
    assert not any(one.response_body.HasField("response") for one in found[2:])
    assert (budgets.told[1].completion_tokens, budgets.told[1].reasoning_tokens) == (5, 4)


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
async def test_what_a_packed_response_used_is_not_known(kind):
    budgets = FakeBudgets(decision(usage_added=False))
    packed = gzip.compress(b"data: {}\n\n" * 9)
    found = await through(
        budgets,
        message(request_body={"body": b"old", "end_of_stream": True}),
        message(response_headers=headers(_status="200", content_type=kind, content_encoding="gzip")),
        message(response_body={"body": packed, "end_of_stream": True}),
    )
    assert not found[2].response_body.HasField("response")
    assert (budgets.told[1].completion_tokens, budgets.told[1].failure) == (None, "")


async def test_who_asks_for_a_stream_may_get_a_whole_response():
    budgets = FakeBudgets(decision())
    await through(
        budgets,
        message(request_body={"body": b"old", "end_of_stream": True}),
        message(response_headers=headers(_status="200", content_type="application/json; charset=utf-8")),
        message(response_body={"body": b'{"usage": {"completion_tokens": 7}}', "end_of_stream": True}),
    )
    assert budgets.told[1].completion_tokens == 7


async def test_who_does_not_seem_to_ask_for_a_stream_may_get_one():
    """Engines take a "true" for true."""
    budgets = FakeBudgets(decision(streamed=False, usage_added=False))
    events = [b'data: {"choices":[{}]}\n\n', b'data: {"choices":[],"usage":{"completion_tokens":9}}\n\n']
    await through(
        budgets,
        message(request_body={"body": b"old", "end_of_stream": True}),
        message(response_headers=headers(_status="200", content_type="text/event-stream; charset=utf-8")),
        message(response_body={"body": events[0]}),
        message(response_body={"body": events[1], "end_of_stream": True}),
    )
    assert budgets.told[1].completion_tokens == 9


async def test_a_whole_response_of_which_nothing_came_used_nothing():
    budgets = FakeBudgets(decision(streamed=False, usage_added=False))
    asked = message(request_body={"body": b"old", "end_of_stream": True})
    await through(budgets, asked, message(response_headers=headers(_status="200")))
    assert (budgets.told[1].completion_tokens, budgets.told[1].failure) == (0, "cancelled")


@pytest.mark.parametrize("name", ["value", "raw_value"])
def test_headers_come_in_either_field(name):
    value = {"value": "b"} if name == "value" else {"raw_value": b"b"}
    request = message(request_headers={"headers": {"headers": [{"key": "A", **value}, {"key": "c", **value}]}})
    assert headers_of(request.request_headers) == {"a": "b", "c": "b"}


class OneMessage:
    """A stream that brings one message, and whose answers do not arrive."""

    def __init__(self, request):
        self.request = request

    async def read(self):
        return self.request

    async def write(self, answer):
        raise asyncio.CancelledError


async def test_a_decision_that_does_not_arrive_used_nothing():
    budgets = FakeBudgets(decision())
    with pytest.raises(asyncio.CancelledError):
        await process(budgets, OneMessage(message(request_body={"body": b"old", "end_of_stream": True})), set())
    assert budgets.told == {1: Told(completion_tokens=0, failure="late")}


CHUNK = some.binary(max_size=40) | some.sampled_from([b"", b'data: {"usage":{"completion_tokens":3},"choices":[]}\n\n'])
BODY = some.fixed_dictionaries({"body": CHUNK, "end_of_stream": some.booleans()})
HEADERS = some.builds(
    lambda end, status: headers(end, _status=status), some.booleans(), some.sampled_from(["", "200", "500", "x"])
)
MESSAGES = some.lists(
    some.builds(lambda one: message(request_headers=one), HEADERS)
    | some.builds(lambda one: message(request_body=one), BODY)
    | some.builds(lambda one: message(response_headers=one), HEADERS)
    | some.builds(lambda one: message(response_body=one), BODY)
    | some.sampled_from([message(request_trailers={}), message(response_trailers={}), message()]),
    max_size=12,
)


@given(messages=MESSAGES, streamed=some.booleans(), added=some.booleans(), decided=some.booleans())
async def test_every_message_has_an_answer_of_its_kind(messages, streamed, added, decided):
    budgets = FakeBudgets(decision(streamed, added) if decided else None)
    found = await through(budgets, *messages)
    for asked, answer in zip(messages, found, strict=True):
        kind = asked.WhichOneof("request") or "response_trailers"
        assert answer.WhichOneof("response") == kind
    assert len(budgets.told) <= 1
