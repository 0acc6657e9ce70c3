"""What outcomes say of a predictor, and what is then made of its curves."""

import numpy as np
import pytest

from scheduler_service.allocation.curve import Curve
from scheduler_service.domain import Prediction, PredictionOutcome
from scheduler_service.prediction.reliability import PageHinkley, Reliability
from scheduler_service.prediction.trust import trusted


def outcomes(truth, count, seed=0, noise=False):
    """Expected accuracies and scores: the score's chance is the expected accuracy, or one that it says nothing of."""
    rng = np.random.default_rng(seed)
    expected = rng.uniform(0.1, 0.9, count)
    chance = rng.permutation(expected) if noise else truth(expected)
    return list(zip(expected.tolist(), (rng.random(count) < chance).astype(float).tolist(), strict=True))


def test_a_predictor_is_trusted_until_outcomes_speak():
    assert Reliability().slope == 1.0


def test_a_good_predictor_stays_trusted_and_noise_loses_all_trust():
    good, noise = Reliability(), Reliability()
    for expected, score in outcomes(lambda e: e, 2000):
        good.add(expected, score)
    for expected, score in outcomes(None, 2000, noise=True):
        noise.add(expected, score)
    assert good.slope > 0.85
    assert noise.slope < 0.2
    assert good.drifts == 0


def test_a_predictor_that_exaggerates_is_shrunk_by_as_much():
    found = Reliability(half_life=5000)
    for expected, score in outcomes(lambda e: 0.5 + 0.5 * (e - 0.5), 6000):
        found.add(expected, score)
    assert found.slope == pytest.approx(0.5, abs=0.1)


def test_a_constant_error_of_the_mean_is_not_taken_for_unreliability():
    found = Reliability()
    for expected, score in outcomes(lambda e: e * 0.9, 3000):
        found.add(expected, score)
    assert found.slope > 0.75


def test_a_predictor_that_turns_to_noise_is_found_out_and_distrusted_soon():
    found = Reliability()
    for expected, score in outcomes(lambda e: np.where(e > 0.5, 0.97, 0.03), 1500, seed=1):
        assert not found.add(expected, score)
    drifted = [found.add(expected, score) for expected, score in outcomes(None, 300, seed=2, noise=True)]
    assert any(drifted)
    assert found.drifts >= 1
    assert found.slope < 0.45


def test_the_test_for_drift_is_quiet_on_a_steady_mean():
    rng = np.random.default_rng(0)
    test = PageHinkley()
    assert not any(test.add(abs(value)) for value in rng.normal(0.4, 0.2, 3000))


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
