"""Laws of the target: it is reached, and no cheaper plan reaches it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler_service.allocation.envelope import Envelope
from scheduler_service.allocation.exact import Exact
from scheduler_service.allocation.target import Target
from tests.builders.problems import WIDTH, problems


@given(problem=problems(concave=True, aligned=True), accuracy=st.floats(0.01, 1))
def test_a_target_is_reached_by_the_cheapest_plan(problem, accuracy):
    plan = Target(accuracy).allocate(problem)
    richest = Envelope(spread=False).allocate(problem)
    reachable = problem.worth(richest) >= accuracy * len(plan) - 1e-9
    if not reachable:
        assert problem.worth(plan) == pytest.approx(problem.worth(richest), abs=1e-9)
        return
    assert problem.worth(plan) >= accuracy * len(plan) - 1e-6
    spent = int(plan.sum())
    if spent > problem.floors.sum():  # one window less does not reach it, however it is split
        cheaper = replace(problem, total=spent - WIDTH)
        assert problem.worth(Exact().allocate(cheaper)) < accuracy * len(plan) + 1e-9
