"""Evaluation: what predictions are worth, and what noise is worth."""

from dataclasses import replace

import numpy as np
import pytest

from exporters.measure.curves import Curves, read_curves, window_points, write_curves
from exporters.replay.evaluate import Predicted, evaluate, reliability, split_samples


@pytest.fixture(scope="module")
def measured():
    """Curves that rise at different places to different heights, as fractions of 100 samples."""
    rng = np.random.default_rng(1)
    middle, height = rng.uniform(20, 220, 400), rng.uniform(0.2, 1.0, 400)
    curve = height[:, None] / (1 + np.exp(-(np.arange(16, 257, 16)[None, :] - middle[:, None]) / 12))
    return rng.binomial(100, curve) / 100


def scored(predicted, measured, model=None, *, used=(None, None)):
    """Evaluate curves at 16, 32, … tokens; ``used``: predicted and measured use."""
    names = [str(n) for n in range(len(measured))]
    curves = Curves.measured(names, names, window_points(measured.shape[1]), measured, used[1])
    return evaluate(Predicted(predicted, used[0]), curves, model or {})


def at(evaluation, tokens):
    return next(one for one in evaluation.budgets if one.tokens_per_query == tokens)


def test_every_budget_is_scored_and_no_plan_overspends(measured):
    evaluation = scored(measured, measured, {"name": "m", "version": "1"})
    assert [one.tokens_per_query for one in evaluation.budgets] == list(range(16, 257, 16))
    for one in evaluation.budgets:
        assert set(one.policies) == {"greedy", "envelope", "price"}
        assert all(scored.tokens_per_query <= one.tokens_per_query for scored in one.policies.values())
        assert all(scored.band[0] <= scored.gain <= scored.band[1] for scored in one.policies.values())


def test_true_curves_reach_the_oracle_and_the_split_oracle_is_below_it(measured):
    evaluation = scored(measured, measured)
    assert evaluation.pearson == pytest.approx(1.0)
    for tokens in (32, 64, 128):
        one = at(evaluation, tokens)
        assert one.policies["envelope"].accuracy == pytest.approx(one.oracle, abs=1e-6)
        assert one.uniform < one.oracle_split <= one.oracle


def test_noise_gains_nothing_much_and_costs_little(measured):
    mean = measured.mean(axis=0)
    flat = scored(np.tile(mean, (len(measured), 1)), measured)
    assert all(abs(one.policies["envelope"].gain) < 0.03 for one in flat.budgets)


def test_samples_are_split_without_losing_any(measured):
    first, second = split_samples(measured, np.full(len(measured), 100), np.random.default_rng(0))
    assert np.allclose((first + second) / 2, measured)
    assert not np.allclose(first, second)


def test_rows_of_different_samples_are_each_split_by_their_own():
    samples = np.array([2, 3, 7, 100])
    measured = np.array([[1.0, 0.5], [1 / 3, 1.0], [3 / 7, 0.0], [0.37, 0.99]])
    first, second = split_samples(measured, samples, np.random.default_rng(0))
    half = (samples // 2)[:, None]
    assert np.allclose(first * half + second * (samples[:, None] - half), measured * samples[:, None])
    assert np.allclose(first * half, np.rint(first * half))


def drawn(samples, *, told):
    """The evaluation of what a few samples show of some questions, by an oracle's predictions."""
    rng = np.random.default_rng(1)
    curve = np.linspace(0, 1, 16)[None, :] ** rng.uniform(0.3, 3, 300)[:, None]
    accuracy = rng.binomial(samples, curve) / samples
    names = [str(n) for n in range(300)]
    counts = np.full(300, samples) if told else None
    curves = replace(Curves.measured(names, names, window_points(16), accuracy), samples=counts)
    return evaluate(Predicted(curve), curves, {"name": "m"})


@pytest.mark.parametrize("told", [True, False])
def test_the_oracle_of_a_few_samples_is_lucky_and_the_split_one_is_not(told):
    """What a file does not say of its samples its values show."""
    one = at(drawn(4, told=told), 64)
    known = one.policies["envelope"].gain  # by the true curves: no plan can expect more
    assert one.oracle - one.uniform > 1.5 * known
    assert one.oracle_split - one.uniform < 1.1 * known


@pytest.mark.parametrize("told", [True, False])
def test_one_sample_has_no_halves(told):
    assert {one.oracle_split for one in drawn(1, told=told).budgets} == {None}


def test_where_use_is_known_plans_are_compared_at_equal_used_tokens(measured):
    rng = np.random.default_rng(3)
    points = window_points(16)
    lengths = rng.uniform(10, 400, len(measured))[:, None]
    used = np.minimum(lengths, points[None, :])
    found = scored(measured, measured, used=(used, used))
    assert (found.basis, found.used_pearson) == ("used", pytest.approx(1.0))
    for one in found.budgets:
        assert one.uniform_used_tokens_per_query == pytest.approx(np.minimum(lengths, one.tokens_per_query).mean())
        for name, policy in one.policies.items():
            reserved = one.policies_at_equal_reserved[name]
            assert policy.used_tokens_per_query <= one.uniform_used_tokens_per_query + 0.01
            assert reserved.tokens_per_query <= one.tokens_per_query + 1e-9
    tight = at(found, 64)  # where tokens are short, those that would have lain idle buy more
    assert tight.policies["envelope"].accuracy > tight.policies_at_equal_reserved["envelope"].accuracy


def test_a_file_with_points_is_read_and_scored_at_them(tmp_path):
    points = [0, 256, 1024, 8192]
    rows = 40
    rng = np.random.default_rng(0)
    accuracy = np.sort(rng.random((rows, 4)), axis=1)
    used = np.minimum(rng.uniform(100, 9000, rows)[:, None], np.array(points)[None, :])
    names = [f"q{n}" for n in range(rows)]
    columns = {
        "question_id": names, "question": names, "budget_tokens": [points] * rows,
        "accuracy": accuracy.tolist(), "used_tokens": used.tolist(),
    }  # fmt: skip
    write_curves(tmp_path / "c.parquet", columns)
    curves = read_curves(tmp_path / "c.parquet")
    assert curves.points.tolist() == points
    found = evaluate(Predicted(accuracy, used), curves, {})
    assert [one.tokens_per_query for one in found.budgets] == points[1:]


def test_of_few_values_there_are_fewer_bins():
    few = np.array([[0.1, 0.2, 0.3]])
    assert reliability(few, few[:, ::-1]) == [(0.1, 0.3), (0.2, 0.2), (0.3, 0.1)]
