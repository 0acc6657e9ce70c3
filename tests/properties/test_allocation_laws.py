"""Laws of every allocation policy, on arbitrary curves, floors, caps and totals."""

import tracemalloc
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from scheduler_service.allocation import POLICIES, Problem, accuracy_at, make_plan
from scheduler_service.allocation.envelope import (
    Envelope,
    _narrow_segments,
    _wide_segments,
    envelope_segments,
    segments_of,
)
from scheduler_service.allocation.exact import Exact
from scheduler_service.allocation.plan import _uniform_accuracies
from scheduler_service.allocation.price import DualPrice, Price
from scheduler_service.allocation.target import Target

WIDTH = 16
POLICY = pytest.mark.parametrize("policy", POLICIES.values(), ids=lambda policy: policy.name)
SPENDING = pytest.mark.parametrize("policy", [POLICIES[name] for name in ("uniform", "greedy", "envelope")])


@st.composite
def problems(draw: st.DrawFn, *, concave: bool = False, aligned: bool = False, rich: bool = False) -> Problem:
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
    weights = np.array([draw(st.floats(0, 5)) for _ in range(count)]) if rich else None
    steps = np.array([draw(st.integers(1, 4)) for _ in range(count)]) if rich else None
    return Problem(np.array(rows), np.array(floors), np.array(caps), sum(floors) + extra, WIDTH, weights, steps)


@POLICY
@given(problem=st.one_of(problems(), problems(rich=True)))
def test_budgets_stay_within_floors_caps_and_total(policy, problem):
    budgets = policy.allocate(problem)
    assert budgets.dtype == np.int64
    assert (budgets >= problem.floors).all()
    assert (budgets <= problem.caps).all()
    assert budgets.sum() <= problem.total


@SPENDING
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
    if policy.name == "exact":  # several plans may be best; they are worth the same
        assert shuffled.worth(one) == pytest.approx(shuffled.worth(other), abs=1e-9)
        return
    # What no curve asks for is spread in order of arrival: less than one window a query.
    assert (np.abs(one - other) <= WIDTH).all()


@given(problem=problems(concave=True, aligned=True))
def test_envelope_is_exact_on_concave_curves(problem):
    best = problem.worth(Exact().allocate(problem))
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


@given(problem=problems(rich=True, aligned=True))
def test_exact_is_the_best_of_all_plans(problem):
    """Against every plan there is, for problems small enough to try them all."""
    rows = slice(0, 3)
    few = Problem(
        problem.curves[rows], problem.floors[rows], problem.caps[rows],
        int(problem.floors[rows].sum()) + problem.total % 97, WIDTH, problem.weights[rows], problem.steps[rows],
    )  # fmt: skip
    choices = []
    for query, open_places in enumerate(few.open_places):
        places = np.flatnonzero(open_places) * WIDTH
        choices.append([few.floors[query], *places[places > few.floors[query]]])
    best = max(few.worth(np.array(plan)) for plan in product(*choices) if sum(plan) <= few.total)
    assert few.worth(Exact().allocate(few)) == pytest.approx(best, abs=1e-9)


@given(problem=problems(aligned=True))
def test_envelope_is_within_one_segment_of_exact(problem):
    whole = Envelope(spread=False).allocate(problem)
    segments = envelope_segments(problem)
    most = float((segments.slope * segments.tokens).max(initial=0.0))
    assert problem.worth(whole) >= problem.worth(Exact().allocate(problem)) - most - 1e-9


@given(problem=problems(rich=True))
def test_granularity_is_kept(problem):
    for policy in (POLICIES["greedy"], POLICIES["envelope"], POLICIES["exact"]):
        budgets = policy.allocate(problem)
        for query in np.flatnonzero(problem.steps > 1):
            budget, floor = int(budgets[query]), int(problem.floors[query])
            last = int(problem.caps[query]) // WIDTH
            allowed = budget % WIDTH == 0 and (budget // WIDTH % problem.steps[query] == 0 or budget // WIDTH == last)
            assert budget == floor or allowed


@given(problem=problems(aligned=True))
def test_a_query_that_is_worth_nothing_takes_nothing_from_the_others(problem):
    weights = np.ones(len(problem.curves))
    weights[0] = 0.0
    weighted = Problem(problem.curves, problem.floors, problem.caps, problem.total, WIDTH, weights)
    assert Exact().allocate(weighted)[0] == problem.floors[0]
    assert Envelope(spread=False).allocate(weighted)[0] == problem.floors[0]


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
        cheaper = Problem(problem.curves, problem.floors, problem.caps, spent - WIDTH, WIDTH)
        assert problem.worth(Exact().allocate(cheaper)) < accuracy * len(plan) + 1e-9


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -0.1, 1.1])
def test_what_is_no_accuracy_is_refused(bad):
    with pytest.raises(ValueError, match="curves"):
        Problem(np.array([[bad]]), np.array([0]), np.array([16]), 16, WIDTH)
    for weights in ([bad] if bad < 0 or not np.isfinite(bad) else [-1.0], [1.0, 1.0]):
        with pytest.raises(ValueError, match="weights"):
            Problem(np.array([[0.5]]), np.array([0]), np.array([16]), 16, WIDTH, np.array(weights))
    with pytest.raises(ValueError, match="steps"):
        Problem(np.array([[0.5]]), np.array([0]), np.array([16]), 16, WIDTH, None, np.array([0]))


def test_exact_refuses_what_would_not_fit_in_memory():
    many = Problem(np.full((2000, 16), 0.5), np.full(2000, 1), np.full(2000, 256), 400_000, WIDTH)
    with pytest.raises(ValueError, match="use envelope"):
        Exact().allocate(many)


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
        plans = {name: POLICIES[name].allocate(problem) for name in ("uniform", "envelope")}
        expected = {name: accuracy_at(curves, plan, WIDTH).mean() for name, plan in plans.items()}
        budgets = Price().allocate(problem)
        price = accuracy_at(curves, budgets, WIDTH).mean()
        gain = expected["envelope"] - expected["uniform"]
        assert price - expected["uniform"] > 0.97 * gain
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


@given(problem=problems(rich=True))
def test_wide_problems_have_the_segments_of_narrow_ones(problem):
    narrow, wide = _narrow_segments(problem), _wide_segments(problem)
    for query in range(len(problem.curves)):
        one, other = (
            [
                (slope, tokens)
                for at, tokens, slope in zip(found.query, found.tokens, found.slope, strict=True)
                if at == query
            ]
            for found in (narrow, wide)
        )
        assert sum(tokens for _, tokens in one) == sum(tokens for _, tokens in other)
        assert sum(slope * tokens for slope, tokens in one) == pytest.approx(
            sum(slope * tokens for slope, tokens in other), abs=1e-6
        )


@given(problem=problems())
def test_the_total_of_a_uniform_level_is_the_sum_of_everybodys_accuracy(problem):
    levels, totals = _uniform_accuracies(problem)
    for level, total in zip(levels, totals, strict=True):
        budgets = np.clip(level, problem.floors, problem.caps)
        assert total == pytest.approx(accuracy_at(problem.curves, budgets, WIDTH).sum(), abs=1e-9)


@pytest.mark.parametrize("shape", [(1024, 256), (64, 4096)], ids=str)
def test_a_plan_by_the_envelope_takes_memory_as_queries_times_windows(shape):
    curves = np.sort(np.random.default_rng(0).random(shape), axis=1)
    caps = np.full(len(curves), shape[1] * WIDTH)
    problem = Problem(curves, np.zeros_like(caps), caps, int(caps.sum()) // 4, WIDTH)
    tracemalloc.start()
    make_plan(POLICIES["envelope"], problem, np.ones(len(curves), dtype=bool))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * curves.nbytes


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
