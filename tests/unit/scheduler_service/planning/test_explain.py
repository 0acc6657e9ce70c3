"""Why a budget is what it is: one word and one sentence for every case."""

from dataclasses import replace

import pytest

from scheduler_service.allocation import POLICIES
from scheduler_service.domain import BudgetLimit, Prediction, PredictionOutcome
from scheduler_service.planning.explain import best_further_gain, explain
from scheduler_service.planning.plan import Rules, plan_window
from tests.builders.jobs import JOB, fresh

RISING = (0.1, 0.4, 0.6, 0.7)


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
            given_to(JOB, Prediction(PredictionOutcome.ABSTAINED, reason="it is strange"), 40),
            BudgetLimit.NO_PREDICTION,
            "no fresh prediction (abstained: it is strange)",
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


def test_what_a_gain_is_worth_is_compared_with_the_price():
    allocation = given_to(JOB, fresh(*RISING), 32, policy="price", price=0.02)  # a token more gains 0.0125
    limit, sentence = explain(replace(JOB, weight=2.0), allocation)
    assert limit is BudgetLimit.BANK
    assert "expected to gain 0.0125, which is worth 0.025 at a weight of 2, more than the price" in sentence
    assert explain(replace(JOB, weight=0.5), allocation)[0] is BudgetLimit.PRICE
