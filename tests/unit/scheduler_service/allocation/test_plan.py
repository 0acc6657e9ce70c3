"""A plan is guarded by uniform, and knows what it saves."""

import numpy as np
import pytest

from scheduler_service.allocation import POLICIES, make_plan
from tests.builders.problems import problem


def test_the_guard_takes_uniform_where_the_policy_expects_no_gain():
    plan = make_plan(POLICIES["envelope"], problem([[0.5, 0.5]] * 2, total=64), np.array([True, True]))
    assert plan.policy == "uniform"
    assert plan.budgets.tolist() == [32, 32]


def test_saved_at_equal_accuracy_counts_what_uniform_would_need():
    # Envelope gives all 32 tokens to the first query; uniform reaches 0.9 only with 32 tokens for each.
    plan = make_plan(POLICIES["envelope"], problem([[0.0, 0.9], [0.0, 0.0]], total=32), np.array([True, True]))
    assert plan.budgets.tolist() == [32, 0]
    assert plan.saved_at_equal_accuracy == pytest.approx((64 - 32) / 2, abs=0.05)  # equal within a tenth of a point
