"""Requests decided by windows: a fault reaches all who wait, who leaves takes nothing along, and windows go on."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from opentelemetry import trace

from scheduler_service.allocation import POLICIES
from scheduler_service.budget.ledger import BudgetLedger
from scheduler_service.domain import BudgetLimit, PredictionOutcome
from scheduler_service.generation.pace import Pace
from scheduler_service.planning.allocator import Expectations
from scheduler_service.planning.plan import Rules
from scheduler_service.planning.window import RequestWindow
from scheduler_service.planning.windowed import WindowedAllocator
from tests.builders.jobs import JOB
from tests.standins.predictor import FakePredictor
from tests.waiting import eventually

HOUR = 3600.0


class Gated(FakePredictor):
    """Predicts when the gate that it has at the call is open."""

    def __init__(self, *args):
        super().__init__(*args)
        self.gate = asyncio.Event()
        self.gate.set()

    async def predict(self, jobs):
        gate = self.gate
        found = await super().predict(jobs)
        await gate.wait()
        return found


@asynccontextmanager
async def allocating(size, seconds=HOUR, outcome=PredictionOutcome.FRESH):
    predictor = Gated(lambda _: (0.1, 0.4, 0.6, 0.7), outcome)
    expectations = Expectations(predictor, Rules(POLICIES["envelope"], 8), Pace())
    one = WindowedAllocator(
        RequestWindow(size, seconds), expectations, BudgetLedger(40, bank_limit=400), trace.NoOpTracer()
    )
    running = asyncio.create_task(one.run())
    try:
        yield one
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def calls(one, names, **fields):
    return [asyncio.create_task(one.allocate(replace(JOB, request_id=name, **fields))) for name in names]


async def test_a_full_window_is_planned_at_once_and_reserved():
    async with allocating(3) as one:
        allocations = await asyncio.gather(*calls(one, "abc"))
        assert [allocation.request_id for allocation in allocations] == ["a", "b", "c"]
        assert {(allocation.window, allocation.window_size) for allocation in allocations} == {(1, 3)}
        assert one.expectations.predictor.windows == [3]
        assert one.ledger.state().reserved == sum(allocation.budget_tokens for allocation in allocations) == 120
        assert (one.ledger.state().covered, one.outcomes[PredictionOutcome.FRESH]) == (3, 3)


async def test_a_window_that_nobody_fills_closes_by_age():
    async with allocating(9, seconds=0.01) as one:
        allocation = await one.allocate(JOB)
        assert allocation.window_size == 1
        assert allocation.window_wait_seconds >= 0.01


async def test_without_predictions_budgets_are_uniform_and_say_why():
    async with allocating(2, outcome=PredictionOutcome.UNAVAILABLE) as one:
        allocations = await asyncio.gather(*calls(one, "ab"))
        assert [(found.budget_tokens, found.limited_by) for found in allocations] == [
            (40, BudgetLimit.NO_PREDICTION)
        ] * 2
        assert one.ledger.state().covered == 0


@pytest.mark.parametrize("where", ["predict", "in_time", "plan_window", "explain", "_annotate", "reserve"])
async def test_a_fault_reaches_all_who_wait_leaves_nothing_reserved_and_later_windows_alone(where, monkeypatch):
    async with allocating(2) as one:

        def broken(*_, **__):
            raise RuntimeError("broken")

        place = {
            "predict": (one.expectations.predictor, "predict"),
            "in_time": (one.expectations, "in_time"),
            "reserve": (one.ledger, "reserve"),
        }.get(where, (f"scheduler_service.planning.windowed.{where}",))
        with monkeypatch.context() as patch:
            patch.setattr(*place, broken)
            results = await asyncio.gather(*calls(one, "ab"), return_exceptions=True)
        assert [(type(result), str(result)) for result in results] == [(RuntimeError, "broken")] * 2
        assert one.ledger.state().reserved == one.ledger.state().requests == 0
        assert not one.outcomes
        assert len(await asyncio.gather(*calls(one, "ab"))) == 2


async def test_who_leaves_before_the_window_closes_takes_its_job_out():
    async with allocating(2) as one:
        (gone,) = calls(one, "a")
        await eventually(lambda: len(one.window) == 1)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        assert len(one.window) == 0
        assert {found.window_size for found in await asyncio.gather(*calls(one, "bc"))} == {2}


async def test_who_leaves_while_its_window_is_predicted_is_not_planned():
    async with allocating(2) as one:
        one.expectations.predictor.gate.clear()
        gone, stays = calls(one, "ab")
        await eventually(lambda: one.expectations.predictor.windows == [2])
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        one.expectations.predictor.gate.set()
        allocation = await stays
        assert (allocation.window_size, one.ledger.state().requests) == (1, 1)
        assert one.ledger.state().reserved == allocation.budget_tokens


async def test_a_window_that_everybody_has_left_reserves_nothing():
    async with allocating(2) as one:
        one.expectations.predictor.gate.clear()
        both = calls(one, "ab")
        await eventually(lambda: one.expectations.predictor.windows == [2])
        for call in both:
            call.cancel()
        await asyncio.gather(*both, return_exceptions=True)
        one.expectations.predictor.gate.set()
        await asyncio.gather(*calls(one, "cd"))
        assert one.ledger.state().requests == 2


async def test_who_leaves_once_its_budget_is_reserved_gives_it_back_whole(monkeypatch):
    async with allocating(2) as one:
        reserve, both = one.ledger.reserve, []

        def reserve_and_lose_one(*args):
            reserve(*args)
            both[0].cancel()  # between the reservation and the moment that its caller hears of it

        monkeypatch.setattr(one.ledger, "reserve", reserve_and_lose_one)
        both += calls(one, "ab")
        with pytest.raises(asyncio.CancelledError):
            await both[0]
        allocation = await both[1]
        state = one.ledger.state()
        assert (state.used, state.reserved) == (0, allocation.budget_tokens)
        assert state.granted == 80


async def test_a_slow_prediction_holds_up_no_later_window():
    async with allocating(2) as one:
        one.expectations.predictor.gate.clear()
        slow = calls(one, "ab")
        await eventually(lambda: one.expectations.predictor.windows == [2])
        gate, one.expectations.predictor.gate = one.expectations.predictor.gate, asyncio.Event()
        one.expectations.predictor.gate.set()
        assert len(await asyncio.gather(*calls(one, "cd"))) == 2
        assert not any(call.done() for call in slow)
        gate.set()
        await asyncio.gather(*slow)
