"""OpenAI-compatible servers, and several endpoints behind one scheduler."""

import asyncio

import grpc
import grpc.aio
import pytest

from predictive_scheduling import AsyncSchedulerClient
from predictive_scheduling.scheduler.v1 import scheduler_pb2
from scheduler_service.domain import BackendUnavailableError, PreconditionError, Sampling
from scheduler_service.generation.backends.base import Ended, EndpointBusyError, Piece
from scheduler_service.generation.backends.http import HttpServer
from scheduler_service.generation.backends.openai import DIALECTS, OpenAiBackend
from scheduler_service.generation.backends.pool import BackendPool
from scheduler_service.generation.forcing import Call, CallEnd, Turn
from tests.integration.running import scheduler
from tests.standins.backend import ScriptedBackend
from tests.standins.openai import OpenAiStandIn
from tests.waiting import eventually


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


@pytest.mark.parametrize(("kind", "sent"), [("vllm", 7), ("sglang", None), ("openai", None)])
@pytest.mark.parametrize("chat", [False, True])
async def test_a_priority_is_told_to_servers_of_which_lower_ones_go_first(kind, sent, chat):
    async with OpenAiStandIn(thinker) as server:
        backend = OpenAiBackend(HttpServer(server.url), DIALECTS[kind], chat=chat)
        await backend.start()
        for priority in (0, 7):
            call = Call("q", 5, (), Turn("q", "", "</think>"), priority=priority)
            assert [piece async for piece in backend.stream(call, Sampling(), {})]
        await backend.close()
    assert [body.get("priority") for body in server.requests] == [None, sent]


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
        ({"error": {"message": "too long", "http_status_code": 422}, "error_after": 2}, BackendUnavailableError),
        ({"reason": "abort"}, BackendUnavailableError),
        ({"reason": "error"}, BackendUnavailableError),
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


async def test_a_prompt_that_is_too_long_is_refused():
    async with OpenAiStandIn() as server:
        backend = OpenAiBackend(HttpServer(server.url))
        await backend.start()
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


def r1(prompt):
    """A model with R1's marks: it thinks eight steps, then answers 42; cut short, it answers 7."""
    if prompt.endswith("boxed{"):
        return ["7", "}"]
    if prompt.endswith("</think>"):
        return ["\n", "forty", "-", "two"]
    return [*["step "] * 8, "</think>", "\n", "42"]


R1_CHAT = "<｜User｜>{user}<｜Assistant｜>{assistant}"


@pytest.mark.parametrize("kind", ["vllm", "sglang", "openai"])
@pytest.mark.parametrize("parser", ["", "</think>"])
@pytest.mark.parametrize(("budget", "answer", "finish"), [(16, "42", "NATURAL"), (4, "7", "FORCED")])
async def test_chats_go_on_with_the_assistants_message(kind, parser, budget, answer, finish):
    async with OpenAiStandIn(r1, template=R1_CHAT, think_end=parser) as server:
        settings = {"backend": kind, "backend_chat": True, "template": "deepseek-r1", "tokens_per_query": budget}
        settings |= {"backend_url": server.url, "policy": "uniform", "floor_tokens": 1}
        async with scheduler(**settings) as address, AsyncSchedulerClient(address) as client:
            done = await client.complete("What is 40 + 2?")
    assert answer in done.answer
    assert scheduler_pb2.FinishReason.Name(done.usage.finish_reason) == f"FINISH_REASON_{finish}"
    assert done.usage.reasoning_tokens == min(budget, 9)
    first, last = server.requests[0], server.requests[-1]
    assert first["messages"][0] == {"role": "user", "content": "What is 40 + 2?"}
    assert first["messages"][1] == {"role": "assistant", "content": "<think>\n"}
    assert first.get("continue_final_message", False) is (kind != "openai")
    assert first.get("add_generation_prompt") is (False if kind == "vllm" else None)
    if finish == "FORCED":
        said = "<think>\nstep step step step\n</think>\n\n**Final Answer**\n\\boxed{"
        assert last["messages"][1]["content"] == said


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("parser", ["</think>", "<ignored>"])
async def test_vllm_ends_the_thinking_in_one_call_and_is_cut_where_it_does_not(chat, parser):
    """The second parser stands for a server that takes ``thinking_token_budget`` and does nothing about it."""
    template = R1_CHAT if chat else "{user}"
    server = OpenAiStandIn(r1, template=template, think_end=parser)
    if parser == "<ignored>":
        server._written = lambda body: list(r1(server._prompt(body)))  # type: ignore[method-assign]
        server.think_end = ""
    async with server:
        settings = {"backend": "vllm", "backend_chat": chat, "backend_thinking_budget": True}
        settings |= {"template": "deepseek-r1", "tokens_per_query": 5, "floor_tokens": 1}
        settings |= {"backend_url": server.url, "policy": "uniform"}
        async with scheduler(**settings) as address, AsyncSchedulerClient(address) as client:
            done = await client.complete("What is 40 + 2?")
    assert server.requests[0]["thinking_token_budget"] == 4
    assert done.usage.reasoning_tokens == 5
    assert done.usage.finish_reason == scheduler_pb2.FINISH_REASON_FORCED
    if parser == "</think>":
        assert len(server.requests) == 1
        assert done.answer.strip() == "forty-two"
    else:
        assert done.answer.strip() == "**Final Answer**\n\\boxed{7}"


async def test_sglang_is_told_of_abandoned_calls_only():
    async with OpenAiStandIn(lambda _: ["t"] * 50) as server:
        settings = {"backend": "sglang", "backend_url": server.url, "policy": "uniform", "template": "deepseek-r1"}
        async with scheduler(**settings) as address, AsyncSchedulerClient(address) as client:
            assert (await client.complete("q", max_reasoning_tokens=16)).usage.reasoning_tokens == 16
            assert server.aborted == []
            server.token_seconds = 1.0  # long enough for whoever leaves to be noticed
            stream = client.generate("q")
            await anext(stream)
            await anext(stream)
            await stream.aclose()
            await eventually(lambda: server.aborted)
    assert server.aborted == [server.requests[-1]["rid"]]


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


async def test_an_endpoint_that_was_left_out_is_tried_again_later():
    now = [0.0]
    broken = scripted(error=BackendUnavailableError("gone", 0.01))
    pool = BackendPool([broken, scripted()], clock=lambda: now[0])
    for _ in range(10):
        await run(pool)
    assert len(broken.calls) == 3  # then it is left out
    broken.error = None
    now[0] += 60
    await run(pool)
    assert len(broken.calls) == 4
    assert pool.endpoints[0].failures == 0


async def test_an_endpoint_without_room_is_asked_after_the_others_and_is_not_distrusted():
    now = [0.0]
    full = scripted(error=EndpointBusyError("full", 5.0))
    pool = BackendPool([full, scripted()], clock=lambda: now[0])
    for _ in range(6):
        await run(pool)
    assert (len(full.calls), pool.endpoints[0].failures) == (1, 0)
    now[0] = 6.0
    await run(pool)
    assert len(full.calls) == 2


async def test_an_endpoint_on_trial_gets_one_call_at_a_time():
    now = [0.0]
    broken = Slow(lambda _: ["a"] * 5, error=BackendUnavailableError("gone", 0.01), token_seconds=0.01)
    good = Slow(lambda _: ["a"] * 5, token_seconds=0.01)
    pool = BackendPool([broken, good], clock=lambda: now[0])
    for _ in range(6):
        await run(pool)
    broken.error, now[0] = None, 60.0
    await asyncio.gather(*(run(pool) for _ in range(6)))
    assert (broken.most, good.most) == (1, 5)
    await asyncio.gather(*(run(pool) for _ in range(6)))
    assert broken.most == 3


async def test_an_endpoint_that_breaks_after_its_first_token_is_left_out_too():
    broken = scripted(error=BackendUnavailableError("gone", 0.01), error_after=1)
    pool = BackendPool([broken, scripted()])
    failed = 0
    for _ in range(20):
        try:
            await run(pool)
        except BackendUnavailableError:
            failed += 1
    assert failed == len(broken.calls) == 3


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
    with pytest.raises(BackendUnavailableError, match="nobody there"):
        await nobody.limits()


async def test_all_endpoints_gone_is_unavailable_to_the_caller():
    backend = BackendPool([scripted(error=BackendUnavailableError("gone", 0.01)) for _ in range(2)])
    async with scheduler(backend, policy="uniform") as address, AsyncSchedulerClient(address) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.complete("q")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
