"""PredictStream of the real predictor: each request is answered as by Predict, whatever else it carries."""

import asyncio
import logging
import random
from contextlib import asynccontextmanager, suppress

import grpc
import grpc.aio
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from predictive_scheduling.predictor.v1 import predictor_pb2 as pb
from predictive_scheduling.predictor.v1 import predictor_pb2_grpc
from predictive_scheduling.telemetry import Telemetry
from predictor_service.model import LoadedModel
from predictor_service.wire import stream as wire
from tests.integration.models import hidden_state_model
from tests.integration.running import predictor
from tests.waiting import PATIENCE, eventually


def state(value, **fields):
    return pb.Query(hidden_state=pb.HiddenState(values=[value, 0, 0, 0], layer=3), **fields)


def streamed(request_id, *queries, **fields):
    return pb.StreamedRequest(id=request_id, request=pb.PredictRequest(queries=queries), **fields)


def sent(*requests):
    return pb.PredictStreamRequest(requests=requests)


async def read(call):
    async with asyncio.timeout(PATIENCE):
        return await call.read()


async def answered(call, count):
    """The next ``count`` answers, by id."""
    found = {}
    while len(found) < count:
        for one in (await read(call)).answers:
            assert one.id not in found
            found[one.id] = one
    return found


@asynccontextmanager
async def serving(folder, **options):
    """A predictor of a model whose curves begin with the sigmoid of what it is asked; yields a stub."""
    if not (folder / "hidden").exists():
        hidden_state_model(folder / "hidden")
    async with predictor(folder, default_model="hidden", **options) as address:
        async with grpc.aio.insecure_channel(address) as channel:
            yield predictor_pb2_grpc.PredictorServiceStub(channel)


@pytest.fixture
async def stub(tmp_path):
    async with serving(tmp_path) as found:
        yield found


@pytest.fixture
def slow(monkeypatch):
    """Batches that end when the event is set; returns the event and the sizes of the batches."""
    import threading

    released, sizes, run = threading.Event(), [], LoadedModel.run

    def wait(self, queries):
        sizes.append(len(queries))
        released.wait(PATIENCE)
        return run(self, queries)

    monkeypatch.setattr(LoadedModel, "run", wait)
    yield released, sizes
    released.set()


def sigmoid(value):
    return pytest.approx(1 / (1 + np.exp(-value)), abs=1e-5)


async def test_a_burst_is_answered_each_by_its_id_and_the_stream_ends_when_the_client_closes_its_side(stub):
    call = stub.PredictStream()
    await call.write(sent(*(streamed(1000 - at, state(at / 50)) for at in range(100))))
    found = await answered(call, 100)
    for at in range(100):
        assert found[1000 - at].response.predictions[0].curve[0] == sigmoid(at / 50)
    await call.done_writing()
    assert await read(call) is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_a_burst_runs_as_one_batch_and_is_answered_in_one_message(tmp_path, slow):
    released, sizes = slow
    released.set()
    async with serving(tmp_path) as stub:
        call = stub.PredictStream()
        await call.write(sent(streamed(0, state(0))))
        await read(call)
        sizes.clear()
        await call.write(sent(*(streamed(1 + at, state(at)) for at in range(50))))
        assert len((await read(call)).answers) == 50
        call.cancel()
    assert sizes == [50]


async def test_by_stream_is_as_by_call(stub):
    """But for the times and what a batch of another size does to the last bits."""
    call = stub.PredictStream()
    queries = [state(at / 10) for at in range(200)]  # more than a batch
    await call.write(sent(streamed(7, *queries)))
    by_stream = (await answered(call, 1))[7].response
    by_call = await stub.Predict(pb.PredictRequest(queries=queries))
    for one in (by_stream, by_call):
        one.ClearField("queue_seconds")
        one.ClearField("tokenize_seconds")
        one.ClearField("inference_seconds")
    assert by_stream == by_call
    call.cancel()


FAULTY = {
    "nothing": (pb.StreamedRequest(), 3, "request"),
    "no queries": (streamed(0), 3, "queries"),
    "empty": (streamed(0, pb.Query()), 3, "queries[0]"),
    "text": (streamed(0, pb.Query(text="x")), 9, "queries[0].hidden_state"),
    "nan": (streamed(0, state(float("nan"))), 3, "queries[0].hidden_state.values[0]"),
    "model": (pb.StreamedRequest(request=pb.PredictRequest(model="no", queries=[state(1)])), 9, "model"),
    "trace": (streamed(0, state(0), trace_context={str(at): "" for at in range(9)}), 3, "trace_context"),
    "too much": (streamed(0, *[state(0)] * 101), 8, ""),
}


async def test_a_faulty_request_gets_the_status_of_predict_and_leaves_the_others_alone(tmp_path):
    async with serving(tmp_path, max_queued_queries=100) as stub:
        call = stub.PredictStream()
        wrong = []
        for at, (one, _, _) in enumerate(FAULTY.values()):
            wrong.append(pb.StreamedRequest.FromString(one.SerializeToString()))
            wrong[-1].id = at
        await call.write(sent(*wrong, streamed(100, state(1))))
        found = await answered(call, len(FAULTY) + 1)
        for at, (_, code, field) in enumerate(FAULTY.values()):
            assert found[at].error.code == code
            assert found[at].error.message.startswith(field)
        assert found[100].response.predictions[0].curve[0] == sigmoid(1)
        await call.write(sent(streamed(101, state(2))))
        assert (await answered(call, 1))[101].response.predictions[0].curve[0] == sigmoid(2)
        call.cancel()


@pytest.mark.parametrize("message", [b"\xff\xff", b"\x0a\x02\x0a", b""])
async def test_what_is_no_message_ends_the_stream_once_the_others_are_answered(tmp_path, message):
    async with serving(tmp_path):
        pass
    async with predictor(tmp_path, default_model="hidden") as address, grpc.aio.insecure_channel(address) as channel:
        call = channel.stream_stream(
            "/predictive_scheduling.predictor.v1.PredictorService/PredictStream",
            response_deserializer=pb.PredictStreamResponse.FromString,
        )()
        await call.write(sent(streamed(3, state(1))).SerializeToString())
        await call.write(message)
        assert set(await answered(call, 1)) == {3}
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read(call)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_request_that_waits_beyond_its_time_is_told_and_never_runs(tmp_path, slow):
    released, sizes = slow
    released.set()
    async with serving(tmp_path) as stub:
        released.clear()
        sizes.clear()
        call = stub.PredictStream()
        await call.write(sent(streamed(0, state(0))))
        await eventually(lambda: _true(sizes))
        await call.write(sent(streamed(1, state(1), timeout_ms=20), streamed(2, state(2), timeout_ms=600_000)))
        assert (await answered(call, 1))[1].error.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
        released.set()
        assert set(await answered(call, 2)) == {0, 2}
        call.cancel()
    assert sum(sizes) == 2


async def _true(value):
    return bool(value)


async def test_a_client_that_does_not_read_is_not_read_either(tmp_path, slow, monkeypatch):
    released, _ = slow
    released.set()
    taken, take = [], wire.PredictionStream._take

    def counted(self, message):
        taken.append(len(message.requests))
        return take(self, message)

    monkeypatch.setattr(wire.PredictionStream, "_take", counted)
    async with serving(tmp_path, max_queued_queries=100_000) as stub:
        released.clear()
        call = stub.PredictStream()
        for first in range(0, 5000, 100):
            await call.write(sent(*(streamed(first + at, state(0)) for at in range(100))))
        await eventually(lambda: _true(sum(taken) >= wire.MOST_UNANSWERED))
        await asyncio.sleep(0.2)
        assert sum(taken) < wire.MOST_UNANSWERED + 100
        released.set()
        assert len(await answered(call, 5000)) == 5000
        call.cancel()


async def test_a_client_that_leaves_leaves_nothing_behind(tmp_path, slow, caplog):
    released, sizes = slow
    released.set()
    async with serving(tmp_path) as stub:
        released.clear()
        sizes.clear()
        call = stub.PredictStream()
        await call.write(sent(streamed(0, state(0))))
        await eventually(lambda: _true(sizes))
        await call.write(sent(*(streamed(1 + at, state(at)) for at in range(100))))
        await asyncio.sleep(0.1)
        call.cancel()
        await asyncio.sleep(0.1)
        released.set()
        await stub.Predict(pb.PredictRequest(queries=[state(1)]))
    assert sum(sizes) == 2
    assert not [line for line in caplog.records if line.levelno >= logging.ERROR]


@pytest.mark.parametrize("closes", [True, False])
async def test_a_drain_is_said_what_was_sent_is_answered_and_the_stream_ends_with_ok(tmp_path, slow, closes, caplog):
    released, sizes = slow
    released.set()
    stop = asyncio.Event()
    started = asyncio.get_running_loop().create_future()
    hidden_state_model(tmp_path / "hidden")

    async def serve():
        async with predictor(tmp_path, default_model="hidden", drain_seconds=4.0 if closes else 1.0) as address:
            started.set_result(address)
            await stop.wait()

    async with asyncio.TaskGroup() as group:
        group.create_task(serve())
        async with grpc.aio.insecure_channel(await started) as channel:
            released.clear()
            sizes.clear()
            call = predictor_pb2_grpc.PredictorServiceStub(channel).PredictStream()
            await call.write(sent(streamed(0, state(0))))
            await eventually(lambda: _true(sizes))
            await call.write(sent(*(streamed(1 + at, state(at)) for at in range(20))))
            await asyncio.sleep(0.05)
            stop.set()
            assert (await read(call)).draining
            await call.write(sent(streamed(50, state(0))))  # it crossed the word
            if closes:
                await call.done_writing()
            released.set()
            assert set(await answered(call, 22)) == {*range(21), 50}
            assert await read(call) is grpc.aio.EOF
            assert await call.code() is grpc.StatusCode.OK
    assert not [line for line in caplog.records if line.levelno >= logging.ERROR]


async def test_an_answer_that_no_client_would_take_is_an_error_of_its_own(stub, monkeypatch):
    monkeypatch.setattr(wire, "_MOST_ANSWER_BYTES", 2000)
    call = stub.PredictStream()
    await call.write(sent(streamed(0, *[state(0)] * 64), streamed(1, state(0))))
    found = await answered(call, 2)
    assert found[0].error.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert found[1].HasField("response")
    call.cancel()


async def test_a_failure_of_ours_is_one_requests_and_logged(tmp_path, monkeypatch, caplog):
    def fails(self, queries):
        raise ZeroDivisionError

    async with serving(tmp_path) as stub:
        call = stub.PredictStream()
        await call.write(sent(streamed(0, state(0))))
        await answered(call, 1)
        with monkeypatch.context() as patched:
            patched.setattr(LoadedModel, "run", fails)
            await call.write(sent(streamed(1, state(0))))
            assert (await answered(call, 1))[1].error.code == grpc.StatusCode.UNKNOWN.value[0]
        await call.write(sent(streamed(2, state(0))))
        assert (await answered(call, 1))[2].HasField("response")
        call.cancel()
    assert "a request on a stream failed" in caplog.text


async def test_models_on_trial_get_their_share_by_stream(tmp_path):
    hidden_state_model(tmp_path / "new", name="new", version="2", scale=2.0)
    hidden_state_model(tmp_path / "hidden")
    async with serving(tmp_path, canary="hidden=new:0.5") as stub:
        call = stub.PredictStream()
        await call.write(sent(*(streamed(at, state(at / 100)) for at in range(100))))
        found = await answered(call, 100)
        by_call = [(await stub.Predict(pb.PredictRequest(queries=[state(at / 100)]))).canary for at in range(100)]
        call.cancel()
    assert [found[at].response.canary for at in range(100)] == by_call
    assert len(set(by_call)) == 2


async def test_requests_by_stream_are_measured_like_calls(tmp_path):
    page = InMemoryMetricReader()
    async with serving(tmp_path, reporting=Telemetry(meters=MeterProvider([page]))) as stub:
        call = stub.PredictStream()
        await call.write(sent(*(streamed(at, state(0)) for at in range(5)), streamed(5, pb.Query())))
        await answered(call, 6)
        call.cancel()
        data = page.get_metrics_data()
    points = {
        metric.name: list(metric.data.data_points)
        for resource in data.resource_metrics for scope in resource.scope_metrics for metric in scope.metrics
    }  # fmt: skip
    assert [point.value for point in points["predictive_scheduling.predictor.queries"]] == [5]
    durations = {
        point.attributes["rpc.response.status_code"]: point.count for point in points["rpc.server.call.duration"]
    }
    assert durations == {"OK": 5, "INVALID_ARGUMENT": 1}


@settings(max_examples=25, deadline=None)
@given(data=st.data())
async def test_however_requests_are_put_into_messages_each_is_answered_once_and_rightly(data, tmp_path_factory):
    sizes = data.draw(st.lists(st.integers(1, 70), min_size=1, max_size=12))
    faulty = data.draw(st.sets(st.integers(0, len(sizes) - 1)))
    asked = [
        streamed(at, *([pb.Query()] if at in faulty else [state(at + n / 100) for n in range(size)]))
        for at, size in enumerate(sizes)
    ]
    async with serving(tmp_path_factory.mktemp("models")) as stub:
        call = stub.PredictStream()
        rest = list(asked)
        while rest:
            count = data.draw(st.integers(1, len(rest)))
            await call.write(sent(*rest[:count]))
            del rest[:count]
        await call.done_writing()
        found = await answered(call, len(sizes))
        assert await read(call) is grpc.aio.EOF
    for at, size in enumerate(sizes):
        if at in faulty:
            assert found[at].error.code == 3
        else:
            curves = [prediction.curve[0] for prediction in found[at].response.predictions]
            assert curves == [sigmoid(at + n / 100) for n in range(size)]


async def test_clients_that_leave_at_any_moment_leave_no_error_and_no_task(tmp_path, caplog):
    chance = random.Random(1)

    async def leaves(stub, reads, cancels):
        call = stub.PredictStream()
        reading = asyncio.create_task(_read_all(call)) if reads else None
        with suppress(TimeoutError):
            async with asyncio.timeout(chance.random() / 3):
                while True:
                    await call.write(sent(*(streamed(at, state(0)) for at in range(chance.randint(1, 50)))))
                    await asyncio.sleep(chance.random() / 100)
        if cancels:
            call.cancel()
        if reading is not None:
            reading.cancel()

    async with serving(tmp_path) as stub:
        await asyncio.gather(*(leaves(stub, at % 3, at % 2) for at in range(30)))
        response = await stub.Predict(pb.PredictRequest(queries=[state(1)]))
        assert response.predictions[0].curve[0] == sigmoid(1)
    assert not [task for task in asyncio.all_tasks() if "PredictionStream" in repr(task)]
    assert not [line for line in caplog.records if line.levelno >= logging.ERROR]


async def _read_all(call):
    while await call.read() is not grpc.aio.EOF:
        pass
