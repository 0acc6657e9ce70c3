"""The HTTP front as strangers meet it: who is asked first, what is waited for, and for how long."""

import asyncio
import contextlib
import io
import json
import ssl

import aiohttp
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from predictive_scheduling import AsyncSchedulerClient
from predictive_scheduling.telemetry import Telemetry
from predictive_scheduling_cli.demo.services import free_address
from scheduler_service.api.generations import Generations
from scheduler_service.api.guarded_site import HttpLimits
from scheduler_service.api.identity import Identity
from scheduler_service.api.intake import Intake, ServedModel
from scheduler_service.api.openai.front import OpenAiFront
from scheduler_service.domain import Allocation
from scheduler_service.planning.budget_range import BudgetRange
from tests.integration.running import balanced, scheduler
from tests.integration.test_openai_front import MESSAGES, thinker
from tests.integration.test_security import tls
from tests.standins.backend import ScriptedBackend
from tests.waiting import eventually

CHAT = "/v1/chat/completions"


class SilentBackend(ScriptedBackend):
    """Takes a call and says nothing."""

    async def stream(self, call, sampling, headers):
        self.open += 1
        try:
            await asyncio.Event().wait()
            yield
        finally:
            self.open -= 1


@contextlib.asynccontextmanager
async def front(backend=None, **settings):
    """A scheduler with a front; yields its URL and the gRPC address."""
    address = free_address()
    chosen = {"http_listen": address, "policy": "uniform", **settings}
    async with scheduler(backend or ScriptedBackend(thinker), **chosen) as server:
        yield f"http://{address}", server


@contextlib.asynccontextmanager
async def bare_front(limits, identity=None):
    """A front with limits of its own, whose generations are never begun."""

    async def nothing(_):
        raise AssertionError("nobody asks for anything")
        yield Allocation

    async with asyncio.TaskGroup() as group:
        loop = asyncio.get_running_loop()
        intake = Intake(ServedModel("m", BudgetRange(64, 16, 256, 32), 0.6), identity or Identity(), loop.time)
        found = OpenAiFront(Generations(nothing, group), intake, trace.NoOpTracer(), limits=limits)
        await found.start("127.0.0.1:0")
        try:
            yield found
        finally:
            await found.stop()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_with_a_timeout_ends_in_time_though_the_backend_is_silent(stream):
    backend = SilentBackend(thinker)
    async with front(backend) as (url, server), aiohttp.ClientSession() as session:
        body, headers = {"messages": MESSAGES, "stream": stream}, {"X-Request-Timeout": "0.3"}
        async with asyncio.timeout(30), session.post(url + CHAT, json=body, headers=headers) as response:
            text = await response.text()
        if stream:  # its first event was the allocation, so it had begun
            assert response.status == 200
            assert '"timeout_error"' in text
            assert text.endswith("data: [DONE]\n\n")
        else:
            assert response.status == 504
            assert json.loads(text)["error"]["type"] == "timeout_error"
        async with AsyncSchedulerClient(server) as client:
            await balanced(client)
        await eventually(lambda: not backend.open, 30)


@pytest.mark.parametrize("policy", ["uniform", "price", "envelope", "greedy", "exact"])
@pytest.mark.parametrize(("limit", "traces"), [(1, 1), (5, 1), (40, 1), (5, 3), (2000, 2)])
async def test_no_more_tokens_come_than_the_limit_says(policy, limit, traces):
    backend = ScriptedBackend(lambda prompt: ["word "] * 4000)
    async with front(backend, policy=policy) as (url, _), aiohttp.ClientSession() as session:
        body = {"messages": MESSAGES, "max_completion_tokens": limit, "traces": traces}
        async with session.post(url + CHAT, json=body) as response:
            found = await response.json()
            assert response.status == 200, found
    assert 1 <= found["usage"]["completion_tokens"] <= limit
    assert sum(call.max_tokens for call in backend.calls) <= limit


async def test_wrong_options_of_a_stream_are_refused_before_a_token_is_spent():
    backend = ScriptedBackend(thinker)
    async with front(backend) as (url, _), aiohttp.ClientSession() as session:
        body = {"messages": MESSAGES, "stream": True, "stream_options": "abc"}
        async with session.post(url + CHAT, json=body) as response:
            assert response.status == 400
            assert (await response.json())["error"]["param"] == "stream_options"
    assert not backend.calls


async def test_a_trace_context_is_taken_however_its_header_is_written():
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    address = free_address()
    settings = {"http_listen": address, "policy": "uniform"}
    async with scheduler(ScriptedBackend(thinker), Telemetry(provider), **settings):
        async with aiohttp.ClientSession() as session:
            headers = {"Traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}
            async with session.post(
                f"http://{address}{CHAT}", json={"messages": MESSAGES}, headers=headers
            ) as response:
                assert response.status == 200
    served = [span for span in spans.get_finished_spans() if span.name.startswith("POST")]
    assert [f"{span.context.trace_id:x}" for span in served] == ["ab" * 16]


async def test_a_stranger_is_refused_before_its_body_is_read_and_sees_no_models(tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text("secret-a team-a\n")
    async with front(auth_tokens=str(tokens)) as (url, _), aiohttp.ClientSession() as session:
        for body in (b"[" * 100_000, b"x" * (5 << 20)):
            async with session.post(url + CHAT, data=io.BytesIO(body)) as response:
                assert response.status == 401
        async with session.get(url + "/v1/models") as response:
            assert response.status == 401
            assert response.headers["WWW-Authenticate"] == "Bearer"
        known = {"Authorization": "Bearer secret-a"}
        async with session.get(url + "/v1/models", headers=known) as response:
            assert response.status == 200
        for body, status in ((b"[" * 100_000, 400), (b"x" * (5 << 20), 413)):
            async with session.post(url + CHAT, data=io.BytesIO(body), headers=known) as response:
                assert response.status == status
                assert (await response.json())["error"]["type"] == "invalid_request_error"
        for path, status in (("/", 404), (CHAT, 405)):
            async with session.get(url + path) as response:
                assert response.status == status
                assert (await response.json())["error"]["message"]


async def test_a_body_that_never_comes_is_not_waited_for_where_nobody_knows_the_caller():
    identity = Identity({b"digest": "tenant"})
    async with bare_front(HttpLimits(head_seconds=600, body_seconds=600), identity) as found:
        reader, writer = await asyncio.open_connection("127.0.0.1", found.port)
        writer.write(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n".encode())
        async with asyncio.timeout(30):
            assert b" 401 " in await reader.readline()
        writer.close()


@pytest.mark.parametrize("head", ["GET /health HT", f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"])
async def test_connections_that_trickle_are_closed_and_others_are_served(head):
    async with bare_front(HttpLimits(head_seconds=0.3, body_seconds=0.3)) as found:

        async def trickle():
            reader, writer = await asyncio.open_connection("127.0.0.1", found.port)
            with contextlib.suppress(ConnectionError):
                writer.write(head.encode())
                while not reader.at_eof():
                    writer.write(b"x")
                    await writer.drain()
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(reader.read(), 0.05)
            writer.close()

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for _ in range(100):
                group.create_task(trickle())
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{found.port}/health") as response:
                    assert response.status == 200


async def test_connections_beyond_the_limit_are_closed_and_come_in_once_others_leave():
    async with bare_front(HttpLimits(connections=3)) as found:
        kept = [await asyncio.open_connection("127.0.0.1", found.port) for _ in range(3)]
        reader, beyond = await asyncio.open_connection("127.0.0.1", found.port)
        async with asyncio.timeout(30):
            assert await reader.read() == b""
        beyond.close()
        for _, writer in kept:
            writer.close()
        async with asyncio.timeout(30):
            while True:
                reader, writer = await asyncio.open_connection("127.0.0.1", found.port)
                writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                with contextlib.suppress(ConnectionError):
                    if b" 200 " in await reader.read():
                        writer.close()
                        break
                writer.close()


async def test_a_running_request_is_told_that_the_server_stops():
    backend = SilentBackend(thinker)
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(contextlib.AsyncExitStack())
        url, _ = await server.enter_async_context(front(backend, drain_seconds=0.5))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        call = asyncio.ensure_future(session.post(url + CHAT, json={"messages": MESSAGES}))
        await eventually(lambda: backend.open, 30)
        await server.aclose()
        response = await call
        assert response.status == 503
        assert response.headers["Retry-After"] == "1"


def client_context(authority, files=None):
    context = ssl.create_default_context(cafile=authority.ca_file)
    if files:
        context.load_cert_chain(files["cert"], files["key"])
    return context


async def test_with_mutual_tls_the_front_asks_for_a_certificate_which_names_the_tenant(authority):
    settings = tls(authority.issue("server"), tls_client_ca=authority.ca_file)
    own = client_context(authority, authority.issue("client", common_name="team-a"))
    async with front(**settings) as (plain, _), aiohttp.ClientSession() as session:
        url = plain.replace("http://127.0.0.1", "https://localhost")
        with pytest.raises(aiohttp.ClientError):
            await session.post(plain + CHAT, json={"messages": MESSAGES})
        for path in ("/health", "/v1/models"):
            with pytest.raises((aiohttp.ClientError, ssl.SSLError, ConnectionError)):
                async with session.get(url + path, ssl=client_context(authority)) as response:
                    await response.read()
        for tenant, status in (("team-a", 200), ("", 200), ("team-b", 403)):
            body = {"messages": MESSAGES, "tenant": tenant}
            async with session.post(url + CHAT, json=body, ssl=own) as response:
                assert response.status == status


async def test_the_fronts_certificate_is_renewed_without_a_restart(tmp_path, authority):
    files = authority.issue("server")
    async with front(**tls(files)) as (plain, _):
        url = plain.replace("http://127.0.0.1", "https://localhost")
        async with aiohttp.ClientSession() as session:
            async with session.get(url + "/health", ssl=client_context(authority)) as response:
                assert response.status == 200
        other = authority.succeeded_by(tmp_path / "new", files)
        async with aiohttp.ClientSession() as session:
            async with session.get(url + "/health", ssl=client_context(other)) as response:
                assert response.status == 200
