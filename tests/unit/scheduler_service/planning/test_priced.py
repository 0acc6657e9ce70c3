"""Requests decided one by one: a fault reaches its caller, and leaves nothing reserved."""

import asyncio
from dataclasses import replace

import pytest
from opentelemetry import trace

from scheduler_service.allocation import POLICIES
from scheduler_service.allocation.price import DualPrice
from scheduler_service.budget.ledger import BudgetLedger
from scheduler_service.domain import BudgetLimit, PredictionOutcome
from scheduler_service.generation.pace import Pace
from scheduler_service.planning.allocator import Expectations
from scheduler_service.planning.plan import Rules
from scheduler_service.planning.priced import PricedAllocator
from scheduler_service.planning.pricing import Pricing
from tests.builders.jobs import JOB
from tests.standins.predictor import FakePredictor


def allocator(outcome=PredictionOutcome.FRESH, **options):
    predictor = FakePredictor(lambda _: (0.1, 0.4, 0.6, 0.7), outcome)
    expectations = Expectations(predictor, Rules(POLICIES["uniform"], 8), Pace())
    ledger = BudgetLedger(40, bank_limit=400, overdraft=160)
    return PricedAllocator(Pricing(40, 8, DualPrice()), expectations, ledger, trace.NoOpTracer(), **options)


async def test_what_is_allocated_is_reserved_under_the_requests_key():
    one = allocator()
    allocation = await one.allocate(replace(JOB, tenant="t"))
    assert one.ledger.state().reserved == round(allocation.expected_tokens) > 0
    assert one.ledger.settle(("t", "r"), 0) == allocation.expected_tokens
    assert (one.ledger.state().covered, one.outcomes[PredictionOutcome.FRESH]) == (1, 1)


async def test_decisions_are_numbered_timed_and_explained():
    times = iter([10.0, 10.5, 10.75, 20.0, 20.0, 20.0])
    one = allocator(clock=lambda: next(times))
    first, second = [await one.allocate(replace(JOB, request_id=name)) for name in "ab"]
    assert (first.window, second.window) == (1, 2)
    assert (first.prediction_seconds, first.allocation_seconds, first.window_wait_seconds) == (0.5, 0.25, 0.0)
    assert first.explanation.startswith(f"{first.budget_tokens} tokens")


async def test_without_a_prediction_the_budget_is_uniform_and_not_covered():
    one = allocator(PredictionOutcome.TIMEOUT)
    allocation = await one.allocate(JOB)
    assert (allocation.budget_tokens, allocation.limited_by) == (40, BudgetLimit.NO_PREDICTION)
    assert (one.ledger.state().covered, one.outcomes[PredictionOutcome.TIMEOUT]) == (0, 1)


@pytest.mark.parametrize("where", ["predict", "in_time", "decide", "explain"])
async def test_a_fault_reaches_the_caller_and_leaves_nothing_reserved(where, monkeypatch):
    one = allocator()

    def broken(*_, **__):
        raise RuntimeError("broken")

    place = {
        "predict": (one.expectations.predictor, "predict"),
        "in_time": (one.expectations, "in_time"),
        "decide": (one.pricing, "decide"),
        "explain": ("scheduler_service.planning.priced.explain",),
    }[where]
    with monkeypatch.context() as patch:
        patch.setattr(*place, broken)
        with pytest.raises(RuntimeError, match="broken"):
            await one.allocate(JOB)
    assert one.ledger.state().reserved == one.ledger.state().requests == 0
    assert not one.outcomes
    await one.allocate(JOB)  # and the next one is served


async def test_a_request_that_is_reserved_already_is_refused_and_keeps_its_reservation():
    one = allocator()
    reserved = (await one.allocate(JOB)).expected_tokens
    with pytest.raises(ValueError, match="already reserved"):
        await one.allocate(JOB)
    assert one.ledger.state().reserved == round(reserved)
    assert one.outcomes.total() == 1


async def test_who_leaves_before_the_prediction_comes_leaves_nothing_reserved():
    one = allocator()
    one.expectations.predictor.seconds = 3600.0
    call = asyncio.create_task(one.allocate(JOB))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert one.ledger.state().requests == 0


def test_a_price_that_nothing_has_set_is_not_told():
    one = allocator()
    one.pricing.dual.price = 1.0
    assert (one.price, one.quoted_price) == (1.0, 0.0)
    one.pricing.dual.price = 0.02
    assert one.price == one.quoted_price == 0.02
