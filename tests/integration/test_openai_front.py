"""The HTTP front, called by OpenAI's own client."""

import asyncio
import socket
from contextlib import AsyncExitStack

import aiohttp
import openai
import pytest

from scheduler_service.domain import BackendUnavailableError
from tests.integration.running import predictor, scheduler
from tests.standins.backend import ScriptedBackend
from tests.waiting import eventually


def thinker(prompt):
    if prompt.endswith("Final answer:"):
        return [" 7", "\n\n"]
    return [*["step "] * 40, "\n", "Final", " answer", ":", " 42", "\n\n"]


def free_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
async def front():
    address, backend = free_address(), ScriptedBackend(thinker)
    async with predictor() as predictions:
        settings = {"http_listen": address, "predictor": predictions, "policy": "uniform"}
        async with scheduler(backend, **settings):
            yield address, backend


@pytest.fixture
async def client(front):
    async with openai.AsyncOpenAI(base_url=f"http://{front[0]}/v1", api_key="none", max_retries=0) as found:
        yield found


MESSAGES = [{"role": "user", "content": "What is 40 + 2?"}]


async def test_an_openai_client_gets_its_answer_and_the_budgets_figures(client):
    model = (await client.models.list()).data[0].id
    done = await client.chat.completions.create(model=model, messages=MESSAGES, temperature=0.5, seed=1)
    message = done.choices[0].message
    assert message.content.strip() == "42"
    assert message.reasoning_content.startswith("step step")
    assert done.choices[0].finish_reason == "stop"
    assert done.usage.completion_tokens_details.reasoning_tokens == 44
    budget = done.usage.predictive_scheduling
    assert (budget["policy"], budget["reasoning_budget_tokens"], budget["forced"]) == ("uniform", 64, False)
    assert budget["prediction_outcome"] == "fresh"


async def test_a_stream_brings_reasoning_then_the_answer_then_usage(client):
    stream = await client.chat.completions.create(
        model="", messages=MESSAGES, stream=True, stream_options={"include_usage": True},
        extra_body={"max_reasoning_tokens": 16},
    )  # fmt: skip
    chunks = [chunk async for chunk in stream]
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas).strip() == "7"
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == "step " * 16
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.predictive_scheduling["forced"]
    assert len({chunk.id for chunk in chunks}) == 1


async def test_openais_limit_counts_reasoning_and_answer_together(client):
    done = await client.chat.completions.create(model="", messages=MESSAGES, max_completion_tokens=40)
    assert done.usage.completion_tokens_details.reasoning_tokens == 8
    assert done.usage.completion_tokens <= 40


async def test_refusals_have_openais_form(client, front):
    with pytest.raises(openai.NotFoundError, match="is not served"):
        await client.chat.completions.create(model="gpt-9", messages=MESSAGES)
    with pytest.raises(openai.BadRequestError) as bad:
        await client.chat.completions.create(model="", messages=MESSAGES, temperature=9)
    assert bad.value.param == "temperature"
    for body, param in (
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": MESSAGES, "n": 2}, "n"),
        ({"messages": MESSAGES, "max_completion_tokens": 0}, "max_completion_tokens"),
        ({"messages": MESSAGES, "traces": "many"}, "traces"),
    ):
        async with aiohttp.ClientSession() as session:
            async with session.post(f"http://{front[0]}/v1/chat/completions", json=body) as response:
                assert response.status == 400
                assert (await response.json())["error"]["param"] == param
    front[1].error = BackendUnavailableError("gone", 3.0)
    with pytest.raises(openai.InternalServerError) as gone:
        await client.chat.completions.create(model="", messages=MESSAGES)
    assert (gone.value.status_code, gone.value.response.headers["retry-after"]) == (503, "3")


async def test_a_body_that_is_no_json_and_a_timeout_that_is_no_number_are_refused(front):
    async with aiohttp.ClientSession() as session:
        for options in (
            {"data": b"{"},
            {"data": b"[]"},
            {"json": {"messages": MESSAGES}, "headers": {"X-Request-Timeout": "soon"}},
        ):
            async with session.post(f"http://{front[0]}/v1/chat/completions", **options) as response:
                assert response.status == 400
        async with session.get(f"http://{front[0]}/health") as response:
            assert response.status == 200


async def test_an_error_after_the_first_token_is_told_in_the_stream(client, front):
    front[1].error, front[1].error_after = BackendUnavailableError("gone"), 3
    stream = await client.chat.completions.create(model="", messages=MESSAGES, stream=True)
    with pytest.raises(openai.APIError, match="gone"):
        [chunk async for chunk in stream]


async def test_a_client_that_leaves_frees_the_backend(client, front):
    backend = front[1]
    backend.gate = asyncio.Event()
    stream = await client.chat.completions.create(model="", messages=MESSAGES, stream=True)
    await anext(aiter(stream))
    assert backend.open == 1
    await stream.close()
    await eventually(lambda: not backend.open)


async def test_health_says_no_while_the_lame_duck_still_serves():
    """As gRPC's health does: balancers leave first, and whoever comes meanwhile is served."""
    address = free_address()
    settings = {"http_listen": address, "policy": "uniform", "lame_duck_seconds": 3600.0}
    async with AsyncExitStack() as stack, aiohttp.ClientSession() as session:
        server = await stack.enter_async_context(AsyncExitStack())
        await server.enter_async_context(scheduler(ScriptedBackend(thinker), **settings))
        stopping = asyncio.ensure_future(server.aclose())

        async def says_no():
            async with session.get(f"http://{address}/health") as response:
                return response.status == 503

        await eventually(says_no)
        async with session.post(f"http://{address}/v1/chat/completions", json={"messages": MESSAGES}) as response:
            assert response.status == 200
        stopping.cancel()  # which ends the wait
        await asyncio.wait([stopping])
