"""Jobs, predictions, allocations and usages."""

from dataclasses import replace

from hypothesis import strategies as st

from predictive_scheduling.budget_points import evenly_spaced
from scheduler_service.allocation import Curve
from scheduler_service.domain import Allocation, FinishReason, Job, Prediction, PredictionOutcome, Usage

JOB = Job("r", "prompt", "", 16, 64)


def fresh(*curve):
    """A prediction of this accuracy after 16, 32, … tokens."""
    return Prediction(PredictionOutcome.FRESH, Curve(evenly_spaced(len(curve), 16), curve), "p@1")


RISING = st.lists(st.floats(0, 1), min_size=4, max_size=4).map(lambda values: tuple(sorted(values)))


def given(job=JOB, **fields):
    """An allocation of 32 tokens from a fresh prediction; ``fields`` that a case wants otherwise."""
    usual = Allocation(
        request_id=job.request_id,
        budget_tokens=32,
        baseline_tokens=40,
        answer_tokens=8,
        floor_tokens=job.floor_tokens,
        cap_tokens=job.cap_tokens,
        policy="price",
        prediction=fresh(0.1, 0.4, 0.6, 0.7),
        expected_accuracy=0.4,
        baseline_expected_accuracy=0.5,
        expected_tokens=32.0,
        window_size=1,
    )
    return replace(usual, **fields)


def used(tokens=20, **fields):
    """The usage of a request that reasoned ``tokens`` tokens and answered with five."""
    usual = Usage(
        prompt_tokens=7,
        reasoning_tokens=tokens,
        answer_tokens=5,
        reserved_tokens=32,
        saved_vs_cap_tokens=64 - tokens,
        saved_at_equal_accuracy_tokens=4.0,
        finish_reason=FinishReason.NATURAL,
        time_to_first_token_seconds=0.5,
        total_seconds=2.0,
        seconds_per_token=0.1,
        net_benefit_seconds=3.0,
    )
    return replace(usual, **fields)
