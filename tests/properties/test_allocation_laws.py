"""Laws of every allocation policy, on arbitrary curves, floors, caps and totals."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from scheduler_service.allocation import POLICIES, Problem, accuracy_at, make_plan
from scheduler_service.allocation.envelope import envelope_segments, segments_of
from scheduler_service.allocation.price import DualPrice, Price

WIDTH = 16
POLICY = pytest.mark.parametrize("policy", POLICIES.values(), ids=lambda policy: policy.name)


@st.composite
def problems(draw: st.DrawFn, *, concave: bool = False, aligned: bool = False) -> Problem:
    count, windows = draw(st.integers(1, 8)), draw(st.integers(1, 8))
    value = st.floats(0, 1, allow_nan=False, width=32)
    rows = [[draw(value) for _ in range(windows)] for _ in range(count)]
    if concave:  # falling gains, scaled to end below 1
        rows = [list(np.cumsum(sorted(row, reverse=True)) / max(1.0, sum(row))) for row in rows]
        rows = [[min(1.0, x) for x in row] for row in rows]
    unit = WIDTH if aligned else 1
    most = windows * WIDTH // unit
    caps = [draw(st.integers(0, most)) * unit for _ in range(count)]
    floors = [draw(st.integers(0, cap // unit)) * unit for cap in caps]
    extra = draw(st.integers(0, sum(caps) // unit + 2)) * unit
    return Problem(np.array(rows), np.array(floors), np.array(caps), sum(floors) + extra, WIDTH)


@POLICY
@given(problem=problems())
def test_budgets_stay_within_floors_caps_and_total(policy, problem):
    budgets = policy.allocate(problem)
    assert budgets.dtype == np.int64
    assert (budgets >= problem.floors).all()
    assert (budgets <= problem.caps).all()
    assert budgets.sum() <= problem.total


@POLICY
@given(problem=problems())
def test_a_total_that_caps_can_take_is_spent_to_the_token(policy, problem):
    budgets = policy.allocate(problem)
    assert budgets.sum() == min(problem.total, problem.caps.sum())


@POLICY
@given(problem=problems())
def test_the_same_problem_has_the_same_plan(policy, problem):
    assert (policy.allocate(problem) == policy.allocate(problem)).all()


@POLICY
@given(problem=problems(), seed=st.integers(0, 2**32 - 1))
def test_the_order_of_queries_does_not_change_what_is_expected(policy, problem, seed):
    order = np.random.default_rng(seed).permutation(len(problem.curves))
    shuffled = Problem(problem.curves[order], problem.floors[order], problem.caps[order], problem.total, WIDTH)
    gains = np.diff(np.concatenate([np.zeros((len(problem.curves), 1)), problem.curves], axis=1), axis=1)
    assume(len(np.unique(np.round(gains, 9))) == gains.size)  # ties go to the earlier query
    one, other = policy.allocate(problem)[order], policy.allocate(shuffled)
    # What no curve asks for is spread in order of arrival: less than one window a query.
    assert (np.abs(one - other) <= WIDTH).all()


@given(problem=problems(concave=True, aligned=True))
def test_envelope_is_exact_on_concave_curves(problem):
    best = _best_by_dynamic_programming(problem)
    reached = accuracy_at(problem.curves, POLICIES["envelope"].allocate(problem), WIDTH).sum()
    assert reached == pytest.approx(best, abs=1e-9)


@given(problem=problems(concave=True, aligned=True))
def test_greedy_equals_envelope_on_concave_curves(problem):
    reached = [
        accuracy_at(problem.curves, POLICIES[name].allocate(problem), WIDTH).sum() for name in ("greedy", "envelope")
    ]
    assert reached[0] == pytest.approx(reached[1], abs=1e-9)


@POLICY
@given(problem=problems(), data=st.data())
def test_a_plan_is_never_expected_to_do_worse_than_uniform(policy, problem, data):
    known = np.array([data.draw(st.booleans()) for _ in problem.curves])
    plan = make_plan(policy, problem, known)
    assert plan.budgets.sum() <= problem.total
    assert plan.expected.sum() >= plan.baseline_expected.sum() - 1e-9
    assert (plan.budgets[~known] == plan.baselines[~known]).all()
    assert plan.saved_at_equal_accuracy >= 0


@given(problem=problems(concave=True, aligned=True), more=st.integers(0, 8))
def test_a_larger_total_is_never_expected_to_be_worse(problem, more):
    richer = Problem(problem.curves, problem.floors, problem.caps, problem.total + more * WIDTH, WIDTH)
    reached = [accuracy_at(p.curves, POLICIES["envelope"].allocate(p), WIDTH).sum() for p in (problem, richer)]
    assert reached[1] >= reached[0] - 1e-9


def _best_by_dynamic_programming(problem: Problem) -> float:
    """The best total expected accuracy of any plan of whole windows: the multiple-choice knapsack, solved exactly."""
    windows = problem.total // WIDTH
    best = np.zeros(windows + 1)
    points = np.concatenate([np.zeros((len(problem.curves), 1)), problem.curves], axis=1)
    for row, floor, cap in zip(points, problem.floors // WIDTH, problem.caps // WIDTH, strict=True):
        choices = range(floor, cap + 1)
        best = np.array(
            [
                max((best[spent - choice] + row[choice] for choice in choices if choice <= spent), default=-np.inf)
                for spent in range(windows + 1)
            ]
        )
    return float(best.max())


@given(problem=problems())
def test_the_price_never_spends_what_it_was_not_granted(problem):
    budgets = Price().allocate(problem)
    assert (budgets >= problem.floors).all()
    assert (budgets <= problem.caps).all()
    assert budgets.sum() <= problem.total


def test_the_price_nears_the_gain_of_one_allocation_over_all_queries():
    rng = np.random.default_rng(0)
    reached = rng.integers(1, 17, size=2000)
    height = rng.random(2000)
    steps = np.arange(1, 17)
    curves = np.clip(height[:, None] * (1 - np.exp(-2 * steps / reached[:, None])), 0, 1)
    for mean in (32, 64, 128):
        problem = Problem(curves, np.full(2000, 16), np.full(2000, 256), mean * 2000, WIDTH)
        expected = {
            name: accuracy_at(curves, policy.allocate(problem), WIDTH).mean() for name, policy in POLICIES.items()
        }
        budgets = Price().allocate(problem)
        price = accuracy_at(curves, budgets, WIDTH).mean()
        gain = expected["envelope"] - expected["uniform"]
        assert price - expected["uniform"] > 0.85 * gain
        assert budgets.mean() > 0.99 * mean


@given(problem=problems())
def test_one_curves_segments_are_those_of_the_whole_problem(problem):
    whole = envelope_segments(problem)
    for at, curve in enumerate(problem.curves):
        own = segments_of(curve.tolist(), int(problem.floors[at]), int(problem.caps[at]), WIDTH)
        mine = whole.query == at
        assert sum(tokens for _, tokens in own) == whole.tokens[mine].sum()
        gained = sum(slope * tokens for slope, tokens in own)
        assert gained == pytest.approx(float((whole.slope * whole.tokens)[mine].sum()), abs=1e-9)
        assert all(one >= other - 1e-9 for (one, _), (other, _) in pairwise(own))


@given(
    requests=st.lists(st.tuples(st.lists(st.floats(0, 1), min_size=4, max_size=4), st.integers(16, 64)), max_size=60),
    burst=st.integers(0, 200),
)
def test_a_stream_spends_at_most_what_it_was_granted_and_the_burst(requests, burst):
    pricing, balance = DualPrice(WIDTH), 0.0
    for curve, grant in requests:
        budget = pricing.decide(curve, 16, 64, grant, balance, max(0.0, balance + grant - 16 + burst))
        assert 16 <= budget <= 64
        balance += grant - budget
        assert balance >= -burst - 1e-6
        assert pricing.price >= 0
