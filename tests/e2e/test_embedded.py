"""The embedded LLM: a real llama.cpp with the shipped adapter."""

import asyncio
import os
import sys
import types

import aiohttp
import pytest

from exporters.demo.tasks import split_tasks
from exporters.measure.checkers import exact
from predictive_scheduling import AsyncSchedulerClient
from scheduler_service.domain import PreconditionError, Sampling
from scheduler_service.generation.backends import make_backend
from scheduler_service.generation.backends.base import Ended, Piece
from scheduler_service.generation.backends.embedded import PROMPT_TOKENS, EmbeddedBackend
from scheduler_service.generation.backends.http import HttpServer
from scheduler_service.generation.backends.openai import OpenAiBackend
from scheduler_service.generation.forcing import Call, CallEnd
from scheduler_service.settings import SchedulerSettings
from tests.integration.running import balanced, predictor, scheduler
from tests.waiting import eventually

GREEDY = Sampling(temperature=0.0)


@pytest.fixture
async def backend():
    started = EmbeddedBackend(slots=4)
    await started.start()
    yield started
    await started.close()


async def busy_slots(backend):
    url = backend._started()._server.url
    async with aiohttp.ClientSession() as session, session.get(f"{url}/slots") as response:
        return sum(slot["is_processing"] for slot in await response.json())


async def until_free(backend):
    async def free():
        return not await busy_slots(backend)

    await eventually(free)


async def test_tokens_are_counted_and_limits_known(backend):
    pieces = [piece async for piece in backend.stream(Call("Question: What is 2 + 3?\n", 5), GREEDY, {})]
    assert sum(piece.tokens for piece in pieces if isinstance(piece, Piece)) == 5
    assert isinstance(pieces[-1], Ended)
    assert pieces[-1].end is CallEnd.LENGTH
    assert pieces[-1].prompt_tokens > 5
    limits = await backend.limits()
    assert (limits.max_concurrent_requests, limits.max_prompt_tokens) == (4, 1024)
    assert limits.model == "SmolLM2-135M-Instruct.Q4_1"


async def test_a_slot_holds_a_prompt_and_the_longest_reasoning_with_its_answer():
    settings = SchedulerSettings(backend="embedded", cap_tokens=1024, answer_tokens=12, backend_slots=2)
    embedded = make_backend(settings.backend_configuration)
    await embedded.start()
    limits = await embedded.limits()
    await embedded.close()
    assert limits.max_total_tokens >= PROMPT_TOKENS + 1024 + 12


async def test_a_prompt_beyond_the_context_is_the_callers_fault(backend):
    with pytest.raises(PreconditionError, match=r"job\.prompt"):
        [piece async for piece in backend.stream(Call("word " * 3000, 5), GREEDY, {})]


async def test_a_closed_stream_frees_its_slot(backend):
    stream = backend.stream(Call("Question: Tell me a story.\n", 900), Sampling(temperature=1.0), {})
    await anext(stream)
    assert await busy_slots(backend) == 1
    await stream.aclose()
    await until_free(backend)


async def test_a_client_that_leaves_frees_the_slot_and_returns_its_tokens():
    embedded = EmbeddedBackend(slots=2)
    settings = {"template": "demo", "policy": "uniform", "tokens_per_query": 256, "temperature": 1.0}
    async with scheduler(embedded, **settings) as address, AsyncSchedulerClient(address) as client:
        async for event in client.generate("Tell me a very long story.", sampling={"temperature": 1.5}):
            if event.WhichOneof("event") == "text":
                break
        await until_free(embedded)
        budget = await balanced(client)
    assert 0 < budget.used_tokens < 256
    assert budget.returned_tokens == 256 - budget.used_tokens


async def test_the_same_server_answers_as_an_openai_server(backend):
    compatible = OpenAiBackend(HttpServer(backend._started()._server.url, reuse_connections=False))
    await compatible.start()
    assert (await compatible.limits()).model
    call = Call("Question: What is 2 + 3?\n", 6)
    native = [piece async for piece in backend.stream(call, GREEDY, {})]
    pieces = [piece async for piece in compatible.stream(call, GREEDY, {})]
    await compatible.close()
    words = ["".join(piece.text for piece in found if isinstance(piece, Piece)) for found in (native, pieces)]
    assert words[0] == words[1]
    assert sum(piece.tokens for piece in pieces if isinstance(piece, Piece)) == 6
    assert pieces[-1].end is CallEnd.LENGTH


async def test_the_tuned_model_answers_through_the_whole_path():
    tasks = [task for task in split_tasks().test if task.family in ("lookup", "largest")][:8]
    settings = {"tokens_per_query": 96, "window_size": 8, "answer_tokens": 12, "template": "demo", "temperature": 0.0}
    async with predictor() as predictions:
        async with scheduler(EmbeddedBackend(slots=4), predictor=predictions, **settings) as address:
            async with AsyncSchedulerClient(address) as client:
                answers = await asyncio.gather(*(client.complete(task.question) for task in tasks))
                budget = await client.budget()
    right = sum(exact(task.answer, answer.answer) for task, answer in zip(tasks, answers, strict=True))
    assert right >= 6
    assert budget.reserved_tokens == 0
    assert budget.granted_tokens == budget.used_tokens + budget.returned_tokens
    for answer in answers:
        assert answer.usage.reasoning_tokens <= answer.usage.reserved_tokens <= answer.allocation.cap_tokens


@pytest.mark.parametrize("own", [None, "7"])
def test_its_threads_do_not_keep_cores_that_others_need_unless_somebody_says_so(own, monkeypatch):
    seen = []

    class Library(types.ModuleType):
        def __getattr__(self, name):
            seen.append(os.environ["GOMP_SPINCOUNT"])
            raise InterruptedError

    monkeypatch.setitem(sys.modules, "xllamacpp", Library("xllamacpp"))
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    if own is not None:
        monkeypatch.setenv("GOMP_SPINCOUNT", own)
    with pytest.raises(InterruptedError):
        EmbeddedBackend()._load()
    assert seen == [own or "200"]
