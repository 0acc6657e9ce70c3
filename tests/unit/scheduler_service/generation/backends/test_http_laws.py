"""Laws of what servers send: whatever it is, a call ends with an answer within its bounds or with an error of ours."""

import asyncio
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler_service.domain import BackendUnavailableError, PreconditionError, Sampling
from scheduler_service.generation.backends.base import Ended, Piece
from scheduler_service.generation.backends.http import HttpServer
from scheduler_service.generation.backends.llama_cpp import LlamaCppBackend
from scheduler_service.generation.backends.openai import DIALECTS, OpenAiBackend
from scheduler_service.generation.backends.tgi import TgiBackend
from scheduler_service.generation.forcing import Call, Turn
from tests.standins.wire import RAW, encoded, events, mutated

KINDS = ["tgi", "vllm", "sglang", "llama_cpp", "openai"]
CALL = Call("a prompt of some words", 16, (), Turn("u", "", "</think>"))


class Content:
    """The body of an answer."""

    def __init__(self, chunks):
        self.chunks = iter(chunks)

    async def readany(self):
        return next(self.chunks, b"")

    def set_exception(self, error):
        raise error


class Response:
    """An answer with status 200."""

    status, headers, reason = 200, {}, "OK"

    def __init__(self, chunks):
        self.content = Content(chunks)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        pass


class Session:
    """An HTTP session whose every answer is ``chunks``."""

    closed = False

    def __init__(self, chunks):
        self.chunks = chunks

    def post(self, *_, **__):
        return Posting(self.chunks)


class Posting:
    """A request that can be awaited, or entered."""

    def __init__(self, chunks):
        self.chunks = chunks

    def __await__(self):
        yield from ()
        return Response(self.chunks)

    async def __aenter__(self):
        return Response(self.chunks)

    async def __aexit__(self, *_):
        pass


def call(kind, chunks, chat=False):
    """Run a call on a server that answers ``chunks``; returns the pieces, and the error where there was one."""
    server = HttpServer("http://h:1")
    server._session = Session(chunks)
    match kind:
        case "tgi":
            backend = TgiBackend(server)
        case "llama_cpp":
            backend = LlamaCppBackend(server)
        case _:
            backend = OpenAiBackend(server, DIALECTS[kind], chat=chat)
    pieces = []

    async def read():
        try:
            async for piece in backend.stream(CALL, Sampling(), {}):
                pieces.append(piece)  # noqa: PERF401  # an error must not lose those that came before it
        except (BackendUnavailableError, PreconditionError) as error:
            return error
        return None

    return pieces, asyncio.run(read())


def holds(pieces, error):
    """The law."""
    ends = [piece for piece in pieces if isinstance(piece, Ended)]
    assert (len(ends) == 1 and pieces[-1] is ends[0]) if error is None else not ends
    assert all(0 <= end.prompt_tokens < 1 << 20 for end in ends)
    texts = [piece for piece in pieces if isinstance(piece, Piece)]
    assert all(piece.tokens >= 0 for piece in texts)
    assert sum(len(piece.text) for piece in texts) < 100_000
    for piece in texts:
        piece.text.encode()  # protobuf takes it
    if error is not None:
        assert "h:1" not in str(error)
        assert len(str(error)) < 400


@settings(max_examples=400)
@given(
    st.sampled_from(KINDS),
    st.booleans(),
    st.integers(0, 2**32),
    st.integers(1, 20),
    st.sampled_from(["length", "stop"]),
)
def test_streams_that_are_nearly_right_end_well_or_with_an_error_of_ours(kind, chat, seed, tokens, ends):
    rng = random.Random(seed)
    lines = mutated(rng, events(kind, tokens, ends=ends, chat=chat))
    holds(*call(kind, lines, chat))


@settings(max_examples=200)
@given(st.sampled_from(KINDS), st.lists(st.binary(max_size=200) | st.sampled_from(RAW), max_size=8))
def test_any_bytes_end_with_an_error_of_ours_or_an_answer(kind, chunks):
    holds(*call(kind, [chunk for chunk in chunks if chunk]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ends", ["length", "stop"])
def test_streams_that_are_right_are_read(kind, ends):
    pieces, error = call(kind, [encoded(event) for event in events(kind, 3, ends=ends)])
    assert error is None
    assert pieces[:3] == [Piece(" 1", 1), Piece(" 2", 1), Piece(" 3", 1)]
    assert (pieces[3].end.value, pieces[3].prompt_tokens) == ("length" if ends == "length" else "model", 5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("nothing", [b"data:\n\n", b"data: \r\n\r\n", b"data:\ndata:\n\n", b":\n\n", b"\n\n"])
def test_events_without_data_keep_a_stream_alive_and_do_not_end_it(kind, nothing):
    stream = [part for event in events(kind, 3) for part in (nothing, encoded(event))]
    assert call(kind, [*stream, nothing]) == call(kind, [encoded(event) for event in events(kind, 3)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("odd", [-7, 10**12, 10**30, 0, None])
def test_an_absurd_number_of_prompt_tokens_is_dropped_and_the_answer_kept(kind, odd):
    stream = events(kind, 3)
    if kind == "tgi":
        stream[-1]["details"]["input_length"] = odd
    elif kind == "llama_cpp":
        stream[-1]["tokens_evaluated"] = odd
    else:
        for event in stream:
            if "usage" in event:
                event["usage"]["prompt_tokens"] = odd
    pieces, error = call(kind, [encoded(event) for event in stream])
    assert error is None
    assert pieces[-1].prompt_tokens == 0


@pytest.mark.parametrize("odd", [-7, 17, 10**9, 10**30, 0, None])
def test_an_absurd_number_of_generated_tokens_is_dropped_and_texts_are_counted(odd):
    stream = events("vllm", 3)
    for event in stream:
        if "usage" in event:
            event["usage"]["completion_tokens"] = odd
    pieces, error = call("vllm", [encoded(event) for event in stream[:-2]] + [encoded(stream[-2])])
    assert error is None
    assert [piece.tokens for piece in pieces[:3]] == [1, 1, 1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("raw", RAW[:2] + RAW[4:7])
def test_an_event_that_is_none_is_the_servers_fault(kind, raw):
    pieces, error = call(kind, [raw])
    assert pieces == []
    assert isinstance(error, BackendUnavailableError)


@pytest.mark.parametrize("kind", ["vllm", "sglang", "openai"])
@pytest.mark.parametrize("odd", [5, "text", "\ud800", [1], [[]], {"completion_tokens": "many"}])
def test_trouble_after_the_finish_reason_loses_no_answer(kind, odd):
    stream = [encoded(event) for event in events(kind, 3)[:-1]]
    pieces, error = call(kind, [*stream, encoded({"usage": odd})])
    assert error is None
    assert Counter(type(piece) for piece in pieces) == {Piece: 3, Ended: 1}


def test_a_call_cut_before_its_first_token_is_the_servers_fault():
    for kind in KINDS:
        empty = {"tgi": [], "llama_cpp": [{"content": "", "stop": True, "stop_type": "limit"}]}
        stream = empty.get(kind, [{"choices": [{"text": "", "finish_reason": "length"}]}])
        pieces, error = call(kind, [encoded(event) for event in stream])
        assert pieces == []
        assert isinstance(error, BackendUnavailableError)
