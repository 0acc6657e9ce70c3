"""Between the scheduler's words and its protobuf messages; called by the API alone."""

from __future__ import annotations

import uuid

from predictive_scheduling.budget_points import CurveError, evenly_spaced, spacing
from predictive_scheduling.scheduler.v1 import scheduler_pb2 as pb
from scheduler_service.allocation.curve import checked
from scheduler_service.api.budget_words import weight_of
from scheduler_service.domain import (
    Allocation,
    BudgetLimit,
    Effort,
    FinishReason,
    HiddenState,
    InvalidRequestError,
    Job,
    Prediction,
    PredictionOutcome,
    Sampling,
    Text,
    TextKind,
    UnknownModelError,
    Usage,
)
from scheduler_service.grants import Told
from scheduler_service.planning.plan import WindowPlan

_STEP = 16  # between the points of a plan item that names none
_CURVE_FIELDS = {"points": "budget_points", "accuracy": "curve", "used": "used_tokens"}
_EFFORTS = {pb.Effort.Value(f"EFFORT_{effort.name}"): effort for effort in Effort}
_OUTCOMES = {outcome: pb.PredictionOutcome.Value(f"PREDICTION_OUTCOME_{outcome.name}") for outcome in PredictionOutcome}
_LIMITS = {limit: pb.BudgetLimit.Value(f"BUDGET_LIMIT_{limit.name}") for limit in BudgetLimit}
_KINDS = {kind: pb.TextKind.Value(f"TEXT_KIND_{kind.name}") for kind in TextKind}
_FINISHES = {reason: pb.FinishReason.Value(f"FINISH_REASON_{reason.name}") for reason in FinishReason}


def job_of(message: pb.Job, *, model: str, floor: int, cap: int, temperature: float) -> Job:
    """Return the job of a valid message, the server's settings filled in.

    Raises InvalidRequestError for a budget outside ``floor`` … ``cap``, UnknownModelError for a model that this
    server does not have.
    """
    if message.model and message.model != model:
        raise UnknownModelError("job.model", f"{message.model!r} is not served; served is {model!r}")
    low, high = budget_range(message, "job.", floor, cap)
    sampling = message.sampling
    state = HiddenState(tuple(message.hidden_state), message.hidden_state_layer) if message.hidden_state else None
    return Job(
        request_id=message.request_id or uuid.uuid4().hex,
        prompt=message.prompt,
        tenant=message.tenant,
        floor_tokens=low,
        cap_tokens=high,
        priority=message.priority,
        sampling=Sampling(
            temperature=sampling.temperature if sampling.HasField("temperature") else temperature,
            top_p=sampling.top_p if sampling.HasField("top_p") else None,
            top_k=sampling.top_k if sampling.HasField("top_k") else None,
            seed=sampling.seed if sampling.HasField("seed") else None,
        ),
        hidden_state=state,
        traces=max(1, message.traces),
        allocation_may_follow=message.allocation_may_follow,
        weight=weight_of(
            _EFFORTS.get(message.effort), message.priority, message.weight if message.HasField("weight") else 1.0
        ),
    )


def effort_value(effort: Effort | None) -> pb.Effort.ValueType:
    """Return the messages' value of an effort; unspecified for none."""
    return pb.Effort.Value(f"EFFORT_{effort.name}") if effort else pb.EFFORT_UNSPECIFIED


def budget_range(message: pb.Job | pb.PlanItem, prefix: str, floor: int, cap: int) -> tuple[int, int]:
    """Return the least and largest budget of a message; the server's ``floor`` gives way to a lower limit.

    Raises InvalidRequestError for a least budget outside ``floor`` … ``cap``, and for a largest one above ``cap``.
    """
    fixed = message.HasField("min_reasoning_tokens")
    low = message.min_reasoning_tokens if fixed else floor
    high = message.max_reasoning_tokens if message.HasField("max_reasoning_tokens") else cap
    if fixed and not floor <= low <= cap:
        raise InvalidRequestError(f"{prefix}min_reasoning_tokens", f"{low} is not from {floor} to {cap}")
    if high > cap:
        raise InvalidRequestError(f"{prefix}max_reasoning_tokens", f"{high} is above {cap}")
    if fixed and low > high:
        raise InvalidRequestError(f"{prefix}min_reasoning_tokens", f"{low} is above max_reasoning_tokens, {high}")
    return min(low, high), high


def told_of(message: pb.SettleRequest) -> Told:
    """Return what a caller tells of a request that it has run."""
    return Told(
        completion_tokens=message.completion_tokens if message.HasField("completion_tokens") else None,
        reasoning_tokens=message.reasoning_tokens if message.HasField("reasoning_tokens") else None,
        prompt_tokens=message.prompt_tokens,
        failure=message.failure,
        first_token_seconds=message.first_token_seconds,
        seconds_per_token=message.seconds_per_token,
    )


def plan_item(item: pb.PlanItem, position: int, *, floor: int, cap: int) -> tuple[Job, Prediction | None]:
    """Return a plan item as a job, and the prediction that it brings (``None``: ask the predictor).

    Raises InvalidRequestError for curves that are none.
    """
    place = f"items[{position}]."
    low, high = budget_range(item, place, floor, cap)
    known = None
    if item.curve:
        points = tuple(item.budget_points) or evenly_spaced(len(item.curve), _STEP)
        try:
            curve = checked(points, tuple(item.curve), tuple(item.used_tokens))
        except CurveError as error:
            raise InvalidRequestError(place + _CURVE_FIELDS[error.part], str(error)) from None
        known = Prediction(PredictionOutcome.FRESH, curve, "request")
        high = min(high, points[-1])
        low = min(low, high)
    weight = item.weight if item.HasField("weight") else 1.0
    return Job(f"items[{position}]", item.prompt, "", low, high, weight=weight), known


def allocation_message(allocation: Allocation) -> pb.Allocation:
    """Return the message of an allocation."""
    return pb.Allocation(
        request_id=allocation.request_id,
        reasoning_budget_tokens=allocation.budget_tokens,
        baseline_tokens=allocation.baseline_tokens,
        answer_tokens=allocation.answer_tokens,
        expected_accuracy=allocation.expected_accuracy,
        baseline_expected_accuracy=allocation.baseline_expected_accuracy,
        policy=allocation.policy,
        prediction_outcome=_OUTCOMES[allocation.prediction.outcome],
        predictor=allocation.prediction.predictor,
        curve=allocation.prediction.curve.accuracy,
        budget_points=allocation.prediction.curve.points,
        used_tokens=allocation.prediction.curve.used,
        budget_window_tokens=spacing(allocation.prediction.curve.points),
        expected_tokens=allocation.expected_tokens,
        window_size=allocation.window_size,
        floor_tokens=allocation.floor_tokens,
        cap_tokens=allocation.cap_tokens,
        window_wait_seconds=allocation.window_wait_seconds,
        prediction_seconds=allocation.prediction_seconds,
        added_seconds=allocation.added_seconds,
        allocation_seconds=allocation.allocation_seconds,
        trace_id=allocation.trace_id,
        price=allocation.price,
        limited_by=_LIMITS[allocation.limited_by],
        explanation=allocation.explanation,
        window=allocation.window,
    )


def plan_message(plan: WindowPlan) -> pb.AllocateResponse:
    """Return the message of a plan."""
    return pb.AllocateResponse(
        allocations=[allocation_message(allocation) for allocation in plan.allocations],
        total_tokens=round(plan.total),
        planned_tokens=round(plan.planned),
        tokens_saved_at_equal_accuracy=plan.saved_at_equal_accuracy,
    )


def text_message(text: Text) -> pb.TextChunk:
    """Return the message of a piece of text."""
    return pb.TextChunk(kind=_KINDS[text.kind], text=text.text, tokens=text.tokens, forced=text.forced)


def usage_message(usage: Usage) -> pb.Usage:
    """Return the message of a usage."""
    return pb.Usage(
        prompt_tokens=usage.prompt_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        answer_tokens=usage.answer_tokens,
        reserved_tokens=usage.reserved_tokens,
        tokens_saved_vs_cap=usage.saved_vs_cap_tokens,
        tokens_saved_at_equal_accuracy=usage.saved_at_equal_accuracy_tokens,
        finish_reason=_FINISHES[usage.finish_reason],
        time_to_first_token_seconds=usage.time_to_first_token_seconds,
        total_seconds=usage.total_seconds,
        seconds_per_token=usage.seconds_per_token,
        net_benefit_seconds=usage.net_benefit_seconds,
        traces=usage.traces,
        votes=usage.votes,
        net_benefit_at_equal_accuracy_seconds=usage.net_benefit_at_equal_accuracy_seconds,
        start_seconds=usage.start_seconds,
        forcing_seconds=usage.forcing_seconds,
    )
