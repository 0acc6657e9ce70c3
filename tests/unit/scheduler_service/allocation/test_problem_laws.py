"""Laws of every allocation policy, on arbitrary curves, floors, caps and totals."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from scheduler_service.allocation import POLICIES
from scheduler_service.allocation.problem import gather
from scheduler_service.allocation.uniform import Uniform
from tests.builders.problems import ANY, POLICY, WIDTH, curves, problems

SPENDING = pytest.mark.parametrize("policy", [POLICIES[name] for name in ("uniform", "greedy", "envelope")])


@POLICY
@given(problem=ANY)
def test_budgets_stay_within_floors_caps_and_total(policy, problem):
    budgets = policy.allocate(problem)
    assert budgets.dtype == np.int64
    assert (budgets >= problem.floors).all()
    assert (budgets <= problem.caps).all()
    assert problem.cost(budgets).sum() <= problem.total + 1e-6


@SPENDING
@given(problem=st.one_of(problems(), problems(uneven=True)))
def test_a_total_that_caps_can_take_is_spent_to_the_token(policy, problem):
    budgets = policy.allocate(problem)
    assert budgets.sum() == min(problem.total, problem.caps.sum())


@pytest.mark.parametrize("policy", [Uniform(), POLICIES["greedy"], POLICIES["envelope"]])
@given(problem=problems(uneven=True, used=True))
def test_a_total_of_expected_use_is_spent_but_for_less_than_a_token_each(policy, problem):
    budgets = policy.allocate(problem)
    wanted = min(problem.total, problem.cost(problem.caps).sum())
    assert problem.cost(budgets).sum() > wanted - len(budgets) - 1e-6


@POLICY
@given(problem=ANY)
def test_the_same_problem_has_the_same_plan(policy, problem):
    assert (policy.allocate(problem) == policy.allocate(problem)).all()


@POLICY
@given(problem=problems(), seed=st.integers(0, 2**32 - 1))
def test_the_order_of_queries_does_not_change_what_is_expected(policy, problem, seed):
    order = np.random.default_rng(seed).permutation(len(problem.accuracy))
    shuffled = replace(
        problem, accuracy=problem.accuracy[order], floors=problem.floors[order], caps=problem.caps[order]
    )
    gains = np.diff(np.concatenate([np.zeros((len(problem.accuracy), 1)), problem.accuracy], axis=1), axis=1)
    assume(len(np.unique(np.round(gains, 9))) == gains.size)  # ties go to the earlier query
    one, other = policy.allocate(problem)[order], policy.allocate(shuffled)
    if policy.name == "exact":  # several plans may be best; they are worth the same
        assert shuffled.worth(one) == pytest.approx(shuffled.worth(other), abs=1e-9)
        return
    # What no curve asks for is spread in order of arrival: less than one step a query.
    assert (np.abs(one - other) <= WIDTH).all()


@given(both=st.lists(curves(400), min_size=2, max_size=4))
def test_curves_at_different_points_share_one_problem(both):
    caps = np.array([curve.points[-1] for curve in both])
    problem = gather(both, np.zeros(len(both), np.int64), caps, float(caps.sum()) / 2)
    budgets = POLICIES["envelope"].allocate(problem)
    spent = sum(curve.used_at(budget) for curve, budget in zip(both, budgets.tolist(), strict=True))
    assert spent <= problem.total + 1e-3
