"""Laws of explanations: what they name is what kept a budget from being larger."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from scheduler_service.allocation.price import DualPrice
from scheduler_service.domain import BudgetLimit
from scheduler_service.planning.explain import best_further_gain, explain
from scheduler_service.planning.pricing import Pricing
from tests.builders.jobs import JOB, RISING, fresh


@given(st.lists(RISING, min_size=5, max_size=60))
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
