"""Responses as OpenAI's clients read them: each event is checked by its types."""

import json

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from scheduler_service.api.openai.answer import Fault, Said
from scheduler_service.api.openai.responses_answer import ResponsesAnswer
from scheduler_service.api.openai.responses_request import parse_response
from scheduler_service.domain import FinishReason, Text, TextKind
from tests.builders.jobs import given, used

EVENT = TypeAdapter(ResponseStreamEvent)
THOUGHT = [Text(TextKind.REASONING, "so ", 1), Text(TextKind.REASONING, "", 1), Text(TextKind.REASONING, "it is", 2)]
SPOKEN = [Text(TextKind.ANSWER, " 4", 1), Text(TextKind.ANSWER, "2", 1)]


def answer(**fields):
    return ResponsesAnswer(parse_response(json.dumps({"input": "q", **fields}).encode()), "r", "m", 7)


def streamed(one, events):
    """The events of a stream, by OpenAI's own types."""
    frames = [*one.opened(), *(frame for event in events for frame in one.add(event))]
    assert all(frame.name == frame.data["type"] for frame in frames)
    return [EVENT.validate_python(frame.data) for frame in frames]


def whole(one, events):
    said = Said()
    for event in events:
        said.add(event)
    return one.whole(said)


def test_a_whole_response_has_reasoning_then_a_message():
    body = whole(answer(), [given(), *THOUGHT, *SPOKEN, used()])
    found = Response.model_validate(body)
    assert (found.id, found.model, found.created_at, found.status) == ("resp_r", "m", 7, "completed")
    reasoning, message = found.output
    assert (reasoning.type, reasoning.content[0].text, reasoning.summary) == ("reasoning", "so it is", [])
    assert (message.type, message.status, found.output_text) == ("message", "completed", " 42")
    assert (found.usage.input_tokens, found.usage.output_tokens, found.usage.total_tokens) == (7, 25, 32)
    assert found.usage.output_tokens_details.reasoning_tokens == 20
    assert found.usage.predictive_scheduling["policy"] == "price"
    assert found.incomplete_details is None


def test_a_response_says_what_it_was_asked():
    asked = {"instructions": "be brief", "max_output_tokens": 9, "metadata": {"a": "b"}, "temperature": 0.5,
             "top_p": 0.25}  # fmt: skip
    body = whole(answer(**asked, reasoning={"effort": "low"}), [given(), used()])
    assert {name: body[name] for name in asked} == asked
    assert body["reasoning"]["effort"] == "low"
    assert (body["store"], body["tools"], body["background"]) == (False, [], False)
    assert whole(answer(), [given(), used()])["reasoning"]["effort"] is None


def test_an_answer_that_was_cut_is_incomplete():
    events = [given(), *SPOKEN, used(finish_reason=FinishReason.ANSWER_LENGTH)]
    found = Response.model_validate(whole(answer(), events))
    assert (found.status, found.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert [(item.type, item.status) for item in found.output] == [("message", "incomplete")]
    last = streamed(answer(), events)[-1]
    assert (last.type, last.response.status) == ("response.incomplete", "incomplete")


ITEM = ["response.output_item.added", "response.content_part.added"]
END = ["response.content_part.done", "response.output_item.done"]
REASONING = [*ITEM, *["response.reasoning_text.delta"] * 2, "response.reasoning_text.done", *END]
MESSAGE = [*ITEM, *["response.output_text.delta"] * 2, "response.output_text.done", *END]
SILENT = [*ITEM, "response.output_text.done", *END]
BEGUN = ["response.created", "response.in_progress"]


@pytest.mark.parametrize(
    ("texts", "middle"),
    [
        ([*THOUGHT, *SPOKEN], [*REASONING, *MESSAGE]),
        (SPOKEN, MESSAGE),
        (THOUGHT, [*REASONING, *SILENT]),
        ([], SILENT),
    ],
)
@pytest.mark.parametrize("late", [False, True])
def test_a_streams_events_come_in_order_and_are_numbered(texts, middle, late):
    texts = [*texts[:1], given(), *texts[1:]] if late else [given(), *texts]  # the allocation may follow
    events = streamed(answer(), [*texts, used()])
    assert [event.type for event in events] == [*BEGUN, *middle, "response.completed"]
    assert [event.sequence_number for event in events] == list(range(len(events)))


@pytest.mark.parametrize("texts", [[*THOUGHT, *SPOKEN], SPOKEN, THOUGHT, []])
@pytest.mark.parametrize("reason", FinishReason)
def test_what_a_stream_says_is_the_whole_response(texts, reason):
    said = [given(), *texts, used(finish_reason=reason)]
    events = streamed(answer(), said)
    response = Response.model_validate(whole(answer(), said))
    assert events[-1].response == response
    items = [event.item for event in events if event.type == "response.output_item.done"]
    assert items == response.output
    for at, item in enumerate(response.output):
        own = [event for event in events if getattr(event, "item_id", "") == item.id]
        assert {(event.output_index, event.content_index) for event in own} == {(at, 0)}
        assert "".join(event.delta for event in own if event.type.endswith(".delta")) == item.content[0].text
        parts = [event.part.to_dict() for event in own if event.type == "response.content_part.done"]
        assert parts == [part.to_dict() for part in item.content]
        assert [event.text for event in own if event.type.endswith("text.done")] == [item.content[0].text]


@pytest.mark.parametrize("texts", [[], THOUGHT, [*THOUGHT, *SPOKEN]])
def test_a_stream_that_breaks_fails_by_name(texts):
    one = answer()
    before = streamed(one, [given(), *texts])
    error, failed = (EVENT.validate_python(frame.data) for frame in one.broken(Fault("gone", "server_error", "p")))
    assert (error.type, error.code, error.message, error.param) == ("error", "server_error", "gone", "p")
    assert (failed.type, failed.response.status) == ("response.failed", "failed")
    assert (failed.response.error.code, failed.response.error.message) == ("server_error", "gone")
    assert [error.sequence_number, failed.sequence_number] == [len(before), len(before) + 1]
