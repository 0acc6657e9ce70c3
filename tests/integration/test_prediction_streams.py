"""The scheduler's streams to the predictor: whatever a stream does, a prediction is had, and nothing is left behind."""

import asyncio
import random
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import metrics, trace
from opentelemetry.trace import SpanKind

from predictive_scheduling.connection import channel_options
from predictive_scheduling.interceptors import StreamedCalls
from predictive_scheduling.predictor.v1 import predictor_pb2 as pb
from scheduler_service.domain import Job, PredictionOutcome
from scheduler_service.prediction.client import GrpcPredictor
from scheduler_service.prediction.streams import METHOD, PredictionStreams
from tests.integration.running import predictor
from tests.standins.predictor import StreamingPredictor, answers
from tests.waiting import PATIENCE, eventually

FRESH = PredictionOutcome.FRESH


def job(text="What is 1 + 2?"):
    return Job("id", text, "", 0, 64)


@asynccontextmanager
async def asking(address, seconds=PATIENCE, **options):
    """A predictor's client with streams; nothing of them may be left when it is closed."""
    async with grpc.aio.insecure_channel(address, options=channel_options()) as channel:
        calls = StreamedCalls(METHOD, SpanKind.CLIENT, trace.NoOpTracerProvider(), metrics.NoOpMeterProvider())
        streams = PredictionStreams(channel, calls, **options)
        try:
            yield GrpcPredictor(channel, model="", timeout_seconds=seconds, streams=streams), streams
        finally:
            await streams.aclose()
        assert not streams._tasks
        assert not any(kept.stream.waiting for kept in streams._kept)


async def opened(client, streams, count=2):
    """Ask until ``count`` streams are open."""

    async def ready():
        assert [one.outcome for one in await client.predict([job()])] == [FRESH]
        return sum(kept.stream.open for kept in streams._kept) == count

    await eventually(ready)


async def accuracies(client, *lengths):
    """Ask for prompts of these lengths at once, each by a request of its own; the accuracies, times 100."""
    found = await asyncio.gather(*(client.predict([job("x" * length)]) for length in lengths))
    assert [one.outcome for (one,) in found] == [FRESH] * len(lengths)
    return [round(100 * one.curve.accuracy[-1]) for (one,) in found]


async def test_the_first_request_is_a_call_and_the_next_ones_go_by_stream():
    server = StreamingPredictor()
    async with server.running() as address, asking(address) as (client, streams):
        await opened(client, streams)
        calls = server.calls
        assert await accuracies(client, *range(1, 100)) == list(range(1, 100))
    assert (server.calls, server.streams) == (calls, 2)


async def test_a_burst_is_few_messages():
    sizes = []

    async def script(read, write):
        while (message := await read()) is not None:
            sizes.append(len(message.requests))
            await write(pb.PredictStreamResponse(answers=answers(message)))

    server = StreamingPredictor(script)
    async with server.running() as address, asking(address) as (client, streams):
        await opened(client, streams)
        sizes.clear()
        await accuracies(client, *[1] * 60)
    assert sizes == [60]


async def test_answers_in_any_order_reach_who_asked():
    async def script(read, write):
        held, chance = [], random.Random(0)
        while (message := await read()) is not None:
            held += answers(message)
            chance.shuffle(held)
            while held:
                count = chance.randint(1, 5)
                await write(pb.PredictStreamResponse(answers=held[:count]))
                del held[:count]

    async with StreamingPredictor(script).running() as address, asking(address) as (client, streams):
        await opened(client, streams)
        wanted = [random.Random(1).randint(1, 99) for _ in range(200)]
        assert await accuracies(client, *wanted) == wanted


async def test_ids_are_never_used_twice_on_a_stream():
    seen = {}

    async def script(read, write):
        mine = seen.setdefault(object(), [])
        while (message := await read()) is not None:
            mine += [one.id for one in message.requests]
            await write(pb.PredictStreamResponse(answers=answers(message)))

    async with StreamingPredictor(script).running() as address, asking(address) as (client, streams):
        await opened(client, streams)
        for _ in range(20):
            await accuracies(client, *range(1, 11))
    assert sum(map(len, seen.values())) >= 200
    assert all(len(set(ids)) == len(ids) for ids in seen.values())


async def test_a_predictor_without_streams_is_asked_by_calls_and_rarely_for_a_stream():
    now = [0.0]
    server = StreamingPredictor()
    async with server.running(streams=False) as address, asking(address, clock=lambda: now[0]) as (client, streams):
        await accuracies(client, 1)
        await eventually(lambda: _true(streams._pause.until > 30))
        for _ in range(10):
            assert await accuracies(client, 3, 4) == [3, 4]
        assert not streams._kept


async def _true(value):
    return value


async def test_a_late_answer_is_dropped_and_the_stream_goes_on():
    released = asyncio.Event()

    async def script(read, write):
        while (message := await read()) is not None:
            if any("late" in query.text for one in message.requests for query in one.request.queries):
                await released.wait()
            await write(pb.PredictStreamResponse(answers=answers(message)))

    server = StreamingPredictor(script)
    async with server.running() as address, asking(address) as (client, streams):
        await opened(client, streams)
        client._timeout = 0.05
        assert [one.outcome for one in await client.predict([job("late")])] == [PredictionOutcome.TIMEOUT]
        client._timeout = PATIENCE
        released.set()
        calls, opened_before = server.calls, server.streams
        for _ in range(10):
            assert await accuracies(client, 5, 6) == [5, 6]
        assert (server.calls, server.streams) == (calls, opened_before)


async def test_a_stream_that_answers_nothing_any_more_is_given_up():
    frozen = asyncio.Event()

    async def script(read, write):
        while (message := await read()) is not None:
            if frozen.is_set():
                await asyncio.Event().wait()
            await write(pb.PredictStreamResponse(answers=answers(message)))

    server = StreamingPredictor(script)
    async with server.running() as address, asking(address) as (client, streams):
        await opened(client, streams)
        kept = list(streams._kept)
        frozen.set()
        client._timeout = 0.05

        async def left():
            await client.predict([job()])
            return all(one.stream.leaving for one in kept)

        await eventually(left)


async def test_a_server_that_drains_gets_no_more_and_nothing_is_lost():
    draining = asyncio.Event()
    after = []

    async def script(read, write):
        said, mine = False, []
        while (message := await read()) is not None:
            mine += [one.id for one in message.requests]
            if draining.is_set() and not said:
                said = True
                await write(pb.PredictStreamResponse(draining=True))
            await write(pb.PredictStreamResponse(answers=answers(message)))
        if said:
            after.append(len(mine))

    server = StreamingPredictor(script)
    async with server.running() as address, asking(address) as (client, streams):
        await opened(client, streams)
        before = server.streams
        draining.set()
        for _ in range(5):
            assert await accuracies(client, *range(1, 30)) == list(range(1, 30))
        await eventually(lambda: _true(len(after) >= 2))  # the client has closed its side of both
        assert server.streams > before


FAULTS = {
    "ids that were never asked": lambda message: pb.PredictStreamResponse(
        answers=[pb.StreamedAnswer(id=1 << 40, response=pb.PredictResponse())]
    ),
    "answers given twice": lambda message: pb.PredictStreamResponse(answers=answers(message) * 2),
    "no answers": lambda message: pb.PredictStreamResponse(),
    "no message": lambda message: b"\xff\xff\xff",
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("endless", [False, True])
async def test_a_hostile_stream_is_closed_said_and_left_alone_and_predictions_are_had(fault, endless, caplog):
    async def script(read, write):
        while (message := await read()) is not None:
            await write(FAULTS[fault](message))
            while endless:
                await write(FAULTS[fault](message))

    server = StreamingPredictor(script)
    async with server.running() as address, asking(address) as (client, _):

        async def closed():
            assert await accuracies(client, 1, 2, 3) == [1, 2, 3]
            return "a stream of predictions was closed" in caplog.text

        await eventually(closed)
        await accuracies(client, *range(1, 20))
        assert server.streams <= 4


async def test_an_answer_with_neither_result_is_invalid_and_an_error_is_its_outcome():
    wanted = [pb.StreamedAnswer(), pb.StreamedAnswer(error=pb.StreamedError(code=4)),
              pb.StreamedAnswer(error=pb.StreamedError(code=14)), pb.StreamedAnswer(error=pb.StreamedError(code=8)),
              pb.StreamedAnswer(error=pb.StreamedError(code=-5))]  # fmt: skip
    honest = asyncio.Event()

    async def script(read, write):
        while (message := await read()) is not None:
            found = [wanted.pop(0) if honest.is_set() else one for one in answers(message)]
            for one, asked in zip(found, message.requests, strict=True):
                one.id = asked.id
            await write(pb.PredictStreamResponse(answers=found))

    async with StreamingPredictor(script).running() as address, asking(address) as (client, streams):
        await opened(client, streams)
        honest.set()
        found = [(await client.predict([job()]))[0].outcome.name for _ in range(5)]
    assert found == ["INVALID", "TIMEOUT", "UNAVAILABLE", "REFUSED", "REFUSED"]


STEPS = st.lists(
    st.sampled_from(["answer", "hold", "reverse", "drain", "end", "fail", "garbage", "unknown", "twice", "empty"]),
    max_size=30,
)


@settings(max_examples=30, deadline=None)
@given(steps=STEPS)
async def test_whatever_streams_do_every_prediction_is_right_or_none_and_nothing_is_left(steps):
    left = list(steps)

    async def script(read, write):
        held = []
        while (message := await read()) is not None:
            held += answers(message)
            step = left.pop(0) if left else "answer"
            if step == "hold":
                continue
            if step == "reverse":
                held.reverse()
            if step == "drain":
                await write(pb.PredictStreamResponse(draining=True))
            if step == "end":
                return
            if step == "fail":
                raise grpc.aio.AbortError
            if step == "garbage":
                await write(b"\xff\xff")
            if step == "unknown":
                await write(pb.PredictStreamResponse(answers=[pb.StreamedAnswer(id=99999999)]))
            if step == "empty":
                await write(pb.PredictStreamResponse())
            await write(pb.PredictStreamResponse(answers=held * (2 if step == "twice" else 1)))
            held = []

    async with StreamingPredictor(script).running() as address, asking(address, 0.2) as (client, streams):
        for at in range(len(steps) // 3 + 3):
            lengths = [at % 50 + 1, at % 50 + 2]
            found = await asyncio.gather(*(client.predict([job("x" * length)]) for length in lengths))
            for length, (one,) in zip(lengths, found, strict=True):
                assert one.outcome in (FRESH, PredictionOutcome.TIMEOUT, PredictionOutcome.UNAVAILABLE)
                assert one.outcome is not FRESH or round(100 * one.curve.accuracy[-1]) == length
        assert sum(kept.stream.waiting for kept in streams._kept) == 0


async def test_a_predictor_that_is_restarted_is_asked_by_stream_again(unused_tcp_port):
    address = f"127.0.0.1:{unused_tcp_port}"
    async with asking(address) as (client, streams):
        for _ in range(2):
            async with predictor(listen=address):
                await eventually(lambda: _fresh(client))
                await opened(client, streams)
                client._timeout = PATIENCE
            client._timeout = 1.0
            assert [one.outcome for one in await client.predict([job()])] != [FRESH]


async def _fresh(client):
    return [one.outcome for one in await client.predict([job()])] == [FRESH]


async def test_no_prediction_is_lost_while_one_of_two_predictors_drains():
    stop = asyncio.Event()

    async def one():
        async with predictor(lame_duck_seconds=0.5) as address:
            started.set_result(address)
            await stop.wait()

    started = asyncio.get_running_loop().create_future()
    async with predictor() as other, asyncio.TaskGroup() as group:
        group.create_task(one())
        async with asking(f"ipv4:{other},{await started}") as (client, streams):
            await opened(client, streams)
            for at in range(60):
                if at == 20:
                    stop.set()
                found = await asyncio.gather(*(client.predict([job(f"What is {at} + {n}?")]) for n in range(8)))
                assert {prediction.outcome for (prediction,) in found} == {FRESH}
                await asyncio.sleep(0.02)
