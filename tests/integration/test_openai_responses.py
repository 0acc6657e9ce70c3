"""Responses by HTTP, called by OpenAI's own client."""

import asyncio

import aiohttp
import openai
import pytest

from scheduler_service.domain import BackendUnavailableError
from tests.integration.test_openai_front import NO_REASONING, client, front
from tests.waiting import eventually

__all__ = ["client", "front"]  # fixtures

QUESTION = "What is 40 + 2?"


async def test_a_whole_response(client):
    done = await client.responses.create(model="", input=QUESTION, temperature=0.5, metadata={"a": "b"}, store=False)
    reasoning, message = done.output
    assert (done.status, done.output_text.strip(), message.status) == ("completed", "42", "completed")
    assert reasoning.type == "reasoning"
    assert reasoning.content[0].text.startswith("step step")
    assert done.usage.output_tokens_details.reasoning_tokens == 44
    assert done.usage.output_tokens == 46
    assert done.usage.predictive_scheduling["reasoning_budget_tokens"] == 64
    assert (done.metadata, done.temperature) == ({"a": "b"}, 0.5)


async def test_the_output_of_a_response_is_the_input_of_the_next(client, front):
    first = await client.responses.create(model="", input=QUESTION, instructions="be brief")
    turns = [{"role": "user", "content": QUESTION}, *first.output, {"role": "user", "content": "Sure?"}]
    await client.responses.create(model="", input=turns)
    prompt = front[1].calls[-1].prompt
    assert f"User: {QUESTION}\n\nAssistant:" in prompt
    assert "42" in prompt
    assert "step step" not in prompt


@pytest.mark.parametrize("words", [*NO_REASONING, {"max_reasoning_tokens": 24}], ids=str)
async def test_words_mean_the_same_as_in_a_chat(client, words):
    done = await client.responses.create(model="", input=QUESTION, extra_body=words)
    assert done.usage.output_tokens_details.reasoning_tokens == words.get("max_reasoning_tokens", 0)
    assert done.output_text.strip() == "7"


@pytest.mark.parametrize("effort", ["none", "minimal", "low", "medium", "high", "xhigh"])
async def test_each_effort_is_taken_and_told(client, effort):
    done = await client.responses.create(model="", input=QUESTION, reasoning={"effort": effort})
    assert done.reasoning.effort == effort
    assert done.usage.output_tokens_details.reasoning_tokens == (0 if effort == "none" else 44)


async def test_a_limit_that_cuts_the_answer_is_told(client, front):
    front[1].script = lambda prompt: ["word "] * 4000
    done = await client.responses.create(model="", input=QUESTION, max_output_tokens=40)
    assert (done.status, done.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert done.usage.output_tokens == 40


async def test_a_stream_ends_with_the_whole_response(client):
    stream = await client.responses.create(model="", input=QUESTION, stream=True)
    events = [event async for event in stream]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = list(dict.fromkeys(event.type for event in events))
    assert kinds == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
        "response.reasoning_text.delta", "response.reasoning_text.done", "response.content_part.done",
        "response.output_item.done", "response.output_text.delta", "response.output_text.done", "response.completed",
    ]  # fmt: skip
    done = events[-1].response
    assert done.output_text.strip() == "42"
    said = "".join(event.delta for event in events if event.type == "response.reasoning_text.delta")
    assert said == done.output[0].content[0].text


async def test_the_clients_own_gathering_of_a_stream_follows(client):
    async with client.responses.stream(model="", input=QUESTION) as stream:
        texts = [event.snapshot async for event in stream if event.type == "response.output_text.delta"]
        final = await stream.get_final_response()
    assert texts[-1].strip() == final.output_text.strip() == "42"


async def test_what_is_not_served_is_refused_by_its_name(client):
    tool = {"type": "function", "name": "f", "parameters": {}, "strict": True}
    for fields, param in (
        ({"tools": [tool]}, "tools"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"text": {"format": {"type": "json_object"}}}, "text.format.type"),
        ({"background": True}, "background"),
        ({"reasoning": {"effort": "high", "summary": "detailed"}}, "reasoning.summary"),
        ({"temperature": 9}, "temperature"),
        ({"max_output_tokens": 2, "extra_body": {"traces": 3}}, "max_output_tokens"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
        ({"input": ""}, "prompt"),
    ):
        with pytest.raises(openai.BadRequestError) as bad:
            await client.responses.create(**{"model": "", "input": QUESTION, **fields})
        assert bad.value.param == param
    with pytest.raises(openai.NotFoundError, match="is not served"):
        await client.responses.create(model="gpt-9", input=QUESTION)


async def test_an_error_before_the_first_token_has_a_status(client, front):
    front[1].error = BackendUnavailableError("gone", 3.0)
    with pytest.raises(openai.InternalServerError) as gone:
        await client.responses.create(model="", input=QUESTION)
    assert (gone.value.status_code, gone.value.response.headers["retry-after"]) == (503, "3")


async def test_a_stream_that_breaks_fails_by_an_event(client, front):
    front[1].error, front[1].error_after = BackendUnavailableError("gone"), 3
    stream = await client.responses.create(model="", input=QUESTION, stream=True)
    *_, error, failed = [event async for event in stream]
    assert (error.type, error.code) == ("error", "server_error")
    assert (failed.type, failed.response.status) == ("response.failed", "failed")
    assert "gone" in failed.response.error.message


async def test_a_client_that_leaves_frees_the_backend(client, front):
    backend = front[1]
    backend.gate = asyncio.Event()
    stream = await client.responses.create(model="", input=QUESTION, stream=True)
    await anext(aiter(stream))
    assert backend.open == 1
    await stream.close()
    await eventually(lambda: not backend.open)


async def test_a_stream_is_named_events_without_a_last_word(front):
    async with aiohttp.ClientSession() as session:
        body = {"input": QUESTION, "stream": True}
        async with session.post(f"http://{front[0]}/v1/responses", json=body) as response:
            assert response.content_type == "text/event-stream"
            text = await response.text()
    assert text.startswith("event: response.created\ndata: {")
    assert text.rstrip().rpartition("\n\n")[2].startswith("event: response.completed\n")
