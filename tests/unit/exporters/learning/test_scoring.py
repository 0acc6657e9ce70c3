"""Gains at equal tokens."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporters.learning import scoring
from exporters.learning.scoring import difference, foretold, gains, saved_at_equal_accuracy, uniform_use
from exporters.measure.curves import Curves
from exporters.replay.evaluate import Predicted
from predictor_service.abstention import abstentions
from predictor_service.model import BatchResult, LoadedModel
from tests.builders.learning import state
from tests.integration.models import hidden_state_model

POINTS = np.array([16, 32, 64, 128])


def curves(accuracy, used=None):
    names = [str(at) for at in range(len(accuracy))]
    return Curves.measured(
        names, names, POINTS, np.array(accuracy, float), None if used is None else np.array(used, float)
    )


@st.composite
def measured(draw):
    count = draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    accuracy, predicted = rng.random((2, count, 4)).round(draw(st.integers(0, 2)))
    lengths = rng.integers(0, 200, (count, 1)) if draw(st.booleans()) else None
    used = None if lengths is None else np.minimum(POINTS, lengths)
    said = None if used is None else np.minimum(POINTS, rng.integers(0, 200, (count, 1)))
    return curves(accuracy, used), predicted, said


@given(measured(), st.sampled_from([1, 16, 24, 32, 100, 128]))
def test_a_plan_never_uses_more_than_uniform_does_whatever_is_predicted(made, budget):
    known, predicted, said = made
    found = gains(Predicted(predicted, said), known, budget)
    assert found.used <= found.uniform_used * 1.002 + 1e-9
    assert np.isfinite(found.gains).all()


def test_uniform_gains_nothing():
    known = curves([[0.1, 0.2, 0.5, 1.0]] * 3)
    assert gains(None, known, 32).gains.tolist() == [0, 0, 0]


def test_a_model_of_states_stands_by_the_questions_whose_state_is_known_only(tmp_path):
    model = LoadedModel(hidden_state_model(tmp_path / "hidden", size=2))
    points = np.arange(16, 257, 16)
    known = Curves.measured(["a", "b", "c"], ["a", "b", "c"], points, np.random.default_rng(0).random((3, 16)))
    found = foretold(model, known, [state([1, 1]), None, state([1, 1], layer=4)])
    assert found.covered.tolist() == [True, False, False]
    assert found.accuracy[0] == pytest.approx(1 / (1 + np.exp(-2.0)), abs=1e-3)
    assert gains(found, known, 64).gains[1:] == pytest.approx([0, 0], abs=1e-12)
    assert foretold(model, known, [None, None, state([1, 1, 1])]) is None


def test_a_mean_curve_that_is_convex_gains_without_knowing_any_question():
    """64 tokens for half of the requests answer half of them, 32 for all none; every one has the same chance of it."""
    known = curves([[0.0, 0.0, 1.0, 1.0]] * 30)
    found = gains(Predicted(known.accuracy), known, 32)
    assert 0.28 < found.gains.mean() <= 0.34  # the floor of 16 tokens, for all, is paid from the 32
    assert len(set(found.gains.round(6))) > 2


def test_a_prediction_of_use_that_is_too_low_buys_nothing():
    known = curves([[0.0, 0.0, 1.0, 1.0]] * 30, [POINTS] * 30)
    honest = gains(Predicted(known.accuracy, known.used), known, 32)
    cheating = gains(Predicted(known.accuracy, np.minimum(known.used, 20)), known, 32)
    assert cheating.gains.mean() <= honest.gains.mean() + 0.02


def test_a_difference_is_paired():
    one, other = np.tile([1.0, 0.0], 50), np.tile([0.9, -0.1], 50)
    found = difference(one, other)
    assert (found.low, found.mean, found.high) == pytest.approx((0.1, 0.1, 0.1))
    assert found.questions == 100
    assert difference(np.array([]), np.array([])).questions == 0


def test_tokens_saved_are_those_that_uniform_would_need_beside_for_the_same_accuracy():
    known = curves([[0.0, 0.25, 0.5, 1.0]] * 4)
    assert saved_at_equal_accuracy(known, 32, 0.25, used=32.0) == pytest.approx(32, abs=1)
    assert saved_at_equal_accuracy(known, 32, 0.9, used=32.0) == 96
    used = curves([[0.0, 0.25, 0.5, 1.0]] * 4, [[10, 20, 40, 50]] * 4)
    assert saved_at_equal_accuracy(used, 32, 0.25, used=uniform_use(used, 32)) == pytest.approx(20, abs=1)
    assert saved_at_equal_accuracy(known, 32, 0.0, used=32.0) == 0


def test_where_a_model_abstains_the_question_has_what_uniform_gives_it():
    known = curves([[0.0, 0.2, 0.5, 1.0], [1.0, 1.0, 1.0, 1.0]], [[16, 32, 64, 70], [10, 10, 10, 10]])
    foretold = Predicted(known.accuracy, known.used, stands=np.zeros(len(known.ids), dtype=bool))
    assert gains(foretold, known, 32).gains == pytest.approx(0.0, abs=1e-12)


def test_what_is_no_number_gains_nothing_and_does_not_end_the_scoring():
    """A model that gives such numbers must be refused or rolled back, as one that is bad otherwise."""
    known = curves([[0.0, 0.0, 0.0, 1.0]] * 4, [[16, 32, 64, 128]] * 4)

    def run(queries):
        predicted, used = known.accuracy.astype(np.float32), known.used.astype(np.float32)
        predicted[1, 2], used[2, 3] = np.nan, np.nan
        return BatchResult(predicted, None, 0.0, 0.0, abstentions(predicted, used, None, None), used)

    manifest = SimpleNamespace(budget_points=tuple(POINTS.tolist()), hidden_size=0)
    said = foretold(SimpleNamespace(manifest=manifest, name="bad", run=run), known, [None] * 4)
    assert said.covered.tolist() == [True, False, False, True]
    found = gains(said, known, 72)
    assert found.gains[1:3].tolist() == [0.0, 0.0]
    assert found.gains.sum() > 0.5  # one of the two others has what both have but the least


def test_a_plan_that_uses_a_little_too_much_is_made_with_whole_tokens_less(monkeypatch):
    """A share of a token less makes the same plan again."""
    known, tried = curves([[0.0, 0.2, 0.5, 1.0]] * 4, [[16, 32, 64, 128]] * 4), []
    too_much = {32: 1.05, 31: 1.02, 30: 1.003}

    def plan(points, predicted, used, budget, order):
        tried.append(int(budget))
        return np.full(4, 32 * too_much.get(int(budget), 0.99))

    monkeypatch.setattr(scoring, "_plan", plan)
    found = gains(Predicted(known.accuracy, known.used), known, 32)
    assert found.used == pytest.approx(32 * 0.99)
    assert found.gains.any()
    assert list(dict.fromkeys(tried)) == [32, 30, 29]
