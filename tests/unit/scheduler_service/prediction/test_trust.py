"""What is made of a predictor's curves, as far as it is trusted."""

import pytest

from scheduler_service.allocation.curve import Curve
from scheduler_service.domain import Prediction, PredictionOutcome
from scheduler_service.prediction.trust import trusted

CURVE, MEAN = (Curve((16, 32), values, (16.0, 20.0)) for values in ((0.2, 0.8), (0.4, 0.6)))


def fresh(uncertainty=()):
    return Prediction(PredictionOutcome.FRESH, CURVE, "p@1", uncertainty)


def test_curves_are_drawn_toward_the_mean_curve():
    half = trusted(fresh(), MEAN, 0.5)
    assert half.curve.accuracy == pytest.approx((0.3, 0.7))
    assert half.curve.used == CURVE.used
    assert half.raw == CURVE
    assert trusted(fresh(), MEAN, 0.0).curve.accuracy == pytest.approx(MEAN.accuracy)
    assert trusted(fresh(), MEAN, 1.0) == fresh()


def test_a_lower_confidence_bound_takes_deviations_off_every_difference():
    bound = trusted(fresh((0.1, 0.3)), MEAN, 1.0, confidence=1.0)
    assert bound.curve.accuracy == pytest.approx(
        (0.3, 0.6)
    )  # 0.2 from the mean, less 0.1; and less than 0.3 is nothing


def test_what_cannot_be_drawn_is_left_alone():
    assert trusted(fresh(), Curve(), 0.2) == fresh()
    assert trusted(fresh(), Curve((16,), (0.5,)), 0.2) == fresh()
    none = Prediction(PredictionOutcome.TIMEOUT)
    assert trusted(none, MEAN, 0.2) == none
