"""A curve between, before and beyond its points, and what is none."""

import pytest

from predictive_scheduling.budget_points import CurveError
from scheduler_service.allocation.curve import Curve, checked


def test_accuracy_between_points_is_linear():
    curve = Curve((16, 32), (0.2, 0.6))
    assert curve.accuracy_at(8) == 0.1
    assert curve.accuracy_at(24) == 0.4
    assert curve.accuracy_at(99) == 0.6
    assert Curve().accuracy_at(16) == 0.0


def test_use_beyond_the_last_point_goes_on_as_before_it():
    curve = Curve((16, 32), (0.2, 0.6), (16.0, 24.0))
    assert [curve.used_at(tokens) for tokens in (0, 8, 16, 24, 32, 48)] == [0, 8, 16, 20, 24, 32]
    assert Curve((16,), (0.5,), (8.0,)).used_at(32) == 16
    assert Curve((16,), (0.5,)).used_at(32) == 32  # nothing is known: a budget counts whole


def test_what_comes_from_outside_is_kept_where_it_is_a_curve():
    assert checked([0, 16], [0.5, 0.25]) == Curve((0, 16), (0.5, 0.25))
    assert checked([16, 32], [0.0, 1.0], [16.0, 16.0]) == Curve((16, 32), (0.0, 1.0), (16.0, 16.0))


@pytest.mark.parametrize(
    ("points", "accuracy", "used", "part", "words"),
    [
        ([], [], [], "points", "1 to 512"),
        ([16, 16], [0.1, 0.2], [], "points", "16 at place 1 follows 16"),
        ([16, 32], [0.1], [], "accuracy", "1 values for 2 points"),
        ([16, 32], [0.1, 1.1], [], "accuracy", "1.1 at place 1"),
        ([16, 32], [float("nan"), 0.1], [], "accuracy", "nan at place 0"),
        ([16, 32], [-0.1, 0.1], [], "accuracy", "-0.1 at place 0"),
        ([16, 32], [0.1, 0.2], [16.0], "used", "1 values for 2 points"),
        ([16, 32], [0.1, 0.2], [17.0, 18.0], "used", "17.0 at place 0"),
        ([16, 32], [0.1, 0.2], [16.0, 15.0], "used", "falls from 16.0 to 15.0 at place 1"),
    ],
)
def test_what_is_no_curve_is_refused_with_its_part_and_place(points, accuracy, used, part, words):
    with pytest.raises(CurveError, match=words) as caught:
        checked(points, accuracy, used)
    assert caught.value.part == part
