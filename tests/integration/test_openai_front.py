"""The HTTP front, called by OpenAI's own client."""

import asyncio
import json
from contextlib import AsyncExitStack

import aiohttp
import openai
import pytest

from predictive_scheduling import AsyncSchedulerClient
from predictive_scheduling.scheduler.v1 import scheduler_pb2 as pb
from predictive_scheduling_cli.demo.services import free_address
from scheduler_service.api.openai.chat_request import parse_chat
from scheduler_service.domain import BackendUnavailableError
from tests.integration.running import predictor, scheduler
from tests.standins.backend import ScriptedBackend
from tests.waiting import PATIENCE, eventually


def thinker(prompt):
    if prompt.endswith("Final answer:"):
        return [" 7", "\n\n"]
    return [*["step "] * 40, "\n", "Final", " answer", ":", " 42", "\n\n"]


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
HARD = "How many ones are in 1 0 1 1 0 1 1 0 1 1 0 1 0 1 1 1 0 1?"


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


EFFORTS = {"minimal": 0.25, "low": 0.5, "medium": 1, "high": 2, "xhigh": 4}


async def kept(address, request_id):
    """What the scheduler keeps of a request."""
    async with AsyncSchedulerClient(address) as client:
        return (await client.stub.GetRequest(pb.GetRequestRequest(request_id=request_id))).request


@pytest.mark.parametrize("effort", EFFORTS)
async def test_each_effort_weighs_and_limits_nothing(client, front, effort):
    done = await client.chat.completions.create(
        model="", messages=MESSAGES, reasoning_effort=effort, extra_body={"request_id": effort}
    )
    assert done.choices[0].message.content.strip() == "42"
    assert done.usage.predictive_scheduling["reasoning_budget_tokens"] == 64
    asked = parse_chat(json.dumps({"messages": MESSAGES, "reasoning_effort": effort}).encode())
    assert asked.words().weight == EFFORTS[effort]


NO_REASONING = [
    {"reasoning_effort": "none"},
    {"reasoning": {"effort": "none"}},
    {"enable_thinking": False},
    {"chat_template_kwargs": {"enable_thinking": False}},
    {"thinking": {"type": "disabled"}},
    {"thinking_token_budget": 0},
    {"max_reasoning_tokens": 0},
]


@pytest.mark.parametrize("words", NO_REASONING, ids=str)
async def test_no_reasoning_is_the_answer_at_once(client, front, words):
    done = await client.chat.completions.create(model="", messages=MESSAGES, extra_body=words)
    assert done.choices[0].message.content.strip() == "7"
    assert done.choices[0].message.reasoning_content == ""
    assert done.usage.completion_tokens_details.reasoning_tokens == 0
    assert done.usage.predictive_scheduling["reasoning_budget_tokens"] == 0
    (call,) = front[1].calls
    assert call.prompt.endswith("Final answer:")


@pytest.mark.parametrize(
    "words",
    [
        {"thinking": {"type": "enabled", "budget_tokens": 24}},
        {"thinking": {"type": "adaptive"}, "thinking_token_budget": 24},
        {"thinking_budget_tokens": 24, "reasoning_budget_tokens": -1},
        {"reasoning_budget_tokens": 24, "max_reasoning_tokens": 48},
        {"max_reasoning_tokens": 24, "thinking": {"type": "enabled", "budget_tokens": 100_000}},
        {"max_completion_tokens": 56},  # of which 32 are the answer's
        {"max_tokens": 56},
        {"max_output_tokens": 56},
    ],
    ids=str,
)
async def test_the_least_of_all_limits_holds(client, words):
    done = await client.chat.completions.create(model="", messages=MESSAGES, extra_body=words)
    assert done.usage.completion_tokens_details.reasoning_tokens == 24


async def test_a_limit_beyond_the_servers_is_no_error(client):
    words = {"thinking": {"type": "enabled", "budget_tokens": 100_000}}
    done = await client.chat.completions.create(model="", messages=MESSAGES, extra_body=words)
    assert done.usage.completion_tokens_details.reasoning_tokens == 44


async def test_of_two_alike_the_one_that_weighs_more_gets_the_tokens():
    """The same hard question twice, in one window that pays for one of them."""
    address, window = free_address(), {"window_size": 2, "window_ms": 1000 * PATIENCE, "tokens_per_query": 64}
    async with predictor() as predictions, AsyncExitStack() as stack:
        settings = {"http_listen": address, "predictor": predictions, **window}
        server = await stack.enter_async_context(scheduler(ScriptedBackend(thinker), **settings))
        client = await stack.enter_async_context(
            openai.AsyncOpenAI(base_url=f"http://{address}/v1", api_key="none", max_retries=0)
        )

        async def ask(effort, priority):
            own = {"priority": priority, "request_id": effort}
            question = [{"role": "user", "content": HARD}]
            await client.chat.completions.create(model="", messages=question, reasoning_effort=effort, extra_body=own)
            return (await kept(server, effort)).allocation

        light, heavy = await asyncio.gather(ask("minimal", -100), ask("xhigh", 100))
        assert light.reasoning_budget_tokens < heavy.reasoning_budget_tokens
        assert light.expected_tokens + heavy.expected_tokens <= 128
        assert "at a weight of 0.0625" in light.explanation


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
        ({"messages": MESSAGES, "reasoning_effort": "max"}, "reasoning_effort"),
        ({"messages": MESSAGES, "priority": True}, "priority"),
        ({"messages": MESSAGES, "weight": 10**30}, "weight"),
        ({"messages": MESSAGES, "thinking": {"type": "enabled", "budget_tokens": "9"}}, "thinking.budget_tokens"),
        ({"messages": MESSAGES, "min_reasoning_tokens": 64, "enable_thinking": False}, "min_reasoning_tokens"),
        ({"messages": MESSAGES, "min_reasoning_tokens": 64, "max_tokens": 40}, "min_reasoning_tokens"),
        ({"messages": MESSAGES, "traces": 3, "max_tokens": 2}, "max_tokens"),
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
