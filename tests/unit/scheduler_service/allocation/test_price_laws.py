"""Laws of the price: no stream spends more than it was granted and may owe."""

from hypothesis import given
from hypothesis import strategies as st

from predictive_scheduling.budget_points import MOST_TOKENS
from scheduler_service.allocation import Curve
from scheduler_service.allocation.envelope import segments_of
from scheduler_service.allocation.price import DualPrice, Price, buy
from tests.builders.problems import ANY, curves

WEIGHTS = st.floats(1 / 16, 16)


@given(problem=ANY)
def test_the_price_never_spends_what_it_was_not_granted(problem):
    budgets = Price().allocate(problem)
    assert (budgets >= problem.floors).all()
    assert (budgets <= problem.caps).all()
    assert problem.cost(budgets).sum() <= problem.total + 1e-3


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
    requests=st.lists(st.tuples(curves(), st.integers(1, 1000), WEIGHTS), max_size=60),
    burst=st.integers(0, MOST_TOKENS),
)
def test_budgets_of_very_unlike_size_and_weight_keep_the_account_too(requests, burst):
    """Short and very long curves side by side: a thousand times as long, expected use instead of whole budgets."""
    pricing, balance = DualPrice(), 0.0
    for curve, scale, weight in requests:
        grant, cap = 16.0 * scale, curve.points[-1]
        budget = pricing.decide(curve, 0, cap, grant, balance, max(0.0, balance + grant + burst), weight)
        assert 0 <= budget <= cap
        balance += grant - curve.used_at(budget)
        assert balance >= -burst - 1e-2


@given(curve=curves(), price=st.floats(0, 1), limit=st.floats(0, MOST_TOKENS), weights=st.tuples(WEIGHTS, WEIGHTS))
def test_at_one_price_a_higher_weight_never_buys_less(curve, price, limit, weights):
    cap, floor = curve.points[-1], curve.points[0] // 2
    light, heavy = (buy(segments_of(curve, floor, cap, weight), price, floor, limit) for weight in sorted(weights))
    assert floor <= light <= heavy <= cap
    assert curve.used_at(heavy) - curve.used_at(floor) <= limit + 1e-3


@given(requests=st.lists(st.tuples(curves(1000), st.integers(1, 100)), max_size=30))
def test_a_weight_of_one_is_no_weight(requests):
    said, silent = DualPrice(), DualPrice()
    for curve, grant in requests:
        asked = (curve, 0, curve.points[-1], float(grant), 0.0, 500.0)
        assert said.decide(*asked, weight=1.0) == silent.decide(*asked)
        assert said.price == silent.price
