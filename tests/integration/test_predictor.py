"""The predictor over gRPC."""

import asyncio

import grpc
import grpc.aio
import numpy as np
import pytest
from google.rpc import error_details_pb2

from predictive_scheduling import AsyncPredictorClient, PredictorClient
from predictive_scheduling.predictor.v1 import predictor_pb2 as pb
from predictive_scheduling.predictor.v1 import predictor_pb2_grpc
from predictor_service.settings import SHIPPED_MODELS
from tests.integration.models import hidden_state_model
from tests.integration.running import bad_fields, detail, predictor, refused
from tests.waiting import PATIENCE


@pytest.fixture
async def text_stub():
    async with predictor(max_queued_queries=100) as address, grpc.aio.insecure_channel(address) as channel:
        yield predictor_pb2_grpc.PredictorServiceStub(channel)


@pytest.fixture
async def hidden_stub(tmp_path):
    hidden_state_model(tmp_path / "hidden")
    async with (
        predictor(tmp_path, default_model="hidden") as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        yield predictor_pb2_grpc.PredictorServiceStub(channel)


def texts(*prompts):
    return pb.PredictRequest(queries=[pb.Query(text=prompt) for prompt in prompts])


async def test_every_query_gets_a_curve_in_order(text_stub):
    both = await text_stub.Predict(texts("What is 1 + 2?", "What is 3 + 4 + 5 + 6 + 7 + 8 + 9?"))
    alone = await text_stub.Predict(texts("What is 3 + 4 + 5 + 6 + 7 + 8 + 9?"))
    assert both.budget_window_tokens == 16
    assert [len(p.curve) for p in both.predictions] == [16, 16]
    assert list(both.predictions[1].curve) == pytest.approx(list(alone.predictions[0].curve), abs=1e-5)
    assert list(both.predictions[0].curve) != list(both.predictions[1].curve)
    assert all(p.status == pb.PREDICTION_STATUS_OK and len(p.uncertainty) == 16 for p in both.predictions)
    assert both.inference_seconds > 0


async def test_concurrent_calls_share_batches_and_each_gets_its_own_answer(hidden_stub):
    async def ask(value):
        state = pb.HiddenState(values=[value, 0, 0, 0], layer=3)
        response = await hidden_stub.Predict(pb.PredictRequest(queries=[pb.Query(hidden_state=state)]))
        return response.predictions[0].curve[0]

    values = np.linspace(-3, 3, 200)
    curves = await asyncio.gather(*(ask(value) for value in values))
    assert curves == pytest.approx(list(1 / (1 + np.exp(-values))), abs=1e-5)


async def test_a_call_larger_than_a_batch_is_served_whole(text_stub):
    response = await text_stub.Predict(texts(*(f"What is {n} + 1?" for n in range(100))))
    assert len(response.predictions) == 100


async def test_a_full_queue_says_when_to_come_back(text_stub):
    error = await refused(text_stub.Predict(texts(*["x"] * 101)))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert detail(error, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() > 0


@pytest.mark.parametrize(
    ("query", "code", "field"),
    [
        (pb.Query(), grpc.StatusCode.INVALID_ARGUMENT, "queries[0]"),
        (pb.Query(hidden_state=pb.HiddenState(values=[1.0])), grpc.StatusCode.FAILED_PRECONDITION, "queries[0].text"),
        (pb.Query(text="x" * 40_000), grpc.StatusCode.FAILED_PRECONDITION, "queries[0].text"),
    ],
)
async def test_a_query_that_a_text_model_cannot_take_is_named(text_stub, query, code, field):
    error = await refused(text_stub.Predict(pb.PredictRequest(queries=[query])))
    assert error.code() is code
    assert bad_fields(error) == [field]


@pytest.mark.parametrize(
    ("query", "code", "field"),
    [
        (pb.HiddenState(values=[1, 2, 3]), grpc.StatusCode.FAILED_PRECONDITION, "queries[0].hidden_state.values"),
        (
            pb.HiddenState(values=[1, 2, 3, float("nan")]),
            grpc.StatusCode.INVALID_ARGUMENT,
            "queries[0].hidden_state.values[3]",
        ),
        (
            pb.HiddenState(values=[1, 2, 3, float("inf")]),
            grpc.StatusCode.INVALID_ARGUMENT,
            "queries[0].hidden_state.values[3]",
        ),
        (
            pb.HiddenState(values=[1, 2, 3, 4], layer=9),
            grpc.StatusCode.FAILED_PRECONDITION,
            "queries[0].hidden_state.layer",
        ),
    ],
)
async def test_a_hidden_state_that_does_not_fit_is_named(hidden_stub, query, code, field):
    error = await refused(hidden_stub.Predict(pb.PredictRequest(queries=[pb.Query(hidden_state=query)])))
    assert error.code() is code
    assert bad_fields(error) == [field]


async def test_an_unknown_model_and_an_empty_batch_are_refused(text_stub):
    error = await refused(text_stub.Predict(pb.PredictRequest(model="nope", queries=[pb.Query(text="x")])))
    assert (error.code(), bad_fields(error)) == (grpc.StatusCode.FAILED_PRECONDITION, ["model"])
    error = await refused(text_stub.Predict(pb.PredictRequest()))
    assert (error.code(), bad_fields(error)) == (grpc.StatusCode.INVALID_ARGUMENT, ["queries"])
    error = await refused(text_stub.GetModel(pb.GetModelRequest(model="nope")))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.parametrize("count", [8, 100, 20_000])
async def test_however_many_faults_a_call_has_its_caller_hears_of_the_first(text_stub, count):
    error = await refused(text_stub.Predict(pb.PredictRequest(queries=[pb.Query()] * count)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    few = [f"queries[{at}]" for at in range(8)]
    assert bad_fields(error) == (few if count <= 4096 else ["queries"])


async def test_a_curve_that_is_not_finite_becomes_an_abstention_with_the_mean_curve(tmp_path):
    hidden_state_model(tmp_path / "broken", curve="nan", name="broken")
    async with predictor(tmp_path, default_model="broken") as address, grpc.aio.insecure_channel(address) as channel:
        stub = predictor_pb2_grpc.PredictorServiceStub(channel)
        query = pb.Query(hidden_state=pb.HiddenState(values=[1, 2, 3, 4]))
        prediction = (await stub.Predict(pb.PredictRequest(queries=[query]))).predictions[0]
    assert (prediction.status, prediction.abstain_reason) == (
        pb.PREDICTION_STATUS_ABSTAIN,
        pb.ABSTAIN_REASON_NOT_FINITE,
    )
    assert list(prediction.curve) == [0.25] * 16


async def test_a_query_unlike_the_training_becomes_an_abstention_that_says_how_far_it_is(tmp_path):
    hidden_state_model(tmp_path / "careful", name="careful", most_unfamiliarity=2.0)
    async with predictor(tmp_path, default_model="careful", max_batch_size=2) as address:
        async with grpc.aio.insecure_channel(address) as channel:
            stub = predictor_pb2_grpc.PredictorServiceStub(channel)
            model = (await stub.GetModel(pb.GetModelRequest())).model
            states = [[0, 0, 0, 1], [3, 0, 0, 0], [1, 1, 0, 0]]
            queries = [pb.Query(hidden_state=pb.HiddenState(values=state)) for state in states]
            found = (await stub.Predict(pb.PredictRequest(queries=queries))).predictions
    assert (model.most_unfamiliarity, model.false_alarm_rate) == (2, pytest.approx(0.02))
    known, strange = pb.ABSTAIN_REASON_UNSPECIFIED, pb.ABSTAIN_REASON_UNFAMILIAR
    assert [one.abstain_reason for one in found] == [known, strange, known]
    assert [one.unfamiliarity for one in found] == [1, 3, 2]
    assert found[1].status == pb.PREDICTION_STATUS_ABSTAIN
    assert list(found[1].curve) == [0.25] * 16
    assert found[2].status == pb.PREDICTION_STATUS_OK


async def test_what_the_shipped_model_was_not_trained_on_is_abstained_on(text_stub):
    response = await text_stub.Predict(texts("What is 4 + 9 - 2?", "Write a poem about the sea, please."))
    assert [one.status for one in response.predictions] == [pb.PREDICTION_STATUS_OK, pb.PREDICTION_STATUS_ABSTAIN]
    assert (await text_stub.GetModel(pb.GetModelRequest())).model.most_unfamiliarity > 1


async def test_models_are_described(text_stub):
    models = (await text_stub.ListModels(pb.ListModelsRequest())).models
    assert models[0].name == "demo-text"
    assert models[0].kind == pb.MODEL_KIND_TEXT_CURVE
    assert models[0].takes_text
    assert models[0].hidden_size == 0
    assert (await text_stub.GetModel(pb.GetModelRequest())).model == models[0]


async def test_an_abandoned_call_does_not_hold_up_others(text_stub):
    calls = [text_stub.Predict(texts(f"What is {n} + 2?")) for n in range(50)]
    for call in calls[::2]:
        call.cancel()
    answers = await asyncio.gather(*calls[1::2])
    assert all(len(answer.predictions) == 1 for answer in answers)


async def test_clients_predict_texts_and_hidden_states(tmp_path):
    hidden_state_model(tmp_path / "h")
    async with predictor() as address, AsyncPredictorClient(address, timeout=PATIENCE) as client:
        response = await client.predict(["What is 1 + 1?", "And 2 + 2?"])
        assert [len(one.curve) for one in response.predictions] == [16, 16]
        assert (await client.models()).models[0].name == "demo-text"

        def blocking():
            with PredictorClient(address, timeout=PATIENCE) as other:
                return other.predict(["What is 1 + 1?"]).model, len(other.models().models)

        assert await asyncio.to_thread(blocking) == ("demo-text", len(list(SHIPPED_MODELS.iterdir())))
    async with predictor(tmp_path, default_model="hidden") as address, AsyncPredictorClient(address) as client:
        response = await client.predict(hidden_states=[[0.1] * 4, [0.2] * 4], layer=3)
        assert len(response.predictions) == 2
        with pytest.raises(ValueError, match="2 for 1 texts"):
            await client.predict(["one"], hidden_states=[[0.1] * 4, [0.2] * 4])
