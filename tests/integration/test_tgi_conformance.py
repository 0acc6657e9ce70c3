"""Hugging Face's own clients read our TGI stand-in, so that what passes against it passes against TGI."""

import gc
import importlib.metadata
import io
import json

import aiohttp
import pytest
import text_generation
from huggingface_hub import AsyncInferenceClient
from huggingface_hub.errors import TextGenerationError
from text_generation.errors import GenerationError, OverloadedError, ValidationError

from tests.standins.tgi import MAX_BODY, TgiStandIn

# text-generation 0.7.0, the last release, speaks the Pydantic of its day; both clients leave connections open.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def collected():
    """Collect what the clients left behind here, where its warnings are expected."""
    yield
    gc.collect()


def speaker(prompt):
    return ["Hello", " ", "wörld", "!"]


async def test_the_hub_client_streams_tokens_and_details():
    async with TgiStandIn(speaker, keep_alive_every=2) as tgi:
        client = AsyncInferenceClient(model=tgi.url)
        stream = await client.text_generation("hi there", max_new_tokens=20, stream=True, details=True)
        events = [event async for event in stream]
    assert "".join(e.token.text for e in events if not e.token.special) == "Hello wörld!"
    assert events[-1].generated_text == "Hello wörld!"
    assert events[-1].details.finish_reason == "eos_token"
    assert events[-1].details.generated_tokens == 5
    assert events[0].generated_text is None


async def test_the_hub_client_reads_a_whole_reply_and_stops():
    async with TgiStandIn(speaker) as tgi:
        client = AsyncInferenceClient(model=tgi.url)
        whole = await client.text_generation("hi", max_new_tokens=3, details=True)
        stopped = await client.text_generation("hi", max_new_tokens=20, stop=[" "], details=True)
    assert (whole.generated_text, whole.details.finish_reason) == ("Hello wörld", "length")
    assert (stopped.generated_text, stopped.details.finish_reason) == ("Hello ", "stop_sequence")


async def test_the_hub_client_understands_an_error_within_a_stream():
    async with TgiStandIn(speaker, fail_after=2) as tgi, AsyncInferenceClient(model=tgi.url) as client:
        stream = await client.text_generation("hi", max_new_tokens=20, stream=True, details=True)
        with pytest.raises(TextGenerationError, match="failed during generation"):
            [event async for event in stream]


async def test_the_text_generation_client_streams_and_generates():
    async with TgiStandIn(speaker, keep_alive_every=2) as tgi:
        client = text_generation.AsyncClient(tgi.url)
        events = [event async for event in client.generate_stream("hi there", max_new_tokens=20)]
        whole = await client.generate("hi there", max_new_tokens=20)
    assert events[-1].generated_text == whole.generated_text == "Hello wörld!"
    assert events[-1].details.finish_reason.value == "eos_token"
    assert whole.details.generated_tokens == 5


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"overloaded": True}, OverloadedError),
        ({"fail_after": 1}, GenerationError),
        ({"max_input_tokens": 1}, ValidationError),
    ],
)
async def test_the_text_generation_client_names_the_errors_of_a_stream(fault, error):
    async with TgiStandIn(speaker, **fault) as tgi:
        client = text_generation.AsyncClient(tgi.url)
        with pytest.raises(error):
            [event async for event in client.generate_stream("hi there", max_new_tokens=20)]


@pytest.mark.parametrize(
    "parameters",
    [{"temperature": 0}, {"top_p": 1.0}, {"top_k": 0}, {"max_new_tokens": 0}, {"stop": list("abcde")}, {"best_of": 2}],
)
async def test_a_stream_refuses_with_status_200_and_an_event_where_other_routes_use_422(parameters):
    body = {"inputs": "hi", "parameters": parameters}
    async with TgiStandIn(speaker) as tgi, aiohttp.ClientSession() as session:
        async with session.post(f"{tgi.url}/generate_stream", json=body) as response:
            lines = [line for line in (await response.text()).splitlines() if line]
        async with session.post(f"{tgi.url}/generate", json=body) as plain:
            status, reply = plain.status, await plain.json()
    assert response.status == 200
    assert json.loads(lines[0].removeprefix("data: "))["error_type"] == "validation"
    if "best_of" not in parameters:
        assert (status, reply["error_type"]) == (422, "validation")


async def test_malformed_and_oversized_bodies_and_missing_tokens_are_refused_in_plain_text():
    async with TgiStandIn(speaker, require_token="secret") as tgi, aiohttp.ClientSession() as session:
        allowed = {"Authorization": "Bearer secret"}
        async with session.post(f"{tgi.url}/generate", data=b"{", headers=allowed) as response:
            assert response.status == 400
            assert response.content_type == "text/plain"
        async with session.post(
            f"{tgi.url}/generate", data=io.BytesIO(b"x" * (MAX_BODY + 1)), headers=allowed
        ) as response:
            assert response.status == 413
        async with session.post(f"{tgi.url}/generate", json={"inputs": "hi"}) as response:
            assert response.status == 401
            assert await response.text() == ""


async def test_more_than_1024_new_tokens_are_counted_in_chunks_of_1024():
    async with TgiStandIn(lambda _: ["x"] * 5000, max_total_tokens=8192) as tgi, aiohttp.ClientSession() as session:
        for asked, got in ((1024, 1024), (1500, 2048)):
            body = {"inputs": "hi", "parameters": {"max_new_tokens": asked, "details": True}}
            async with session.post(f"{tgi.url}/generate", json=body) as response:
                assert (await response.json())["details"]["generated_tokens"] == got


def test_the_deprecated_client_is_the_last_release():
    assert importlib.metadata.version("text-generation") == "0.7.0"
