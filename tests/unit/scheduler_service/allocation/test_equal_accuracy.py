"""What a stream saves against uniform at equal accuracy."""

import pytest

from scheduler_service.allocation import Curve
from scheduler_service.allocation.equal_accuracy import EqualAccuracy


def test_a_stream_saves_what_uniform_would_need_more():
    """Half the queries need 16 tokens, half need 64: with 16 and 64 uniform would need 64 to be as accurate."""
    saved = EqualAccuracy()
    easy, hard = (Curve((16, 32, 48, 64), row) for row in ((1.0, 1.0, 1.0, 1.0), (0.0, 0.0, 0.0, 1.0)))
    for _ in range(300):
        saved.add(easy, 16, 1.0)
        figure = saved.add(hard, 64, 1.0)
    assert figure == pytest.approx(64 - 40, abs=0.5)


def test_what_uniform_would_do_as_well_saves_nothing():
    saved = EqualAccuracy()
    for _ in range(50):
        assert saved.add(Curve((16, 32, 48, 64), (0.1, 0.2, 0.3, 0.4)), 32, 0.2) == 0.0
