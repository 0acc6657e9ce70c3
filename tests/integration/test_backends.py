"""The TGI backend on the wire: what our adapter makes of what a server sends."""

import pytest
from aiohttp import web

from scheduler_service.domain import BackendUnavailableError, PreconditionError, Sampling
from scheduler_service.generation.backends.base import Ended, Piece
from scheduler_service.generation.backends.http import HttpServer
from scheduler_service.generation.backends.tgi import TgiBackend
from scheduler_service.generation.forcing import Call, CallEnd
from tests.standins.tgi import TgiStandIn
from tests.waiting import PATIENCE, eventually

GREEDY = Sampling(temperature=0.0)


async def started(url, **options):
    backend = TgiBackend(HttpServer(url, **options), ready_seconds=PATIENCE)
    await backend.start()
    return backend


async def read(backend, call, headers=None):
    return [piece async for piece in backend.stream(call, GREEDY, headers or {})]


async def test_tokens_are_counted_one_by_one_and_the_end_is_told():
    async with TgiStandIn(lambda _: ["a", "ü", "c"], keep_alive_every=1) as tgi:
        backend = await started(tgi.url)
        whole = await read(backend, Call("one two", 10))
        cut = await read(backend, Call("one two", 2))
        await backend.close()
    assert whole == [Piece("a", 1), Piece("ü", 1), Piece("c", 1), Piece("", 1), Ended(CallEnd.MODEL, 2)]
    assert cut == [Piece("a", 1), Piece("ü", 1), Ended(CallEnd.LENGTH, 2)]


async def test_a_special_token_has_text_only_for_a_template_whose_marks_are_some():
    async with TgiStandIn(lambda _: ["a"]) as tgi:
        backend = await started(tgi.url)
        pieces = await read(backend, Call("p", 10, special_tokens=True))
        await backend.close()
    assert pieces[:-1] == [Piece("a", 1), Piece("</s>", 1)]


async def test_limits_are_read_from_info():
    async with TgiStandIn() as tgi:
        backend = await started(tgi.url)
        limits = await backend.limits()
        await backend.close()
    assert (limits.model, limits.max_prompt_tokens, limits.max_concurrent_requests) == ("stand-in/model", 512, 128)


async def test_the_bearer_token_and_the_trace_context_are_sent():
    async with TgiStandIn(require_token="secret") as tgi:
        backend = await started(tgi.url, token="secret")
        await read(backend, Call("p", 2), {"traceparent": "00-1-2-01"})
        await backend.close()
    assert tgi.headers[0]["Authorization"] == "Bearer secret"
    assert tgi.headers[0]["traceparent"] == "00-1-2-01"


async def test_closing_a_stream_frees_the_slot_at_once():
    async with TgiStandIn(lambda _: ["x"] * 500, token_seconds=0.2) as tgi:
        backend = await started(tgi.url)
        stream = backend.stream(Call("p", 500), GREEDY, {})
        await anext(stream)
        assert tgi.running == 1
        await stream.aclose()
        await eventually(lambda: not tgi.running)
        await backend.close()
    assert tgi.running == 0
    assert tgi.cancelled == 1


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        ({"fail_after": 1}, BackendUnavailableError, "^the LLM server failed while it generated$"),
        ({"fail_after": 1, "reset": True}, BackendUnavailableError, "^the LLM server broke the connection$"),
        ({"max_input_tokens": 1}, PreconditionError, "must have less than 1 tokens"),
    ],
)
async def test_faults_within_a_stream_become_our_errors(fault, kind, words):
    async with TgiStandIn(lambda _: ["a", "b", "c"], **fault) as tgi:
        backend = await started(tgi.url)
        with pytest.raises(kind, match=words):
            await read(backend, Call("one two", 10))
        await backend.close()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'data: {"token": {"text": "a"}', "ended its stream before the last event"),
        (b"data: not json\n\n", "sent what is not of its protocol"),
        (b"data: {}\n\n", "sent what is not of its protocol"),
        (b"\xff\xfe\xfd\n\n", "ended its stream before the last event"),
        (b"data: " + b"x" * (5 << 20), "sent more than it was asked for"),
    ],
)
async def test_bytes_that_are_no_stream_become_our_error(body, words):
    async def answer(request):
        return web.Response(body=body, content_type="text/event-stream")

    async def health(request):
        return web.Response()

    app = web.Application()
    app.router.add_post("/generate_stream", answer)
    app.router.add_get("/health", health)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    backend = await started(f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}")
    with pytest.raises(BackendUnavailableError, match=words):
        await read(backend, Call("p", 10))
    await backend.close()
    await runner.cleanup()


async def test_a_last_event_that_repeats_a_long_text_is_read():
    async with TgiStandIn(lambda _: ["x" * 600] * 1000) as tgi:
        backend = await started(tgi.url)
        pieces = await read(backend, Call("p", 1000))
        await backend.close()
    assert sum(len(piece.text) for piece in pieces[:-1]) == 600_000


async def test_a_token_of_three_megabytes_is_refused():
    async with TgiStandIn(lambda _: ["x" * (3 << 20)] * 64) as tgi:
        backend = await started(tgi.url)
        with pytest.raises(BackendUnavailableError, match="more than it was asked for"):
            await read(backend, Call("p", 64))
        await backend.close()


async def test_a_silent_server_is_given_up():
    async with TgiStandIn(lambda _: ["a", "b"], token_seconds=5.0) as tgi:
        backend = await started(tgi.url, idle_seconds=0.1)
        with pytest.raises(BackendUnavailableError, match="did not answer in time"):
            await read(backend, Call("p", 10))
        await backend.close()


async def test_a_server_that_is_not_there_is_named():
    backend = TgiBackend(HttpServer("http://127.0.0.1:9"), ready_seconds=0.2)
    with pytest.raises(BackendUnavailableError, match=r"127\.0\.0\.1:9/health did not answer"):
        await backend.start()
    await backend.close()
