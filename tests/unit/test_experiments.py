"""The experiments: tables that say what they should on data where the answer is known."""

import numpy as np
import pytest

from exporters.curves import Curves
from exporters.experiments.classes import buckets
from exporters.experiments.robustness import noise, starvation
from exporters.experiments.table import Table, gains


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
    curves = Curves.measured([str(n) for n in range(200)], [""] * 200, measured)
    table = buckets(curves, {"true": classes}, curves, classes, {"model": measured})
    assert [row[0] for row in table.rows] == ["true: curves", "true: lengths", "model: curves", "model: lengths"]
    best = [max(float(cell) for cell in row[1:]) for row in table.rows]
    assert best[2] > best[0] > 3  # each question's own curve is worth more than its class


def test_no_curve_gains_nothing(measured):
    flat = np.tile(measured.mean(axis=0), (200, 1))
    assert all(abs(gain) < 5 for gain in gains(flat, measured))
