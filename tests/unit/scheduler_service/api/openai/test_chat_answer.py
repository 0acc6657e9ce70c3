"""Chat completions as OpenAI's clients read them."""

import json

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from scheduler_service.api.openai.answer import Fault, Said
from scheduler_service.api.openai.chat_answer import ChatAnswer
from scheduler_service.api.openai.chat_request import parse_chat
from scheduler_service.domain import FinishReason, Text, TextKind
from tests.builders.jobs import given, used

EVENTS = [
    given(),
    Text(TextKind.REASONING, "so ", 1),
    Text(TextKind.REASONING, "", 1),
    Text(TextKind.REASONING, "it is", 2),
    Text(TextKind.ANSWER, " 42", 1),
]


def answer(**fields):
    asked = parse_chat(json.dumps({"messages": [{"role": "user", "content": "q"}], **fields}).encode())
    return ChatAnswer(asked, "r", "m", 7)


def streamed(one, events):
    return [frame.data for frame in (*one.opened(), *(frame for event in events for frame in one.add(event)))]


@pytest.mark.parametrize(("reason", "finish"), [("NATURAL", "stop"), ("FORCED", "stop"), ("ANSWER_LENGTH", "length")])
def test_a_whole_answer(reason, finish):
    said = Said()
    for event in [*EVENTS, used(finish_reason=FinishReason[reason])]:
        said.add(event)
    found = ChatCompletion.model_validate(answer().whole(said))
    choice = found.choices[0]
    assert (found.id, found.model, found.created, found.object) == ("chatcmpl-r", "m", 7, "chat.completion")
    assert (choice.message.content, choice.message.reasoning_content) == (" 42", "so it is")
    assert choice.finish_reason == finish
    assert (found.usage.prompt_tokens, found.usage.completion_tokens, found.usage.total_tokens) == (7, 25, 32)
    assert found.usage.completion_tokens_details.reasoning_tokens == 20
    assert found.usage.predictive_scheduling == said.budget()


@pytest.mark.parametrize("usage", [False, True])
def test_a_streamed_answer_ends_with_its_reason_and_its_usage_where_asked(usage):
    *frames, last = streamed(answer(stream_options={"include_usage": usage}), [*EVENTS, used()])
    assert last == "[DONE]"
    chunks = [ChatCompletionChunk.model_validate(frame) for frame in frames]
    assert {(chunk.id, chunk.model, chunk.created) for chunk in chunks} == {("chatcmpl-r", "m", 7)}
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert deltas[0].role == "assistant"
    assert [getattr(delta, "reasoning_content", None) for delta in deltas[1:]] == ["so ", "it is", None, None]
    assert [delta.content for delta in deltas[1:]] == [None, None, " 42", None]
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert [chunk.usage.total_tokens for chunk in chunks if not chunk.choices] == [32] * usage


def test_a_stream_that_breaks_says_why():
    one = answer()
    streamed(one, EVENTS)
    assert [frame.data for frame in one.broken(Fault("gone", "server_error"))] == [
        {"error": {"message": "gone", "type": "server_error", "param": None, "code": None}},
        "[DONE]",
    ]
