"""The envelope on small problems whose best plan is known."""

import pytest

from scheduler_service.allocation import POLICIES
from scheduler_service.allocation.envelope import envelope_segments
from tests.builders.problems import problem


def test_envelope_sees_the_gain_behind_a_window_without_gain():
    hidden = problem([[0.0, 0.9, 0.9], [0.3, 0.4, 0.5]], total=32)
    assert POLICIES["envelope"].allocate(hidden).tolist() == [32, 0]
    assert POLICIES["greedy"].allocate(hidden).tolist() != [32, 0]


def test_segments_are_the_least_concave_majorant():
    segments = envelope_segments(problem([[0.1, 0.1, 0.6, 0.6]], total=64))
    assert segments.cost.tolist() == [48]
    assert segments.slope.tolist() == pytest.approx([0.6 / 48])


def test_a_straight_curve_is_bought_window_by_window():
    segments = envelope_segments(problem([[0.1, 0.2, 0.3]], total=48))
    assert segments.cost.tolist() == [16, 16, 16]


def test_a_curve_that_falls_is_bought_up_to_its_peak_only():
    plan = POLICIES["envelope"].allocate(problem([[0.5, 0.2, 0.1], [0.1, 0.2, 0.3]], total=64))
    assert plan.tolist() == [16, 48]
