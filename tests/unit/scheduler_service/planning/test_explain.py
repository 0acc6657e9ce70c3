"""Why a budget is what it is: one word and one sentence for every case."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictive_scheduling.budget_points import evenly_spaced
from scheduler_service.allocation import POLICIES, Curve
from scheduler_service.allocation.equal_accuracy import EqualAccuracy
from scheduler_service.allocation.price import DualPrice
from scheduler_service.domain import BudgetLimit, Job, Prediction, PredictionOutcome
from scheduler_service.planning.explain import best_further_gain, explain
from scheduler_service.planning.plan import Rules, plan_window
from scheduler_service.planning.pricing import Pricing

JOB = Job("r", "prompt", "", 16, 64)
RISING = (0.1, 0.4, 0.6, 0.7)


def fresh(*curve):
    return Prediction(PredictionOutcome.FRESH, Curve(evenly_spaced(len(curve), 16), curve), "p@1")


def given_to(job, prediction, budget, **fields):
    """A window's allocation of one request, with the budget that a case wants."""
    rules = Rules(POLICIES["envelope"], 8)
    allocation = plan_window([job], [prediction], budget, rules).allocations[0]
    return replace(allocation, budget_tokens=budget, **fields)


@pytest.mark.parametrize(
    ("allocation", "limit", "words"),
    [
        (
            given_to(JOB, Prediction(PredictionOutcome.TIMEOUT), 40),
            BudgetLimit.NO_PREDICTION,
            "no fresh prediction (timeout)",
        ),
        (
            given_to(JOB, fresh(*RISING), 32, cap_tokens=32),
            BudgetLimit.DEADLINE,
            "the deadline leaves time for no more",
        ),
        (given_to(JOB, fresh(*RISING), 64), BudgetLimit.SATURATED, "not expected to help"),
        (given_to(JOB, fresh(0.9, 0.9, 0.9, 0.9), 16), BudgetLimit.SATURATED, "this is the least budget"),
        (given_to(JOB, fresh(*RISING, 0.8), 64), BudgetLimit.CAP, "the largest budget that is allowed"),
        (given_to(JOB, fresh(*RISING), 32, policy="uniform"), BudgetLimit.UNIFORM, "better than uniform"),
        (given_to(JOB, fresh(*RISING), 32, policy="envelope", window_size=8), BudgetLimit.WINDOW, "others of the 8"),
        (
            given_to(JOB, fresh(*RISING), 32, policy="price", price=0.02),
            BudgetLimit.PRICE,
            "less than the price of 0.02",
        ),
        (given_to(JOB, fresh(*RISING), 32, policy="price", price=0.01), BudgetLimit.BANK, "cannot pay for it now"),
    ],
)
def test_each_case_is_told_apart(allocation, limit, words):
    found, sentence = explain(JOB, allocation)
    assert found is limit
    assert words in sentence
    assert sentence.startswith(f"{allocation.budget_tokens} tokens (uniform: {allocation.baseline_tokens})")


def test_the_further_gain_is_the_steepest_way_up_from_the_budget():
    assert best_further_gain(given_to(JOB, fresh(*RISING), 16)) == pytest.approx(0.3 / 16)
    assert best_further_gain(given_to(JOB, fresh(0.1, 0.1, 0.1, 0.7), 16)) == pytest.approx(0.6 / 48)
    assert best_further_gain(given_to(JOB, fresh(*RISING), 24)) == pytest.approx(0.15 / 8)


curves = st.lists(st.floats(0, 1), min_size=4, max_size=4).map(lambda values: tuple(sorted(values)))


@given(st.lists(curves, min_size=5, max_size=60))
def test_the_price_buys_all_that_is_worth_it_unless_something_else_is_named(curves):
    pricing, balance = Pricing(40, 8, DualPrice()), 0.0
    for at, curve in enumerate(curves):
        job = replace(JOB, request_id=str(at))
        allocation = pricing.decide(job, fresh(*curve), grant=40, balance=balance, overdraft=400)
        balance += 40 - allocation.budget_tokens
        limit, _ = explain(job, allocation)
        if limit is BudgetLimit.PRICE:
            assert best_further_gain(allocation) < allocation.price
        if limit is BudgetLimit.CAP:
            assert allocation.budget_tokens == job.cap_tokens
        assert limit not in (BudgetLimit.NO_PREDICTION, BudgetLimit.DEADLINE, BudgetLimit.WINDOW)


def test_a_stream_saves_what_uniform_would_need_more():
    """Half the queries need 16 tokens, half need 64: with 16 and 64 uniform would need 64 to be as accurate."""
    saved = EqualAccuracy()
    easy, hard = (Curve((16, 32, 48, 64), row) for row in ((1.0, 1.0, 1.0, 1.0), (0.0, 0.0, 0.0, 1.0)))
    for _ in range(300):
        saved.add(easy, 16, 1.0)
        figure = saved.add(hard, 64, 1.0)
    assert figure == pytest.approx(64 - 40, abs=0.5)


def test_what_uniform_would_do_as_well_saves_nothing():
    saved = EqualAccuracy()
    for _ in range(50):
        assert saved.add(Curve((16, 32, 48, 64), (0.1, 0.2, 0.3, 0.4)), 32, 0.2) == 0.0


@given(st.lists(st.tuples(curves, st.integers(0, 4)), min_size=1, max_size=50))
def test_savings_are_never_negative_and_never_more_than_the_longest_curve(decisions):
    saved = EqualAccuracy()
    for curve, windows in decisions:
        expected = curve[windows - 1] if windows else 0.0
        assert 0 <= saved.add(Curve((16, 32, 48, 64), tuple(curve)), 16 * windows, expected) <= 64
