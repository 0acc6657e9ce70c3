"""Real servers' bytes, played one for one through our backends: what they are read as, and where they end.

Where they are from is said beside them, in ``tests/fixtures/engines/README.md``.
"""

import asyncio
import logging
from pathlib import Path

import pytest
from aiohttp import web

from scheduler_service.domain import BackendUnavailableError, PreconditionError, Sampling
from scheduler_service.generation.backends import make_backend
from scheduler_service.generation.backends.base import BackendConfiguration, Ended, EndpointBusyError, Limits, Piece
from scheduler_service.generation.forcing import Call, CallEnd, Turn
from tests.integration.running import scheduler
from tests.standins.listening import Listening

ENGINES = Path(__file__).parents[1] / "fixtures" / "engines"
TOKENS = 40
R1 = Turn("3 + 4", "", "</think>")


class Recorded(Listening):
    """Answers a generation with ``body``, cut where ``cuts`` say, and each of ``routes`` with its status and body."""

    def __init__(self, body=b"", *, status=200, cuts=(), routes=None):
        self.body, self.status, self.cuts = body, status, cuts
        self.routes = {"/health": (200, b""), "/v1/models": (200, read("vllm/models.json"))} | (routes or {})
        self.asked, self.requests = [], []

    def application(self):
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        return app

    async def _answer(self, request):
        self.asked.append(request.path)
        if request.method == "GET":
            status, body = self.routes.get(request.path, (404, b'{"detail":"Not Found"}'))
            return web.Response(status=status, body=body)
        self.requests.append(await request.json())
        response = web.StreamResponse(status=self.status, headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for start, end in zip((0, *self.cuts), (*self.cuts, len(self.body)), strict=True):
            await response.write(self.body[start:end])
            if self.cuts:
                await asyncio.sleep(0)
        return response


def read(name):
    return (ENGINES / name).read_bytes()


async def play(kind, server, *, tokens=TOKENS, chat=False, model="m"):
    """Run a call; returns its text, the tokens counted, how it ended, and the prompt's tokens."""
    backend = make_backend(BackendConfiguration(kind, (server.url,), model=model, chat=chat))
    pieces = []
    try:
        await backend.start()
        async for piece in backend.endpoints[0].backend.stream(Call("3 + 4", tokens, (), R1), Sampling(), {}):
            pieces.append(piece)  # noqa: PERF401  # an error must not lose those that came before it
    except (BackendUnavailableError, PreconditionError) as error:
        return "".join(piece.text for piece in pieces), error
    finally:
        await backend.close()
    said = [piece for piece in pieces if isinstance(piece, Piece)]
    end = pieces[-1]
    assert isinstance(end, Ended)
    return "".join(piece.text for piece in said), sum(piece.tokens for piece in said), end.end, end.prompt_tokens


LENGTH, MODEL = CallEnd.LENGTH, CallEnd.MODEL
# recording, kind of backend, tokens asked for; text, tokens counted, how the call ended, tokens of the prompt
WHOLE = {
    "vllm/completion_running_usage.sse": ("vllm", 4, (" 7\n\n7", 4, LENGTH, 10)),
    "vllm/completion_no_usage.sse": ("vllm", 3, (" 7\n\n", 3, LENGTH, 0)),
    "vllm/completion_stop.sse": ("vllm", 40, (" 7", 3, MODEL, 10)),
    "vllm/chat_running_usage.sse": ("vllm", 4, ("3+4=", 4, LENGTH, 8)),
    "vllm/chat_continued.sse": ("vllm", 4, (" MetaInfo entreprene TType", 4, LENGTH, 11)),
    "transformers/completion.sse": ("openai", 4, (" 7\n\n7", 4, LENGTH, 10)),
    "transformers/completion_stop.sse": ("openai", 40, (" 7\n\n", 3, MODEL, 10)),
    "transformers/chat.sse": ("openai", 4, ("3+4=", 4, LENGTH, 8)),
    "sglang/completion_running_usage.sse": ("sglang", 6, (" 7\n\nSo 7", 6, LENGTH, 10)),
    "sglang/completion_last_usage.sse": ("sglang", 40, (" 7", 3, MODEL, 10)),
    "sglang/completion_no_usage.sse": ("sglang", 40, (" 7", 2, MODEL, 0)),  # its end token is not to be seen
    "sglang/chat_reasoning.sse": ("sglang", 40, ("3 + 4 is 7.</think>7", 9, MODEL, 12)),
    "tgi/generate_stream_length.sse": ("tgi", 3, (" 7\n\n", 3, LENGTH, 10)),
    "tgi/generate_stream_eos.sse": ("tgi", 40, (" é7", 3, MODEL, 10)),
    "tgi/generate_stream_stop_sequence.sse": ("tgi", 40, (" 7\n\n", 2, MODEL, 10)),
    "tgi/completions_length.sse": ("openai", 3, (" 7\n\n", 3, LENGTH, 10)),
    "tgi/completions_eos.sse": ("openai", 40, (" 7", 3, MODEL, 10)),  # without the text of its end token
    "tgi/chat_eos.sse": ("openai", 40, (" 7", 3, MODEL, 10)),
}
BROKEN = {
    "sglang/completion_aborted.sse": ("sglang", " 7", BackendUnavailableError, "the LLM server aborted the request"),
    "sglang/completion_out_of_memory.sse": ("sglang", " ", EndpointBusyError, "the LLM server answered HTTP 503"),
    "sglang/completion_internal_error.sse": (
        "sglang", " ", BackendUnavailableError, "the LLM server failed while it generated",
    ),
    "tgi/generate_stream_overloaded.sse": ("tgi", "", EndpointBusyError, "the LLM server is overloaded"),
    "tgi/generate_stream_validation.sse": ("tgi", "", PreconditionError, "must have less than 512 tokens"),
    "tgi/generate_stream_generation_error.sse": ("tgi", " 7", BackendUnavailableError, "failed while it generated"),
    "tgi/generate_stream_incomplete.sse": ("tgi", " 7", BackendUnavailableError, "failed while it generated"),
    "tgi/chat_overloaded.sse": ("openai", "", EndpointBusyError, "the LLM server answered HTTP 429"),
    "tgi/chat_validation.sse": ("openai", "", PreconditionError, "must have less than 512 tokens"),
    "tgi/chat_generation_error.sse": ("openai", " ", BackendUnavailableError, "the LLM server answered HTTP 424"),
    "tgi/completions_incomplete_first.sse": ("openai", "", BackendUnavailableError, "answered HTTP 500"),
}  # fmt: skip
REFUSED = {
    "vllm/wrong_model.json": ("vllm", 404, BackendUnavailableError, "the LLM server answered HTTP 404"),
    "vllm/prompt_too_long.json": ("vllm", 400, PreconditionError, "maximum context length is 1024 tokens"),
    "vllm/bad_parameter.json": ("vllm", 400, PreconditionError, "temperature must be non-negative"),
    "sglang/prompt_too_long.json": ("sglang", 400, PreconditionError, "longer than the model's context length"),
    "transformers/unexpected_field.json": ("openai", 422, PreconditionError, "Unexpected fields in the request"),
    "transformers/not_json.json": ("openai", 422, PreconditionError, "JSON decode error"),
}


@pytest.mark.parametrize("name", WHOLE)
async def test_a_recorded_answer_is_read_and_counted(name):
    kind, tokens, expected = WHOLE[name]
    async with Recorded(read(name)) as server:
        assert await play(kind, server, tokens=tokens, chat="/chat" in name) == expected


@pytest.mark.parametrize("name", BROKEN)
async def test_a_recorded_failure_in_a_stream_is_translated(name):
    kind, text, error_kind, message = BROKEN[name]
    async with Recorded(read(name)) as server:
        said, error = await play(kind, server, chat="/chat" in name)
    assert said == text
    assert type(error) is error_kind
    assert message in str(error)


@pytest.mark.parametrize("name", REFUSED)
async def test_a_recorded_refusal_is_translated_with_its_reason(name):
    kind, status, error_kind, message = REFUSED[name]
    async with Recorded(read(name), status=status) as server:
        said, error = await play(kind, server)
    assert said == ""
    assert type(error) is error_kind
    assert message in str(error)


@pytest.mark.parametrize(
    "name",
    [
        "vllm/completion_running_usage.sse",
        "transformers/completion.sse",
        "sglang/chat_reasoning.sse",
        "tgi/generate_stream_eos.sse",
        "tgi/completions_eos.sse",
    ],
)
async def test_a_recorded_answer_is_the_same_wherever_the_network_cuts_it(name):
    kind, tokens, expected = WHOLE[name]
    body, chat = read(name), "/chat" in name
    async with Recorded(body) as server:
        for cut in range(1, len(body)):
            server.cuts = (cut,)
            assert await play(kind, server, tokens=tokens, chat=chat) == expected, cut
        server.cuts = tuple(range(1, len(body)))
        assert await play(kind, server, tokens=tokens, chat=chat) == expected


@pytest.mark.parametrize("name", WHOLE)
async def test_a_recorded_answer_that_breaks_off_is_an_error_or_whole(name):
    kind, tokens, (text, most, end, _) = WHOLE[name]
    body = read(name)
    ends = [at + 2 for at in range(len(body)) if body[at : at + 2] == b"\n\n"]
    async with Recorded() as server:
        for at in ends[:-1]:
            server.body = body[:at]
            said, *rest = await play(kind, server, tokens=tokens, chat="/chat" in name)
            if isinstance(rest[0], BackendUnavailableError):
                assert text.startswith(said)
            else:
                assert (said, rest[1]) == (text, end)
                assert rest[0] <= most


def test_every_recording_is_played_and_its_origin_told():
    files = {str(path.relative_to(ENGINES)) for path in ENGINES.rglob("*") if path.suffix in (".sse", ".json")}
    listed = WHOLE.keys() | BROKEN.keys() | REFUSED.keys() | MODELS.keys() | {"transformers/models_before_use.json"}
    assert files == listed
    told = (ENGINES / "README.md").read_text()
    assert [name for name in sorted(files) if f"`{Path(name).name}`" not in told] == []


MODELS = {
    "vllm/models.json": ("vllm", Limits("demo", 1024, 1024)),
    "sglang/models.json": ("sglang", Limits("m", 1024, 1024)),
    "tgi/models.json": ("openai", Limits("m")),
}


async def limits(kind, server, model="", **options):
    backend = make_backend(BackendConfiguration(kind, (server.url,), model=model, **options))
    try:
        await backend.start()
        return await backend.limits()
    finally:
        await backend.close()


@pytest.mark.parametrize("name", MODELS)
async def test_without_a_name_the_first_model_of_the_list_is_taken(name):
    kind, expected = MODELS[name]
    async with Recorded(routes={"/v1/models": (200, read(name))}) as server:
        assert await limits(kind, server) == expected


async def test_an_adapter_has_the_context_of_its_base():
    async with Recorded(routes={"/v1/models": (200, read("sglang/models.json"))}) as server:
        assert await limits("sglang", server, "adapter") == Limits("adapter", 1024, 1024)


@pytest.mark.parametrize(
    "listing",
    [
        (200, read("transformers/models_before_use.json")),  # loads its models as they are asked for
        (200, read("vllm/models.json")),  # of others only
        (404, b'{"detail":"Not Found"}'),  # has no such route
        (500, b"Internal Server Error"),  # transformers serve, where nothing was ever downloaded
        (200, b"<html>"),
    ],
)
async def test_a_name_that_the_operator_gives_is_believed_with_a_warning(listing, caplog):
    with caplog.at_level(logging.WARNING):
        async with Recorded(routes={"/v1/models": listing}) as server:
            assert await limits("openai", server, "named") == Limits("named")
    assert any("'named'" in message for message in caplog.messages)


async def test_a_scheduler_serves_a_model_that_is_named_and_not_listed():
    routes = {"/v1/models": (200, read("transformers/models_before_use.json"))}
    async with Recorded(read("transformers/completion_stop.sse"), routes=routes) as server:
        settings = {"backend": "openai", "backend_url": server.url, "backend_model": "demo", "policy": "uniform"}
        async with scheduler(**settings):
            pass


async def test_without_a_name_an_empty_list_is_an_error_that_says_what_to_set():
    async with Recorded(routes={"/v1/models": (200, read("transformers/models_before_use.json"))}) as server:
        with pytest.raises(BackendUnavailableError, match=r"/v1/models lists no model: set backend_model"):
            await limits("openai", server)


async def test_a_named_model_of_a_server_that_is_gone_is_not_believed():
    async with Recorded() as server:
        backend = make_backend(BackendConfiguration("openai", (server.url,), model="named"))
        await backend.start()
    with pytest.raises(BackendUnavailableError, match="cannot be reached"):
        await backend.limits()
    await backend.close()


@pytest.mark.parametrize("status", [401, 403, 404, 405])
async def test_a_server_without_health_for_us_is_ready_when_it_lists_its_models(status):
    async with Recorded(routes={"/health": (status, b"{}")}) as server:
        assert (await limits("openai", server)).model == "demo"


@pytest.mark.parametrize(
    "routes",
    [
        {"/health": (503, b"")},  # loads its model, though it could list it
        {"/health": (404, b""), "/v1/models": (401, b"")},  # needs a token that we do not have
        {"/health": (404, b""), "/v1/models": (404, b"")},
    ],
)
async def test_a_server_that_is_not_ready_is_waited_for(routes):
    async with Recorded(routes=routes) as server:
        with pytest.raises(BackendUnavailableError, match="did not answer"):
            await limits("openai", server, "named", ready_seconds=0.3)


async def test_tgi_is_ready_only_by_its_health():
    async with Recorded(routes={"/health": (404, b"")}) as server:
        with pytest.raises(BackendUnavailableError, match="did not answer"):
            await limits("tgi", server, ready_seconds=0.3)
    assert "/v1/models" not in server.asked


@pytest.mark.parametrize("end", ["/v1", "/v1/", "/", ""])
async def test_an_address_may_end_in_v1_as_gateways_tell_theirs(end):
    async with Recorded(read("vllm/completion_stop.sse")) as server:
        server.url += end
        assert (await play("openai", server))[0] == " 7"
    assert "/v1/completions" in server.asked
