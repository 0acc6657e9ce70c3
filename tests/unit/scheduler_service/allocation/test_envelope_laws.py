"""Laws of the envelope: how far it is from the best plan there is, and one curve's segments."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from scheduler_service.allocation import POLICIES, Curve
from scheduler_service.allocation.envelope import Envelope, envelope_segments, segments_of
from scheduler_service.allocation.exact import Exact
from tests.builders.problems import WIDTH, curves, problems


@given(problem=problems(concave=True, aligned=True))
def test_envelope_is_exact_on_concave_curves(problem):
    best = problem.worth(Exact().allocate(problem))
    reached = problem.worth(POLICIES["envelope"].allocate(problem))
    assert reached == pytest.approx(best, abs=1e-9)


@given(problem=problems(concave=True, aligned=True), more=st.integers(0, 8))
def test_a_larger_total_is_never_expected_to_be_worse(problem, more):
    richer = replace(problem, total=problem.total + more * WIDTH)
    reached = [p.worth(POLICIES["envelope"].allocate(p)) for p in (problem, richer)]
    assert reached[1] >= reached[0] - 1e-9


@given(problem=st.one_of(problems(aligned=True), problems(uneven=True)))
def test_envelope_is_within_one_segment_of_exact(problem):
    whole = Envelope(spread=False).allocate(problem)
    segments = envelope_segments(problem)
    most = float(segments.gain.max(initial=0.0))
    assert problem.worth(whole) >= problem.worth(Exact().allocate(problem)) - most - 1e-9


@given(problem=st.one_of(problems(), problems(uneven=True), problems(uneven=True, used=True), problems(weighted=True)))
def test_one_curves_segments_are_those_of_the_whole_problem(problem):
    whole = envelope_segments(problem)
    points = tuple(problem.points.tolist())
    for at, accuracy in enumerate(problem.accuracy.tolist()):
        curve = Curve(points, tuple(accuracy), () if problem.used is None else tuple(problem.used[at].tolist()))
        weight = 1.0 if problem.weights is None else float(problem.weights[at])
        assume(weight == 0 or weight > 1e-9)  # or slopes are too small for a number
        if not weight:
            continue
        own = segments_of(curve, int(problem.floors[at]), int(problem.caps[at]), weight)
        mine = whole.query == at
        assert sum(segment.cost for segment in own) == pytest.approx(float(whole.cost[mine].sum()), abs=1e-6)
        gained = sum(segment.slope * segment.cost for segment in own if segment.cost)
        paid = mine & (whole.cost > 0)
        assert gained == pytest.approx(float(whole.gain[paid].sum()), abs=1e-9)
        assert all(one.slope >= other.slope - 1e-9 for one, other in pairwise(own))
        assert [segment.end for segment in own] == sorted(segment.end for segment in own)


@given(curve=curves(), weight=st.floats(1 / 16, 16), data=st.data())
def test_a_weight_scales_slopes_and_nothing_else(curve, weight, data):
    cap = data.draw(st.integers(0, curve.points[-1] + 10))
    floor = data.draw(st.integers(0, cap))
    plain, weighted = segments_of(curve, floor, cap), segments_of(curve, floor, cap, weight)
    assert [segment[1:] for segment in weighted] == [segment[1:] for segment in plain]
    assert [segment.slope for segment in weighted] == pytest.approx([weight * segment.slope for segment in plain])
