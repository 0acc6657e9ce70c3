"""What a request's span says: its allocation and why, when its text came, what it used and saved."""

from __future__ import annotations

from opentelemetry import trace

from predictive_scheduling import semconv
from scheduler_service.domain import Allocation, FinishReason, Job, SchedulingError, Usage


class SpanObserver:
    """Writes to the current span. That may have ended: the call that began a generation may leave it to others."""

    def rejected(self, job: Job, error: SchedulingError) -> None:
        """Add an event with the kind of error."""
        trace.get_current_span().add_event("rejected", {semconv.ERROR_TYPE: type(error).__name__})

    def allocated(self, job: Job, allocation: Allocation) -> None:
        """Set the budget, the expected accuracies and the times of the stages as attributes."""
        span = trace.get_current_span()
        if not span.is_recording():
            return
        span.set_attributes(
            {
                semconv.REQUEST_ID: allocation.request_id,
                semconv.TENANT: job.tenant,
                semconv.POLICY: allocation.policy,
                semconv.BUDGET: allocation.budget_tokens,
                semconv.EXPECTED_TOKENS: allocation.expected_tokens,
                semconv.BASELINE: allocation.baseline_tokens,
                semconv.FLOOR: allocation.floor_tokens,
                semconv.CAP: allocation.cap_tokens,
                semconv.PREDICTION_OUTCOME: allocation.prediction.outcome.value,
                semconv.PREDICTOR: allocation.prediction.predictor,
                semconv.PRICE: allocation.price,
                semconv.EXPECTED_ACCURACY: allocation.expected_accuracy,
                semconv.BASELINE_EXPECTED_ACCURACY: allocation.baseline_expected_accuracy,
                semconv.WINDOW_SIZE: allocation.window_size,
                semconv.WINDOW_WAIT: allocation.window_wait_seconds,
                semconv.PREDICTION_DURATION: allocation.prediction_seconds,
                semconv.ALLOCATION_DURATION: allocation.allocation_seconds,
            }
        )
        span.add_event(
            "allocation",
            {
                semconv.LIMITED_BY: allocation.limited_by.value,
                semconv.EXPLANATION: allocation.explanation,
                semconv.CURVE: [round(accuracy, 4) for accuracy in allocation.prediction.curve.accuracy],
                semconv.POINTS: list(allocation.prediction.curve.points),
                semconv.EXPECTED_USE: [round(tokens, 1) for tokens in allocation.prediction.curve.used],
            },
        )

    def finished(self, job: Job, allocation: Allocation, usage: Usage) -> None:
        """Set tokens used and saved, and the finish reason, as attributes."""
        span = trace.get_current_span()
        if not span.is_recording():
            return
        span.set_attributes(
            {
                semconv.USED: usage.reasoning_tokens,
                semconv.SAVED_VS_CAP: usage.saved_vs_cap_tokens,
                semconv.SAVED_AT_EQUAL_ACCURACY: usage.saved_at_equal_accuracy_tokens,
                semconv.NET_BENEFIT: usage.net_benefit_seconds,
                semconv.NET_BENEFIT_AT_EQUAL_ACCURACY: usage.net_benefit_at_equal_accuracy_seconds,
                semconv.GEN_AI_REASONING_TOKENS: usage.reasoning_tokens,
                semconv.GEN_AI_OUTPUT_TOKENS: usage.reasoning_tokens + usage.answer_tokens,
            }
        )
        if usage.finish_reason is FinishReason.FORCED:
            span.add_event("forced answer")

    def failed(self, job: Job, allocation: Allocation | None, reason: str) -> None:
        """Add an event with the reason."""
        span = trace.get_current_span()
        if span.is_recording():
            span.set_attribute(semconv.ERROR_TYPE, reason)

    def wasted(self, job: Job, tokens: int) -> None:
        """Nothing: the request's spans may be over."""
