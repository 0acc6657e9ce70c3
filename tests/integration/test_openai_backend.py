"""OpenAI-compatible servers, and several endpoints behind one scheduler."""

import grpc
import grpc.aio
import pytest

from predictive_scheduling import AsyncSchedulerClient
from scheduler_service.backends.base import Ended, Piece
from scheduler_service.backends.http import HttpServer
from scheduler_service.backends.openai import OpenAiBackend
from scheduler_service.backends.pool import BackendPool
from scheduler_service.domain import BackendUnavailableError, PreconditionError, Sampling
from scheduler_service.forcing import Call, CallEnd
from tests.integration.running import scheduler
from tests.standins.backend import ScriptedBackend
from tests.standins.openai import OpenAiStandIn


def thinker(prompt):
    if prompt.endswith("Final answer:"):
        return [" 7", "\n\n"]
    return [*["step "] * 40, "\n", "Final", " answer", ":", " 42", "\n\n"]


async def run(backend, prompt="q", tokens=50, stop=("\n\n",), sampling=None):
    return [piece async for piece in backend.stream(Call(prompt, tokens, stop), sampling or Sampling(), {})]


def text_of(pieces):
    return "".join(piece.text for piece in pieces if isinstance(piece, Piece))


def tokens_of(pieces):
    return sum(piece.tokens for piece in pieces if isinstance(piece, Piece))


@pytest.mark.parametrize("usage", ["running", "last", "none"])
async def test_generations_are_read_and_counted_whatever_the_server_says_of_usage(usage):
    async with OpenAiStandIn(thinker, usage=usage) as server:
        backend = OpenAiBackend(HttpServer(server.url))
        await backend.start()
        assert (await backend.limits()).max_total_tokens == 2048
        whole = await run(backend)
        cut = await run(backend, tokens=10)
        await backend.close()
    assert text_of(whole).endswith("Final answer: 42")
    assert whole[-1] == Ended(CallEnd.MODEL, 0 if usage == "none" else 5)
    assert tokens_of(whole) == (45 if usage == "none" else 46)  # the stop text is a token, too
    assert tokens_of(cut) == 10
    assert cut[-1].end is CallEnd.LENGTH
    assert server.requests[0]["model"] == "m"


async def test_chunks_of_several_tokens_are_counted_by_the_running_usage():
    async with OpenAiStandIn(thinker, tokens_per_chunk=4) as server:
        backend = OpenAiBackend(HttpServer(server.url))
        await backend.start()
        await backend.limits()
        pieces = await run(backend, tokens=40)
        await backend.close()
    assert tokens_of(pieces) == 40
    assert len(pieces) < 15


async def test_sampling_is_passed_on_and_nothing_else_is():
    async with OpenAiStandIn() as server:
        backend = OpenAiBackend(HttpServer(server.url), model="m")
        await backend.start()
        await run(backend, sampling=Sampling(temperature=0.5, top_p=0.9, top_k=5, seed=3))
        await run(backend, stop=())
        await backend.close()
    assert {"temperature": 0.5, "top_p": 0.9, "top_k": 5, "seed": 3}.items() <= server.requests[0].items()
    assert not {"temperature", "top_p", "top_k", "seed", "stop"} & server.requests[1].keys()


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"error": {"message": "broken", "code": 500}, "error_after": 2}, BackendUnavailableError),
        ({"error": {"message": "too long", "http_status_code": 422}}, PreconditionError),
        ({"error": "just text"}, BackendUnavailableError),
        ({"reason": "abort"}, BackendUnavailableError),
        ({"busy": 1}, BackendUnavailableError),
    ],
)
async def test_errors_are_told_apart(options, kind):
    async with OpenAiStandIn(thinker, **options) as server:
        backend = OpenAiBackend(HttpServer(server.url))
        await backend.start()
        with pytest.raises(kind):
            await run(backend)
        await backend.close()


async def test_a_prompt_that_is_too_long_and_a_model_that_is_not_there_are_named():
    async with OpenAiStandIn() as server:
        backend = OpenAiBackend(HttpServer(server.url), model="other")
        await backend.start()
        with pytest.raises(BackendUnavailableError, match="no model 'other'; it serves m"):
            await backend.limits()
        with pytest.raises(PreconditionError, match="context length"):
            await run(backend, prompt="x" * 30_000)
        await backend.close()


async def test_a_scheduler_runs_on_an_openai_server_with_its_budget_forced():
    async with OpenAiStandIn(thinker) as server:
        settings = {"backend": "openai", "backend_url": server.url, "policy": "uniform", "tokens_per_query": 16}
        async with scheduler(**settings) as address, AsyncSchedulerClient(address) as client:
            done = await client.complete("What is 40 + 2?")
    assert done.answer.strip() == "7"
    assert done.usage.reasoning_tokens == 16


async def test_a_busy_endpoint_passes_its_calls_on_and_rests():
    async with OpenAiStandIn(thinker, busy=1) as busy, OpenAiStandIn(thinker) as other:
        urls = f"{busy.url}, {other.url}"
        async with scheduler(backend="openai", backend_url=urls, policy="uniform") as address:
            async with AsyncSchedulerClient(address) as client:
                for _ in range(3):
                    assert (await client.complete("What is 40 + 2?")).answer
    assert len(busy.requests) == 1
    assert len(other.requests) == 3


class Slow(ScriptedBackend):
    """Counts how many calls ran side by side."""

    most = 0

    async def stream(self, call, sampling, headers):
        async for piece in super().stream(call, sampling, headers):
            self.most = max(self.most, self.open)
            yield piece


def scripted(**options):
    return ScriptedBackend(lambda _: ["a", "b"], **options)


async def test_the_least_busy_endpoint_is_asked():
    import asyncio

    backends = [Slow(lambda _: ["a"] * 5, token_seconds=0.01) for _ in range(3)]
    pool = BackendPool(backends)
    await asyncio.gather(*(run(pool) for _ in range(9)))
    assert [backend.most for backend in backends] == [3, 3, 3]
    assert [endpoint.outstanding for endpoint in pool.endpoints] == [0, 0, 0]


async def test_an_endpoint_that_fails_before_the_first_token_costs_nothing_and_one_that_fails_after_it_is_told():
    gone = BackendUnavailableError("gone", 0.01)
    pool = BackendPool([scripted(error=gone), scripted()])
    assert text_of(await run(pool)) == "ab"
    assert pool.endpoints[0].failures == 1
    late = BackendPool([scripted(error=gone, error_after=1), scripted()])
    with pytest.raises(BackendUnavailableError):
        await run(late)
    assert len(late.endpoints[1].backend.calls) == 0
    dead = BackendPool([scripted(error=gone), scripted(error=gone)])
    with pytest.raises(BackendUnavailableError):
        await run(dead)
    assert [len(endpoint.backend.calls) for endpoint in dead.endpoints] == [2, 2]


async def test_an_endpoint_that_rests_is_tried_again_later():
    now = [0.0]
    broken = scripted(error=BackendUnavailableError("gone", 0.01))
    pool = BackendPool([broken, scripted()], clock=lambda: now[0])
    await run(pool)
    await run(pool)
    assert len(broken.calls) == 1  # it rests
    broken.error = None
    now[0] += 60
    await run(pool)
    assert len(broken.calls) == 2
    assert pool.endpoints[0].failures == 0


async def test_what_no_endpoint_will_take_is_not_tried_everywhere():
    pool = BackendPool([scripted(error=PreconditionError("job.prompt", "too long")), scripted()])
    with pytest.raises(PreconditionError):
        await run(pool)
    assert len(pool.endpoints[1].backend.calls) == 0


async def test_a_pool_starts_while_one_endpoint_answers():
    class Absent(ScriptedBackend):
        async def start(self):
            raise BackendUnavailableError("nobody there")

        async def limits(self):
            raise BackendUnavailableError("nobody there")

    pool = BackendPool([Absent(lambda _: []), scripted()])
    await pool.start()
    assert (await pool.limits()).max_concurrent_requests == 8
    nobody = BackendPool([Absent(lambda _: [])])
    with pytest.raises(BackendUnavailableError):
        await nobody.start()
    with pytest.raises(BackendUnavailableError, match="no endpoint says"):
        await nobody.limits()


async def test_all_endpoints_gone_is_unavailable_to_the_caller():
    backend = BackendPool([scripted(error=BackendUnavailableError("gone", 0.01)) for _ in range(2)])
    async with scheduler(backend, policy="uniform") as address, AsyncSchedulerClient(address) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.complete("q")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
