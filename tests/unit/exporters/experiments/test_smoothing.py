"""The laws of smoothing few samples a question."""

import numpy as np
import pytest
from hypothesis import given

from exporters.experiments.samples import SHARED, draw
from exporters.experiments.smoothing import isotonic, joint, shrunk
from tests.builders.measurements import proportions


def pool_adjacent_violators(curve):
    """The reference: merge neighbours as long as one lies above the next."""
    blocks = []
    for value in curve:
        blocks.append([value])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    return [float(np.mean(block)) for block in blocks for _ in block]


@given(proportions())
def test_isotonic_regression_is_what_pooling_adjacent_violators_finds(drawn):
    measured, _ = drawn
    assert np.allclose(isotonic(measured), [pool_adjacent_violators(row) for row in measured])


@given(proportions())
def test_isotonic_curves_rise_and_keep_their_mean(drawn):
    measured, _ = drawn
    found = isotonic(measured)
    assert (np.diff(found, axis=1) >= -1e-12).all()
    assert np.allclose(found.mean(axis=1), measured.mean(axis=1))
    assert np.allclose(isotonic(found), found)


@given(proportions())
def test_shrunk_curves_lie_between_the_measured_ones_and_the_mean(drawn):
    measured, samples = drawn
    mean, found = measured.mean(axis=0), shrunk(measured, samples)
    low, high = np.minimum(measured, mean), np.maximum(measured, mean)
    assert ((found >= low - 1e-12) & (found <= high + 1e-12)).all()
    assert np.allclose(found.mean(axis=0), mean)


@pytest.mark.parametrize("method", [shrunk, joint])
def test_the_more_samples_the_less_is_smoothed(method, truth):
    apart = [np.abs(method(truth, samples) - truth).max() for samples in (4, 100, 10**8)]
    assert apart[0] > apart[1] > apart[2]
    assert apart[2] < 1e-3


def test_one_sample_is_not_shrunk():
    measured = np.array([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    assert (shrunk(measured, 1) == measured).all()


@pytest.mark.parametrize("method", [shrunk, joint])
def test_questions_that_differ_by_chance_alone_get_the_mean_curve(method):
    measured = draw(np.full((5000, 3), 0.4), 4, np.random.default_rng(0))
    assert np.abs(method(measured, 4) - measured.mean(axis=0)).max() < 0.1


def test_the_prior_is_the_beta_that_the_questions_come_from():
    rng = np.random.default_rng(0)
    right = rng.binomial(4, rng.beta(2, 3, (50_000, 1)))
    assert np.allclose(shrunk(right / 4, 4), (right + 2) / (4 + 5), atol=0.01)


def test_each_kind_of_question_is_shrunk_by_itself(truth):
    measured, kinds = draw(truth, 4, np.random.default_rng(0)), np.arange(len(truth)) % 3
    found = shrunk(measured, 4, kinds)
    assert all(np.allclose(found[kinds == kind], shrunk(measured[kinds == kind], 4)) for kind in range(3))


def test_points_that_share_their_traces_tell_nothing_new(truth):
    measured = draw(truth, 4, np.random.default_rng(1), SHARED)
    assert np.allclose(isotonic(measured), measured)
