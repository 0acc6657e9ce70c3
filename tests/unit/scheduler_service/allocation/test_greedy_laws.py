"""Laws of greedy: where gains fall, it is as good as the envelope."""

import pytest
from hypothesis import given

from scheduler_service.allocation import POLICIES
from tests.builders.problems import problems


@given(problem=problems(concave=True, aligned=True))
def test_greedy_equals_envelope_on_concave_curves(problem):
    reached = [problem.worth(POLICIES[name].allocate(problem)) for name in ("greedy", "envelope")]
    assert reached[0] == pytest.approx(reached[1], abs=1e-9)
