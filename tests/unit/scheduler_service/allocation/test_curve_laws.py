"""Laws of a curve: it reads as it does in a problem."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler_service.allocation.problem import gather
from tests.builders.problems import curves


@given(curve=curves(400), tokens=st.floats(0, 1000))
def test_a_curve_reads_as_it_does_in_a_problem(curve, tokens):
    problem = gather([curve], np.array([0]), np.array([1000]), 1000.0)
    at = np.array([tokens])
    assert curve.accuracy_at(tokens) == pytest.approx(float(problem.accuracy_at(at)[0]), abs=1e-9)
    assert curve.used_at(tokens) == pytest.approx(float(problem.cost(at)[0]), rel=1e-9, abs=1e-6)
