"""Policies on small problems whose best plan is known."""

import numpy as np
import pytest

from scheduler_service.allocation import POLICIES, Problem, make_plan
from scheduler_service.allocation.envelope import envelope_segments
from scheduler_service.allocation.problem import accuracy_at, spread_evenly


def problem(curves, total, floors=None, caps=None):
    count, windows = len(curves), len(curves[0])
    return Problem(
        np.arange(16, windows * 16 + 1, 16),
        np.array(curves, float),
        np.array(floors or [0] * count),
        np.array(caps or [windows * 16] * count),
        total,
    )


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


def test_uniform_gives_everybody_the_same_to_the_token():
    assert POLICIES["uniform"].allocate(problem([[0.5] * 4] * 3, total=100)).tolist() == [34, 33, 33]


def test_uniform_respects_floors_and_caps():
    plan = POLICIES["uniform"].allocate(problem([[0.5] * 4] * 3, total=90, floors=[40, 0, 0], caps=[64, 10, 64]))
    assert plan.tolist() == [40, 10, 40]


def test_leftovers_go_to_the_lowest_first():
    assert spread_evenly(np.array([32, 0, 16]), np.array([64, 64, 64]), 40, 16).tolist() == [32, 32, 24]


def test_accuracy_is_linear_between_windows_and_zero_without_tokens():
    curves = np.array([[0.4, 0.8]] * 4)
    assert accuracy_at(np.array([16, 32]), curves, np.array([0, 8, 24, 64])).tolist() == pytest.approx(
        [0.0, 0.2, 0.6, 0.8]
    )


def test_the_guard_takes_uniform_where_the_policy_expects_no_gain():
    plan = make_plan(POLICIES["envelope"], problem([[0.5, 0.5]] * 2, total=64), np.array([True, True]))
    assert plan.policy == "uniform"
    assert plan.budgets.tolist() == [32, 32]


def test_saved_at_equal_accuracy_counts_what_uniform_would_need():
    # Envelope gives all 32 tokens to the first query; uniform reaches 0.9 only with 32 tokens for each.
    plan = make_plan(POLICIES["envelope"], problem([[0.0, 0.9], [0.0, 0.0]], total=32), np.array([True, True]))
    assert plan.budgets.tolist() == [32, 0]
    assert plan.saved_at_equal_accuracy == pytest.approx((64 - 32) / 2, abs=0.05)  # equal within a tenth of a point


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"accuracy": np.array([[np.nan, 0.5]])}, "accuracy"),
        ({"accuracy": np.array([[0.5, 1.5]])}, "accuracy"),
        ({"accuracy": np.array([[-0.1, 0.5]])}, "accuracy"),
        ({"floors": np.array([-1])}, "floors"),
        ({"floors": np.array([33])}, "floors"),
        ({"floors": np.array([16]), "total": 15}, "total"),
        ({"floors": np.array([1, 2])}, "floors, caps"),
        ({"points": np.array([32, 16])}, "points"),
        ({"points": np.array([16, 200_000])}, "points"),
        ({"used": np.array([[16.0, 12.0]])}, "used"),
        ({"used": np.array([[16.0, 33.0]])}, "used"),
        ({"used": np.array([[16.0]])}, "used"),
    ],
)
def test_what_cannot_be_planned_is_refused_by_name(change, field):
    good = {
        "points": np.array([16, 32]),
        "accuracy": np.array([[0.1, 0.2]]),
        "floors": np.array([0]),
        "caps": np.array([32]),
        "total": 32,
    }
    with pytest.raises(ValueError, match=f"^{field}: "):
        Problem(**{**good, **change})
