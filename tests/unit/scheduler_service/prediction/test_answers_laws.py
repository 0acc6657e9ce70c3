"""Laws of what a predictor's answer is read into: sound values or a reason, whatever it sends."""

import math
from itertools import pairwise

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from predictive_scheduling.budget_points import MOST_POINTS, MOST_TOKENS, evenly_spaced
from predictive_scheduling.predictor.v1 import predictor_pb2 as pb
from scheduler_service.domain import NO_CURVE, PredictionOutcome
from scheduler_service.prediction.answers import (
    MOST_FALL,
    PredictorInfo,
    UnsoundAnswerError,
    read_curve,
    read_model,
    read_prediction,
)

POINTS = evenly_spaced(16, 16)
INFO = PredictorInfo("m", True, 0, 0, 1000, "1", POINTS)
ANY_FLOAT = st.floats(width=32) | st.floats(0, 1, width=32)
CURVE = st.lists(ANY_FLOAT, max_size=40) | st.lists(st.floats(0, 1, width=32), min_size=16, max_size=16)
LONG = st.integers(0, 8000).map(lambda length: [0.5] * length)
USED = st.just([]) | CURVE | st.lists(st.floats(0, 300, width=32), min_size=16, max_size=16)
PREDICTIONS = st.builds(
    pb.Prediction,
    status=st.integers(0, 5),
    curve=CURVE | LONG,
    uncertainty=st.just([]) | CURVE | LONG,
    used_tokens=USED | LONG,
    abstain_reason=st.integers(0, 5),
    unfamiliarity=st.floats(width=32),
)
COUNT = st.integers(0, 20) | st.integers(0, 2**32 - 1)
NAME = st.text(max_size=12) | st.just("x" * 300)
MODELS = st.builds(
    pb.Model, name=NAME, version=NAME, windows=COUNT, hidden_size=COUNT, layer=COUNT, max_text_bytes=COUNT,
    takes_text=st.booleans(), budget_window_tokens=st.just(16) | COUNT, mean_curve=CURVE | LONG, reliability=ANY_FLOAT,
    budget_points=st.just([]) | st.just(POINTS) | st.lists(COUNT, max_size=20) | st.just(range(1, 4000)),
    mean_used_tokens=USED | LONG,
)  # fmt: skip


def check_curve(curve):
    assert all(math.isfinite(value) and 0 <= value <= 1 for value in curve.accuracy)
    assert all(before <= after for row in (curve.accuracy, curve.used) for before, after in pairwise(row))
    assert all(0 <= used <= point for used, point in zip(curve.used, curve.points, strict=False))
    assert len(curve.accuracy) == len(curve.points)
    assert len(curve.used) in (0, len(curve.points))


@given(prediction=PREDICTIONS)
def test_a_prediction_is_read_as_a_rising_curve_at_the_models_points_or_as_a_reason(prediction):
    read = read_prediction(prediction, INFO)
    assert read.predictor == "m@1"
    if read.outcome is PredictionOutcome.FRESH:
        assert prediction.status == pb.PREDICTION_STATUS_OK
        assert len(prediction.curve) == 16
        assert read.curve.points == POINTS
        assert len(read.uncertainty) in (0, 16)
        check_curve(read.curve)
    else:
        assert read.outcome in (PredictionOutcome.INVALID, PredictionOutcome.ABSTAINED)
        assert read.curve == NO_CURVE
    abstained = read.outcome is PredictionOutcome.ABSTAINED
    assert bool(read.reason) == (abstained and prediction.abstain_reason in (1, 2))
    assert len(read.reason) < 200


def test_an_abstention_says_why_with_the_figure():
    unfamiliar = pb.Prediction(status=2, abstain_reason=pb.ABSTAIN_REASON_UNFAMILIAR, unfamiliarity=12.34)
    assert "unlike its training, at 12.3 times" in read_prediction(unfamiliar, INFO).reason
    broken = pb.Prediction(status=2, abstain_reason=pb.ABSTAIN_REASON_NOT_FINITE)
    assert read_prediction(broken, INFO).reason == "its curve is not of numbers alone"
    assert not read_prediction(pb.Prediction(status=2), INFO).reason  # a predictor of before says no reason


@given(raw=st.binary(max_size=200))
def test_bytes_are_read_as_a_prediction_or_as_a_reason(raw):
    try:
        prediction = pb.Prediction.FromString(raw)
    except DecodeError:
        return
    assert read_prediction(prediction, INFO).outcome in PredictionOutcome


@given(model=MODELS)
def test_a_model_is_read_within_bounds_or_refused(model):
    try:
        info = read_model(model)
    except UnsoundAnswerError:
        return
    assert 1 <= len(info.points) <= MOST_POINTS
    assert 0 <= info.points[0] <= info.points[-1] <= MOST_TOKENS
    assert all(before < after for before, after in pairwise(info.points))
    assert info.hidden_size <= 65536
    assert info.takes_text or info.hidden_size
    assert 1 <= len(info.name) <= 256
    assert info.mean_curve.points in ((), info.points)
    check_curve(info.mean_curve)


@given(curve=st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_a_dip_is_filled_and_a_curve_that_ends_low_refused(curve):
    fall = max(curve) - curve[-1]
    read = read_curve(evenly_spaced(len(curve), 16), curve)
    assert (read is None) == (fall > MOST_FALL)
    if read is not None:
        assert [max(curve[: at + 1]) for at in range(len(curve))] == list(read.accuracy)


@pytest.mark.parametrize(
    "curve", [[], [float("nan")] * 16, [0.5] * 15, [0.5] * 6000, [1 - at / 16 for at in range(16)]]
)
def test_unsound_curves_are_invalid_and_left_out_as_means(curve):
    prediction = pb.Prediction(status=pb.PREDICTION_STATUS_OK, curve=curve)
    assert read_prediction(prediction, INFO).outcome is PredictionOutcome.INVALID
    model = pb.Model(name="m", takes_text=True, windows=16, budget_window_tokens=16, mean_curve=curve)
    assert read_model(model).mean_curve == NO_CURVE
