"""The policies of a load, each by what tells it from the others."""

import numpy as np
import pytest

from exporters.replay.load_policies import Even, Limited, Priced
from scheduler_service.allocation import Curve
from scheduler_service.control.capacity import Bounds
from scheduler_service.control.learning import Observation
from scheduler_service.control.objectives import parse_objectives

BOUNDS = Bounds(32, 256, 1024)
(OBJECTIVE,) = OBJECTIVES = parse_objectives(["total p90 10s"])
GOOD = Curve((64, 256, 1024), (0.5, 0.8, 0.9), (60.0, 200.0, 500.0))
HOPELESS = Curve((64, 256, 1024), (0.0, 0.0, 0.01), (60.0, 200.0, 500.0))


def crowded(policy, seconds=30, arrivals=500.0):
    """Let a policy see what no budget could hold."""
    for now in range(1, seconds + 1):
        policy.observe(
            Observation(1.0, arrivals, 128, 400, 10000, 300000, 128, 0.01, measured={OBJECTIVE: [30.0] * 20}),
            float(now),
        )


def even(objectives=(), **more):
    return Even(BOUNDS, [64, 256, 1024], np.array([60.0, 200.0, 500.0]), objectives, **more)


def test_even_budgets_are_those_whose_mean_use_is_the_mean():
    policy = even()
    assert policy.decide(0, GOOD, 1.0, 0, 0.0) == policy.decide(1, HOPELESS, 1.0, 0, 0.0)
    assert policy.decide(2, GOOD, 1.0, 0, 0.0) == int(256 + 768 * 56 / 300)
    policy.ended(0, 100.0)
    assert policy.mean == 256


def test_without_an_objective_nothing_is_controlled():
    for policy in (even(), Priced(BOUNDS, 16)):
        crowded(policy)
        assert policy.mean == 256
        assert policy.decide(0, HOPELESS, 0.01, 10**6, 0.0) is not None


def test_controlled_budgets_fall_and_the_price_rises():
    policy = Priced(BOUNDS, 16, OBJECTIVES)
    for key in range(100):
        policy.decide(key, GOOD, 1.0, 0, 0.0)
        policy.ended(key, 200.0)
    before = policy.decide(100, GOOD, 1.0, 0, 0.0)
    crowded(policy, seconds=3, arrivals=40.0)
    assert policy.mean < 256
    given = [policy.decide(200 + key, GOOD, 1.0, 0, 3.0) for key in range(50)]
    assert sum(budget for budget in given if budget is not None) / 50 < before
    assert policy.price > 0


def test_what_must_be_refused_is_what_is_worth_least_unless_nobody_looks():
    seeing, blind = even(OBJECTIVES), even(OBJECTIVES, blind=True)
    for policy in (seeing, blind):
        crowded(policy)
    fates = {policy: {GOOD: 0, HOPELESS: 0} for policy in (seeing, blind)}
    for policy, admitted in fates.items():
        for key in range(600):
            curve = GOOD if key % 10 == 0 else HOPELESS
            admitted[curve] += policy.decide(key, curve, 1.0, 0, 31.0) is not None
    assert fates[seeing][GOOD] / 60 > 2 * fates[seeing][HOPELESS] / 540
    assert fates[blind][GOOD] / 60 == pytest.approx(fates[blind][HOPELESS] / 540, abs=0.1)


def test_a_limit_falls_by_three_tenths_at_most_twice_an_objective_and_rises_by_one():
    policy = Limited(even(), OBJECTIVE, start=100.0)
    assert policy.decide(0, GOOD, 1.0, 99, 0.0) is not None
    assert policy.decide(1, GOOD, 1.0, 100, 0.0) is None
    crowded(policy, seconds=4)
    assert policy.decide(2, GOOD, 1.0, 69, 4.0) is not None
    assert policy.decide(3, GOOD, 1.0, 70, 4.0) is None
    policy.observe(Observation(1.0, 1, 1, 0, 10, 10, 128, measured={OBJECTIVE: [1.0]}), 5.0)
    assert policy.decide(4, GOOD, 1.0, 70, 5.0) is not None
    policy.ended(4, 1.0)
    assert policy.mean == 256
    assert policy.price == 0
