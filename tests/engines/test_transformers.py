"""Our OpenAI backend against ``transformers serve``, a second real server: simple, and strict about other things."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import aclosing

import aiohttp
import pytest
import pytest_asyncio

from predictive_scheduling import AsyncSchedulerClient
from predictive_scheduling.scheduler.v1 import scheduler_pb2 as pb
from predictive_scheduling_cli.demo.engines import end_group
from tests.integration.running import balanced, refused, scheduler
from tests.waiting import eventually

QUESTION = "What is 3 + 4 + 5 + 6?"
GREEDY = pb.Sampling(temperature=0.0)
pytestmark = pytest.mark.timeout(600)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def served(environment, tmp_path_factory):
    """The address of a server that loads a model when it is first asked for."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (tmp_path_factory.mktemp("transformers") / "log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            str(environment / "bin" / "transformers"), "serve", "--host", "127.0.0.1", "--port", str(port),
            stdout=log, stderr=log, start_new_session=True, env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        await eventually(lambda: answers(url), 120)
        yield url
    finally:
        await end_group(process)


async def answers(url):
    try:
        async with aiohttp.ClientSession() as session, session.get(f"{url}/health") as reply:
            return reply.status == 200
    except aiohttp.ClientError:
        return False


def serving(url, environment, **settings):
    wanted = {
        "backend": "openai", "backend_url": url, "backend_model": str(environment / "model"), "template": "demo",
        "policy": "uniform", "tokens_per_query": 64, "answer_tokens": 12, "window_size": 1, "model": "demo",
        "cap_tokens": 64, "floor_tokens": 0, "backend_slots": 2,
    }  # fmt: skip
    return scheduler(**{**wanted, **settings})


@pytest.mark.parametrize("chat", [False, True])
async def test_a_model_that_is_loaded_when_asked_for_is_served(served, environment, chat):
    async with serving(served, environment, backend_chat=chat) as address:
        async with AsyncSchedulerClient(address, timeout=300.0) as client:
            reply = await client.complete(QUESTION, sampling=GREEDY)
            assert reply.answer.strip() == "18"
            assert reply.usage.finish_reason == pb.FINISH_REASON_NATURAL
            forced = await client.complete(QUESTION, sampling=GREEDY, max_reasoning_tokens=6)
            assert forced.usage.reasoning_tokens == 6
            assert forced.usage.finish_reason == pb.FINISH_REASON_FORCED
            assert forced.answer.strip()
            await balanced(client)


async def test_a_call_that_is_left_ends_and_the_next_one_is_served(served, environment):
    async with serving(served, environment, backend_slots=1) as address:
        async with AsyncSchedulerClient(address, timeout=300.0) as client:
            async with aclosing(client.generate(QUESTION, sampling=GREEDY)) as events:
                async for event in events:
                    if event.WhichOneof("event") == "text":
                        break
            reply = await client.complete(QUESTION, sampling=GREEDY)
            assert reply.answer.strip() == "18"
            await balanced(client)


async def test_a_parameter_that_it_does_not_take_is_refused_with_its_reason(served, environment):
    async with serving(served, environment) as address, AsyncSchedulerClient(address, timeout=300.0) as client:
        error = await refused(client.complete(QUESTION, sampling=pb.Sampling(temperature=0.5, top_k=5)))
        assert "top_k" in error.details()
        await balanced(client)
