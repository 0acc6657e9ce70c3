"""The least and the largest budget: as they are set, or as the points and the backend's room say."""

import pytest

from scheduler_service.planning.budget_range import BudgetRange


def ranged(points=(), mean=64, floor=None, cap=None, **fields):
    budgets = BudgetRange(mean, floor, cap, points=lambda: points, **fields)
    return budgets.floor, budgets.cap


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (16, 256)),  # nothing is known yet
        ({"points": (32, 64, 512)}, (32, 512)),
        ({"points": (0, 256, 8192)}, (64, 8192)),  # a point of nothing is no floor; the mean is within
        ({"points": (32, 48)}, (32, 64)),
        ({"points": (0,)}, (16, 64)),
        ({"points": (32, 512), "floor": 8, "cap": 128}, (8, 128)),
        ({"points": (32, 512), "floor": 0}, (0, 512)),  # nothing is a floor that can be set
        ({"points": (32, 8192), "room": 4096, "answer": 256}, (32, 4096 - 256 - 256)),
        ({"points": (32, 512), "room": 4096, "answer": 256}, (32, 512)),
        ({"points": (32, 8192), "room": 300, "answer": 256}, (32, 64)),
        ({"points": (32, 8192), "room": 4096, "cap": 8000}, (32, 8000)),
    ],
)
def test_what_is_set_comes_first_then_the_points_then_the_room(given, expected):
    assert ranged(**given) == expected


def test_points_that_become_known_are_followed_at_once():
    points = []
    budgets = BudgetRange(64, None, None, points=lambda: tuple(points))
    assert budgets.cap == 256
    points += [16, 1024]
    assert budgets.cap == 1024
