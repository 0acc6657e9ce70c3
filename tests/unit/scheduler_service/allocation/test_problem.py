"""Problems: what cannot be planned is refused by name, and how accuracy is read and leftovers are spread."""

from dataclasses import replace

import numpy as np
import pytest

from scheduler_service.allocation import Problem
from scheduler_service.allocation.problem import accuracy_at, spread_evenly


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -0.1, 1.1])
def test_what_is_no_accuracy_is_refused(bad):
    good = Problem(np.array([16]), np.array([[0.5]]), np.array([0]), np.array([16]), 16)
    with pytest.raises(ValueError, match="accuracy"):
        replace(good, accuracy=np.array([[bad]]))
    for weights in ([bad] if bad < 0 or not np.isfinite(bad) else [-1.0], [1.0, 1.0]):
        with pytest.raises(ValueError, match="weights"):
            replace(good, weights=np.array(weights))


def test_leftovers_go_to_the_lowest_first():
    assert spread_evenly(np.array([32, 0, 16]), np.array([64, 64, 64]), 40, 16).tolist() == [32, 32, 24]


def test_leftovers_are_spread_also_where_a_token_of_budget_costs_more_than_one():
    assert spread_evenly(np.array([0]), np.array([8]), 5, 8, lambda budgets: 2.0 * budgets).tolist() == [2]


def test_accuracy_is_linear_between_windows_and_zero_without_tokens():
    curves = np.array([[0.4, 0.8]] * 4)
    assert accuracy_at(np.array([16, 32]), curves, np.array([0, 8, 24, 64])).tolist() == pytest.approx(
        [0.0, 0.2, 0.6, 0.8]
    )


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
        ({"points": np.array([-1, 16])}, "points"),
        ({"points": np.array([0])}, "points"),
        ({"points": np.arange(513)}, "points"),
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
