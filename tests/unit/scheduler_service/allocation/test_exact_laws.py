"""Laws of exact: no plan is better."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler_service.allocation.envelope import Envelope
from scheduler_service.allocation.exact import Exact
from tests.builders.problems import problems


@given(problem=st.one_of(problems(weighted=True, aligned=True), problems(uneven=True, weighted=True)))
def test_exact_is_the_best_of_all_plans(problem):
    """Against every plan there is, for problems small enough to try them all."""
    few = problem.part(np.arange(len(problem.accuracy)) < 3, 1e9)
    few = replace(few, total=int(few.floors.sum()) + int(problem.total) % 97)
    choices = [sorted(set(places)) for places in few.places.tolist()]
    best = max(few.worth(np.array(plan)) for plan in product(*choices) if sum(plan) <= few.total)
    assert few.worth(Exact().allocate(few)) == pytest.approx(best, abs=1e-9)


@given(problem=problems(aligned=True))
def test_a_query_that_is_worth_nothing_takes_nothing_from_the_others(problem):
    weights = np.ones(len(problem.accuracy))
    weights[0] = 0.0
    weighted = replace(problem, weights=weights)
    assert Exact().allocate(weighted)[0] == problem.floors[0]
    assert Envelope(spread=False).allocate(weighted)[0] == problem.floors[0]
