"""A curve between, before and beyond its points, and what is none."""

from scheduler_service.allocation.curve import Curve


def test_accuracy_between_points_is_linear():
    curve = Curve((16, 32), (0.2, 0.6))
    assert curve.accuracy_at(8) == 0.1
    assert curve.accuracy_at(24) == 0.4
    assert curve.accuracy_at(99) == 0.6
    assert Curve().accuracy_at(16) == 0.0
