"""Laws of what is said of the price: it never falls where the mean budget does."""

from hypothesis import assume, given
from hypothesis import strategies as st

from predictive_scheduling.budget_points import MOST_TOKENS
from scheduler_service.allocation.price import DualPrice
from scheduler_service.domain import Job, Prediction, PredictionOutcome
from scheduler_service.planning.pricing import Pricing
from tests.builders.problems import curves

MEANS = st.floats(0, MOST_TOKENS)


@given(
    asked=st.lists(st.tuples(curves(), st.integers(0, 64), st.floats(1 / 16, 16)), min_size=1, max_size=20),
    most=st.integers(1, 2000),
    means=st.lists(MEANS, max_size=4),
    other=MEANS,
)
def test_a_token_costs_as_much_or_more_than_at_any_larger_mean(asked, most, means, other):
    one = Pricing(most, 8, DualPrice())
    for curve, floor, weight in asked:
        job = Job("a", "prompt", "", min(floor, curve.points[-1]), curve.points[-1], weight=weight)
        one.decide(job, Prediction(PredictionOutcome.FRESH, curve, "p@1"), grant=most, balance=0.0, overdraft=0.0)
    for mean in means:
        one.follow(mean)
    times = one.times_the_price_at(other)
    assume(times is not None)
    assert times >= 1 or other < one.mean_tokens
    assert times <= 1 or other > one.mean_tokens
