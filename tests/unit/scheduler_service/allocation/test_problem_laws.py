"""Laws of every allocation policy, on arbitrary curves, floors, caps and totals."""

from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from predictive_scheduling.budget_points import MOST_TOKENS
from scheduler_service.allocation import POLICIES, Curve, Problem, make_plan
from scheduler_service.allocation.envelope import Envelope, envelope_segments, segments_of
from scheduler_service.allocation.exact import Exact
from scheduler_service.allocation.price import DualPrice, Price
from scheduler_service.allocation.problem import gather
from scheduler_service.allocation.target import Target

WIDTH = 16
EVEN = np.arange(WIDTH, 8 * WIDTH + 1, WIDTH)
POLICY = pytest.mark.parametrize("policy", POLICIES.values(), ids=lambda policy: policy.name)
SPENDING = pytest.mark.parametrize("policy", [POLICIES[name] for name in ("uniform", "greedy", "envelope")])


@st.composite
def problems(
    draw: st.DrawFn, *, concave: bool = False, aligned: bool = False, weighted: bool = False, uneven: bool = False,
    used: bool = False,
) -> Problem:  # fmt: skip
    """Problems at even points (16, 32, …), or at any; with budgets that count whole, or by what they are used."""
    count, windows = draw(st.integers(1, 8)), draw(st.integers(1, 8))
    points = EVEN[:windows]
    if uneven:
        points = np.array(sorted(draw(st.sets(st.integers(0, 400), min_size=windows, max_size=windows))))
        assume(points[-1] > 0)
    value = st.floats(0, 1, allow_nan=False, width=32)
    rows = [[draw(value) for _ in range(windows)] for _ in range(count)]
    if concave:  # falling gains, scaled to end below 1
        rows = [list(np.cumsum(sorted(row, reverse=True)) / max(1.0, sum(row))) for row in rows]
        rows = [[min(1.0, x) for x in row] for row in rows]
    unit = WIDTH if aligned else 1
    most = int(points[-1]) // unit + (0 if aligned else draw(st.integers(0, 40)))
    caps = np.array([draw(st.integers(0, most)) * unit for _ in range(count)])
    floors = np.array([draw(st.integers(0, cap // unit)) * unit for cap in caps.tolist()])
    weights = np.array([draw(st.floats(0, 5)) for _ in range(count)]) if weighted else None
    spent = None
    if used:  # E[min(length, point)] of a length that is one of two
        lengths = np.array([[draw(st.integers(0, 500)), draw(st.integers(0, 500))] for _ in range(count)])
        spent = np.minimum(lengths[:, :, None], points[None, None, :]).mean(axis=1)
    bare = Problem(points, np.array(rows), floors, caps, 1e9, spent, weights)
    extra = draw(st.integers(0, int(caps.sum()) // unit + 2)) * unit
    return replace(bare, total=float(bare.cost(floors).sum()) + extra)


ANY = st.one_of(
    problems(), problems(weighted=True), problems(uneven=True), problems(uneven=True, used=True, weighted=True)
)


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


@SPENDING
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


@given(problem=problems(concave=True, aligned=True))
def test_envelope_is_exact_on_concave_curves(problem):
    best = problem.worth(Exact().allocate(problem))
    reached = problem.worth(POLICIES["envelope"].allocate(problem))
    assert reached == pytest.approx(best, abs=1e-9)


@given(problem=problems(concave=True, aligned=True))
def test_greedy_equals_envelope_on_concave_curves(problem):
    reached = [problem.worth(POLICIES[name].allocate(problem)) for name in ("greedy", "envelope")]
    assert reached[0] == pytest.approx(reached[1], abs=1e-9)


@POLICY
@given(problem=st.one_of(problems(), problems(uneven=True, used=True)), data=st.data())
def test_a_plan_is_never_expected_to_do_worse_than_uniform(policy, problem, data):
    known = np.array([data.draw(st.booleans()) for _ in problem.accuracy])
    plan = make_plan(policy, problem, known)
    assert plan.costs.sum() <= problem.total + 1e-6
    assert plan.expected.sum() >= plan.baseline_expected.sum() - 1e-9
    assert (plan.budgets[~known] == plan.baselines[~known]).all()
    assert plan.saved_at_equal_accuracy >= 0


@given(problem=problems(concave=True, aligned=True), more=st.integers(0, 8))
def test_a_larger_total_is_never_expected_to_be_worse(problem, more):
    richer = replace(problem, total=problem.total + more * WIDTH)
    reached = [p.worth(POLICIES["envelope"].allocate(p)) for p in (problem, richer)]
    assert reached[1] >= reached[0] - 1e-9


@given(problem=st.one_of(problems(weighted=True, aligned=True), problems(uneven=True, weighted=True)))
def test_exact_is_the_best_of_all_plans(problem):
    """Against every plan there is, for problems small enough to try them all."""
    few = problem.part(np.arange(len(problem.accuracy)) < 3, 1e9)
    few = replace(few, total=int(few.floors.sum()) + int(problem.total) % 97)
    choices = [sorted(set(places)) for places in few.places.tolist()]
    best = max(few.worth(np.array(plan)) for plan in product(*choices) if sum(plan) <= few.total)
    assert few.worth(Exact().allocate(few)) == pytest.approx(best, abs=1e-9)


@given(problem=st.one_of(problems(aligned=True), problems(uneven=True)))
def test_envelope_is_within_one_segment_of_exact(problem):
    whole = Envelope(spread=False).allocate(problem)
    segments = envelope_segments(problem)
    most = float(segments.gain.max(initial=0.0))
    assert problem.worth(whole) >= problem.worth(Exact().allocate(problem)) - most - 1e-9


@given(problem=problems(aligned=True))
def test_a_query_that_is_worth_nothing_takes_nothing_from_the_others(problem):
    weights = np.ones(len(problem.accuracy))
    weights[0] = 0.0
    weighted = replace(problem, weights=weights)
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
        cheaper = replace(problem, total=spent - WIDTH)
        assert problem.worth(Exact().allocate(cheaper)) < accuracy * len(plan) + 1e-9


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -0.1, 1.1])
def test_what_is_no_accuracy_is_refused(bad):
    good = Problem(np.array([16]), np.array([[0.5]]), np.array([0]), np.array([16]), 16)
    with pytest.raises(ValueError, match="accuracy"):
        replace(good, accuracy=np.array([[bad]]))
    for weights in ([bad] if bad < 0 or not np.isfinite(bad) else [-1.0], [1.0, 1.0]):
        with pytest.raises(ValueError, match="weights"):
            replace(good, weights=np.array(weights))


def test_exact_refuses_what_would_not_fit_in_memory():
    points = np.arange(16, 257, 16)
    many = Problem(points, np.full((2000, 16), 0.5), np.full(2000, 1), np.full(2000, 256), 400_000)
    with pytest.raises(ValueError, match="use envelope"):
        Exact().allocate(many)


@given(problem=ANY)
def test_the_price_never_spends_what_it_was_not_granted(problem):
    budgets = Price().allocate(problem)
    assert (budgets >= problem.floors).all()
    assert (budgets <= problem.caps).all()
    assert problem.cost(budgets).sum() <= problem.total + 1e-3


def test_the_price_nears_the_gain_of_one_allocation_over_all_queries():
    rng = np.random.default_rng(0)
    reached = rng.integers(1, 17, size=2000)
    height = rng.random(2000)
    steps = np.arange(1, 17)
    curves = np.clip(height[:, None] * (1 - np.exp(-2 * steps / reached[:, None])), 0, 1)
    for mean in (32, 64, 128):
        problem = Problem(16 * steps, curves, np.full(2000, 16), np.full(2000, 256), mean * 2000)
        plans = {name: POLICIES[name].allocate(problem) for name in ("uniform", "envelope")}
        expected = {name: problem.accuracy_at(plan).mean() for name, plan in plans.items()}
        budgets = Price().allocate(problem)
        price = problem.accuracy_at(budgets).mean()
        gain = expected["envelope"] - expected["uniform"]
        assert price - expected["uniform"] > 0.97 * gain
        assert budgets.mean() > 0.99 * mean


@given(problem=st.one_of(problems(), problems(uneven=True), problems(uneven=True, used=True)))
def test_one_curves_segments_are_those_of_the_whole_problem(problem):
    whole = envelope_segments(problem)
    points = tuple(problem.points.tolist())
    for at, accuracy in enumerate(problem.accuracy.tolist()):
        curve = Curve(points, tuple(accuracy), () if problem.used is None else tuple(problem.used[at].tolist()))
        own = segments_of(curve, int(problem.floors[at]), int(problem.caps[at]))
        mine = whole.query == at
        assert sum(segment.cost for segment in own) == pytest.approx(float(whole.cost[mine].sum()), abs=1e-6)
        gained = sum(segment.slope * segment.cost for segment in own if segment.cost)
        paid = mine & (whole.cost > 0)
        assert gained == pytest.approx(float(whole.gain[paid].sum()), abs=1e-9)
        assert all(one.slope >= other.slope - 1e-9 for one, other in pairwise(own))
        assert [segment.end for segment in own] == sorted(segment.end for segment in own)


@st.composite
def curves(draw, most=MOST_TOKENS):
    """A curve at any points; its model ends by itself at one of a few lengths, or never says how much it uses."""
    count = draw(st.integers(1, 8))
    points = tuple(sorted(draw(st.sets(st.integers(1, most), min_size=count, max_size=count))))
    accuracy = tuple(draw(st.lists(st.floats(0, 1), min_size=count, max_size=count)))
    lengths = draw(st.lists(st.integers(0, 2 * most), max_size=3))
    used = tuple(float(np.mean([min(length, point) for length in lengths])) for point in points) if lengths else ()
    return Curve(points, accuracy, used)


@given(
    requests=st.lists(st.tuples(st.lists(st.floats(0, 1), min_size=4, max_size=4), st.integers(16, 64)), max_size=60),
    burst=st.integers(0, 200),
)
def test_a_stream_spends_at_most_what_it_was_granted_and_the_burst(requests, burst):
    pricing, balance = DualPrice(), 0.0
    for accuracy, grant in requests:
        curve = Curve((16, 32, 48, 64), tuple(accuracy))
        budget = pricing.decide(curve, 16, 64, grant, balance, max(0.0, balance + grant - 16 + burst))
        assert 16 <= budget <= 64
        balance += grant - budget
        assert balance >= -burst - 1e-6
        assert pricing.price >= 0


@given(
    requests=st.lists(st.tuples(curves(), st.integers(1, 1000)), max_size=60),
    burst=st.integers(0, MOST_TOKENS),
)
def test_budgets_of_very_unlike_size_keep_the_account_too(requests, burst):
    """Short and very long curves side by side: a thousand times as long, expected use instead of whole budgets."""
    pricing, balance = DualPrice(), 0.0
    for curve, scale in requests:
        grant, cap = 16.0 * scale, curve.points[-1]
        budget = pricing.decide(curve, 0, cap, grant, balance, max(0.0, balance + grant + burst))
        assert 0 <= budget <= cap
        balance += grant - curve.used_at(budget)
        assert balance >= -burst - 1e-2


@given(curve=curves(400), tokens=st.floats(0, 1000))
def test_a_curve_reads_as_it_does_in_a_problem(curve, tokens):
    problem = gather([curve], np.array([0]), np.array([1000]), 1000.0)
    at = np.array([tokens])
    assert curve.accuracy_at(tokens) == pytest.approx(float(problem.accuracy_at(at)[0]), abs=1e-9)
    assert curve.used_at(tokens) == pytest.approx(float(problem.cost(at)[0]), rel=1e-9, abs=1e-6)


@given(both=st.lists(curves(400), min_size=2, max_size=4))
def test_curves_at_different_points_share_one_problem(both):
    caps = np.array([curve.points[-1] for curve in both])
    problem = gather(both, np.zeros(len(both), np.int64), caps, float(caps.sum()) / 2)
    budgets = POLICIES["envelope"].allocate(problem)
    spent = sum(curve.used_at(budget) for curve, budget in zip(both, budgets.tolist(), strict=True))
    assert spent <= problem.total + 1e-3


def test_long_and_short_budgets_share_a_price_without_starving_each_other():
    """Half of the requests need 16 tokens, half 16,384: as accurate, over a long stream, as one plan over all."""
    rng = np.random.default_rng(0)
    count = 2000
    scale = np.where(rng.random(count) < 0.5, 1, 1024)
    points = np.array([0, 4, 16, 64, 256, 1024, 4096, 16384])
    needed = 16 * scale * rng.uniform(0.5, 1.5, count)
    accuracy = 0.9 / (1 + np.exp(-3 * np.log2((points[None, :] + 1) / needed[:, None])))
    total = 6000.0 * count
    problem = Problem(points, accuracy, np.zeros(count, np.int64), np.full(count, 16384), total)
    best = problem.accuracy_at(POLICIES["envelope"].allocate(problem)).mean()
    pricing, balance, reached = DualPrice(), 0.0, np.zeros(count)
    for at, row in enumerate(accuracy.tolist()):
        curve = Curve(tuple(points.tolist()), tuple(row))
        budget = pricing.decide(curve, 0, 16384, 6000.0, balance, max(0.0, balance + 6000.0 + 60_000.0))
        balance += 6000.0 - budget
        assert balance >= -60_000.0 - 1e-6
        reached[at] = curve.accuracy_at(budget)
    assert reached[200:].mean() > best - 0.02
    assert reached[scale == 1][100:].mean() > 0.8
