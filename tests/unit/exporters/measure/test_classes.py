"""Classes of difficulty."""

import numpy as np

from exporters.measure.classes import difficulty_of, size_of, soft_difficulty


def test_classes_are_the_outer_fifths():
    accuracy = np.linspace(0, 1, 10)[:, None].repeat(4, axis=1)
    assert difficulty_of(accuracy).tolist() == [2, 2, 1, 1, 1, 1, 1, 1, 0, 0]
    needed = np.arange(10)
    rising = (np.arange(12)[None, :] >= needed[:, None]).astype(float)
    assert size_of(rising).tolist() == [0, 0, 1, 1, 1, 1, 1, 1, 2, 2]


def test_soft_classes_agree_with_the_hard_ones_away_from_the_borders():
    accuracy = np.linspace(0, 1, 101)[:, None].repeat(4, axis=1)
    soft = soft_difficulty(accuracy)
    assert np.allclose(soft.sum(axis=1), 1)
    assert soft[[0, 50, 100]].argmax(axis=1).tolist() == [2, 1, 0]
    assert (soft.argmax(axis=1) == difficulty_of(accuracy)).mean() > 0.9
    assert np.all(np.diff(soft[:, 0]) >= -1e-6)  # the more often right, the easier
