"""The scheduler's edge to the predictor, against servers that answer what no predictor would."""

import asyncio
import signal
import sys
import tracemalloc
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import given, settings
from hypothesis import strategies as st

from predictive_scheduling import AsyncSchedulerClient
from predictive_scheduling.budget_points import evenly_spaced
from predictive_scheduling.predictor.v1 import predictor_pb2 as pb
from scheduler_service.allocation.curve import Curve
from scheduler_service.domain import NO_CURVE, HiddenState, Job, PredictionOutcome
from scheduler_service.prediction.client import GrpcPredictor
from tests.integration.running import balanced, scheduler
from tests.standins.backend import ScriptedBackend
from tests.unit.scheduler_service.prediction.test_answers_laws import MODELS, PREDICTIONS
from tests.waiting import eventually

FRESH, INVALID, TIMEOUT = PredictionOutcome.FRESH, PredictionOutcome.INVALID, PredictionOutcome.TIMEOUT
RISING = [(at + 1) / 20 for at in range(16)]


def model(**fields):
    whole = {"name": "m", "version": "1", "windows": 16, "budget_window_tokens": 16, "takes_text": True}
    return pb.Model(**{**whole, "max_text_bytes": 100, "mean_curve": [0.5] * 16, **fields})


def response(*curves, **fields):
    predictions = [pb.Prediction(status=pb.PREDICTION_STATUS_OK, curve=curve) for curve in curves]
    return pb.PredictResponse(
        **{"model": "m", "version": "1", "budget_window_tokens": 16, "predictions": predictions, **fields}
    )


class Scripted:
    """A predictor that answers GetModel and Predict with what it is told to: messages, bytes, statuses, or nothing."""

    def __init__(self):
        self.model, self.response = model(), response(RISING)
        self.calls = []

    async def _answer(self, name, context):
        self.calls.append(name)
        said = self.model if name == "GetModel" else self.response
        if isinstance(said, pb.Model):
            said = pb.GetModelResponse(model=said)
        if said is None:
            await asyncio.Event().wait()
        if isinstance(said, grpc.StatusCode):
            await context.abort(said, "no")
        return said.SerializeToString() if isinstance(said, Message) else said

    @asynccontextmanager
    async def running(self):
        def handler(name):
            async def handle(_, context):
                return await self._answer(name, context)

            return grpc.unary_unary_rpc_method_handler(handle)

        handlers = {name: handler(name) for name in ("GetModel", "Predict")}
        server = grpc.aio.server()
        service = pb.DESCRIPTOR.services_by_name["PredictorService"].full_name
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            await server.stop(None)


@pytest.fixture
async def scripted():
    server = Scripted()
    async with server.running() as address, grpc.aio.insecure_channel(address) as channel:
        yield server, GrpcPredictor(channel, model="", timeout_seconds=10.0)


def job(prompt="q", **fields):
    return Job("id", prompt, "", 0, 64, **fields)


async def outcomes(predictor, *jobs):
    return [prediction.outcome for prediction in await predictor.predict(jobs or [job()])]


async def test_a_sound_curve_is_fresh_and_its_dips_are_filled(scripted):
    server, predictor = scripted
    server.response = response([0.25, 0.5, 0.375, *[0.75] * 13])
    (found,) = await predictor.predict([job()])
    assert (found.outcome, found.predictor) == (FRESH, "m@1")
    assert found.curve == Curve(evenly_spaced(16, 16), (0.25, 0.5, 0.5, *[0.75] * 13))


@pytest.mark.parametrize("mean", [[float("nan")] * 16, [0.5] * 15, [0.5] * 6000, [2.0] * 16])
async def test_a_mean_curve_that_is_none_is_left_out_and_said_once(scripted, caplog, mean):
    server, predictor = scripted
    server.model = model(mean_curve=mean)
    for _ in range(3):
        assert await outcomes(predictor) == [FRESH]
    assert predictor.mean_curve("m@1") == NO_CURVE
    assert caplog.text.count("mean_curve") == 1


async def test_points_that_are_not_evenly_spaced_come_with_what_they_use(scripted):
    server, predictor = scripted
    points = [0, 256, 1024, 8192]
    server.model = model(windows=4, budget_window_tokens=0, budget_points=points, mean_curve=[0.5] * 4)
    server.response = response(budget_points=points, budget_window_tokens=0)
    server.response.predictions.add(
        status=pb.PREDICTION_STATUS_OK, curve=[0.1, 0.25, 0.5, 0.75], used_tokens=[0, 250, 700, 650]
    )
    (found,) = await predictor.predict([job()])
    assert found.curve.points == (0, 256, 1024, 8192)
    assert found.curve.accuracy == pytest.approx((0.1, 0.25, 0.5, 0.75))
    assert found.curve.used == (0.0, 250.0, 700.0, 700.0)
    assert predictor.points() == (0, 256, 1024, 8192)
    server.response.predictions[0].used_tokens[:] = [0, 257, 700, 900]  # more than its budget
    assert await outcomes(predictor) == [INVALID]
    server.response.predictions[0].used_tokens[:] = [0, 250, 700, 900]
    server.response.budget_points[1] = 128  # not those of GetModel
    assert await outcomes(predictor) == [INVALID]


async def test_unsound_answers_are_invalid_and_said_a_few_times_only(scripted, caplog):
    server, predictor = scripted
    for at in range(30):
        server.response = response([0.5] * (17 + at))
        assert await outcomes(predictor) == [INVALID]
    assert len(caplog.records) == 1
    server.response = response(RISING)
    assert await outcomes(predictor) == [FRESH]


async def test_a_model_that_is_exchanged_is_described_anew(scripted):
    server, predictor = scripted
    assert await outcomes(predictor) == [FRESH]
    server.model, server.response = (
        model(version="2", windows=8, mean_curve=[0.1] * 8),
        response([0.5] * 8, version="2"),
    )
    (found,) = await predictor.predict([job()])
    assert (found.outcome, len(found.curve.points), found.predictor) == (FRESH, 8, "m@2")
    assert predictor.mean_curve("m@2").accuracy == pytest.approx([0.1] * 8)
    server.response = response([0.5] * 8, version="1")  # another replica has the old one
    assert await outcomes(predictor) == [INVALID]


async def test_names_that_change_with_every_answer_take_bounded_memory(scripted, monkeypatch):
    monkeypatch.setattr("scheduler_service.prediction.client._MOST_LABELS", 50)
    server, predictor = scripted
    for at in range(100):
        server.model, server.response = model(version=str(at)), response(RISING, version=str(at))
        assert await outcomes(predictor) == [FRESH if at < 50 else INVALID]
    assert len(predictor._known) <= 32
    server.model, server.response = model(version="7"), response(RISING, version="7")
    assert await outcomes(predictor) == [FRESH]


@pytest.mark.parametrize("raw", [b"\xff\xff\xff", b"\x0a\xff", b"\x0a\x02\x0a", bytes(100)])
@pytest.mark.parametrize("method", ["model", "response"])
async def test_bytes_that_are_no_message_are_no_prediction(scripted, raw, method):
    server, predictor = scripted
    setattr(server, method, raw)
    (found,) = await outcomes(predictor)
    assert found is not FRESH


async def test_a_message_beyond_the_limit_is_no_prediction(scripted):
    server, predictor = scripted
    server.response = response([0.5] * (2 << 20))
    assert await outcomes(predictor) != [FRESH]


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
async def test_every_status_is_a_reason(scripted, code):
    server, predictor = scripted
    server.response = code
    assert await outcomes(predictor) != [FRESH]
    server.response = response(RISING)
    assert await outcomes(predictor) == [FRESH]


async def test_what_the_model_does_not_take_is_refused_without_asking_even_while_it_hangs(scripted):
    server, predictor = scripted
    long = job("x" * 101)
    assert not predictor.refuses(long), "nothing is known yet"
    assert await outcomes(predictor, long, job()) == [PredictionOutcome.REFUSED, FRESH]
    predictor._timeout = 0.01
    server.response = None
    assert await outcomes(predictor) == [TIMEOUT]
    assert predictor.refuses(long)
    assert not predictor.refuses(job())
    server.model = model(version="2", max_text_bytes=200)
    predictor._timeout = 10.0
    server.response = response(RISING, version="2")
    assert await outcomes(predictor) == [FRESH]
    assert not predictor.refuses(long)


async def test_what_a_model_takes_is_asked_again_after_a_while():
    server, now = Scripted(), [0.0]
    async with server.running() as address, grpc.aio.insecure_channel(address) as channel:
        predictor = GrpcPredictor(channel, model="", timeout_seconds=10.0, info_seconds=60.0, clock=lambda: now[0])
        assert await outcomes(predictor) == [FRESH]
        server.model = model(takes_text=False, hidden_size=2)
        assert predictor.refuses(job("x" * 101))
        now[0] = 61.0
        assert not predictor.refuses(job("x" * 101))
        assert await outcomes(predictor) == [PredictionOutcome.REFUSED]
        assert await outcomes(predictor, job(hidden_state=HiddenState((1.0, 2.0)))) == [FRESH]


async def test_what_a_model_takes_is_asked_again_also_where_no_prediction_is_asked_for_and_once_where_nobody_answers():
    server, now = Scripted(), [0.0]
    async with server.running() as address, grpc.aio.insecure_channel(address) as channel:
        predictor = GrpcPredictor(channel, model="", timeout_seconds=10.0, info_seconds=60.0, clock=lambda: now[0])
        assert (await predictor.info()).hidden_size == 0
        server.model = model(takes_text=False, hidden_size=2)
        assert (await predictor.info()).hidden_size == 0
        now[0] = 61.0
        assert (await predictor.info()).hidden_size == 2
        server.model = grpc.StatusCode.UNAVAILABLE
        now[0] = 122.0
        before = len(server.calls)
        assert [(await predictor.info()).hidden_size for _ in range(3)] == [2] * 3
        assert len(server.calls) == before + 1


def endless(prompt):
    return [" 7", "\n\n"] if prompt.endswith("Final answer:") else ["t"] * 4000


@pytest.mark.parametrize("policy", ["price", "envelope"])
async def test_a_mean_curve_that_is_none_leaves_the_prediction_as_it_is_whatever_the_confidence(policy):
    """With a NaN mean curve, confidence gave 16 tokens where uniform gives 64."""
    budgets = {}
    for name, mean in (("nan", [float("nan")] * 16), ("none", [])):
        server = Scripted()
        server.model = model(mean_curve=mean)
        settings = {"policy": policy, "confidence": 1.0, "cap_tokens": 256, "predictor_timeout_ms": 5000}
        async with server.running() as address:
            async with scheduler(ScriptedBackend(endless), predictor=address, **settings) as listening:
                async with AsyncSchedulerClient(listening) as client:
                    budgets[name] = (await client.complete("q")).allocation.reasoning_budget_tokens
    assert budgets["nan"] == budgets["none"]


ANSWERS = st.tuples(
    st.just(model()) | MODELS | st.binary(max_size=60),
    st.builds(
        pb.PredictResponse, model=st.sampled_from(["m", "", "x" * 300]), version=st.sampled_from(["1", "2"]),
        budget_window_tokens=st.sampled_from([16, 16, 16, 0, 7]), canary=st.booleans(),
        predictions=st.lists(PREDICTIONS, min_size=1, max_size=2),
    )
    | st.binary(max_size=60) | st.sampled_from(list(grpc.StatusCode)[1:]),
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(answers=st.lists(ANSWERS, min_size=1, max_size=8), policy=st.sampled_from(["price", "envelope", "greedy"]))
async def test_whatever_a_predictor_answers_every_request_is_served_and_the_ledger_balances(answers, policy):
    server = Scripted()
    options = {"policy": policy, "cap_tokens": 128, "confidence": 1.0, "window_ms": 0.0}
    async with server.running() as address:
        async with scheduler(ScriptedBackend(endless), predictor=address, **options) as listening:
            async with AsyncSchedulerClient(listening) as client:
                for at, (server.model, server.response) in enumerate(answers):
                    done = await client.complete(f"question {at}")
                    assert done.answer
                    assert done.allocation.reasoning_budget_tokens <= 128
                budget = await balanced(client)
    assert sum(budget.prediction_outcomes.values()) == len(answers)


async def test_hundreds_of_values_take_no_more_memory_than_the_message():
    server = Scripted()
    server.model = model(windows=512, mean_curve=[0.5] * 512)
    server.response = response([at / 512 for at in range(512)])
    options = {"policy": "envelope", "cap_tokens": 256, "predictor_timeout_ms": 5000}
    async with server.running() as address:
        async with scheduler(ScriptedBackend(endless), predictor=address, **options) as listening:
            async with AsyncSchedulerClient(listening) as client:
                await client.complete("first")
                tracemalloc.start()
                assert (await client.complete("second")).allocation.prediction_outcome == 1
                _, peak = tracemalloc.get_traced_memory()
                tracemalloc.stop()
    assert peak < 8 << 20


async def test_a_predictor_that_was_frozen_gives_fresh_predictions_again(unused_tcp_port):
    address = f"127.0.0.1:{unused_tcp_port}"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "predictive_scheduling_cli", "predictor", f"--listen={address}", "--log-level=error"
    )
    try:
        async with grpc.aio.insecure_channel(address) as channel, asyncio.timeout(60):
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), wait_for_ready=True)
        options = {"policy": "price", "predictor": address, "predictor_cache": 0, "predictor_timeout_ms": 250}
        async with (
            scheduler(ScriptedBackend(endless), **options) as listening,
            AsyncSchedulerClient(listening) as client,
        ):

            async def fresh():
                return (await client.complete("What is 1 + 2?")).allocation.prediction_outcome == 1

            async with asyncio.timeout(60):
                await eventually(fresh)
                process.send_signal(signal.SIGSTOP)
                for _ in range(8):
                    assert not await fresh()
                process.send_signal(signal.SIGCONT)
                await eventually(fresh)
            await balanced(client)
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        await process.wait()
