"""Evaluation: what predictions are worth, what noise is worth, and files that do not fit."""

import json
import re

import numpy as np
import pytest
from typer.testing import CliRunner

from exporters.faults import CurvesFileError
from exporters.measure.curves import Curves, read_curves, window_points, write_curves
from exporters.measure.hidden_states import read_hidden_states
from exporters.replay.evaluate import Predicted, evaluate, split_samples
from predictive_scheduling_cli.main import app
from predictor_service.settings import SHIPPED_MODELS
from tests.integration.models import hidden_state_model


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
    first, second = split_samples(measured, 100, np.random.default_rng(0))
    assert np.allclose((first + second) / 2, measured)
    assert not np.allclose(first, second)


def write_files(folder, count=30, size=4):
    ids = [f"q{n}" for n in range(count)]
    rng = np.random.default_rng(0)
    curves = np.sort(rng.random((count, 16)), axis=1)
    columns = {
        "question_id": ids,
        "question": [f"question {n}" for n in range(count)],
        "accuracy_at_window": curves.tolist(),
    }
    write_curves(folder / "c.parquet", columns)
    np.savez(
        folder / "h.npz", question_id=np.array(ids), hidden_state=rng.normal(size=(count, size)).astype(np.float16)
    )
    return ids


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


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


@pytest.mark.parametrize(
    ("column", "value", "fault"),
    [
        ("budget_tokens", [0, 256, 256, 8192], "row 0, budget_tokens: must rise; 256 at place 2 follows 256"),
        ("budget_tokens", [0, 256, 1024], "row 0, accuracy: has 4 values for 3 points"),
        ("budget_tokens", [0, 256, 1024, 200_000], "row 0, budget_tokens: must be from 0 to 131072 tokens"),
        ("accuracy", [0.1, 0.2, 0.3, 1.5], "row 0, accuracy: is 1.5 at place 3"),
        ("accuracy", [0.1, None, 0.3, 0.5], "row 0, accuracy: is nan at place 1"),
        ("used_tokens", [0, 300, 500, 900], "row 0, used_tokens: is 300.0 at place 1, not from 0 to its budget of 256"),
        ("used_tokens", [0, 200, 100, 900], "row 0, used_tokens: falls from 200.0 to 100.0 at place 2"),
        ("used_tokens", [0, 200], "row 0, used_tokens: has 2 values for 4 points"),
    ],
)
def test_a_file_whose_points_are_none_is_refused_with_row_and_field(tmp_path, column, value, fault):
    row = {
        "question_id": "a", "question": "a", "budget_tokens": [0, 256, 1024, 8192],
        "accuracy": [0.1, 0.2, 0.3, 0.4], "used_tokens": [0.0, 200.0, 500.0, 900.0],
    }  # fmt: skip
    write_curves(tmp_path / "c.parquet", {name: [cell] for name, cell in (row | {column: value}).items()})
    with pytest.raises(CurvesFileError, match=re.escape(f"{tmp_path / 'c.parquet'}: {fault}")):
        read_curves(tmp_path / "c.parquet")


def test_rows_at_other_points_than_the_first_are_refused(tmp_path):
    rows = {
        "question_id": ["a", "b"], "question": ["a", "b"], "budget_tokens": [[16, 64], [16, 128]],
        "accuracy": [[0.1, 0.2]] * 2,
    }  # fmt: skip
    write_curves(tmp_path / "c.parquet", rows)
    with pytest.raises(CurvesFileError, match="row 1, budget_tokens"):
        read_curves(tmp_path / "c.parquet")


def test_the_command_writes_figures_and_a_report(tmp_path):
    write_files(tmp_path)
    model = hidden_state_model(tmp_path / "model")
    out = tmp_path / "out" / "e.json"
    result = run(
        "evaluate", "--curves", tmp_path / "c.parquet", "--hidden-states", tmp_path / "h.npz", "--model", model,
        "--json", out, "--report", tmp_path / "e.html",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text())
    assert found["queries"] == 30
    assert found["model"] == {"name": "hidden", "version": "7"}
    assert set(found["budgets"][0]) == {
        "tokens_per_query", "uniform", "oracle", "oracle_split", "policies",
        "policies_at_equal_reserved", "uniform_used_tokens_per_query",
    }  # fmt: skip
    assert (tmp_path / "e.html").read_text().count("<svg") == 4


def test_a_text_model_needs_no_hidden_states_and_a_hidden_one_says_that_it_does(tmp_path):
    write_files(tmp_path)
    model = hidden_state_model(tmp_path / "model")
    words = ["evaluate", "--curves", tmp_path / "c.parquet", "--json", tmp_path / "e.json", "--model"]
    assert run(*words, SHIPPED_MODELS / "demo-text").exit_code == 0
    refused = run(*words, model)
    assert refused.exit_code == 1
    assert "--hidden-states: model hidden needs them" in refused.output


def test_hidden_states_come_back_in_the_order_of_the_curves(tmp_path):
    ids = write_files(tmp_path)
    straight = read_hidden_states(tmp_path / "h.npz", ids)
    assert (read_hidden_states(tmp_path / "h.npz", ids[::-1]) == straight[::-1]).all()


def test_a_faulty_hidden_states_file_is_refused(tmp_path):
    ids = write_files(tmp_path)
    path = tmp_path / "h.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CurvesFileError, match=r"h\.npz: not a readable \.npz"):
        read_hidden_states(path, ids)
    path.write_bytes(whole)
    with pytest.raises(CurvesFileError, match=r"no row for stranger \(1 of 31"):
        read_hidden_states(path, [*ids, "stranger"])
    np.savez(path, question_id=np.array(ids))
    with pytest.raises(CurvesFileError, match="no key hidden_state"):
        read_hidden_states(path, ids)
    np.savez(path, question_id=np.array(ids), hidden_state=np.zeros((5, 4)))
    with pytest.raises(CurvesFileError, match="does not fit 30 question ids"):
        read_hidden_states(path, ids)
    np.savez(path, question_id=np.array([*ids[:-1], ids[0]]), hidden_state=np.zeros((30, 4)))
    with pytest.raises(CurvesFileError, match="q0 stands there twice"):
        read_hidden_states(path, ids)
    broken = np.zeros((30, 4))
    broken[7, 2] = np.nan
    np.savez(path, question_id=np.array(ids), hidden_state=broken)
    with pytest.raises(CurvesFileError, match=r"row 7 \(q7\), hidden_state"):
        read_hidden_states(path, ids)
