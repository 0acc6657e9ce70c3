"""Between messages and the scheduler's words: what is filled in, what is refused by name, and that nothing is lost."""

import dataclasses

import pytest

from predictive_scheduling.scheduler.v1 import scheduler_pb2 as pb
from scheduler_service.allocation.curve import Curve
from scheduler_service.api import messages
from scheduler_service.api.budget_words import weight_of
from scheduler_service.domain import (
    BudgetLimit,
    Effort,
    FinishReason,
    HiddenState,
    InvalidRequestError,
    PredictionOutcome,
    Sampling,
    Text,
    TextKind,
    UnknownModelError,
)
from tests.builders.jobs import given, used


def job_of(**fields):
    return messages.job_of(pb.Job(prompt="q", **fields), model="m", floor=16, cap=256, temperature=0.6)


def test_what_is_not_said_is_filled_in_by_the_server():
    job = job_of()
    assert (job.floor_tokens, job.cap_tokens, job.traces, job.priority) == (16, 256, 1, 0)
    assert job.sampling == Sampling(temperature=0.6)
    assert job.request_id != job_of().request_id
    assert job.hidden_state is None


def test_what_is_said_is_kept_and_zero_is_said():
    job = job_of(
        request_id="r", tenant="t", model="m", min_reasoning_tokens=32, max_reasoning_tokens=64, priority=-3, traces=4,
        sampling=pb.Sampling(temperature=0.0, top_k=5, seed=0), hidden_state=[0.5, 1.0], hidden_state_layer=7,
    )  # fmt: skip
    assert (job.key, job.floor_tokens, job.cap_tokens, job.priority, job.traces) == (("t", "r"), 32, 64, -3, 4)
    assert job.sampling == Sampling(temperature=0.0, top_k=5, seed=0)
    assert job.hidden_state == HiddenState((0.5, 1.0), 7)


def test_another_model_is_refused_by_its_name():
    with pytest.raises(UnknownModelError, match=r"job\.model: 'other' is not served; served is 'm'"):
        job_of(model="other")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"min_reasoning_tokens": 8}, "job.min_reasoning_tokens: 8 is not from 16 to 256"),
        ({"min_reasoning_tokens": 257}, "job.min_reasoning_tokens: 257"),
        ({"max_reasoning_tokens": 257}, "job.max_reasoning_tokens: 257 is above 256"),
        ({"min_reasoning_tokens": 64, "max_reasoning_tokens": 32}, "job.min_reasoning_tokens: 64 is above"),
    ],
)
def test_a_budget_out_of_range_is_refused_by_its_name(fields, words):
    with pytest.raises(InvalidRequestError, match=words):
        job_of(**fields)


@pytest.mark.parametrize("most", [0, 8, 15])
def test_the_servers_floor_gives_way_to_a_lower_limit(most):
    job = job_of(max_reasoning_tokens=most)
    assert (job.floor_tokens, job.cap_tokens) == (most, most)


def test_effort_priority_and_weight_multiply():
    assert job_of().weight == 1.0
    assert job_of(effort=pb.EFFORT_HIGH, priority=-50, weight=3.0).weight == 3.0
    assert job_of(effort=pb.EFFORT_XHIGH, priority=100, weight=16.0).weight == 16.0  # the most


@pytest.mark.parametrize("effort", [None, *Effort])
def test_every_effort_has_a_value_in_the_messages_and_comes_back(effort):
    value = messages.effort_value(effort)
    assert pb.Effort.Name(value) == f"EFFORT_{effort.name if effort else 'UNSPECIFIED'}"
    assert job_of(effort=value).weight == weight_of(effort, 0)


def plan_item(**fields):
    return messages.plan_item(pb.PlanItem(**fields), 3, floor=16, cap=256)


def test_an_item_without_a_curve_is_to_be_predicted():
    job, known = plan_item(prompt="q")
    assert known is None
    assert (job.request_id, job.prompt, job.floor_tokens, job.cap_tokens) == ("items[3]", "q", 16, 256)
    assert job.weight == 1.0
    assert plan_item(prompt="q", weight=4.0)[0].weight == 4.0


def test_an_items_own_curve_is_its_prediction_and_ends_its_cap():
    job, known = plan_item(curve=[0.25, 0.5])
    assert (known.outcome, known.predictor) == (PredictionOutcome.FRESH, "request")
    assert known.curve == Curve((16, 32), (0.25, 0.5))
    assert (job.floor_tokens, job.cap_tokens) == (16, 32)
    job, known = plan_item(curve=[0.25, 0.5], budget_points=[0, 8], used_tokens=[0, 6])
    assert known.curve == Curve((0, 8), (0.25, 0.5), (0.0, 6.0))
    assert (job.floor_tokens, job.cap_tokens) == (8, 8)


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"curve": [0.5, 1.5]}, "curve"),
        ({"curve": [0.5, 0.6], "budget_points": [16]}, "curve"),
        ({"curve": [0.5, 0.6], "budget_points": [16, 16]}, "budget_points"),
        ({"curve": [0.5, 0.6], "used_tokens": [16.0, 8.0]}, "used_tokens"),
    ],
)
def test_a_curve_that_is_none_is_refused_by_its_field(fields, place):
    with pytest.raises(InvalidRequestError, match=rf"^items\[3\]\.{place}: "):
        plan_item(**fields)


def unlike(kind, **known):
    """A value of a dataclass, each number and text of it unlike the others."""
    fields = {}
    for at, field in enumerate(dataclasses.fields(kind), start=1):
        usual = {"int": 100 + at, "float": at / 64, "str": f"text {at}"}
        if field.type in usual:
            fields[field.name] = usual[field.type]
    return fields | known


def test_an_allocations_message_says_all_of_it():
    allocation = given(**unlike(type(given()), limited_by=BudgetLimit.DEADLINE))
    message = messages.allocation_message(allocation)
    said = {field.name for field, _ in message.ListFields()}
    assert said == set(pb.Allocation.DESCRIPTOR.fields_by_name) - {"used_tokens"}
    assert (message.reasoning_budget_tokens, message.expected_tokens) == (
        allocation.budget_tokens, allocation.expected_tokens,
    )  # fmt: skip
    for name in said & {field.name for field in dataclasses.fields(allocation)} - {"limited_by"}:
        assert getattr(message, name) == getattr(allocation, name), name
    assert message.limited_by == pb.BUDGET_LIMIT_DEADLINE
    assert list(message.budget_points) == [16, 32, 48, 64]
    assert message.budget_window_tokens == 16


def test_a_usages_message_says_all_of_it():
    usage = used(**unlike(type(used())))
    message = messages.usage_message(usage)
    assert {field.name for field, _ in message.ListFields()} == set(pb.Usage.DESCRIPTOR.fields_by_name)
    for field in dataclasses.fields(usage):
        name = {
            "saved_vs_cap_tokens": "tokens_saved_vs_cap",
            "saved_at_equal_accuracy_tokens": "tokens_saved_at_equal_accuracy",
        }.get(field.name, field.name)
        if name != "finish_reason":
            assert getattr(message, name) == getattr(usage, field.name), name
    assert message.finish_reason == pb.FINISH_REASON_NATURAL


def test_a_texts_message_says_whether_it_was_forced():
    message = messages.text_message(Text(TextKind.ANSWER, " 42", 2, forced=True))
    assert (message.kind, message.text, message.tokens, message.forced) == (pb.TEXT_KIND_ANSWER, " 42", 2, True)


@pytest.mark.parametrize(
    ("words", "wire", "prefix"),
    [
        (Effort, pb.Effort, "EFFORT"),
        (PredictionOutcome, pb.PredictionOutcome, "PREDICTION_OUTCOME"),
        (BudgetLimit, pb.BudgetLimit, "BUDGET_LIMIT"),
        (TextKind, pb.TextKind, "TEXT_KIND"),
        (FinishReason, pb.FinishReason, "FINISH_REASON"),
    ],
)
def test_every_word_has_its_value_in_the_messages(words, wire, prefix):
    assert {f"{prefix}_{word.name}" for word in words} == {name for name, value in wire.items() if value}
