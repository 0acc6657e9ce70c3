"""What training on one kind of question, or one model, is worth for another."""

import numpy as np

from exporters.experiments.training import generalisation, other_model
from exporters.measure.curves import Curves, window_points


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
