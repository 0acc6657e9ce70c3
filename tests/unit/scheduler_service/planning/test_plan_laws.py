"""Laws of weights in a window: equal ones change nothing, and more is never worse for who has it."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from scheduler_service.allocation import POLICIES
from scheduler_service.domain import Job, Prediction, PredictionOutcome
from scheduler_service.planning.plan import Rules, plan_window
from tests.builders.jobs import fresh
from tests.builders.problems import POLICY

ACCURACIES = st.lists(st.integers(0, 16).map(lambda part: part / 16), min_size=4, max_size=4)
WEIGHTS = st.floats(1 / 16, 16)


@st.composite
def windows(draw):
    """Jobs of a window with their predictions, some of which are missing."""
    jobs, predictions = [], []
    for at in range(draw(st.integers(1, 5))):
        cap = draw(st.sampled_from([0, 16, 40, 64]))
        jobs.append(Job(f"{at}", "q", draw(st.sampled_from("ab")), draw(st.integers(0, cap)), cap))
        missing = draw(st.integers(0, 3)) == 0
        predictions.append(Prediction(PredictionOutcome.TIMEOUT) if missing else fresh(*draw(ACCURACIES)))
    return jobs, predictions, draw(st.integers(0, 64 * len(jobs)))


def weighing(jobs, weights):
    return [replace(job, weight=weight) for job, weight in zip(jobs, weights, strict=True)]


@POLICY
@given(window=windows(), weight=WEIGHTS, shares=st.sampled_from([{}, {"a": 3.0}]))
def test_equal_weights_change_nothing(policy, window, weight, shares):
    jobs, predictions, total = window
    rules = Rules(policy, 8, shares)
    weighted = plan_window(weighing(jobs, [weight] * len(jobs)), predictions, total, rules)
    assert weighted == plan_window(jobs, predictions, total, rules)


@POLICY
@given(window=windows(), data=st.data())
def test_whatever_weighs_what_floors_caps_and_the_total_hold(policy, window, data):
    jobs, predictions, total = window
    jobs = weighing(jobs, [data.draw(WEIGHTS) for _ in jobs])
    plan = plan_window(jobs, predictions, total, Rules(policy, 8))
    assert plan.planned <= total + 1e-6
    for job, allocation in zip(jobs, plan.allocations, strict=True):
        assert allocation.floor_tokens <= allocation.budget_tokens <= job.cap_tokens
    paid = sum(job.floor_tokens for job in jobs) <= total
    assert not paid or [one.floor_tokens for one in plan.allocations] == [job.floor_tokens for job in jobs]


@given(window=windows(), weights=st.tuples(st.integers(1, 16), st.integers(1, 16)))
def test_who_weighs_more_is_never_expected_to_be_less_accurate(window, weights):
    """By the best plan; others may leave a segment that no longer fits."""
    jobs, predictions, total = window
    rest = [1.0] * (len(jobs) - 1)
    light, heavy = (
        plan_window(weighing(jobs, [float(weight), *rest]), predictions, total, Rules(POLICIES["exact"], 8))
        for weight in sorted(weights)
    )
    assert heavy.allocations[0].expected_accuracy >= light.allocations[0].expected_accuracy - 1e-9


@given(window=windows(), data=st.data())
def test_a_plan_is_never_worth_less_than_uniform(window, data):
    jobs, predictions, total = window
    jobs = weighing(jobs, [data.draw(WEIGHTS) for _ in jobs])
    plan = plan_window(jobs, predictions, total, Rules(POLICIES["envelope"], 8))
    gains = [
        job.weight * (allocation.expected_accuracy - allocation.baseline_expected_accuracy)
        for job, allocation in zip(jobs, plan.allocations, strict=True)
    ]
    assert sum(gains) >= -1e-9
