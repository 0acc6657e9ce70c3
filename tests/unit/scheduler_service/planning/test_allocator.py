"""What is expected of jobs: curves as far as they are trusted, and caps that deadlines allow."""

from dataclasses import replace

import pytest

from scheduler_service.allocation import POLICIES
from scheduler_service.domain import Prediction, PredictionOutcome
from scheduler_service.generation.pace import Pace
from scheduler_service.planning.allocator import Expectations, as_predicted
from scheduler_service.planning.plan import Rules
from tests.builders.jobs import JOB
from tests.standins.predictor import FakePredictor

CURVE = (0.2, 0.4, 0.6, 0.8)


def expectations(pace=0.0, trust=as_predicted, answer_tokens=0):
    predictor = FakePredictor(lambda _: CURVE)
    return Expectations(predictor, Rules(POLICIES["envelope"], answer_tokens), Pace(seconds_per_token=pace), trust)


async def test_all_jobs_are_predicted_by_one_call_each_as_far_as_it_is_trusted():
    found = expectations(trust=lambda prediction: replace(prediction, predictor=f"half of {prediction.predictor}"))
    predictions = await found.predict([JOB, replace(JOB, request_id="s"), replace(JOB, request_id="t")])
    assert found.predictor.windows == [3]
    assert [one.predictor for one in predictions] == ["half of fake@1"] * 3


async def test_traces_that_share_a_budget_stretch_the_curve():
    alone, shared = await expectations().predict([JOB, replace(JOB, traces=2)])
    assert alone.curve.accuracy_at(32) == shared.curve.accuracy_at(64) == pytest.approx(0.4)


def test_a_trust_in_nothing_leaves_no_curve():
    nothing = Prediction(PredictionOutcome.ABSTAINED)
    assert expectations(trust=lambda _: nothing).of(JOB, nothing) is nothing


@pytest.mark.parametrize(
    ("deadline", "pace", "expected"),
    [
        (None, 0.1, (16, 64)),
        (1.0, 0.0, (16, 64)),  # how fast the backend is, nobody knows
        (1000.0, 0.1, (16, 64)),
        (6.1, 0.1, (16, 48)),  # 1.2 · 0.1 s a token, two of them for the answer
        (1.25, 0.1, (8, 8)),  # the floor gives way, too
        (0.0, 0.1, (0, 0)),
        (-5.0, 0.1, (0, 0)),
    ],
)
def test_a_deadline_limits_the_cap_at_the_backends_pace(deadline, pace, expected):
    now = 100.0
    job = replace(JOB, deadline=None if deadline is None else now + deadline)
    found = expectations(pace).in_time(job, now)
    assert (found.floor_tokens, found.cap_tokens) == expected


def test_traces_that_run_side_by_side_may_use_the_deadline_each():
    job = replace(JOB, deadline=3.0)
    one, two = (expectations(0.1).in_time(replace(job, traces=traces), 0.0).cap_tokens for traces in (1, 2))
    assert two == 2 * one < 64
