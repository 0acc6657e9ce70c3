"""Classes of questions and what their curves gain."""

import numpy as np

from exporters.experiments.classes import buckets
from exporters.measure.curves import Curves, window_points


def test_true_classes_gain_by_their_curves(measured):
    classes = np.where(measured[:, 7] > 0.5, "easy", "hard")
    curves = Curves.measured([str(n) for n in range(200)], [""] * 200, window_points(16), measured)
    table = buckets(curves, {"true": classes}, curves, classes, {"model": measured})
    assert [row[0] for row in table.rows] == ["true: curves", "true: lengths", "model: curves", "model: lengths"]
    best = [max(float(cell) for cell in row[1:]) for row in table.rows]
    assert best[2] > best[0] > 3  # each question's own curve is worth more than its class
