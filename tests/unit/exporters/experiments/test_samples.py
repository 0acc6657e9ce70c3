"""Few samples a question: drawing, smoothing by name, and kinds of question."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporters.experiments.samples import EACH, SHARED, draw, kinds_of, smoothed
from tests.builders.measurements import METHODS, proportions


@pytest.mark.parametrize("name", METHODS)
@given(drawn=proportions(), seed=st.integers(0, 99))
def test_smoothed_curves_are_fractions_whatever_the_order_of_the_questions(name, drawn, seed):
    measured, samples = drawn
    before = measured.copy()
    kinds = np.arange(len(measured)) % 2
    found = smoothed(name, measured, samples, kinds)
    assert found.shape == measured.shape
    assert ((found >= 0) & (found <= 1)).all()
    assert (measured == before).all()
    order = np.random.default_rng(seed).permutation(len(measured))
    assert np.allclose(smoothed(name, measured[order], samples, kinds[order]), found[order], atol=1e-5)


@pytest.mark.parametrize("samples", [1, 2, 4, 16])
def test_points_of_their_own_traces_tell_of_each_other(truth, samples):
    measured = draw(truth, samples, np.random.default_rng(1))
    error = {
        name: np.square(smoothed(name, measured, samples) - truth).mean() for name in ("none", "isotonic", "joint")
    }
    assert error["joint"] < error["none"] / 1.5
    assert error["isotonic"] < error["none"] / 1.5


@pytest.mark.parametrize("drawn", [EACH, SHARED])
def test_draws_are_proportions_with_the_right_mean(truth, drawn):
    found = np.mean([draw(truth, 4, np.random.default_rng(seed), drawn) for seed in range(400)], axis=0)
    assert np.abs(found - truth).max() < 0.15
    assert set(np.unique(draw(truth, 4, np.random.default_rng(0), drawn))) <= {0, 0.25, 0.5, 0.75, 1}


def test_kinds_of_question_are_what_hidden_states_fall_into():
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, 90)
    states = rng.normal(size=(90, 5)) + 40 * np.eye(5)[kind]
    found = kinds_of(states.astype(np.float32), 12)
    assert all(len(set(kind[found == at])) == 1 for at in set(found.tolist()))
