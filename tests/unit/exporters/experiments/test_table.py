"""Tables and what they say of gains."""

import numpy as np

from exporters.experiments.table import Table, gains


def test_a_table_is_markdown():
    assert Table(["a", "b"], [["1", "2"]]).markdown() == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_no_curve_gains_nothing(measured):
    flat = np.tile(measured.mean(axis=0), (200, 1))
    assert all(abs(gain) < 5 for gain in gains(flat, measured))
