"""How requests become jobs: limits of reasoning and answer together, and what their words leave of the budget."""

import pytest

from predictive_scheduling.scheduler.v1 import scheduler_pb2 as pb
from scheduler_service.api.budget_words import BudgetWords, Limit
from scheduler_service.api.identity import Identity
from scheduler_service.api.intake import Credentials, Intake, ServedModel, capped, within
from scheduler_service.domain import InvalidRequestError, Job
from scheduler_service.planning.budget_range import BudgetRange

INTAKE = Intake(ServedModel("m", BudgetRange(64, 16, 256, 32), 0.6), Identity(), lambda: 0.0)


def job_of(words=None, **fields):
    request = pb.GenerateRequest(job=pb.Job(prompt="q", **fields))
    return INTAKE.job(request, Credentials(), None, *([words] if words else []))


def test_a_floor_that_the_caller_asks_for_must_fit():
    with pytest.raises(InvalidRequestError, match="min_reasoning_tokens: 64 and the answer are more than max_tokens"):
        within(Job("id", "q", "", 64, 128), Limit(70, "max_tokens"), 32, fixed=True)
    with pytest.raises(InvalidRequestError, match="min_reasoning_tokens: 64 is more than 8"):
        capped(Job("id", "q", "", 64, 128), 8, fixed=True)


def test_a_limit_that_leaves_no_answer_is_refused_by_the_name_it_came_under():
    with pytest.raises(InvalidRequestError, match=r"^max_output_tokens: must be 3 or more"):
        within(Job("id", "q", "", 0, 128, traces=3), Limit(2, "max_output_tokens"), 32, fixed=False)


def test_no_effort_is_no_reasoning_whatever_the_servers_floor_is():
    job = job_of(effort=pb.EFFORT_NONE)
    assert (job.floor_tokens, job.cap_tokens) == (0, 0)
    with pytest.raises(InvalidRequestError, match="min_reasoning_tokens"):
        job_of(effort=pb.EFFORT_NONE, min_reasoning_tokens=16)


@pytest.mark.parametrize(
    ("cap", "floor_and_cap"), [(None, (16, 256)), (1000, (16, 256)), (100, (16, 100)), (8, (8, 8)), (0, (0, 0))]
)
def test_a_bodys_cap_limits_the_servers_and_its_floor_gives_way(cap, floor_and_cap):
    job = job_of(BudgetWords(cap=cap))
    assert (job.floor_tokens, job.cap_tokens) == floor_and_cap


def test_a_bodys_limit_of_reasoning_and_answer_holds_beside_its_cap():
    job = job_of(BudgetWords(cap=100, completion=Limit(60, "max_tokens")))
    assert (job.floor_tokens, job.cap_tokens, job.answer_tokens) == (16, 28, 32)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"effort": 7}, "job.effort"),
        ({"effort": -1}, "job.effort"),
        ({"weight": 0.06}, "job.weight"),
        ({"weight": 16.5}, "job.weight"),
        ({"weight": 0.0}, "job.weight"),
        ({"weight": -1.0}, "job.weight"),
        ({"weight": float("nan")}, "job.weight"),
        ({"weight": float("inf")}, "job.weight"),
    ],
)
def test_an_effort_that_is_none_and_a_weight_out_of_range_are_refused_by_name(fields, name):
    with pytest.raises(InvalidRequestError) as caught:
        job_of(**fields)
    assert caught.value.field_name == name


def test_a_plan_items_weight_is_checked_and_kept():
    request = pb.AllocateRequest(items=[pb.PlanItem(prompt="q", weight=2.0), pb.PlanItem(prompt="q")])
    assert [job.weight for job in INTAKE.plan(request, Credentials()).jobs] == [2.0, 1.0]
    with pytest.raises(InvalidRequestError, match=r"items\[0\]\.weight"):
        INTAKE.plan(pb.AllocateRequest(items=[pb.PlanItem(prompt="q", weight=17.0)]), Credentials())
