"""Laws of plans: the guard keeps them from doing worse than uniform."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scheduler_service.allocation import make_plan
from tests.builders.problems import POLICY, problems


@POLICY
@given(problem=st.one_of(problems(), problems(uneven=True, used=True)), data=st.data())
def test_a_plan_is_never_expected_to_do_worse_than_uniform(policy, problem, data):
    known = np.array([data.draw(st.booleans()) for _ in problem.accuracy])
    plan = make_plan(policy, problem, known)
    assert plan.costs.sum() <= problem.total + 1e-6
    assert plan.expected.sum() >= plan.baseline_expected.sum() - 1e-9
    assert (plan.budgets[~known] == plan.baselines[~known]).all()
    assert plan.saved_at_equal_accuracy >= 0
