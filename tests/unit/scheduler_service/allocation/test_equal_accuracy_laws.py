"""Laws of what a stream saves against uniform."""

from hypothesis import given
from hypothesis import strategies as st

from scheduler_service.allocation import Curve
from scheduler_service.allocation.equal_accuracy import EqualAccuracy
from tests.builders.jobs import RISING


@given(st.lists(st.tuples(RISING, st.integers(0, 4)), min_size=1, max_size=50))
def test_savings_are_never_negative_and_never_more_than_the_longest_curve(decisions):
    saved = EqualAccuracy()
    for curve, windows in decisions:
        expected = curve[windows - 1] if windows else 0.0
        assert 0 <= saved.add(Curve((16, 32, 48, 64), tuple(curve)), 16 * windows, expected) <= 64
