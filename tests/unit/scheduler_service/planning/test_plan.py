"""A window's jobs and predictions become allocations."""

from dataclasses import replace

import pytest

from scheduler_service.allocation import POLICIES, Curve
from scheduler_service.domain import Job, Prediction, PredictionOutcome
from scheduler_service.generation.voting import stretched
from scheduler_service.planning.plan import Rules, plan_window

RULES = Rules(POLICIES["envelope"], answer_tokens=8)
POINTS = (16, 32, 48, 64)
EASY = Prediction(PredictionOutcome.FRESH, Curve(POINTS, (0.9, 0.9, 0.9, 0.9)), "p@1")
SLOW = Prediction(PredictionOutcome.FRESH, Curve(POINTS, (0.0, 0.0, 0.0, 0.9)), "p@1")
NONE = Prediction(PredictionOutcome.TIMEOUT)


def job(name, floor=0, cap=64):
    return Job(name, "prompt", "", floor, cap)


def budgets(plan):
    return [allocation.budget_tokens for allocation in plan.allocations]


def test_tokens_go_where_they_are_expected_to_help():
    plan = plan_window([job("a"), job("b")], [EASY, SLOW], 80, RULES)
    assert budgets(plan) == [16, 64]
    assert [a.baseline_tokens for a in plan.allocations] == [40, 40]
    assert plan.allocations[0].policy == "envelope"


def test_a_job_without_a_prediction_gets_the_uniform_budget():
    plan = plan_window([job("a"), job("b"), job("c")], [EASY, NONE, SLOW], 120, RULES)
    assert budgets(plan)[1] == 40
    assert plan.allocations[1].expected_accuracy == 0
    assert plan.allocations[1].prediction.outcome is PredictionOutcome.TIMEOUT


def test_without_any_prediction_the_plan_is_uniform():
    plan = plan_window([job("a"), job("b")], [NONE, NONE], 80, RULES)
    assert budgets(plan) == [40, 40]
    assert plan.allocations[0].policy == "uniform"


def test_floors_that_the_total_cannot_pay_are_lowered_together():
    plan = plan_window([job("a", floor=64), job("b", floor=16)], [NONE, NONE], 60, RULES)
    assert budgets(plan) == [44, 16]
    assert sum(budgets(plan)) == 60


def test_a_cap_beyond_the_last_point_is_allowed_but_promises_nothing():
    plan = plan_window([job("a", cap=256)], [SLOW], 256, RULES)
    assert budgets(plan) == [256]
    assert plan.allocations[0].expected_accuracy == pytest.approx(0.9)


def test_of_two_alike_the_one_that_weighs_more_gets_the_tokens():
    light, heavy = replace(job("a"), weight=0.5), replace(job("b"), weight=2.0)
    assert budgets(plan_window([light, heavy], [SLOW, SLOW], 80, RULES)) == [16, 64]
    assert budgets(plan_window([heavy, light], [SLOW, SLOW], 80, RULES)) == [64, 16]


@pytest.mark.parametrize(("count", "step", "traces"), [(16, 4096, (1, 8)), (256, 64, (1, 2, 3, 5, 7))])
def test_traces_of_one_request_do_not_keep_the_others_from_a_plan(count, step, traces):
    """Traces stretch a request's points: together they may be many, and large."""
    points = tuple(range(step, count * step + 1, step))
    curve = Curve(points, tuple(at / count for at in range(count)), tuple(point / 2 for point in points))
    jobs = [replace(job(f"{number}", cap=points[-1]), traces=number) for number in traces]
    predictions = [stretched(Prediction(PredictionOutcome.FRESH, curve, "p@1"), number) for number in traces]
    plan = plan_window(jobs, predictions, 5000 * len(jobs), RULES)
    assert plan.planned == pytest.approx(plan.total, rel=0.02)
    assert budgets(plan)[0] > budgets(plan)[-1] > 0  # a token of one trace is worth more than one that many share
