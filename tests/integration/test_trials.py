"""Models on trial: a canary answers a share, a shadow is compared; neither can hurt the model that is asked for."""

import asyncio

import grpc.aio
import numpy as np
import pytest
from pydantic import ValidationError

from predictive_scheduling import AsyncPredictorClient, AsyncSchedulerClient
from predictive_scheduling.predictor.v1 import predictor_pb2 as pb
from predictor_service.inputs.features import Query
from predictor_service.settings import PredictorSettings
from predictor_service.trials import Trial
from tests.integration.models import hidden_state_model
from tests.integration.running import predictor, scheduler
from tests.standins.backend import ScriptedBackend
from tests.waiting import eventually


@pytest.fixture
def models(tmp_path):
    hidden_state_model(tmp_path / "old", name="old", version="1")
    hidden_state_model(tmp_path / "new", name="new", version="2", scale=2.0)
    hidden_state_model(tmp_path / "other", name="other", size=8)
    return tmp_path


async def ask(client, count):
    states = np.linspace(-1, 1, count)
    calls = [client.predict(hidden_states=[[float(state)] * 4], layer=3) for state in states]
    return await asyncio.gather(*calls)


async def trial(client):
    listed = (await client.models()).models
    return next(model for model in listed if model.name == "old").trials[0]


async def test_a_canary_answers_its_share_and_the_same_query_always_falls_on_the_same_side(models):
    async with predictor(models, default_model="old", canary="old=new:0.25") as address:
        async with AsyncPredictorClient(address) as client:
            first, again = await ask(client, 200), await ask(client, 200)
            record = await trial(client)
    served = [(answer.model, answer.version, answer.canary) for answer in first]
    assert set(served) == {("old", "1", False), ("new", "2", True)}
    assert served == [(answer.model, answer.version, answer.canary) for answer in again]
    share = sum(answer.canary for answer in first) / len(first)
    assert 0.15 < share < 0.35
    assert (record.model, record.kind, record.share) == ("new", pb.TRIAL_KIND_CANARY, 0.25)
    assert record.queries == 2 * sum(answer.canary for answer in first)
    assert record.failures == 0
    assert record.seconds_per_query > 0


async def test_a_shadow_changes_no_answer_and_its_difference_is_measured(models):
    async with predictor(models, default_model="old", shadow="old=new") as address:
        async with AsyncPredictorClient(address) as client:
            answers = await ask(client, 50)

            async def compared():  # after the answers
                return (await trial(client)).queries == 50

            await eventually(compared)
            record = await trial(client)
    assert {answer.model for answer in answers} == {"old"}
    assert not any(answer.canary for answer in answers)
    logits = 4 * np.linspace(-1, 1, 50)
    expected = np.abs(1 / (1 + np.exp(-logits)) - 1 / (1 + np.exp(-2 * logits))).mean()
    assert record.kind == pb.TRIAL_KIND_SHADOW
    assert record.mean_absolute_difference == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("broken", "failures"), [("other", 20), ("nobody", 0)])
async def test_a_trial_that_cannot_answer_is_counted_and_the_model_that_was_asked_for_answers(models, broken, failures):
    """One that is not there (yet) has not failed: a learner's names are set before it has made a model."""
    settings = {"canary": f"old={broken}", "shadow": f"old={broken}:0.5"}
    async with predictor(models, default_model="old", **settings) as address:
        async with AsyncPredictorClient(address) as client:
            answers = await ask(client, 20)
            record = await trial(client)
    assert {answer.model for answer in answers} == {"old"}
    assert (record.queries, record.failures) == (0, failures)


async def test_outcomes_are_kept_apart_for_the_canary(models):
    """The scheduler learns the canary's reliability beside the old model's, and shrinks each to its own mean curve."""
    backend = ScriptedBackend(lambda _: ["t"] * 10)
    async with predictor(models, default_model="old", canary="old=new:0.5") as predictions:
        settings = {"predictor": predictions, "policy": "price"}
        async with scheduler(backend, **settings) as address, AsyncSchedulerClient(address) as client:
            seen = {}
            for at in range(40):
                done = await client.complete("q", hidden_state=[at / 40] * 4, hidden_state_layer=3)
                told = await client.report_outcome(done.allocation.request_id, 1.0)
                seen[done.allocation.predictor] = told.outcomes
    assert set(seen) == {"old@1", "new@2"}
    assert sum(seen.values()) == 40


def test_shares_are_read_and_wrong_ones_named():
    assert PredictorSettings(canary="a=b:0.05, c=d").canary == {"a": Trial("b", 0.05), "c": Trial("d", 1.0)}
    for wrong in ("a=b:0", "a=b:2", "a=b:much", "a=:0.5", "a"):
        with pytest.raises(ValidationError, match="canary"):
            PredictorSettings(canary=wrong)


def test_a_share_is_kept_over_many_queries():
    tried = [Trial("b", 0.1).takes([Query(f"question {at}")]) for at in range(5000)]
    assert 0.08 < sum(tried) / len(tried) < 0.12


async def test_a_canary_answers_its_share_before_there_is_a_model_beside_it(models):
    settings = {"default_model": "first", "default_may_be_missing": True, "canary": "first=new:0.25"}
    async with predictor(models, **settings) as address, AsyncPredictorClient(address) as client:
        states = np.linspace(-1, 1, 200)
        calls = [client.predict(hidden_states=[[float(state)] * 4], layer=3) for state in states]
        answers = await asyncio.gather(*calls, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    served = [answer for answer in answers if not isinstance(answer, grpc.aio.AioRpcError)]
    assert {(answer.model, answer.canary) for answer in served} == {("new", True)}
    assert {error.code() for error in refused} == {grpc.StatusCode.FAILED_PRECONDITION}
    assert 20 < len(served) < 80


async def test_a_canary_is_loaded_later_without_a_restart(models):
    (models / "new").rename(models.parent / "elsewhere")
    try:
        async with predictor(models, default_model="old", canary="old=new", reload_seconds=0.05) as address:
            async with AsyncPredictorClient(address) as client:
                assert {answer.model for answer in await ask(client, 5)} == {"old"}
                (models.parent / "elsewhere").rename(models / "new")

                async def loaded():
                    return {answer.model for answer in await ask(client, 5)} == {"new"}

                await eventually(loaded)
    except grpc.aio.AioRpcError as error:
        pytest.fail(f"a call was lost: {error}")
