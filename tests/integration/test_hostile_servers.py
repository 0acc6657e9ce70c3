"""A scheduler whose LLM servers misbehave: a documented status, nothing repeated for ever, nothing left behind."""

import asyncio
import logging
import random
import re
from collections import Counter

import grpc
import grpc.aio
import pytest
from aiohttp import web
from google.rpc import error_details_pb2

from predictive_scheduling import AsyncSchedulerClient
from predictive_scheduling.scheduler.v1 import scheduler_pb2 as pb
from predictive_scheduling.scheduler.v1 import scheduler_pb2_grpc
from tests.integration.running import DOCUMENTED, balanced, detail, scheduler
from tests.standins.raw import PATHS, RawServer
from tests.standins.tgi import TgiStandIn
from tests.standins.wire import encoded, events, mutated

KINDS = sorted(PATHS)
PLAIN = {"policy": "uniform", "tokens_per_query": 64, "template": "deepseek-r1"}


def serving(kind, *servers, **settings):
    urls = ",".join(server if isinstance(server, str) else server.url for server in servers)
    return scheduler(backend=kind, backend_url=urls, **{**PLAIN, **settings})


def well(kind):
    """Answers of a server that does what it is asked."""

    def body(wanted):
        most = wanted.get("max_tokens") or wanted.get("n_predict") or wanted["parameters"]["max_new_tokens"]
        return [encoded(event) for event in events(kind, most)]

    return body


async def once(address, prompt="What is 40 + 2?"):
    """One call without retries; returns the response or the error."""
    async with grpc.aio.insecure_channel(address, options=[("grpc.enable_retries", 0)]) as channel:
        stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
        try:
            return await stub.Complete(pb.CompleteRequest(job=pb.Job(prompt=prompt)), timeout=60)
        except grpc.aio.AioRpcError as error:
            return error


@pytest.mark.parametrize("kind", KINDS)
async def test_an_endpoint_that_fails_fastest_draws_no_traffic(kind):
    async with RawServer(well(kind)) as good, RawServer(lambda _: [b"data:null\n\n"]) as bad:
        async with serving(kind, bad, good) as address, AsyncSchedulerClient(address) as client:
            for _ in range(10):
                done = await asyncio.gather(*(client.complete("q") for _ in range(10)))
                assert all(one.usage.reasoning_tokens == 64 for one in done)
            await balanced(client)
    assert len(bad.requests) < 20
    assert len(good.requests) == 200


@pytest.mark.parametrize("kind", ["vllm", "sglang", "openai"])
@pytest.mark.parametrize(
    "body",
    [
        [b'data: {"choices":[{"text":"","finish_reason":"length"}]}\n\n'],
        [b"data: [DONE]\n\n"],
        [b'data: {"choices":[],"usage":{"completion_tokens":0}}\n\n' * 20],
    ],
)
async def test_a_server_whose_calls_bring_nothing_is_asked_a_few_times_only(kind, body):
    async with RawServer(lambda _: body) as server, serving(kind, server) as address:
        error = await once(address)
        async with AsyncSchedulerClient(address) as client:
            await balanced(client)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert len(server.requests) <= 2


async def test_a_server_that_claims_a_thousand_million_tokens_is_not_asked_again_and_again():
    def body(_):
        event = {"choices": [{"text": "x", "finish_reason": "length"}], "usage": {"completion_tokens": 10**9}}
        return [encoded(event)]

    async with RawServer(body) as server, serving("openai", server) as address:
        done = await once(address)
        async with AsyncSchedulerClient(address) as client:
            await balanced(client)
    assert done.usage.reasoning_tokens <= 64
    assert len(server.requests) < 40


@pytest.mark.parametrize("claims", [True, False])
async def test_a_server_that_ignores_the_thinking_budget_and_every_limit_is_called_twice(claims):
    def body(wanted):
        for at in range(1, 400):
            usage = {"usage": {"completion_tokens": 5 * at}} if claims else {}
            yield encoded({"choices": [{"text": " five" * 5, "finish_reason": None}], **usage})

    settings = {"backend_thinking_budget": True, "tokens_per_query": 128}
    async with RawServer(body) as server, serving("vllm", server, **settings) as address:
        done = await once(address)
        async with AsyncSchedulerClient(address) as client:
            budget = await balanced(client)
    assert done.usage.reasoning_tokens == budget.used_tokens == 128
    assert done.usage.finish_reason == pb.FINISH_REASON_ANSWER_LENGTH
    assert len(server.requests) == 2


@pytest.mark.parametrize("kind", KINDS)
async def test_keep_alives_are_no_progress(kind):
    async with RawServer(keep_alives=0.02) as server, serving(kind, server, backend_idle_seconds=0.3) as address:
        errors = await asyncio.gather(*(once(address) for _ in range(8)))
        async with AsyncSchedulerClient(address) as client:
            await balanced(client)
    assert {error.code() for error in errors} == {grpc.StatusCode.UNAVAILABLE}
    assert "did not answer in time" in errors[0].details()


async def test_a_reader_that_takes_its_time_is_no_idle_server():
    async with TgiStandIn(lambda _: ["x" * 1000] * 400) as server:
        settings = {"backend_idle_seconds": 2.0, "cap_tokens": 400, "tokens_per_query": 400}
        async with serving("tgi", server, **settings) as address, grpc.aio.insecure_channel(address) as channel:
            call = scheduler_pb2_grpc.SchedulerServiceStub(channel).Generate(pb.GenerateRequest(job=pb.Job(prompt="q")))
            await call.read()
            await asyncio.sleep(3.5)
            tokens = 0
            while (event := await call.read()) is not grpc.aio.EOF:
                tokens += event.text.tokens
    assert tokens == 400 + 32


async def test_an_answer_is_not_lost_where_the_server_goes_on_without_an_end():
    def body(wanted):
        return well("vllm")(wanted)[:-1]

    async with (
        RawServer(body, keep_alives=0.02) as server,
        serving("vllm", server, backend_idle_seconds=1.5) as address,
    ):
        done = await once(address)
    assert done.usage.reasoning_tokens == 64
    assert done.usage.answer_tokens == 32


@pytest.mark.parametrize("kind", KINDS)
async def test_tokens_of_three_megabytes_are_refused(kind):
    huge = "x" * (3 << 20)

    def body(wanted):
        stream = events(kind, 64)
        for event in stream:
            if "content" in event:
                event["content"] = huge
            for holder in (event.get("token"), *event.get("choices", ())):
                if holder:
                    holder["text"] = huge
            yield encoded(event)

    async with RawServer(body) as server, serving(kind, server) as address:
        error = await once(address)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "more than it was asked for" in error.details()


async def test_retry_after_is_honoured_and_passed_on():
    async with RawServer(status=429, headers={"Retry-After": "50"}) as server, serving("tgi", server) as address:
        errors = [await once(address) for _ in range(5)]
    assert {error.code() for error in errors} == {grpc.StatusCode.UNAVAILABLE}
    for error in errors:
        assert 5 < detail(error, error_details_pb2.RetryInfo).retry_delay.ToTimedelta().total_seconds() <= 50
    assert len(server.requests) == 1


async def test_an_endpoint_that_asks_to_be_left_alone_is():
    async with RawServer(status=503, headers={"Retry-After": "60"}) as busy, RawServer(well("tgi")) as good:
        async with serving("tgi", busy, good) as address:
            for _ in range(6):
                assert (await once(address)).usage.reasoning_tokens == 64
    assert len(busy.requests) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(status):
    async with RawServer(well("tgi")) as other:
        headers = {"Location": f"{other.url}/generate_stream"}
        async with RawServer(status=status, headers=headers) as server, serving("tgi", server) as address:
            error = await once(address)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert error.details() == f"the LLM server answered HTTP {status}, a redirect, which is not followed"
    assert other.requests == []


async def test_failures_are_logged_a_few_times_with_masked_secrets_and_without_prompts(caplog):
    async def refuse(request):
        prompt = (await request.json())["inputs"]
        said = prompt if "quote me" in prompt else "worker died"
        return web.json_response({"error": {"message": said}}, status=500)

    server = RawServer()
    server._generate = refuse  # type: ignore[method-assign]
    with caplog.at_level(logging.INFO):
        async with server:
            url = server.url.replace("http://", "http://operator:hunter2@")
            async with serving("tgi", url) as address:
                errors = [await once(address, "quote me: my secret question")]
                errors += await asyncio.gather(*(once(address, "What is 40 + 2?") for _ in range(20)))
    failures = [message for message in caplog.messages if message.startswith("the LLM server at")]
    assert 3 <= len(failures) <= 12  # of 42
    assert failures[0] == f"the LLM server at {server.url} answered HTTP 500: (its message quotes the prompt)"
    assert any(message.endswith(": worker died") for message in failures)
    assert "hunter2" not in caplog.text
    assert "operator" not in caplog.text
    assert "secret question" not in caplog.text
    for error in errors:
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert re.fullmatch(r"the LLM server answered HTTP 500", error.details())


@pytest.mark.parametrize("kind", KINDS)
async def test_streams_that_are_nearly_right_end_with_a_documented_status_and_balance(kind, caplog):
    rng = random.Random(kind)

    def body(wanted):
        most = wanted.get("max_tokens") or wanted.get("n_predict") or wanted["parameters"]["max_new_tokens"]
        stream = events(kind, rng.randint(1, most), ends=rng.choice(["length", "stop"]))
        lines = mutated(rng, stream) if rng.random() < 0.7 else [encoded(event) for event in stream]
        whole = b"".join(lines)
        cut = rng.randint(0, len(whole))
        return whole[:cut], whole[cut:]

    ended = Counter()
    async with RawServer(body) as one, RawServer(body) as other, serving(kind, one, other) as address:
        async with AsyncSchedulerClient(address) as client:
            for _ in range(15):
                for done in await asyncio.gather(*(once(address) for _ in range(8))):
                    ended["OK" if isinstance(done, pb.CompleteResponse) else done.code()] += 1
            await balanced(client)
    assert set(ended) <= {"OK", *DOCUMENTED}
    assert not [record for record in caplog.records if record.exc_info]
    assert ended["OK"] > 10
    assert ended[grpc.StatusCode.UNAVAILABLE] > 10
