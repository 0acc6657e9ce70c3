"""What the governor tells the controller, and makes of its decisions."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import pytest

from scheduler_service.allocation.curve import Curve
from scheduler_service.budget.income import Controlled
from scheduler_service.control.capacity import Bounds
from scheduler_service.control.controller import Decision
from scheduler_service.control.objectives import parse_objectives
from scheduler_service.domain import (
    Allocation,
    FinishReason,
    Job,
    OverloadedError,
    Prediction,
    PredictionOutcome,
    Usage,
)
from scheduler_service.generation.engine_signals import Signals
from scheduler_service.governor import Governor
from scheduler_service.shared_load import Load

OBJECTIVES = parse_objectives(["total p90 2s", "gold: first_token p50 1s"])
JOB = Job("1", "p", "", 16, 128)
PREDICTION = Prediction(PredictionOutcome.FRESH, Curve((16, 64), (0.4, 0.6), (16.0, 60.0)))
ALLOCATION = Allocation("1", 64, 64, 8, 16, 128, "price", PREDICTION, 0.6, 0.6, 60.0, 1)
USAGE = Usage(5, 40, 4, 64, 88, 0.0, FinishReason.NATURAL, 0.5, 1.5, 0.02, 0.0, start_seconds=0.1, forcing_seconds=0.2)


class Recorder:
    """Stands in for the controller."""

    def __init__(self, decision):
        self.decision, self.seen = decision, []

    def observe(self, seen, now):
        self.seen.append((seen, now))
        return self.decision


def governor(decision=None, signals=None, **pipeline):
    income = Controlled(100.0)
    found = Governor(OBJECTIVES, Bounds(8, 100, 200), income, None, signals)
    found._controller = Recorder(decision or Decision(50.0, {"": 120.0, "gold": 60.0}, load=1.8))
    slots = SimpleNamespace(held=3, waiting=1, most=16)
    watched = {"clock": lambda: 10.0, "generated": 500.0, "outstanding": 70.0, "running_elsewhere": 0, **pipeline}
    found.watch(SimpleNamespace(dispatcher=SimpleNamespace(slots=slots), **watched))
    return found, income


def test_a_second_is_added_up():
    found, income = governor()
    found.allocated(JOB, ALLOCATION)
    found.rejected(JOB, OverloadedError("x", 1.0))
    found.finished(JOB, ALLOCATION, USAGE)
    found.finished(replace(JOB, tenant="gold"), ALLOCATION, USAGE)
    found.look()
    found.look()
    found.decide()
    seen, now = found._controller.seen[0]
    total, first = OBJECTIVES
    assert now == 10.0
    assert (seen.arrivals, seen.running, seen.waiting, seen.slots) == (2, 3, 1, 16)
    assert (seen.tokens, seen.outstanding, seen.start, seen.forcing) == (500, 70, 0.1, 0.2)
    assert (seen.answers, seen.sizes, seen.paces) == ([4, 4], [44, 44], [0.02, 0.02])
    assert seen.measured == {total: [1.5, 1.5], first: [0.5]}
    assert income.tokens == 50.0
    assert found.measured(total) == 1.5


def test_what_runs_elsewhere_and_what_others_see_counts_too():
    found, _ = governor(running_elsewhere=4)
    found.allocated(JOB, ALLOCATION)
    found.look()
    found.decide(others=Load(arrivals=2, running=10, waiting=5, tokens=100, outstanding=30, slots=8))
    seen, _ = found._controller.seen[0]
    assert (seen.arrivals, seen.running, seen.waiting, seen.slots) == (3, 17, 6, 24)
    assert (seen.tokens, seen.outstanding) == (600, 100)
    assert found.load == Load(arrivals=1, running=7, waiting=1, tokens=500, outstanding=70, slots=16)


def test_what_nobody_tells_of_a_request_that_ran_elsewhere_is_not_taken_for_nothing():
    found, _ = governor()
    found.finished(
        replace(JOB, tenant="gold"), ALLOCATION, replace(USAGE, time_to_first_token_seconds=0.0, start_seconds=0.0)
    )
    found.decide()
    seen, _ = found._controller.seen[0]
    assert (seen.measured, seen.start) == ({OBJECTIVES[0]: [1.5]}, None)


def test_what_was_seen_is_told_once():
    found, _ = governor()
    found.finished(JOB, ALLOCATION, USAGE)
    found.decide()
    found.decide()
    seen, _ = found._controller.seen[1]
    assert (seen.tokens, seen.sizes, seen.measured, seen.start) == (0, [], {}, None)


@pytest.mark.parametrize(
    ("heard", "running", "waiting", "tokens"),
    [
        ([Signals(9, 4, 100), Signals(9, 4, 900)], 9, 5, 800),
        ([Signals(1, 0, 100), Signals(1, 0, 150)], 3, 1, 500),
        ([Signals(9, 4), Signals(9, 4)], 9, 5, 500),
        ([None, Signals(9, 4, 900)], 9, 5, 500),
        ([Signals(9, 4, 100), None], 3, 1, 500),
    ],
)
def test_engines_run_at_least_what_we_have_there_and_what_others_have(heard, running, waiting, tokens):
    generated = iter([0.0, 500.0])
    found, _ = governor()
    for one in heard:
        found._pipeline.generated = next(generated)
        found.look()
        found.decide(one)
    seen, _ = found._controller.seen[1]
    assert (seen.running, seen.waiting, seen.tokens) == (running, waiting, tokens)


def test_decisions_are_the_longest_budgets_and_said_in_explanations():
    found, _ = governor()
    assert (found.longest("gold"), found.note()) == (200, "")
    found.decide()
    assert (found.longest(""), found.longest("gold")) == (120, 60)
    assert found.note() == "; the fleet is at 180%, so budgets are 50% of the largest mean"


@pytest.mark.parametrize(
    ("times", "said"),
    [(2.13, ", and a token costs 2.1 times as much as when it is calm"), (1.04, ""), (None, "")],
)
def test_explanations_say_how_much_dearer_a_token_is_than_in_a_calm_fleet(times, said):
    found, _ = governor()
    asked = []
    found._pricing = SimpleNamespace(
        follow=lambda mean: None, times_the_price_at=lambda mean: asked.append(mean) or times
    )
    found.decide()
    assert found.note() == f"; the fleet is at 180%, so budgets are 50% of the largest mean{said}"
    assert asked == [100]


def test_the_least_valuable_go_first_and_hear_when_to_come_back():
    found, _ = governor(Decision(8.0, {"": 8.0}, refuse=0.5, retry_seconds=7.0))
    found.decide()
    assert found.refuses
    refused, waits = [], set()
    for at in range(200):
        weight = (1.0, 2.0)[at % 2]
        try:
            found.check(replace(JOB, weight=weight), PREDICTION)
        except OverloadedError as error:
            waits.add(error.retry_seconds)
            refused.append(weight)
    assert waits == {7.0}
    assert set(refused[2:]) == {1.0}
    assert 80 <= len(refused) <= 101


async def test_engines_that_say_nothing_in_time_are_not_waited_for():
    async def never():
        await asyncio.Event().wait()

    found, _ = governor(signals=never)
    found._signals = never
    assert await found._heard() is None
    found._signals = None
    assert await found._heard() is None
