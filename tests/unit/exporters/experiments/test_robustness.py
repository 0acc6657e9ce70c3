"""The experiments: tables that say what they should on data where the answer is known."""

import json

import numpy as np
import pytest

from exporters.experiments.classes import buckets
from exporters.experiments.compare import compare
from exporters.experiments.robustness import noise, starvation
from exporters.experiments.table import Table, gains, save
from exporters.experiments.training import generalisation, other_model
from exporters.measure.curves import Curves, window_points
from exporters.replay.evaluate import Evaluation, Predicted, evaluate


@pytest.fixture(scope="module")
def measured():
    rng = np.random.default_rng(3)
    middle, height = rng.uniform(20, 220, 200), rng.uniform(0.2, 1.0, 200)
    return height[:, None] / (1 + np.exp(-(np.arange(16, 257, 16)[None, :] - middle[:, None]) / 12))


def test_a_table_is_markdown():
    assert Table(["a", "b"], [["1", "2"]]).markdown() == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_as_predictions_turn_to_noise_the_shrunk_plan_turns_to_uniform(measured):
    rows = noise(measured, measured).rows
    gain = {(row[0], row[1]): [float(cell) for cell in row[3:]] for row in rows}
    assert gain["0", "shrunk"][1] > gain["2", "shrunk"][1] > gain["8", "shrunk"][1] > 0
    assert min(gain["exchanged", "as it is"]) < -2
    # What is left is what the mean curve alone can gain: where it is convex, unequal budgets beat equal ones.
    assert min(gain["exchanged", "shrunk"]) > -1


def test_a_higher_floor_starves_fewer(measured):
    rows = {(row[0], row[1]): row for row in starvation(measured, measured, budget=96).rows}
    share = {floor: float(rows["50%", floor][3].rstrip("%")) for floor in ("16", "48")}
    assert share["48"] < share["16"]
    assert float(rows["0%", "16"][2]) > float(rows["50%", "16"][2])


def test_true_classes_gain_by_their_curves(measured):
    classes = np.where(measured[:, 7] > 0.5, "easy", "hard")
    curves = Curves.measured([str(n) for n in range(200)], [""] * 200, window_points(16), measured)
    table = buckets(curves, {"true": classes}, curves, classes, {"model": measured})
    assert [row[0] for row in table.rows] == ["true: curves", "true: lengths", "model: curves", "model: lengths"]
    best = [max(float(cell) for cell in row[1:]) for row in table.rows]
    assert best[2] > best[0] > 3  # each question's own curve is worth more than its class


def test_no_curve_gains_nothing(measured):
    flat = np.tile(measured.mean(axis=0), (200, 1))
    assert all(abs(gain) < 5 for gain in gains(flat, measured))


def test_another_model_is_allocated_by_the_first_ones_predictions(measured):
    names = [str(n) for n in range(len(measured))]
    own = Curves.measured(names, names, window_points(16), measured)
    weaker = Curves.measured(names, names, window_points(16), measured * 0.5)
    rows = other_model(measured, own, {"weaker": weaker}).rows
    assert [row[0] for row in rows] == ["the model it was trained on", "weaker", "weaker"]
    assert float(rows[1][3]) > 0.9


def test_kinds_of_task_are_left_out_in_turn():
    rng = np.random.default_rng(0)
    needed = rng.integers(1, 8, 120)
    accuracy = (np.arange(1, 9)[None, :] >= needed[:, None]).astype(float)
    words = [f"task {'ab'[n % 2]} with {need * 'step '}" for n, need in enumerate(needed)]
    curves = Curves.measured([str(n) for n in range(120)], words, window_points(accuracy.shape[1]), accuracy)
    groups = np.array(["ab"[n % 2] for n in range(120)])
    hidden = rng.normal(size=(120, 4)).astype(np.float32)
    hidden[:, 0] = needed
    table = generalisation(curves, groups, hidden)
    assert [row[0] for row in table.rows] == ["text_curve", "text_curve", "hidden_state_mlp", "hidden_state_mlp"]
    assert float(table.rows[0][2]) > 0.5


def test_predictors_stand_side_by_side_with_both_oracles(measured, tmp_path):
    names = [str(n) for n in range(len(measured))]
    curves = Curves.measured(names, names, window_points(16), measured)
    found = evaluate(Predicted(measured), curves, {"name": "m", "version": "1"})
    table = compare({"m": Evaluation.from_json(json.loads(json.dumps(found.as_json())))})
    assert [row[0] for row in table.rows[:1]] == ["m"]
    assert float(table.rows[-1][4]) >= float(table.rows[-2][4]) - 2
    drawn = Table([table.head[0], *table.head[2:]], [[row[0], *row[2:]] for row in table.rows])
    save(drawn.lines(1, "tokens"), tmp_path / "one.svg")
    save(drawn.lines(1, "tokens"), tmp_path / "other.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "other.svg").read_bytes()
    save(Table(["layer", "r"], [["1", "0.5"], ["2", "0.6"]]).columns("layer", "r"), tmp_path / "columns.svg")
    assert "layer" in (tmp_path / "columns.svg").read_text()
