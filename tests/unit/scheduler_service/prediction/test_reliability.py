"""What outcomes say of a predictor."""

import numpy as np
import pytest

from scheduler_service.prediction.reliability import PageHinkley, Reliability


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
