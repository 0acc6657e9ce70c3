"""What a deadline allows at the backend's pace."""

import pytest

from scheduler_service.generation.pace import Pace


def test_the_pace_is_learned_and_leaves_time_for_the_answer():
    pace = Pace(memory=100)
    assert pace.budget_within(10, 8) is None
    pace.observe(0.1, 50)
    assert pace.seconds_per_token == 0.1
    assert pace.budget_within(12, 20) == 78  # (12 − 1.2·22·0.1) / (1.2·0.1)
    assert pace.budget_within(1, 20) == 0
    pace.observe(0.2, 100)
    assert pace.seconds_per_token == pytest.approx(0.15)
    pace.observe(0, 100)
    pace.observe(9, 1)
    assert pace.seconds_per_token == pytest.approx(0.15)
