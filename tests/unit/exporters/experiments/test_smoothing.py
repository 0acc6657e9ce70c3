"""Few samples a question: the laws of smoothing, of drawing, and of what a predictor says of its own error."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from exporters.experiments.__main__ import app
from exporters.experiments.samples import EACH, SHARED, SMOOTHINGS, draw, kinds_of, smoothed
from exporters.experiments.smoothing import isotonic, joint, shrunk
from exporters.faults import CurvesFileError
from exporters.measure.curves import Curves, read_curves, sampling_variance, window_points, write_curves
from exporters.measure.hidden_states import write_hidden_states
from exporters.predictors.trained import Calibration

METHODS = sorted({name for names in SMOOTHINGS.values() for name in names})


@st.composite
def proportions(draw_one):
    """Proportions (n, K) of so many samples a question: from one sample to hundreds, one question, one point."""
    samples = draw_one(st.integers(1, 300))
    shape = draw_one(st.integers(1, 12)), draw_one(st.integers(1, 8))
    counts = draw_one(st.lists(st.integers(0, samples), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
    return np.reshape(counts, shape) / samples, samples


def pool_adjacent_violators(curve):
    """The reference: merge neighbours as long as one lies above the next."""
    blocks = []
    for value in curve:
        blocks.append([value])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    return [float(np.mean(block)) for block in blocks for _ in block]


@pytest.fixture(scope="module")
def truth():
    """The true curves of 400 questions: rising, of unlike height and place."""
    rng = np.random.default_rng(3)
    middle, height = rng.uniform(20, 220, 400), rng.uniform(0.2, 1.0, 400)
    return height[:, None] / (1 + np.exp(-(np.arange(16, 257, 16)[None, :] - middle[:, None]) / 12))


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


@pytest.mark.parametrize("samples", [1, 2, 4, 16])
def test_points_of_their_own_traces_tell_of_each_other(truth, samples):
    measured = draw(truth, samples, np.random.default_rng(1))
    error = {
        name: np.square(smoothed(name, measured, samples) - truth).mean() for name in ("none", "isotonic", "joint")
    }
    assert error["joint"] < error["none"] / 1.5
    assert error["isotonic"] < error["none"] / 1.5


def test_points_that_share_their_traces_tell_nothing_new(truth):
    measured = draw(truth, 4, np.random.default_rng(1), SHARED)
    assert np.allclose(isotonic(measured), measured)


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


@pytest.mark.parametrize("drawn", [EACH, SHARED])
def test_what_chance_gives_to_measured_curves_is_known_from_two_samples_on(truth, drawn):
    for samples in (2, 5):
        measured = draw(np.tile(truth, (50, 1)), samples, np.random.default_rng(0), drawn)
        expected = (truth * (1 - truth)).mean(axis=0) / samples
        assert np.allclose(sampling_variance(measured, samples), expected, rtol=0.1, atol=1e-3)


def test_a_predictors_stated_error_does_not_grow_as_samples_get_fewer(truth):
    names = [f"{row}" for row in range(len(truth))]
    predicted = np.clip(truth + np.random.default_rng(1).normal(0, 0.1, (len(truth), 1)), 0, 1)
    own = (predicted - truth).std(axis=0)

    def stated(samples, count):
        measured = draw(truth, samples, np.random.default_rng(0), SHARED)
        counts = None if count is None else np.full(len(names), count)
        curves = Curves.measured(names, names, window_points(16), measured)
        curves = Curves(**{**curves.__dict__, "samples": counts})
        return np.array(Calibration.of(predicted, curves, {}).uncertainty)

    assert np.abs(stated(4, 4) - own).mean() < 0.03
    assert (stated(4, None) > own + 0.05).mean() > 0.7  # a file that does not say: chance counts as error
    assert (stated(1, 1) > own + 0.05).mean() > 0.7  # one sample cannot tell


def test_a_curves_file_says_how_many_samples_it_averages(tmp_path):
    columns = {
        "question_id": ["a", "b"],
        "question": ["", ""],
        "budget_tokens": [[8, 20]] * 2,
        "accuracy": [[0, 0.5]] * 2,
    }
    write_curves(tmp_path / "silent.parquet", columns)
    write_curves(tmp_path / "curves.parquet", {**columns, "samples": [2, 4]})
    assert read_curves(tmp_path / "silent.parquet").samples is None
    found = read_curves(tmp_path / "curves.parquet")
    assert found.samples.tolist() == [2, 4]
    assert found.chosen([1]).samples.tolist() == [4]


@pytest.mark.parametrize("count", [0, -1, None, 2.5, "many"])
def test_samples_that_are_no_count_are_refused_by_row(tmp_path, count):
    columns = {"question_id": ["a"], "question": [""], "accuracy_at_window": [[0.5]], "samples": [count]}
    write_curves(tmp_path / "curves.parquet", columns)
    with pytest.raises(CurvesFileError, match=r"curves\.parquet: row 0, samples: "):
        read_curves(tmp_path / "curves.parquet")


def test_the_command_compares_smoothings_on_a_small_file(truth, tmp_path):
    rng = np.random.default_rng(0)
    for name, rows in (("train", range(160)), ("test", range(200, 260))):
        ids = [f"{row}" for row in rows]
        write_curves(
            tmp_path / f"{name}.parquet",
            {"question_id": ids, "question": ids, "accuracy_at_window": truth[list(rows)].round(2).tolist()},
        )
        states = np.concatenate([truth[list(rows)], rng.normal(size=(len(ids), 4))], axis=1)
        write_hidden_states(tmp_path / f"{name}.npz", ids, states)
    files = {"--curves": "train.parquet", "--hidden-states": "train.npz", "--test": "test.parquet"}
    files |= {"--test-states": "test.npz", "--plot": "plot.svg", "--json": "rows.json"}
    given_files = [part for option, name in files.items() for part in (option, str(tmp_path / name))]
    chosen = ["--samples", "1", "--samples", "4", "--traces", "160", "--questions", "150", "--repeats", "1"]
    result = CliRunner().invoke(app, ["few-samples", *given_files, *chosen, "--epochs", "1"], catch_exceptions=False)
    assert result.exit_code == 0
    trained, equal, scored = [table.splitlines()[2:] for table in result.stdout.strip().split("\n\n")]
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert len(trained) == len(rows)
    assert {row["smoothing"] for row in rows} == {*METHODS, "the file as it is"}
    assert (rows[-1]["error"], rows[-1]["questions"]) == (0, 150)
    assert [line.split(" | ")[1:3] for line in equal] == [["80", "2"], ["40", "4"], ["20", "8"]]
    assert len(scored) == 2 + 3 + 1
    assert "samples a question" in (tmp_path / "plot.svg").read_text()
